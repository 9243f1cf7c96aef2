"""uvicorn's side of `minibill.api.direct_io`: a request's whole body, and its response in one write.

docs/internals/decisions/0032-direct-exchange.md has the gain and the risk.
"""

from collections.abc import Iterable

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

# The one switch: with False every request and response is ASGI messages.
DIRECT_EXCHANGE = True

_STATUS_LINES = {200: b"HTTP/1.1 200 OK\r\n", 201: b"HTTP/1.1 201 Created\r\n"}


class ServerExchange(RequestResponseCycle):
    """uvicorn's record of one request, which also implements `DirectExchange`."""

    def received_body(self) -> bytes | None:
        """Return the body if all of it has arrived, else None."""
        if self.more_body or self.waiting_for_100_continue:
            return None
        return bytes(self.body)

    def write_response(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> bool:
        """Write the response of a success. Return False if uvicorn has to send it.

        uvicorn checks each header for bytes that end it, and for those that it acts on. The application makes all of these
        headers itself, and copies only bytes that it has checked.
        """
        line = _STATUS_LINES.get(status)
        if line is None or self.response_started or self.disconnected or self.flow.write_paused or not self.keep_alive:
            return False
        lines = [b"%b: %b\r\n" % header for header in (*self.default_headers, *headers)]
        self.transport.write(b"%b%b\r\n%b" % (line, b"".join(lines), body))
        self.response_started = self.response_complete = True
        self.on_response()
        return True
