"""The direct exchange with uvicorn: the same responses as over ASGI messages, and no garbage."""

import asyncio
import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from minibill.server import http_protocol
from minibill.server.http_protocol import protocol_with_limit
from tests.api_client import Api

DATE = (b"date", b"Sat, 01 Jan 2040 00:00:00 GMT")


class Wire(asyncio.Transport):
    """A transport that keeps the bytes for its socket."""

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
        """Do nothing: tests pass all bytes themselves."""

    resume_reading = pause_reading


class Connection:
    """A connection to the protocol of the service, without a socket."""

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


def test_a_direct_response_equals_the_one_over_asgi(
    api: Api, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = api.account(100)
    request = post(api, "/reservations", {"accountId": account, "amountMicro": "1"}, "Idempotency-Key: k")
    sent = []
    for is_direct in (True, False):
        monkeypatch.setattr(http_protocol, "DIRECT_EXCHANGE", is_direct)
        sent.append(parts_of(api.loop.run(connection.ask(request.replace(b": k", b": k%d" % is_direct)))))
    (first, headers, body), (other_first, other_headers, other_body) = sent
    assert first == other_first == b"HTTP/1.1 201 Created"
    assert headers.keys() == other_headers.keys() >= {"date", "content-length", "ledger-sequence", "cache-control"}
    assert headers["date"] == DATE[1].decode()
    assert {name for name in headers if headers[name] != other_headers[name]} <= {
        "x-request-id", "x-correlation-id", "ledger-sequence",
    }  # fmt: skip
    assert {name for name in body if body[name] != other_body[name]} == {"reservationId", "expiresAt"}


@pytest.mark.parametrize("how", ["Connection: close", "HTTP/1.0"])
def test_a_connection_ends_if_the_request_says_so(api: Api, connection: Connection, how: str) -> None:
    body = {"accountId": api.account(100), "amountMicro": "1"}
    request = post(api, "/reservations", body, version="1.0") if how == "HTTP/1.0" else post(api, "/reservations", body, how)
    _, headers, _ = parts_of(api.loop.run(connection.ask(request)))
    assert headers["connection"] == "close"
    assert connection.wire.is_closed


def test_a_body_in_parts_is_received_whole(api: Api, connection: Connection) -> None:
    request = post(api, "/reservations", {"accountId": api.account(100), "amountMicro": "1"})
    first, _, answer = parts_of(api.loop.run(connection.ask(*[request[i : i + 40] for i in range(0, len(request), 40)])))
    assert (first, answer["totalReservedMicro"]) == (b"HTTP/1.1 201 Created", "1")


def test_a_client_that_expects_a_100_continue_gets_it(api: Api, connection: Connection) -> None:
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


def test_a_chunked_body_is_received(api: Api, connection: Connection) -> None:
    request = chunked(api, {"accountId": api.account(100), "amountMicro": "1"})
    assert parts_of(api.loop.run(connection.ask(request)))[0] == b"HTTP/1.1 201 Created"


def test_a_token_in_a_trailer_does_not_authenticate(api: Api, connection: Connection) -> None:
    account = api.account(100)
    bearer = f"Authorization: Bearer {api.sign_service()}".encode()
    request = chunked(api, {"accountId": account, "amountMicro": "1"}, bearer, token=False)
    with api.unchanged():
        for sent in (request, request.replace(bearer, b"X: y")):
            # The trailer is not part of the next request either.
            assert parts_of(api.loop.run(connection.ask(sent)))[0] == b"HTTP/1.1 401 Unauthorized"


@pytest.mark.parametrize("trailer", ["one endless field", "many fields"])
def test_bytes_after_a_rejected_body_have_a_limit(api: Api, connection: Connection, trailer: str) -> None:
    head = chunked(api, {}, token=False).removesuffix(b"\r\n")
    part = b"x" * 65_536 if trailer == "one endless field" else b"X: y\r\n" * 10_000

    async def send() -> int:
        # Rejected without a token, on a connection that stays open.
        await connection.ask(head + (b"X: " if trailer == "one endless field" else b""))
        for count in range(100):
            if connection.wire.is_closed:
                return count
            connection.protocol.data_received(part)
        return 100

    assert api.loop.run(send()) <= 17


def test_malformed_bytes_after_a_request_do_not_overtake_it(api: Api, connection: Connection) -> None:
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
def test_requests_leave_no_garbage_to_collect(api: Api, connection: Connection, amount: str) -> None:
    request = post(api, "/reservations", {"accountId": api.account(100), "amountMicro": amount})

    async def ask() -> int:
        for _ in range(5):
            await connection.ask(request)
        with no_garbage_collection():
            for _ in range(50):
                await connection.ask(request)
            return gc.collect()

    # Other tests of the process may leave garbage in one run, but not in each.
    assert min(api.loop.run(ask()) for _ in range(3)) < 50
