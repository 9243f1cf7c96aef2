"""Members of JSON objects that are given twice.

Parsers disagree about them: msgspec keeps the last value, so a check in front of the service may have seen another one.
"""

import json
from typing import Any

import msgspec

from minibill.core.problems import FieldError, InvalidRequest

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode

PATH_CHARACTERS_MAX = 400


class _Object(list[tuple[str, Any]]):
    """The members of an object, all of them."""


def require_unique_members(body: bytes) -> None:
    """Raise `InvalidRequest` with the path of a member that is given twice. The body is JSON.

    Decoding drops such a member, with at least the two quotes of its name. So the quotes of the body, encoded again, are
    counted. That takes 0.8 µs for a reservation, and 0.15 ms for a batch of 1,000 grants, about 0.5 % of either.
    """
    # An escape that is a quote only when it is encoded again would make up for a member that was dropped.
    if b"\\" not in body or b"\\u0022" not in body:
        try:
            if _encode(_decode(body)).count(b'"') == body.count(b'"'):
                return
        except msgspec.DecodeError:
            # JSON that this decoder has no value for, such as 1e999 in metadata.
            pass
        except RecursionError:
            # Objects that are kept as sent have a limit of depth.
            return
    if (path := _twice(body)) is not None:
        raise InvalidRequest(FieldError(path[:PATH_CHARACTERS_MAX], "is given twice"))


def _twice(body: bytes) -> str | None:
    """Return the path of the first member that is given twice; None when there is none."""
    try:
        # Numbers as text: Python reads no integer of more than 4,300 digits.
        parsed = json.loads(body, object_pairs_hook=_Object, parse_int=str, parse_float=str)
    except RecursionError:
        return None
    left: list[tuple[str, Any]] = [("", parsed)]
    while left:
        path, value = left.pop()
        inner: list[tuple[str, Any]] = []
        if isinstance(value, _Object):
            names = set[str]()
            for name, member in value:
                at = f"{path}.{name}" if path else name
                if name in names:
                    return at
                names.add(name)
                inner.append((at, member))
        elif isinstance(value, list):
            inner = [(f"{path}[{index}]", item) for index, item in enumerate(value)]
        left += reversed(inner)
    return None
