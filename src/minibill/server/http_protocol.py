"""The HTTP protocol of the service: uvicorn's for httptools, with limits, strict framing and ignored upgrades.

A malformed request gets a problem like any other response, and its connection is closed. Only modules of this package know
uvicorn; tests/api/test_protocol.py fails first when uvicorn changes.
"""

import asyncio
import logging
import os
import re
from typing import Any
from urllib.parse import unquote

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser, parse_url
from litestar.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from minibill.api.direct_io import DIRECT, OVER_LIMIT
from minibill.api.problem_response import problem_body
from minibill.core.problems import FieldError, InvalidRequest, MethodNotAllowed, Problem
from minibill.server.direct_exchange import DIRECT_EXCHANGE, ServerExchange
from minibill.server.log_limit import LogLimit

log = logging.getLogger("minibill.http")

# The request line and its headers together, which are kept in memory before a token is verified. A token has 4 KiB.
HEADER_BYTES_MAX = 65_536

# Trailer fields of one request. They are discarded, so this limits the work only.
TRAILER_BYTES_MAX = 65_536

# Bytes after a header section that add nothing to a body: the rest of a rejected request's body, or endless trailer fields.
# The largest body has as many by default.
UNUSED_BYTES_MAX = 1_048_576

_VERSIONS = ("1.1", "1.0")

# A host with an optional port, as RFC 9110 and RFC 3986 spell them. It may be empty.
_HOST = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?")

# Malformed requests need no token, so their log lines are limited.
MALFORMED_LINES_PER_MINUTE = 60
_lines = LogLimit(MALFORMED_LINES_PER_MINUTE)


def _malformed(message: str) -> InvalidRequest:
    return InvalidRequest(FieldError("", message))


_NOT_HTTP = _malformed("the request is not HTTP that can be read")


class _Trailers(list[tuple[bytes, bytes]]):
    """The header list after the header section is complete. It drops the trailer fields that the parser appends.

    uvicorn would add them to the headers of the request, after a proxy and the limits have checked those.
    """

    size = 0

    def append(self, field: tuple[bytes, bytes]) -> None:
        """Drop a field. Raises `InvalidRequest` if there are too many bytes of them."""
        self.size += len(field[0]) + len(field[1])
        if self.size > TRAILER_BYTES_MAX:
            raise _malformed(f"a request has at most {TRAILER_BYTES_MAX} bytes of trailer fields")


# Called by name on every read: super() takes as long as some of the calls themselves.
_Server: Any = HttpToolsProtocol


class HttpProtocol(_Server):  # type: ignore[misc]
    """uvicorn's protocol, with limits on connections, header sections and unused bytes.

    Requests to upgrade are served as if they had not asked. The parser stops at their header section, so uvicorn drops a
    body in the same packet and reads a later one as the next request. Here a new parser gets the header section without its
    `Upgrade` fields, and then the rest.
    """

    # Connections over this number get an `overloaded` problem; `protocol_with_limit` sets it.
    connections_max = 0

    app: ASGIApp
    parser: Any
    headers: Any
    cycle: Any
    client: Any

    # The exchange whose task was started last.
    _started: Any = None
    # The scope of the header section that is arriving, and the bytes since the read in which it began. That read may have
    # brought the end of another request. The bytes of the read that is being parsed.
    _head: Any = None
    _head_bytes = 0
    _read_bytes = 0
    # The `Host` fields that were accepted last on this connection.
    _hosts: list[bytes] | None = None
    # The request whose body is arriving, and the bytes since then that added nothing to it.
    _body_of: Any = None
    _unused_bytes = 0

    def connection_made(self, transport: Any) -> None:
        """Begin a connection."""
        if len(self.connections) >= self.connections_max:
            self.app = _reject_connection(self.app)
        _Server.connection_made(self, transport)
        self._trailers = _Trailers()

    def connection_lost(self, exc: Exception | None) -> None:
        """End a connection."""
        _Server.connection_lost(self, exc)
        # uvicorn tells only the last of pipelined requests that the client has disconnected. The one in flight would write
        # to a closed connection, which logs an error with a traceback.
        if self._started is not None:
            self._started.disconnected = True

    def _start_asgi_task(self, cycle: Any, app: ASGIApp) -> None:
        self._started = cycle
        # As uvicorn does, unless it is configured to reset context variables.
        task = self.loop.create_task(cycle.run_asgi(app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    def data_received(self, data: bytes) -> None:
        """Parse the bytes of one read."""
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
            self._count_unused(len(data))
        if scope is None or (cycle is not None and cycle.scope is scope):
            # No header section is arriving: uvicorn makes a cycle once it is complete.
            return
        if scope is not self._head:
            self._head, self._head_bytes = scope, 0
            return
        self._head_bytes += len(data)
        if self._head_bytes > HEADER_BYTES_MAX:
            self._reject(_too_long())

    def on_headers_complete(self) -> None:
        """Check a complete header section, and start its request or put it in the queue, as uvicorn does."""
        parser, scope, headers = self.parser, self.scope, self.headers
        if self._read_bytes > HEADER_BYTES_MAX or scope is self._head:
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
        cycle = self.cycle = ServerExchange(
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
        if DIRECT_EXCHANGE:
            scope[DIRECT] = cycle
        if before is None or before.response_complete:
            self._start_asgi_task(cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))
        trailers = self._trailers
        trailers.size = 0
        self.headers = trailers

    def on_message_complete(self) -> None:
        """Mark a body as complete."""
        cycle = self.cycle
        if not self.parser.should_upgrade() and not cycle.response_complete:
            cycle.more_body = False
            cycle.message_event.set()

    def _feed(self, data: bytes) -> None:
        """Parse the bytes of a read, with a new parser after each header section that asks for an upgrade."""
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
        # As uvicorn does: bytes after a request that ends the connection are no error.
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
        """Reject a header section over the limit. Called if several reads brought it, or one read over the limit."""
        # "GET / HTTP/1.1" and the line ends around it.
        count = len(self.parser.get_method()) + len(self.url) + 14
        count += sum(len(name) + len(value) + 4 for name, value in self.headers)
        if count > HEADER_BYTES_MAX:
            raise _too_long()

    def _count_unused(self, count: int) -> None:
        if self.cycle is not self._body_of:
            self._body_of, self._unused_bytes = self.cycle, 0
        self._unused_bytes += count
        if self._unused_bytes > UNUSED_BYTES_MAX:
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
            # Its body will never be complete, so the problem is its response.
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
        # The start of the next request is unknown.
        self.transport.close()

    def _log(self, problem: Problem) -> None:
        suppressed = _lines.take()
        if suppressed is not None:
            ip = self.client[0] if self.client else None
            extra = {"ip": ip, "code": problem.code, "detail": problem.detail, "suppressed": suppressed}
            log.warning("malformed request", extra=extra)


def _too_long() -> InvalidRequest:
    return _malformed(f"a request has at most {HEADER_BYTES_MAX} bytes before its body")


def protocol_with_limit(number: int) -> type[HttpProtocol]:
    """Return the protocol for a server that serves this many connections."""
    return type("LimitedHttpProtocol", (HttpProtocol,), {"connections_max": number})


def _reject_connection(app: ASGIApp) -> ASGIApp:
    async def mark(scope: Scope, receive: Receive, send: Send) -> None:
        scope[OVER_LIMIT] = True  # type: ignore[literal-required]
        await app(scope, receive, send)

    return mark
