"""What is no HTTP, or more of it than a request needs: refused before there is a request, in the words of other refusals."""

import os
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

from minibill.problem_json import problem_body
from minibill.problems import FieldError, InvalidRequest

# The line of a request and its headers together, which the server keeps in memory whole, of anybody: a token has 4 KiB.
HEAD_BYTES_MAX = 65_536


# Named, since super() costs as much as some of what it calls.
_Server: Any = AutoHTTPProtocol


class Protocol(_Server):  # type: ignore[misc]
    """uvicorn's own, with a limit on heads; what it can't read is answered as a problem and not as plain text."""

    # The head that is coming in, by the scope that the server makes for it, and how much has come of it since the read in
    # which it began, which may have brought the end of another request.
    _head: Any = None
    _head_bytes = 0

    def data_received(self, data: bytes) -> None:
        """Takes what came in."""
        _Server.data_received(self, data)
        scope, cycle = self.scope, self.cycle
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
