"""The HTTP protocol: ignored upgrades, trailer fields, limits on header sections, and malformed requests."""

import asyncio
import hashlib
import inspect
import json
import random
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from litestar.types import Receive, Scope, Send
from uvicorn.protocols.http import httptools_impl

import minibill
from minibill.server import http_protocol
from minibill.server.http_protocol import HEADER_BYTES_MAX, MALFORMED_LINES_PER_MINUTE, TRAILER_BYTES_MAX, HttpProtocol
from minibill.server.log_limit import LogLimit
from tests.api.test_direct_exchange import Connection, post
from tests.api_client import Api, log_fields

PACKAGE = Path(minibill.__file__).parent

UPGRADES = {
    "h2c, as curl sends it": [b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQ"],
    "h2c, as Java sends it": [b"Connection: Upgrade, HTTP2-Settings", b"HTTP2-Settings: AAEAAEAAAAIAAAAB", b"Upgrade: h2c"],
    "websocket": [b"Upgrade: websocket", b"Connection: keep-alive, Upgrade", b"Sec-WebSocket-Key: eHh4"],
    "two fields": [b"Connection: upgrade", b"upgrade: TLS/1.0", b"UPGRADE: h2c"],
    "two connection fields": [b"Connection: keep-alive", b"Connection: Upgrade", b"Upgrade: foo/2"],
}  # fmt: skip


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Respond with the parts of the request that arrived."""
    request: Any = scope
    body = b""
    while (message := await receive())["type"] == "http.request":
        body += message["body"]
        if not message["more_body"]:
            break
    names = sorted(name.decode() for name, _ in request["headers"])
    arrived = json.dumps(
        [request["method"], request["path"], body.decode(), names.count("upgrade"), "x-trailer" in names]
    ).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(arrived))]})
    await send({"type": "http.response.body", "body": arrived, "more_body": False})


@pytest.fixture
def server(api: Api) -> Connection:
    async def connect() -> Connection:
        app: Any = SimpleNamespace(app=echo)
        return Connection(app)

    return api.loop.run(connect())


def answers(connection: Connection, api: Api, *parts: bytes, number: int) -> list[Any]:
    """Return the responses to these parts of a stream, up to this number or the end of the connection."""

    async def send() -> bytes:
        connection.wire.written = b""
        for part in parts:
            if not connection.wire.is_closed:
                connection.protocol.data_received(part)
            await asyncio.sleep(0)
        for _ in range(5_000):
            if connection.wire.written.count(b"HTTP/1.1 20") >= number or connection.wire.is_closed:
                break
            await asyncio.sleep(0.002)
        return connection.wire.written

    heard = api.loop.run(send())
    found = []
    while heard:
        head, _, rest = heard.partition(b"\r\n\r\n")
        if head == b"HTTP/1.1 100 Continue":
            heard = rest
            continue
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        found.append(json.loads(rest[:length]))
        heard = rest[length:]
    return found


def request(path: str, body: bytes | None, *lines: bytes, is_chunked: bool = False) -> bytes:
    """A POST with a body, or a GET without."""
    head = [b"%b %b HTTP/1.1" % (b"GET" if body is None else b"POST", path.encode()), b"Host: x", *lines]
    if body is None:
        return b"\r\n".join([*head, b"", b""])
    if is_chunked:
        chunks = [body[at : at + 7] for at in range(0, len(body), 7)]
        content = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
        return b"\r\n".join([*head, b"Transfer-Encoding: chunked", b"", content])
    return b"\r\n".join([*head, b"Content-Length: %d" % len(body), b"", body])


@pytest.mark.parametrize("is_chunked", [False, True])
@pytest.mark.parametrize("name", UPGRADES)
def test_a_body_arrives_whole_despite_an_upgrade(api: Api, server: Connection, name: str, is_chunked: bool) -> None:
    body = b'{"a": "GET /smuggled HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n"}'
    sent = request("/one", body, *UPGRADES[name], is_chunked=is_chunked)
    end = sent.index(b"\r\n\r\n") + 4
    expected = ["POST", "/one", body.decode(), 0, False]
    for parts in (
        [sent],
        [sent[:end], sent[end:]],
        [sent[: end + 9], sent[end + 9 :]],
        [sent[i : i + 1] for i in range(len(sent))],
    ):
        assert answers(server, api, *parts, number=1) == [expected]
        # The connection still works.
        assert answers(server, api, request("/two", None), number=1) == [["GET", "/two", "", 0, False]]


def test_a_get_with_an_upgrade_gets_a_response(api: Api, server: Connection) -> None:
    for lines in UPGRADES.values():
        assert answers(server, api, request("/one", None, *lines), number=1) == [["GET", "/one", "", 0, False]]


def test_a_client_with_an_upgrade_gets_a_100_continue(api: Api, server: Connection) -> None:
    sent = request("/one", b"{}", b"Expect: 100-continue", *UPGRADES["h2c, as curl sends it"])

    async def send() -> None:
        server.protocol.data_received(sent.removesuffix(b"{}"))
        for _ in range(10):
            await asyncio.sleep(0)
        assert server.wire.written == b"HTTP/1.1 100 Continue\r\n\r\n"

    api.loop.run(send())
    assert answers(server, api, b"{}", number=1) == [["POST", "/one", "{}", 0, False]]


def test_any_stream_reads_the_same_with_and_without_upgrades(api: Api, server: Connection) -> None:
    rng = random.Random("upgrades")
    for _ in range(60):
        stream, expected = b"", []
        for number in range(rng.randint(1, 6)):
            body = None if rng.random() < 0.3 else bytes(rng.choices(b'GET /{}"\r\n: Upgrade', k=rng.randint(0, 60)))
            lines = rng.choice([[], *UPGRADES.values()])
            stream += request(f"/{number}", body, *lines, is_chunked=rng.random() < 0.5)
            expected.append(["GET" if body is None else "POST", f"/{number}", (body or b"").decode(), 0, False])
        cuts = sorted(rng.choices(range(len(stream)), k=rng.randint(0, 8)))
        parts = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
        assert answers(server, api, *parts, number=len(expected)) == expected


def test_many_upgrades_in_one_packet_take_linear_time(api: Api, server: Connection) -> None:
    copied = 0

    class Counted(bytes):
        """Bytes that count how often they are copied."""

        def __getitem__(self, key: Any) -> Any:
            nonlocal copied
            copied += 1
            return super().__getitem__(key)

    stream = request("/", None, *UPGRADES["websocket"]) * 300
    assert len(answers(server, api, Counted(stream), number=300)) == 300
    assert copied == 0


def test_a_patch_with_an_upgrade_is_applied(api: Api, connection: Connection) -> None:
    campaign = api.draft()
    body = json.dumps({"name": "Other"}).encode()
    lines = [
        f"Authorization: Bearer {api.token}".encode(),
        b"Content-Type: application/json",
        *UPGRADES["h2c, as Java sends it"],
    ]
    sent = request(f"/admin/billing/campaigns/{campaign}", body, *lines).replace(b"POST", b"PATCH", 1)
    assert answers(connection, api, sent, number=1)[0]["name"] == "Other"
    assert api.get(f"/campaigns/{campaign}")["name"] == "Other"


@pytest.fixture
def connection(api: Api) -> Connection:
    async def connect() -> Connection:
        return Connection(api)

    return api.loop.run(connect())


def test_a_connect_request_ends_the_connection(api: Api, connection: Connection) -> None:
    smuggled = request("/health/live", None)
    for target in (b"example.com:443", b"/health/live"):
        again = api.loop.run(fresh(api))
        [problem] = answers(again, api, b"CONNECT " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n" + smuggled, number=2)
        assert (problem["status"], problem["code"]) == (405, "method_not_allowed")
        assert b"\r\nallow: " in again.wire.written
        assert again.wire.is_closed


async def fresh(api: Api) -> Connection:
    return Connection(api)


def test_an_announced_body_that_is_lost_is_malformed(api: Api) -> None:
    for length in (b"2", b"0002", b"17"):
        headers = [*api.admin_headers(), (b"content-length", length)]
        response = api.ask("POST", "/admin/billing/reconciliation", headers=headers)
        assert (response.status_code, response.json()["code"]) == (400, "malformed_json")
    headers = [*api.admin_headers(), (b"content-length", b"0")]
    assert api.ask("POST", "/admin/billing/reconciliation", headers=headers).status_code == 200


# --- trailers ---


def with_trailers(*trailers: bytes) -> bytes:
    return request("/one", b"{}", b"Trailer: X-Trailer", is_chunked=True).removesuffix(b"\r\n") + b"\r\n".join(
        [*trailers, b"", b""]
    )


@pytest.mark.parametrize(
    "trailers",
    [
        [b"X-Trailer: abc"],
        [b"X-Trailer: abc", b"Authorization: Bearer x", b"Host: y", b"Expect: 100-continue"],
        [b"X-Trailer: " + b"x" * (TRAILER_BYTES_MAX - 100)],
        [b"Connection: Upgrade", b"Upgrade: h2c"],
        [b"X-Trailer:"],
    ],
)
def test_trailer_fields_are_discarded(api: Api, server: Connection, trailers: list[bytes]) -> None:
    sent = with_trailers(*trailers)
    for parts in ([sent], [sent[i : i + 1] for i in range(len(sent))] if len(sent) < 1_000 else [sent[:300], sent[300:]]):
        assert answers(server, api, *parts, request("/two", None), number=2) == [
            ["POST", "/one", "{}", 0, False],
            ["GET", "/two", "", 0, False],
        ]


def test_trailer_fields_have_a_limit(api: Api, server: Connection) -> None:
    sent = with_trailers(*[b"X-Trailer: " + b"x" * 1_000] * 70)
    [problem] = answers(server, api, sent, number=1)
    assert problem["errors"][0]["message"] == f"a request has at most {TRAILER_BYTES_MAX} bytes of trailer fields"
    assert server.wire.is_closed


# --- header sections ---


@pytest.mark.parametrize("how", ["at once", "in parts", "in one field", "with an upgrade"])
def test_a_header_section_over_the_limit_is_rejected(api: Api, server: Connection, how: str) -> None:
    for size, is_taken in ((HEADER_BYTES_MAX - 200, True), (HEADER_BYTES_MAX, False), (70 * 1024, False)):
        filler = [b"X-Filler: " + b"x" * 988] * (size // 1_000) + [b"X-Filler: " + b"x" * (size % 1_000)]
        if how == "in one field":
            filler = [b"X-Filler: " + b"x" * size]
        sent = request("/one", None, *filler, *(UPGRADES["websocket"][:2] if how == "with an upgrade" else []))
        connection = api.loop.run(echoing())
        parts = [sent] if how != "in parts" else [sent[:30_000], sent[30_000:40_000], sent[40_000:]]
        [answer] = answers(connection, api, *parts, number=1)
        assert (
            (answer[1:2] == ["/one"])
            if is_taken
            else answer["detail"].startswith(f"a request has at most {HEADER_BYTES_MAX}")
        )
        assert connection.wire.is_closed == (not is_taken)


async def echoing() -> Connection:
    app: Any = SimpleNamespace(app=echo)
    return Connection(app)


@pytest.mark.parametrize(
    "head",
    [
        b"GET /health/live HTTP/1.1\r\n",
        b"GET /health/live HTTP/1.1\r\nHost: x\r\nHost: x\r\n",
        b"GET /health/live HTTP/1.1\r\nHost: x\r\nX: y\r\nHOST: y\r\n",
        b"GET /health/live HTTP/1.0\r\nHost: x\r\nHost: y\r\n",
        b"GET /health/live HTTP/1.1\r\nHost: x y\r\n",
        b"GET /health/live HTTP/1.1\r\nHost: x/y\r\n",
        b"GET /health/live HTTP/1.1\r\nHost: a@b\r\n",
        b"GET /health/live HTTP/1.1\r\nHost: x:y\r\n",
        b"GET /health/live\r\n",
        b"GET /health/live HTTP/0.9\r\nHost: x\r\n",
        b"GET /health/live HTTP/2.0\r\nHost: x\r\n",
        b"GET /health/live HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n",
    ],
)
def test_an_ambiguous_header_section_is_rejected(api: Api, server: Connection, head: bytes) -> None:
    # The connection has served good requests before.
    assert answers(server, api, request("/one", None), number=1)
    [problem] = answers(server, api, head + b"\r\n", number=1)
    assert (problem["status"], problem["code"]) == (400, "validation_error")
    assert server.wire.is_closed


@pytest.mark.parametrize(
    "head",
    [
        b"GET /a HTTP/1.0\r\n", b"GET /a HTTP/1.1\r\nHost:\r\n", b"GET /a HTTP/1.1\r\nHost: [::1]:80\r\n",
        b"GET http://x/a HTTP/1.1\r\nhost: ex-ample_1.example:8080\r\n", b"GET /a HTTP/1.0\r\nHost: x\r\n",
    ],
)  # fmt: skip
def test_one_host_header_or_http_1_0_is_served(api: Api, server: Connection, head: bytes) -> None:
    assert answers(server, api, head + b"\r\n", number=1) == [["GET", "/a", "", 0, False]]


# --- the log, and the server ---


def test_log_lines_of_malformed_requests_are_limited(
    api: Api, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 1_000.0
    monkeypatch.setattr("minibill.server.log_limit.monotonic_s", lambda: now_s)
    monkeypatch.setattr(http_protocol, "_lines", LogLimit(MALFORMED_LINES_PER_MINUTE))

    def flood() -> list[Any]:
        caplog.clear()
        for number in range(MALFORMED_LINES_PER_MINUTE + 20):
            connection = api.loop.run(echoing())
            sent = b"nonsense\r\n\r\n" if number % 2 else b"CONNECT x:1 HTTP/1.1\r\n\r\n"
            answers(connection, api, sent, number=1)
            answers(api.loop.run(echoing()), api, request("/one", b"{}", *UPGRADES["websocket"]), number=1)
        return [log_fields(record) for record in caplog.records]

    lines = flood()
    assert len(lines) == MALFORMED_LINES_PER_MINUTE
    assert {line["msg"] for line in lines} == {"malformed request"} and lines[0]["ip"] == "192.0.2.7"
    assert {line["suppressed"] for line in lines} == {0}
    now_s += 60
    assert [line["suppressed"] for line in flood()] == [20, *[0] * (MALFORMED_LINES_PER_MINUTE - 1)]


def test_uvicorn_is_the_version_that_the_protocol_was_written_for() -> None:
    """Compare uvicorn's protocol with the file that minibill/server was written for.

    If this fails, read the changes, adapt `http_protocol`, `connection_limits` and `direct_exchange`, and update the digest.
    """
    written_for = ("0.54.0", "1d4e1c579df41684")
    assert (uvicorn.__version__, hashlib.sha256(inspect.getsource(httptools_impl).encode()).hexdigest()[:16]) == written_for


def test_only_the_server_package_knows_uvicorn() -> None:
    importing = [
        str(file.relative_to(PACKAGE))
        for file in sorted(PACKAGE.rglob("*.py"))
        if re.search(r"^\s*(?:import|from) (?:uvicorn|httptools)\b", file.read_text("utf-8"), re.MULTILINE)
    ]
    assert {name.split("/")[0] for name in importing} == {"server"}, importing


def test_a_reservation_works_the_same_with_an_upgrade(api: Api, connection: Connection) -> None:
    body = {"accountId": api.account(100), "amountMicro": "1"}
    for number in range(2):
        lines = ["Connection: Upgrade", "Upgrade: h2c"] if number else []
        [answer] = answers(connection, api, post(api, "/reservations", body, *lines), number=1)
        assert answer["totalReservedMicro"] == "1"
    assert api.get(f"/accounts/{body['accountId']}/balance")["totalReservedMicro"] == "2"
    assert issubclass(type(connection.protocol), HttpProtocol)
