"""What is no HTTP, or more of it than a request needs: refused before there is a request, in the words of other refusals."""

import os
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

from minibill.problem_json import problem_body
from minibill.problems import FieldError, InvalidRequest

# The line of a request and its headers together, which the server keeps in memory whole, of anybody: a token has 4 KiB.
HEAD_BYTES_MAX = 65_536

# What may come of a body that nobody waits for any more, since its request was refused, or that adds nothing to the body: as
# much as the largest body has by default.
REST_BYTES_MAX = 1_048_576


class _NoMore(list[tuple[bytes, bytes]]):
    """The headers that come after a head: none may."""

    def append(self, _: tuple[bytes, bytes]) -> None:
        """Ends the parsing of what came in."""
        raise ValueError("a header after the body")


_NO_MORE = _NoMore()


# Named, since super() costs as much as some of what it calls.
_Server: Any = AutoHTTPProtocol


class Protocol(_Server):  # type: ignore[misc]
    """uvicorn's own, with limits on heads and on what follows them; what it can't read is answered as a problem.

    Headers that come after a body are refused. The server would add them to those of the head, past whoever looked at these:
    a proxy, the limit, the gate.
    """

    # The head that is coming in, by the scope that the server makes for it, and how much has come of it since the read in
    # which it began, which may have brought the end of another request.
    _head: Any = None
    _head_bytes = 0
    # The request whose body is coming in, and how much came since that had no part in it.
    _body_of: Any = None
    _rest_bytes = 0

    def data_received(self, data: bytes) -> None:
        """Takes what came in."""
        begun = self.cycle
        before = len(begun.body) if begun is not None and begun.more_body else None
        _Server.data_received(self, data)
        scope, cycle = self.scope, self.cycle
        if before is not None and cycle is begun and begun.more_body and len(begun.body) == before:
            self._count_rest(len(data))
        if scope is None or (cycle is not None and cycle.scope is scope):
            # No head is coming in: the server makes a cycle when it is whole. (h11 only then makes a scope, and has a limit
            # of its own.)
            return
        if scope is not self._head:
            self._head, self._head_bytes = scope, 0
            return
        self._head_bytes += len(data)
        if self._head_bytes > HEAD_BYTES_MAX:
            self._refuse(f"a request has at most {HEAD_BYTES_MAX} bytes before its body")

    def on_headers_complete(self) -> None:
        """A head is whole."""
        _Server.on_headers_complete(self)
        self.headers = _NO_MORE

    def send_400_response(self, _: str) -> None:
        """Answers what is no HTTP."""
        self._refuse("the request is no HTTP that can be read")

    def _count_rest(self, count: int) -> None:
        if self.cycle is not self._body_of:
            self._body_of, self._rest_bytes = self.cycle, 0
        self._rest_bytes += count
        if self._rest_bytes > REST_BYTES_MAX:
            self.transport.abort()

    def _refuse(self, message: str) -> None:
        cycle = self.cycle
        if cycle is not None and not cycle.more_body and not cycle.response_complete:
            # What was asked before is whole and being answered: this answer would be taken for that one. It is the last.
            cycle.keep_alive = False
            self.flow.pause_reading()
            return
        if cycle is not None and not cycle.response_complete:
            # Its body will never be whole; this is its answer.
            cycle.disconnected = True
            cycle.message_event.set()
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
