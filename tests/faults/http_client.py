"""A keep-alive HTTP connection with little overhead, because the client shares the machine with the tested service."""

import asyncio
from typing import NamedTuple, Self

# No response takes this long. Without a limit, a service that hangs would hang the tests.
ANSWER_SECONDS_MAX = 30.0


class Lost(Exception):
    """The connection ended before the response was complete."""


class ResponseBody(NamedTuple):
    """A response; `head` is the status line and the headers, in lower case."""

    status: int
    head: bytes
    body: bytes

    def header(self, name: str) -> str | None:
        """Return the value of a header, or None."""
        for line in self.head.split(b"\r\n")[1:]:
            own, _, value = line.partition(b":")
            if own.decode() == name:
                return value.strip().decode()
        return None


def request_bytes(
    method: str, path: str, *, authorization: str | None = None, key: str | None = None, body: bytes = b""
) -> bytes:
    """Return the bytes of a request."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1"]
    if authorization is not None:
        lines.append(f"Authorization: {authorization}")
    if key is not None:
        lines.append(f"Idempotency-Key: {key}")
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Line(asyncio.Protocol):
    """One connection with at most one request in flight."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self._received = b""
        self._answer: asyncio.Future[ResponseBody] | None = None
        self.ended = asyncio.get_running_loop().create_future()

    @classmethod
    async def open(cls, port: int) -> Self:
        """Connect. Raises `Lost` if nobody listens."""
        try:
            _, line = await asyncio.get_running_loop().create_connection(cls, "127.0.0.1", port)
        except OSError as error:
            raise Lost(str(error)) from error
        return line

    async def ask(self, request: bytes, *, seconds_max: float = ANSWER_SECONDS_MAX) -> ResponseBody:
        """Send a request and return its response. Raises `Lost`."""
        if self.ended.done():
            raise Lost("the connection has ended")
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        async with asyncio.timeout(seconds_max):
            return await self._answer

    def close(self) -> None:
        self.transport.close()

    def cut(self) -> None:
        """Abort the connection, also with a request in flight."""
        self.transport.abort()

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found or self._answer is None or self._answer.done():
            return
        head = head.lower()
        at = head.find(b"\r\ncontent-length:")
        length = 0 if at < 0 else int(head[at + 17 :].split(b"\r\n", 1)[0])
        if len(body) >= length:
            self._received = body[length:]
            self._answer.set_result(ResponseBody(int(head[9:12]), head, body[:length]))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(Lost(str(exc or "the service closed the connection")))
