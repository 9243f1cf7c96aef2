"""What a request brings besides its path: its headers, and its body."""

import asyncio
from collections.abc import Iterable
from typing import Any

from litestar.types import Receive

from minibill.core.problems import MalformedJson, PayloadTooLarge, UnsupportedMediaType

# A body that has not arrived by then is given up: a client that crawls must not hold up a stop, which has 8 s for requests.
BODY_SECONDS_MAX = 5

Headers = list[tuple[bytes, bytes]]


class RequestHeaders:
    """The headers of a request: names in lower case, of each the first value."""

    __slots__ = ("_all", "_first", "get")

    def __init__(self, sent: Iterable[tuple[bytes, bytes]]) -> None:
        self._all = list(sent)
        self._first = dict(reversed(self._all))
        self.get = self._first.get

    def all(self, name: bytes) -> list[bytes]:
        """Return every value of a header, in the order in which they were sent."""
        return [value for own, value in self._all if own == name]

    def only(self, name: bytes) -> bytes | None:
        """The value of a header that must not be repeated; None where there is none, or more than one."""
        if len(self._first) < len(self._all) and sum(own == name for own, _ in self._all) > 1:
            return None
        return self.get(name)


async def receive_body(receive: Receive, sent: RequestHeaders, bytes_max: int) -> bytes:
    """The body, whole; empty where there is none.

    Raises `PayloadTooLarge`, `UnsupportedMediaType` for what does not say that it is JSON, and `MalformedJson` when it does
    not arrive, or not in time.
    """
    length = sent.get(b"content-length", b"")
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
    return checked_body(bytes(body), sent, bytes_max)


def checked_body(body: bytes, sent: RequestHeaders, bytes_max: int) -> bytes:
    """A body that is there. Raises `PayloadTooLarge`, and `UnsupportedMediaType` for what does not say that it is JSON."""
    if len(body) > bytes_max:
        raise _too_large(bytes_max)
    if body:
        _require_json_type(sent.get(b"content-type", b""))
    elif sent.get(b"content-length", b"").strip(b"0"):
        # No body counts as `{}`; one that was lost must not.
        raise MalformedJson("the body did not arrive whole")
    return body


def _take(message: Any, body: bytearray, bytes_max: int) -> bool:
    """Adds what a message brought of a body; answers whether that was the last."""
    if message["type"] == "http.disconnect":
        raise MalformedJson("the body did not arrive whole")
    body += message.get("body", b"")
    if len(body) > bytes_max:
        raise _too_large(bytes_max)
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
