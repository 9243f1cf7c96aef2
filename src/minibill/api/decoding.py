"""Strict decoding of bodies and queries, and error messages that name the field and what was expected."""

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


# msgspec's words for what does not fit: what, and where if it is not at the top.
_WHERE = r"(?: - at `\$([^`]*)`)?"
_UNKNOWN_OR_MISSING = re.compile(rf"Object (contains unknown|missing required) field `(.*?)`{_WHERE}", re.DOTALL)
_ANY_ERROR = re.compile(rf"(.*?){_WHERE}", re.DOTALL)

# The whole numbers of queries, with the least and the most that they may be.
_WHOLE: dict[type, tuple[int, int]] = {
    Limit: (1, PAGE_ITEMS_MAX),
    FeedLimit: (1, FEED_ITEMS_MAX),
    Wait: (0, WAIT_SECONDS_MAX),
}


def _custom(expected: type, value: Any) -> Any:
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
    if expected in _WHOLE:
        lowest, highest = _WHOLE[expected]
        if re.fullmatch(r"0|[1-9][0-9]{0,3}", value) and lowest <= int(value) <= highest:
            return expected(value)
        raise ValueError(f"expected an integer from {lowest} to {highest}")
    if expected is Flag:
        if value in ("true", "false"):
            return Flag(value == "true")
        raise ValueError("expected true or false")
    raise NotImplementedError


class Decoder(Generic[T_co]):
    """Decodes the JSON of a body into a struct."""

    def __init__(self, expected: type[T_co]) -> None:
        self.kind = expected
        self._decoder = msgspec.json.Decoder(expected, strict=True, dec_hook=_custom)

    def decode(self, body: bytes) -> T_co:
        """Raises `MalformedJson` for what is no JSON and `InvalidRequest` for what is not the expected JSON."""
        try:
            # Strict UTF-8 first: msgspec does not look into what it keeps raw.
            body.decode()
            return self._decoder.decode(body)
        except msgspec.ValidationError as error:
            _require_json(body)
            raise invalid(str(error), self.kind) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise MalformedJson(_malformed(error, body)) from None


def convert(values: dict[str, str], expected: type[T]) -> T:
    """The parameters of a query as a struct; raises `InvalidRequest`."""
    try:
        return msgspec.convert(values, expected, strict=True, dec_hook=_custom)
    except msgspec.ValidationError as error:
        raise invalid(str(error), expected) from None


def json_object(raw: msgspec.Raw | None, path: str, *, bytes_max: int = OBJECT_BYTES_MAX) -> str | None:
    """The text of a JSON object as it was sent; None where there is none or `null`.

    Raises `InvalidRequest` for another kind of JSON, and for more than `bytes_max` or 100 levels of it.
    """
    if raw is None:
        return None
    text = bytes(raw)
    if not text or text == b"null":
        return None
    if text[:1] != b"{":
        raise InvalidRequest(FieldError(path, "expected an object"))
    if len(text) > bytes_max:
        raise InvalidRequest(FieldError(path, f"expected an object of at most {bytes_max} bytes"))
    if text.count(b"{") + text.count(b"[") > OBJECT_DEPTH_MAX and _depth(text) > OBJECT_DEPTH_MAX:
        raise InvalidRequest(FieldError(path, f"expected an object of at most {OBJECT_DEPTH_MAX} levels"))
    return text.decode()


def invalid(message: str, expected: type | None = None) -> InvalidRequest:
    """The refusal that a msgspec error comes to: `Expected … - at `$.a[0]``. A word that does not fit is answered with those
    that do, where what was `expected` is known.
    """
    if found := _UNKNOWN_OR_MISSING.fullmatch(message):
        kind, name, where = found[1], found[2][:NAME_CHARACTERS_MAX], (found[3] or "").lstrip(".")
        path = f"{where}.{name}" if where else name
        return InvalidRequest(FieldError(path, "is required" if kind == "missing required" else "is not known here"))
    found = _ANY_ERROR.fullmatch(message)
    assert found is not None
    what, path = found[1], (found[2] or "").lstrip(".")
    if found := re.match(r"Expected `str` matching regex (.*)", what, re.DOTALL):
        what = next((text for pattern, text in _EXPECTED.items() if repr(pattern) == found[1]), what)
    elif what.startswith("Invalid enum value") and expected is not None:
        what = f"expected one of {', '.join(_words_at(path, expected))}"
    elif what == "Number out of range":
        what = "expected a number that is in range"
    return InvalidRequest(FieldError(path, what))


def _words_at(path: str, expected: type) -> list[str]:
    """The words of the `Literal` at `a[0].b` of a struct."""
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
    """Those of a `Literal`, which may be optional."""
    if get_origin(kind) is Literal:
        return list(get_args(kind))
    return [word for one in get_args(kind) for word in _words_of(one)]


def _require_json(body: bytes) -> None:
    try:
        # Raw, so that a number out of range, which is JSON, is told as such by its path.
        msgspec.json.decode(body, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError) as error:
        raise MalformedJson(_malformed(error, body)) from None


# `\ud800`, and the most after it that is too short to hold the other half.
_HALF_A_PAIR_BYTES = 11


def _malformed(error: Exception, body: bytes) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"the body is not UTF-8 at byte {error.start}"
    if isinstance(error, RecursionError):
        return "the body is nested too deeply"
    why = str(error).removeprefix("JSON is malformed: ")
    if why == "Input data was truncated" and _ends_after_half_a_pair(body):
        return "unexpected end of escaped utf-16 surrogate pair"
    return why


def _ends_after_half_a_pair(body: bytes) -> bool:
    """Whether what is missed at the end is not more of the JSON, but the other half of a surrogate pair."""
    if b"\\u" not in body[-_HALF_A_PAIR_BYTES:]:
        return False
    try:
        # Python takes half a pair: where it reads to the end, nothing else is missing.
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
