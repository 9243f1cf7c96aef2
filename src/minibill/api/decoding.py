"""Strict decoding of bodies and queries, with errors that name the field and the expectation.

The messages of msgspec's errors are parsed here and nowhere else; tests/api/test_decoding.py fails first when they change.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, Generic, Literal, TypeVar, get_args, get_origin

import msgspec

from minibill.api.types import (
    FEED_ITEMS_MAX,
    NAME_CHARACTERS_MAX,
    NO_NUL,
    OBJECT_BYTES_MAX,
    OBJECT_DEPTH_MAX,
    PAGE_ITEMS_MAX,
    POOL_ID,
    WAIT_SECONDS_MAX,
    EntityId,
    FeedLimit,
    Flag,
    Limit,
    Micro,
    TimeUs,
    Wait,
)
from minibill.core.clock import parse_time
from minibill.core.entity_ids import normalized
from minibill.core.money import parse_micro
from minibill.core.problems import FieldError, InvalidRequest, MalformedJson

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_EXPECTED = {
    POOL_ID: "expected 1 to 64 characters a-z 0-9 : . _ - that begin with a letter or digit",
    NO_NUL: "expected text without the character U+0000",
}

# msgspec's messages: the expectation, and the path unless the error is at the top.
_WHERE = r"(?: - at `\$([^`]*)`)?"
_UNKNOWN_OR_MISSING = re.compile(rf"Object (contains unknown|missing required) field `(.*?)`{_WHERE}", re.DOTALL)
_ANY_ERROR = re.compile(rf"(.*?){_WHERE}", re.DOTALL)

# The integers of queries, with their bounds.
_BOUNDS: dict[type, tuple[int, int]] = {
    Limit: (1, PAGE_ITEMS_MAX),
    FeedLimit: (1, FEED_ITEMS_MAX),
    Wait: (0, WAIT_SECONDS_MAX),
}


def _custom(expected: type, value: Any) -> Any:
    """Decode a value of `api/types.py`; raises `ValueError`."""
    if expected is Micro:
        return Micro(parse_micro(value))
    if expected is TimeUs:
        if type(value) is not str:
            raise ValueError("expected a string that holds an RFC 3339 time with an offset")
        return TimeUs(parse_time(value))
    if expected is EntityId:
        if type(value) is not str:
            raise ValueError("expected a string")
        return EntityId(normalized(value))
    if expected in _BOUNDS:
        lowest, highest = _BOUNDS[expected]
        if re.fullmatch(r"0|[1-9][0-9]{0,3}", value) and lowest <= int(value) <= highest:
            return expected(value)
        raise ValueError(f"expected an integer from {lowest} to {highest}")
    if expected is Flag:
        if value in ("true", "false"):
            return Flag(value == "true")
        raise ValueError("expected true or false")
    raise NotImplementedError


class Decoder(Generic[T_co]):
    """A decoder of JSON bodies into one type of struct."""

    def __init__(self, expected: type[T_co]) -> None:
        self.kind = expected
        self._decoder = msgspec.json.Decoder(expected, strict=True, dec_hook=_custom)

    def decode(self, body: bytes) -> T_co:
        """Return the decoded body. Raises `MalformedJson`, and `InvalidRequest` for JSON that does not fit."""
        try:
            # msgspec does not check the UTF-8 of values that it keeps raw.
            body.decode()
            return self._decoder.decode(body)
        except msgspec.ValidationError as error:
            _require_json(body)
            raise invalid(str(error), self.kind) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise MalformedJson(_malformed(error, body)) from None


def convert(values: dict[str, str], expected: type[T]) -> T:
    """Return the parameters of a query as a struct. Raises `InvalidRequest`."""
    try:
        return msgspec.convert(values, expected, strict=True, dec_hook=_custom)
    except msgspec.ValidationError as error:
        raise invalid(str(error), expected) from None


def object_bytes(raw: msgspec.Raw) -> bytes | None:
    """Return the bytes of a JSON value as it was sent; None if it is missing or `null`."""
    text = bytes(raw)
    return None if text in (b"", b"null") else text


def object_text(raw: msgspec.Raw) -> str | None:
    """Return the text of an object that `json_object` has checked; None if it is missing or `null`."""
    text = object_bytes(raw)
    return None if text is None else text.decode()


def json_object(raw: msgspec.Raw | None, path: str, *, bytes_max: int = OBJECT_BYTES_MAX) -> str | None:
    """Return the text of a JSON object as it was sent; None if it is missing or `null`.

    Raises `InvalidRequest` for another type of JSON, and for more than `bytes_max` bytes or 100 levels.
    """
    if raw is None or (text := object_bytes(raw)) is None:
        return None
    if text[:1] != b"{":
        raise InvalidRequest(FieldError(path, "expected an object"))
    if len(text) > bytes_max:
        raise InvalidRequest(FieldError(path, f"expected an object of at most {bytes_max} bytes"))
    if text.count(b"{") + text.count(b"[") > OBJECT_DEPTH_MAX and _depth(text) > OBJECT_DEPTH_MAX:
        raise InvalidRequest(FieldError(path, f"expected an object of at most {OBJECT_DEPTH_MAX} levels"))
    return text.decode()


def invalid(message: str, expected: type | None = None) -> InvalidRequest:
    """Return the problem for a message of msgspec, such as `Expected … - at `$.a[0]``.

    For an unknown word of an enum it lists the known ones, if the `expected` type is given.
    """
    if found := _UNKNOWN_OR_MISSING.fullmatch(message):
        kind, name, where = found[1], found[2][:NAME_CHARACTERS_MAX], (found[3] or "").lstrip(".")
        path = f"{where}.{name}" if where else name
        return InvalidRequest(FieldError(path, "is required" if kind == "missing required" else "is not known here"))
    found = _ANY_ERROR.fullmatch(message)
    assert found is not None
    text, path = found[1], (found[2] or "").lstrip(".")
    if found := re.match(r"Expected `str` matching regex (.*)", text, re.DOTALL):
        text = next((known for pattern, known in _EXPECTED.items() if repr(pattern) == found[1]), text)
    elif text.startswith("Invalid enum value") and expected is not None:
        text = f"expected one of {', '.join(_words_at(path, expected))}"
    elif text == "Number out of range":
        text = "expected a number that is in range"
    return InvalidRequest(FieldError(path, text))


def _words_at(path: str, expected: type) -> list[str]:
    """Return the words of the `Literal` at a path such as `a[0].b` of a struct."""
    kinds: list[Any] = [expected]
    for step in re.split(r"\.|(?=\[)", path):
        kinds = [inner for kind in kinds for inner in _inside(kind, step)]
    return [word for kind in kinds for word in _words_of(kind)]


def _inside(kind: Any, step: str) -> Iterator[Any]:
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        yield from (field.type for field in msgspec.structs.fields(kind) if field.encode_name == step)
    elif get_origin(kind) is list:
        yield get_args(kind)[0]
    else:
        for one in get_args(kind):
            yield from _inside(one, step)


def _words_of(kind: Any) -> list[str]:
    """Return the words of a `Literal`, or of one that is optional."""
    if get_origin(kind) is Literal:
        return list(get_args(kind))
    return [word for one in get_args(kind) for word in _words_of(one)]


def _require_json(body: bytes) -> None:
    try:
        # Raw accepts numbers that are out of range; the caller reports those with their path.
        msgspec.json.decode(body, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError) as error:
        raise MalformedJson(_malformed(error, body)) from None


# The longest end of a body that holds half of a surrogate pair: `\ud800` and a part of the other half.
_HALF_A_PAIR_BYTES = 11


def _malformed(error: Exception, body: bytes) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"the body is not UTF-8 at byte {error.start}"
    if isinstance(error, RecursionError):
        return "the body is nested too deeply"
    reason = str(error).removeprefix("JSON is malformed: ")
    if reason == "Input data was truncated" and _ends_after_half_a_pair(body):
        return "unexpected end of escaped utf-16 surrogate pair"
    return reason


def _ends_after_half_a_pair(body: bytes) -> bool:
    """Return True if only the other half of a surrogate pair is missing at the end."""
    if b"\\u" not in body[-_HALF_A_PAIR_BYTES:]:
        return False
    try:
        # Python accepts half a pair, so it reads such a body to the end.
        json.loads(body)
    except (ValueError, RecursionError):
        return False
    return True


def _depth(text: bytes) -> int:
    deepest = depth = 0
    outside_strings = re.sub(rb'"(?:[^"\\]|\\.)*"', b"", text)
    for character in outside_strings:
        if character in b"{[":
            depth += 1
            deepest = max(deepest, depth)
        elif character in b"}]":
            depth -= 1
    return deepest
