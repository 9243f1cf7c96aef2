"""HTTP as it arrives: uvicorn's protocol for httptools, with limits, strict framing and ignored upgrades.

A message that can't be served gets a problem like any other response, and its connection is closed.
"""

import asyncio
import logging
import os
import re
from typing import Any
from urllib.parse import unquote

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser, parse_url
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from minibill.api.problem_response import problem_body
from minibill.core.problems import FieldError, InvalidRequest, MethodNotAllowed, Problem
from minibill.server.log_limit import LogLimit

log = logging.getLogger("minibill.http")

# The request line and its headers together: the server keeps them in memory, for anybody. A token has 4 KiB.
HEAD_BYTES_MAX = 65_536

# Trailer fields of one request. They are discarded, so this limits the work only.
TRAILER_BYTES_MAX = 65_536

# Bytes after a head that add nothing to a body: the rest of a body whose request was rejected, or trailer fields that do not
# end. As much as the largest body has by default.
REST_BYTES_MAX = 1_048_576

_VERSIONS = ("1.1", "1.0")

# A host and perhaps a port, as RFC 9110 and RFC 3986 spell them. It may be empty.
_HOST = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?")

# Anybody can send malformed requests, and as many as the network carries: the log takes this many lines of them.
MALFORMED_LINES_PER_MINUTE = 60
_lines = LogLimit(MALFORMED_LINES_PER_MINUTE)


def _malformed(message: str) -> InvalidRequest:
    return InvalidRequest(FieldError("", message))


_NOT_HTTP = _malformed("the request is not HTTP that can be read")


class _Trailers(list[tuple[bytes, bytes]]):
    """The header list after a head is complete. It drops the trailer fields that the parser appends.

    uvicorn would add them to the headers of the request, after a proxy and the limits have looked at those.
    """

    size = 0

    def append(self, field: tuple[bytes, bytes]) -> None:
        """Drop a field. Ends the parsing when there are too many bytes of them."""
        self.size += len(field[0]) + len(field[1])
        if self.size > TRAILER_BYTES_MAX:
            raise _malformed(f"a request has at most {TRAILER_BYTES_MAX} bytes of trailer fields")


# Named, since super() costs as much as some of what it calls.
_Server: Any = HttpToolsProtocol


