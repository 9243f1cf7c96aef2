"""A load generator: a keep-alive HTTP/1.1 client with little overhead, because it shares the machine with the server.

Requests are prepared bytes on plain sockets, one in flight per connection. An unexpected response ends the run.
"""

import selectors
import socket
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from bench.report import Unfit

NS_PER_SECOND = 1_000_000_000
NS_PER_MS = 1_000_000

# No response takes this long. Without a limit, a server that hangs would hang the benchmark.
ANSWER_SECONDS_MAX = 15

RECEIVE_BYTES = 262_144


class ResponseBody(NamedTuple):
    status: int
    body: bytes


class Load(NamedTuple):
    """The result of a load run."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    requests: int


def request_bytes(method: str, path: str, *, headers: dict[str, str] | None = None, body: bytes = b"") -> bytes:
    """Return the bytes of a request."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", "User-Agent: minibill-bench"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Connection:
    """A keep-alive connection that sends a request and waits for its response."""

    def __init__(self, port: int, *, answer_seconds_max: float = ANSWER_SECONDS_MAX) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=answer_seconds_max)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, request: bytes) -> ResponseBody:
        self.socket.sendall(request)
        received = b""
        while not _is_whole(received):
            part = self.socket.recv(RECEIVE_BYTES)
            if not part:
                raise Unfit("the server closed a connection")
            received += part
        head, _, body = received.partition(b"\r\n\r\n")
        return ResponseBody(int(head[9:12]), body)

    def close(self) -> None:
        self.socket.close()


class _Line:
    """A connection under load: the time of its request, and the received part of the response."""

    __slots__ = ("began_ns", "connection", "received")

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.began_ns = 0
        self.received = b""


def run_load(
    port: int,
    requests: Iterator[bytes],
    *,
    connections: int,
    seconds: float,
    status: int | None = None,
    is_over: Callable[[], bool] = lambda: False,
) -> Load:
    """Keep every connection busy for some seconds, or until `is_over` returns true.

    Each response must have the given status, or be a success by default.
    """
    expected = b"HTTP/1.1 20" if status is None else b"HTTP/1.1 %d " % status
    lines = [_Line(Connection(port)) for _ in range(connections)]
    selector = selectors.DefaultSelector()
    try:
        for line in lines:
            selector.register(line.connection.socket, selectors.EVENT_READ, line)
        return _drive(selector, lines, requests, int(seconds * NS_PER_SECOND), expected, is_over)
    finally:
        selector.close()
        for line in lines:
            line.connection.close()


def _drive(
    selector: selectors.BaseSelector,
    lines: list[_Line],
    requests: Iterator[bytes],
    run_ns: int,
    expected: bytes,
    is_over: Callable[[], bool],
) -> Load:
    clock = time.perf_counter_ns
    taken_ns: list[int] = []
    began_ns = now_ns = clock()
    stop_ns = began_ns + run_ns
    for line in lines:
        line.began_ns = clock()
        line.connection.socket.sendall(next(requests))
    under_way = len(lines)
    while under_way:
        ready = selector.select(ANSWER_SECONDS_MAX)
        if not ready:
            raise Unfit(f"no answer within {ANSWER_SECONDS_MAX} s")
        for key, _ in ready:
            line = key.data
            part = line.connection.socket.recv(RECEIVE_BYTES)
            if not part:
                raise Unfit("the server closed a connection")
            received = line.received + part if line.received else part
            if not _is_whole(received):
                line.received = received
                continue
            now_ns = clock()
            if not received.startswith(expected):
                raise Unfit(f"expected {expected.decode()} and got {received[:1000].decode(errors='replace')}")
            line.received = b""
            taken_ns.append(now_ns - line.began_ns)
            if now_ns >= stop_ns or is_over():
                under_way -= 1
                continue
            line.began_ns = now_ns
            line.connection.socket.sendall(next(requests))
    taken_ns.sort()
    return Load(
        len(taken_ns) * NS_PER_SECOND / (now_ns - began_ns),
        taken_ns[len(taken_ns) // 2] / NS_PER_MS,
        taken_ns[len(taken_ns) * 99 // 100] / NS_PER_MS,
        len(taken_ns),
    )


def _is_whole(received: bytes) -> bool:
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return False
    at = received.find(b"content-length: ", 0, end)
    if at < 0:
        raise Unfit(f"an answer without content-length: {received[:200]!r}")
    length = int(received[at + 16 : received.find(b"\r\n", at)])
    return len(received) >= end + 4 + length
