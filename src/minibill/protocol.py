"""What is no HTTP, or more of it than a request needs: refused before there is a request, in the words of other refusals."""

import os
from collections.abc import Iterable
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

from minibill.problem_json import problem_body
from minibill.problems import FieldError, InvalidRequest

# The line of a request and its headers together, which the server keeps in memory whole, of anybody: a token has 4 KiB.
HEAD_BYTES_MAX = 65_536


_STATUS_LINES = {200: b"HTTP/1.1 200 OK\r\n", 201: b"HTTP/1.1 201 Created\r\n"}


def send_at_once(cycle: Any, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> bool:
    """Writes a whole answer to a request that is under way, and answers whether it did: otherwise it is to be sent as usual.

    The server looks through each header for what would break the answer apart, and for what it would do itself otherwise;
    that was a tenth of a reserve's time. These headers are our own, and hold nothing but what `web.py` and the gate let in.
    """
    line = _STATUS_LINES.get(status)
    if line is None or cycle.response_started or cycle.disconnected or cycle.flow.write_paused or not cycle.keep_alive:
        return False
    lines = [b"%b: %b\r\n" % header for header in cycle.default_headers]
    lines += [b"%b: %b\r\n" % header for header in headers]
    cycle.transport.write(b"%b%b\r\n%b" % (line, b"".join(lines), body))
    cycle.response_started = cycle.response_complete = True
    cycle.message_event.set()
    cycle.on_response()
    return True


class Protocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """uvicorn's own, with a limit on heads; what it can't read is answered as a problem and not as plain text."""

    # What has come of a head since the read in which it began, which may have brought the end of another request; None when
    # no head is coming in. Only httptools tells; h11 has a limit of its own.
    _head_bytes: int | None = None

    def data_received(self, data: bytes) -> None:
        """Takes what came in."""
        if self._head_bytes is not None:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes is not None and self._head_bytes > HEAD_BYTES_MAX:
            self._refuse(f"a request has at most {HEAD_BYTES_MAX} bytes before its body")

    def on_message_begin(self) -> None:
        """A request begins."""
        self._head_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Its head is there."""
        self._head_bytes = None
        super().on_headers_complete()

    def send_400_response(self, _: str) -> None:
        """Answers what is no HTTP."""
        self._refuse("the request is no HTTP that can be read")

    def _refuse(self, message: str) -> None:
        request_id = f"req_{os.urandom(11).hex()}"
        body = problem_body(InvalidRequest(FieldError("", message)), request_id)
        head = (
            "HTTP/1.1 400 Bad Request\r\n"
            "content-type: application/problem+json\r\n"
            f"content-length: {len(body)}\r\n"
            "connection: close\r\n"
            f"x-request-id: {request_id}\r\n"
            f"x-correlation-id: {request_id}\r\n"
            "x-content-type-options: nosniff\r\n"
            "cache-control: no-store\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        # Where the next request would begin is anybody's guess.
        self.transport.close()
