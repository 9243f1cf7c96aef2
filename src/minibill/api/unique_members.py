"""Repeated members of JSON objects.

Parsers treat them differently: msgspec keeps the last value, while a proxy may have checked the first.
"""

import json
from typing import Any

import msgspec

from minibill.core.problems import FieldError, InvalidRequest

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode

PATH_CHARACTERS_MAX = 400


class _Object(list[tuple[str, Any]]):
    """All members of an object, repeated ones included."""


def require_unique_members(body: bytes) -> None:
    """Raise `InvalidRequest` with the path of a repeated member. The body is valid JSON.

    Decoding drops a repeated member, and with it two quotes or more. So the quotes are counted before and after decoding.
    That takes 0.8 µs for a reservation and 0.15 ms for a batch of 1,000 grants, about 0.5 % of either.
    """
    # The escape \u0022 becomes a quote when it is encoded again, which would hide a dropped member.
    if b"\\" not in body or b"\\u0022" not in body:
        try:
            if _encode(_decode(body)).count(b'"') == body.count(b'"'):
                return
        except msgspec.DecodeError:
            # The decoder has no value for some valid JSON, such as 1e999 in metadata.
            pass
        except RecursionError:
            # `json_object` limits the depth of objects that are stored as sent.
            return
    if (path := _repeated_member(body)) is not None:
        raise InvalidRequest(FieldError(path[:PATH_CHARACTERS_MAX], "is given twice"))


def _repeated_member(body: bytes) -> str | None:
    """Return the path of the first repeated member; None if there is none."""
    try:
        # Numbers stay text, since Python rejects integers of more than 4,300 digits.
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
