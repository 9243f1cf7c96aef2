"""What the server that `minibill serve` runs does besides ASGI: the answers are the same, and nothing is left behind."""

import asyncio
import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from minibill.api import response
from minibill.server.connection_limits import protocol_with_limit
from tests.api_client import Api

DATE = (b"date", b"Sat, 01 Jan 2040 00:00:00 GMT")


class Wire(asyncio.Transport):
    """What a socket would get."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.is_closed = False
        self.answered = asyncio.Event()

    def write(self, data: Any) -> None:
        self.written += data
        head, _, body = self.written.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        if length and len(body) >= int(length):
            self.answered.set()

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    abort = close

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("192.0.2.7", 4711) if name in ("peername", "sockname") else default

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        """Nothing comes in by itself."""

    resume_reading = pause_reading


class Connection:
    """One to the protocol of the service, without a socket."""

    def __init__(self, api: Api) -> None:
        config = uvicorn.Config(api.app, log_config=None, access_log=False, lifespan="off", http=protocol_with_limit(10))
        config.load()
        state = ServerState()
        state.default_headers = [DATE]
        self.wire = Wire()
        self.protocol: Any = config.http_protocol_class(config=config, server_state=state, app_state={})  # type: ignore[call-arg]
        self.protocol.connection_made(self.wire)

    async def ask(self, *parts: bytes) -> bytes:
        self.wire.written = b""
        self.wire.answered.clear()
        for part in parts:
            self.protocol.data_received(part)
            await asyncio.sleep(0)
        async with asyncio.timeout(10):
            await self.wire.answered.wait()
        return self.wire.written


@pytest.fixture
def connection(api: Api) -> Connection:
    async def connect() -> Connection:
        return Connection(api)

    return api.loop.run(connect())


def post(api: Api, path: str, body: dict[str, str], *more: str, version: str = "1.1") -> bytes:
    content = json.dumps(body).encode()
    lines = [
        f"POST /api/internal/billing{path} HTTP/{version}",
        "Host: x",
        f"Authorization: Bearer {api.sign_service()}",
        "Content-Type: application/json",
        f"Content-Length: {len(content)}",
        *more,
    ]
    return "\r\n".join([*lines, "", ""]).encode() + content


def parts_of(answer: bytes) -> tuple[bytes, dict[str, str], Any]:
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    assert len({line.partition(": ")[0] for line in lines}) == len(lines)
    return first.encode(), dict(line.split(": ", 1) for line in lines), json.loads(body)


def test_the_answer_is_what_the_server_would_have_sent(
    api: Api, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = api.account(100)
    request = post(api, "/reservations", {"accountId": account, "amountMicro": "1"}, "Idempotency-Key: k")
    sent = []
    for at_once in (True, False):
        if not at_once:
            monkeypatch.setattr(response, "write_response_directly", lambda *_: False)
        sent.append(parts_of(api.loop.run(connection.ask(request.replace(b": k", b": k%d" % at_once)))))
    (first, headers, body), (other_first, other_headers, other_body) = sent
    assert first == other_first == b"HTTP/1.1 201 Created"
    assert headers.keys() == other_headers.keys() >= {"date", "content-length", "ledger-sequence", "cache-control"}
    assert headers["date"] == DATE[1].decode()
    assert {name for name in headers if headers[name] != other_headers[name]} <= {
        "x-request-id", "x-correlation-id", "ledger-sequence",
    }  # fmt: skip
    assert {name for name in body if body[name] != other_body[name]} == {"reservationId", "expiresAt"}


@pytest.mark.parametrize("how", ["Connection: close", "HTTP/1.0"])
def test_a_connection_that_is_to_end_does(api: Api, connection: Connection, how: str) -> None:
    body = {"accountId": api.account(100), "amountMicro": "1"}
    request = post(api, "/reservations", body, version="1.0") if how == "HTTP/1.0" else post(api, "/reservations", body, how)
    _, headers, _ = parts_of(api.loop.run(connection.ask(request)))
    assert headers["connection"] == "close"
    assert connection.wire.is_closed


def test_a_body_that_comes_in_parts_is_waited_for(api: Api, connection: Connection) -> None:
    request = post(api, "/reservations", {"accountId": api.account(100), "amountMicro": "1"})
    first, _, answer = parts_of(api.loop.run(connection.ask(*[request[i : i + 40] for i in range(0, len(request), 40)])))
    assert (first, answer["totalReservedMicro"]) == (b"HTTP/1.1 201 Created", "1")


def test_a_client_that_waits_to_be_asked_for_its_body_is_asked(api: Api, connection: Connection) -> None:
    body = {"accountId": api.account(100), "amountMicro": "1"}
    request = post(api, "/reservations", body, "Expect: 100-continue")
    head, end, content = request.partition(b"\r\n\r\n")

    async def ask() -> bytes:
        connection.protocol.data_received(head + end)
        for _ in range(10):
            await asyncio.sleep(0)
        assert connection.wire.written == b"HTTP/1.1 100 Continue\r\n\r\n"
        return await connection.ask(content)

    assert parts_of(api.loop.run(ask()))[0] == b"HTTP/1.1 201 Created"


def chunked(api: Api, body: dict[str, str], *trailers: bytes, token: bool = True) -> bytes:
    content = json.dumps(body).encode()
    lines = ["POST /api/internal/billing/reservations HTTP/1.1", "Host: x", "Content-Type: application/json"]
    lines += [f"Authorization: Bearer {api.sign_service()}"] if token else []
    head = "\r\n".join([*lines, "Transfer-Encoding: chunked", "", ""]).encode()
    return head + b"%x\r\n%b\r\n0\r\n" % (len(content), content) + b"".join(t + b"\r\n" for t in trailers) + b"\r\n"


def test_a_body_in_chunks_is_taken(api: Api, connection: Connection) -> None:
    request = chunked(api, {"accountId": api.account(100), "amountMicro": "1"})
    assert parts_of(api.loop.run(connection.ask(request)))[0] == b"HTTP/1.1 201 Created"


def test_a_token_behind_the_body_lets_nobody_in(api: Api, connection: Connection) -> None:
    account = api.account(100)
    bearer = f"Authorization: Bearer {api.sign_service()}".encode()
    request = chunked(api, {"accountId": account, "amountMicro": "1"}, bearer, token=False)
    with api.unchanged():
        for sent in (request, request.replace(bearer, b"X: y")):
            # What a trailer says is not part of the request that comes after it either.
            assert parts_of(api.loop.run(connection.ask(sent)))[0] == b"HTTP/1.1 401 Unauthorized"


@pytest.mark.parametrize("what", ["a header that has no end", "headers"])
def test_what_comes_behind_a_body_has_a_limit(api: Api, connection: Connection, what: str) -> None:
    head = chunked(api, {}, token=False).removesuffix(b"\r\n")
    part = b"x" * 65_536 if what == "a header that has no end" else b"X: y\r\n" * 10_000

    async def send() -> int:
        # Refused for want of a token, on a connection that is kept.
        await connection.ask(head + (b"X: " if what == "a header that has no end" else b""))
        for count in range(100):
            if connection.wire.is_closed:
                return count
            connection.protocol.data_received(part)
        return 100

    assert api.loop.run(send()) <= 17


def test_what_is_no_http_behind_a_request_is_not_answered_before_it(api: Api, connection: Connection) -> None:
    request = post(api, "/reservations", {"accountId": api.account(100), "amountMicro": "1"})
    first, headers, _ = parts_of(api.loop.run(connection.ask(request + b"nonsense\r\n\r\n")))
    assert (first, headers["connection"]) == (b"HTTP/1.1 201 Created", "close")
    assert connection.wire.is_closed


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.parametrize("amount", ["1", "1000000000"])
def test_a_request_that_was_answered_or_refused_leaves_nothing_to_the_garbage_collector(
    api: Api, connection: Connection, amount: str
) -> None:
    request = post(api, "/reservations", {"accountId": api.account(100), "amountMicro": amount})

    async def ask() -> int:
        for _ in range(5):
            await connection.ask(request)
        with no_garbage_collection():
            for _ in range(50):
                await connection.ask(request)
            return gc.collect()

    # What little there is comes from whatever else the test's process does, and is not of each request.
    assert api.loop.run(ask()) < 50
