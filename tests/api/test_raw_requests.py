"""Raw bytes on a socket: malformed requests get a problem like any other response."""

import contextlib
import json
import socket
from collections.abc import Iterator

import httpx
import pytest

from minibill.server.http_protocol import HEADER_BYTES_MAX
from tests.service_process import Server, serving


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("raw") / "book.db") as server:
        yield server


def heard(server: Server, sent: bytes, *, answers: int = 1) -> bytes:
    """Return the bytes that come back for these bytes, up to so many responses with a JSON body."""
    url = server.http.base_url
    with socket.create_connection((url.host, url.port or 0), timeout=10) as connection:
        with contextlib.suppress(ConnectionError):
            # The server may respond and close the connection before all bytes are sent.
            connection.sendall(sent.replace(b"{token}", f"Authorization: {server.http.headers['Authorization']}".encode()))
        answer = b""
        while answer.count(b"\r\n\r\n") < answers or not answer.endswith(b"}"):
            part = connection.recv(65_536)
            assert part, answer
            answer += part
    return answer


def ask(server: Server, sent: bytes) -> httpx.Response:
    """Return the response to these bytes; `{token}` stands for a valid Authorization header."""
    answer = heard(server, sent)
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = [(name, value) for name, _, value in (line.partition(": ") for line in lines)]
    return httpx.Response(int(first.split()[1]), headers=headers, content=body)


# Over the limit by more than a server reads from a socket at once.
ENDLESS_BYTES = HEADER_BYTES_MAX + 1_048_576

POST = b"POST /admin/billing/accounts HTTP/1.1\r\nHost: x\r\n{token}\r\nContent-Type: application/json\r\n"
MALFORMED = {
    "nonsense": b"nonsense\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "another version": b"GET /health/live HTTP/9.9\r\nHost: x\r\n\r\n",
    "a target in Latin-1": b"GET /\xe9 HTTP/1.1\r\nHost: x\r\n\r\n",
    "a target in UTF-8": "GET /é HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
    "a target that is no URL": b"GET http://[::1/x HTTP/1.1\r\nHost: x\r\n\r\n",
    "a line feed in a header": b"GET /health/live HTTP/1.1\r\nHost: x\r\nX: a\nb\r\n\r\n",
    "two lengths": POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{} ",
    "a negative length": POST + b"Content-Length: -2\r\n\r\n{}",
    "a length and chunks": POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "a bad chunk": POST + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n{}\r\n0\r\n\r\n",
    "a header without an end": b"GET /health/live HTTP/1.1\r\nX: " + b"x" * ENDLESS_BYTES,
    "headers without an end": b"GET /health/live HTTP/1.1\r\n" + b"X: y\r\n" * (ENDLESS_BYTES // 6),
    "a target without an end": b"GET /" + b"x" * ENDLESS_BYTES,
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_request_gets_a_problem(server: Server, name: str) -> None:
    response = ask(server, MALFORMED[name])
    problem = json.loads(response.content)
    assert (response.status_code, problem["status"], problem["code"]) == (400, 400, "validation_error")
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["x-request-id"] == response.headers["x-correlation-id"] == problem["requestId"]
    assert (response.headers["x-content-type-options"], response.headers["cache-control"]) == ("nosniff", "no-store")
    assert server.http.get("/accounts").json()["items"] == []


def test_the_header_limit_does_not_apply_to_bodies(server: Server) -> None:
    head = POST + b"X: " + b"x" * (HEADER_BYTES_MAX - 2_000) + b"\r\n"
    assert ask(server, head + b"Content-Length: 2\r\n\r\n{}").json()["errors"][0]["path"] == "entityType"
    body = b"{}" + b" " * (HEADER_BYTES_MAX * 2)
    assert ask(server, POST + b"Content-Length: %d\r\n\r\n" % len(body) + body).json()["errors"][0]["path"] == "entityType"


def test_pipelined_requests_each_have_the_header_limit(server: Server) -> None:
    one = b"GET /health/live HTTP/1.1\r\nHost: x\r\nX: " + b"x" * (HEADER_BYTES_MAX - 100) + b"\r\n\r\n"
    assert heard(server, one + one, answers=2).count(b"HTTP/1.1 200 OK") == 2


def test_a_token_id_with_slashes_is_revoked_unchanged(server: Server) -> None:
    response = server.http.post("/tokens/a%2F%2Fb%2F/revoke")
    assert (response.status_code, response.json()["tokenId"]) == (200, "a//b/")
