"""Headers and bodies of HTTP requests."""

import asyncio
from collections.abc import Iterable
from typing import Any

from litestar.types import Receive

from minibill.core.problems import MalformedJson, PayloadTooLarge, UnsupportedMediaType

# The time that a body may take to arrive. A slow client must not hold up a stop, which leaves requests 8 s.
BODY_SECONDS_MAX = 5

Headers = list[tuple[bytes, bytes]]


class RequestHeaders:
    """The headers of a request by their names in lower case; `get` returns the first value of a name."""

    __slots__ = ("_all", "_first", "get")

    def __init__(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self._all = list(headers)
        self._first = dict(reversed(self._all))
        self.get = self._first.get

    def all(self, name: bytes) -> list[bytes]:
        """Return every value of a header, in the order in which they were sent."""
        return [value for own, value in self._all if own == name]

    def only(self, name: bytes) -> bytes | None:
        """Return the value of a header that must not be repeated; None if it is missing or repeated."""
        if len(self._first) < len(self._all) and sum(own == name for own, _ in self._all) > 1:
            return None
        return self.get(name)


async def receive_body(receive: Receive, headers: RequestHeaders, bytes_max: int) -> bytes:
    """Return the whole body; empty bytes if there is none.

    Raises `PayloadTooLarge`, `UnsupportedMediaType` for a body that is not declared as JSON, and `MalformedJson` for a body
    that does not arrive within `BODY_SECONDS_MAX`.
    """
    length = headers.get(b"content-length", b"")
    if length.isdigit() and int(length[:20]) > bytes_max:
        raise _too_large(bytes_max)
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS_MAX):
            while not _take(await receive(), body, bytes_max):
                pass
    except TimeoutError:
        raise MalformedJson(
            f"the body did not arrive within {BODY_SECONDS_MAX} s", headers={"Connection": "close"}
        ) from None
    return checked_body(bytes(body), headers, bytes_max)


def checked_body(body: bytes, headers: RequestHeaders, bytes_max: int) -> bytes:
    """Return a body that has arrived. Raises `PayloadTooLarge`, `UnsupportedMediaType` and `MalformedJson`."""
    require_size(body, bytes_max)
    if body:
        _require_json_type(headers.get(b"content-type", b""))
    elif headers.get(b"content-length", b"").strip(b"0"):
        # An empty body counts as `{}`; a body that was lost must not.
        raise MalformedJson("the body did not arrive whole")
    return body


def require_size(body: bytes | bytearray, bytes_max: int) -> None:
    """Raise `PayloadTooLarge` for a body of more than `bytes_max` bytes."""
    if len(body) > bytes_max:
        raise _too_large(bytes_max)


def _take(message: Any, body: bytearray, bytes_max: int) -> bool:
    """Append an ASGI message to the body; return True if it was the last one."""
    if message["type"] == "http.disconnect":
        raise MalformedJson("the body did not arrive whole")
    body += message.get("body", b"")
    require_size(body, bytes_max)
    return not message.get("more_body")


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"a body has at most {limit} bytes", headers={"Connection": "close"}, limit_bytes=limit)


def _require_json_type(content_type: bytes) -> None:
    if content_type == b"application/json":
        return
    media_type, _, parameters = content_type.decode("latin-1").partition(";")
    charset = parameters.strip().lower().replace('"', "")
    if media_type.strip().lower() != "application/json" or charset not in ("", "charset=utf-8", "charset=utf8"):
        raise UnsupportedMediaType("send the body as Content-Type: application/json in UTF-8")