class Protocol(_Server):  # type: ignore[misc]
    """uvicorn's protocol, with limits on heads and on what follows them.

    Requests to upgrade are served as if they had not asked. The parser stops at their heads, so uvicorn drops a body that
    came in the same packet and reads a later one as the next request. Here a new parser gets the head without its `Upgrade`
    fields, and then the rest.
    """

    parser: Any
    headers: Any
    cycle: Any
    client: Any

    # The head that is coming in, by the scope that the server makes for it. The bytes that came since the read in which it
    # began, which may have brought the end of another request. The bytes of the read that is being parsed.
    _head: Any = None
    _head_bytes = 0
    _read_bytes = 0
    # The `Host` fields that were accepted last on this connection.
    _hosts: list[bytes] | None = None
    # The request whose body is coming in, and the bytes since then that added nothing to it.
    _body_of: Any = None
    _rest_bytes = 0

    def connection_made(self, transport: Any) -> None:
        """Begin a connection."""
        _Server.connection_made(self, transport)
        self._trailers = _Trailers()

    def data_received(self, data: bytes) -> None:
        """Parse what came in."""
        self._unset_keepalive_if_required()
        begun = self.cycle
        before = len(begun.body) if begun is not None and begun.more_body else None
        self._read_bytes = len(data)
        try:
            self._feed(data)
        except HttpParserError as error:
            cause = error.__context__
            self._reject(cause if isinstance(cause, Problem) else _NOT_HTTP)
            return
        scope, cycle = self.scope, self.cycle
        if before is not None and cycle is begun and begun.more_body and len(begun.body) == before:
            self._count_rest(len(data))
        if scope is None or (cycle is not None and cycle.scope is scope):
            # No head is coming in: the server makes a cycle when it is complete.
            return
        if scope is not self._head:
            self._head, self._head_bytes = scope, 0
            return
        self._head_bytes += len(data)
        if self._head_bytes > HEAD_BYTES_MAX:
            self._reject(_too_long())

    def on_headers_complete(self) -> None:
        """Check a head that is complete, and start its request or put it in the queue, as uvicorn does."""
        parser, scope, headers = self.parser, self.scope, self.headers
        if self._read_bytes > HEAD_BYTES_MAX or scope is self._head:
            self._check_size()
        method = parser.get_method()
        if parser.should_upgrade():
            if method == b"CONNECT":
                raise MethodNotAllowed("no path takes CONNECT", headers={"Allow": "DELETE, GET, HEAD, PATCH, POST, PUT"})
            # `_feed` gives it to another parser.
            return
        version = parser.get_http_version()
        hosts = [value for name, value in headers if name == b"host"]
        if hosts != self._hosts or version != "1.1":
            self._check_host(version, hosts)
            scope["http_version"] = version
        url = parse_url(self.url)
        raw_path = url.path
        path = raw_path.decode("ascii")
        scope["method"] = method.decode("ascii")
        scope["path"] = unquote(path) if "%" in path else path
        scope["raw_path"] = raw_path
        scope["query_string"] = url.query or b""
        before = self.cycle
        cycle = self.cycle = RequestResponseCycle(
            scope,
            self.transport,
            self.flow,
            self.logger,
            self.access_logger,
            self.access_log,
            self.server_state.default_headers,
            asyncio.Event(),
            self.expect_100_continue,
            version == "1.1" and parser.should_keep_alive(),
            self.on_response_complete,
        )
        if before is None or before.response_complete:
            self._start_asgi_task(cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))
        trailers = self._trailers
        trailers.size = 0
        self.headers = trailers

    def on_message_complete(self) -> None:
        """Note that a body is complete."""
        cycle = self.cycle
        if not self.parser.should_upgrade() and not cycle.response_complete:
            cycle.more_body = False
            cycle.message_event.set()

    def _feed(self, data: bytes) -> None:
        """Parse what came in, with a new parser after each head that asks for an upgrade."""
        rest: bytes | memoryview = data
        while True:
            try:
                self.parser.feed_data(rest)
                return
            except HttpParserUpgrade as upgrade:
                rest = memoryview(rest)[upgrade.args[0] :]
            self._begin_without_upgrade()

    def _begin_without_upgrade(self) -> None:
        old = self.parser
        head = [old.get_method(), b" ", self.url, b" HTTP/", old.get_http_version().encode(), b"\r\n"]
        for name, value in self.headers:
            if name != b"upgrade":
                head += [name, b": ", value, b"\r\n"]
        head.append(b"\r\n")
        self.parser = HttpRequestParser(self)
        # As uvicorn does: what follows a request that ends the connection is no error.
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.parser.feed_data(b"".join(head))

    def _check_host(self, version: str, hosts: list[bytes]) -> None:
        if version not in _VERSIONS:
            raise _malformed("this version of HTTP is not supported; send HTTP/1.1")
        if len(hosts) > 1 or (not hosts and version == "1.1"):
            raise _malformed("a request has exactly one Host header")
        if hosts and not _HOST.fullmatch(hosts[0]):
            raise _malformed("the Host header is no host and port")
        self._hosts = hosts

    def _check_size(self) -> None:
        """Count a head that may be too long: several reads brought it, or one that is longer than the limit."""
        # "GET / HTTP/1.1" and the line ends around it.
        count = len(self.parser.get_method()) + len(self.url) + 14
        count += sum(len(name) + len(value) + 4 for name, value in self.headers)
        if count > HEAD_BYTES_MAX:
            raise _too_long()

    def _count_rest(self, count: int) -> None:
        if self.cycle is not self._body_of:
            self._body_of, self._rest_bytes = self.cycle, 0
        self._rest_bytes += count
        if self._rest_bytes > REST_BYTES_MAX:
            self.transport.abort()

    def _reject(self, problem: Problem) -> None:
        self._log(problem)
        cycle = self.cycle
        if cycle is not None and not cycle.more_body and not cycle.response_complete:
            # The request before is complete and in progress. The client would take this response for its own.
            cycle.keep_alive = False
            self.flow.pause_reading()
            return
        if cycle is not None and not cycle.response_complete:
            # Its body will never be complete; this is its response.
            cycle.disconnected = True
            cycle.message_event.set()
        request_id = f"req_{os.urandom(11).hex()}"
        body = problem_body(problem, request_id)
        title = {400: "Bad Request", 405: "Method Not Allowed"}[problem.status]
        head = (
            f"HTTP/1.1 {problem.status} {title}\r\n"
            "content-type: application/problem+json\r\n"
            f"content-length: {len(body)}\r\n"
            "connection: close\r\n"
            f"x-request-id: {request_id}\r\n"
            f"x-correlation-id: {request_id}\r\n"
            "x-content-type-options: nosniff\r\n"
            "cache-control: no-store\r\n"
        )
        for name, value in (problem.headers or {}).items():
            head += f"{name.lower()}: {value}\r\n"
        self.transport.write(head.encode() + b"\r\n" + body)
        # Nobody can tell where the next request begins.
        self.transport.close()

    def _log(self, problem: Problem) -> None:
        suppressed = _lines.take()
        if suppressed is not None:
            ip = self.client[0] if self.client else None
            extra = {"ip": ip, "code": problem.code, "detail": problem.detail, "suppressed": suppressed}
            log.warning("malformed request", extra=extra)


def _too_long() -> InvalidRequest:
    return _malformed(f"a request has at most {HEAD_BYTES_MAX} bytes before its body")
