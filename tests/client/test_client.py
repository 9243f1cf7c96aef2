"""The HTTP client: retries, errors, URL and token."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from minibill.client import Client, Unreachable, WrongAccess
from minibill.client._sync import http
from minibill.client.retries import BACKOFF_S, RETRY_AFTER_MAX_S
from minibill.core.problems import FieldError, Overloaded, Problem, RateLimited
from tests.tools import sync_client

URL = "http://minibill.test"


@pytest.mark.parametrize("name", sync_client.FILES)
def test_the_synchronous_client_is_the_asynchronous_one(name: str) -> None:
    assert (sync_client.FOLDER / "_sync" / name).read_text("utf-8") == sync_client.synchronous(name), "run make client"


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the list of waits in seconds; nothing really waits."""
    waits: list[float] = []
    monkeypatch.setattr(http, "time", SimpleNamespace(sleep=waits.append))
    return waits


def client(handler: Callable[[httpx.Request], httpx.Response], **options: Any) -> Client:
    given: dict[str, Any] = {"url": URL, "token": "t"}
    return Client(transport=httpx.MockTransport(handler), **{**given, **options})


def test_the_error_of_a_busy_service_is_raised_after_some_retries(
    waits: list[float],
) -> None:
    sent: list[httpx.Request] = []
    waited: list[tuple[float, str]] = []

    def busy(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(
            503, json={"code": "overloaded", "detail": "too many writes", "queueLength": 9}, headers={"Retry-After": "1"}
        )

    asked = client(busy, on_wait=lambda seconds, reason: waited.append((seconds, reason)))
    with asked, pytest.raises(Overloaded) as refusal:
        asked.activate_campaign("x")
    assert (refusal.value.detail, refusal.value.extensions) == ("too many writes", {"queue_length": 9})
    assert len(sent) == len(BACKOFF_S) + 1
    # As long as Retry-After says, and longer for each retry.
    assert waits == [seconds for seconds, _ in waited] == [max(1, seconds) for seconds in BACKOFF_S]
    assert len({request.headers["Idempotency-Key"] for request in sent}) == 1


def test_a_long_retry_after_raises_the_error_at_once(waits: list[float]) -> None:
    headers = {"Retry-After": str(RETRY_AFTER_MAX_S + 1)}
    limited = httpx.Response(429, json={"code": "rate_limited", "detail": "later"}, headers=headers)
    with client(lambda request: limited) as asked, pytest.raises(RateLimited):
        asked.campaign("x")
    assert waits == []


def test_permanent_errors_are_not_retried() -> None:
    sent: list[httpx.Request] = []

    def refuse(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(
            422, json={"code": "budget_exceeded", "detail": "no", "errors": [{"path": "a", "message": "b"}]}
        )

    with client(refuse) as asked, pytest.raises(Problem) as refusal:
        asked.activate_campaign("x")
    assert refusal.value.extensions == {"errors": [FieldError("a", "b")]}
    assert len(sent) == 1


def test_the_token_is_not_sent_to_a_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    with (
        socket_that_answers() as (url, heard),
        Client(url, "secret\n") as asked,
    ):
        assert asked.now().now == "then"
    assert "authorization: bearer secret\r\n" in heard[0].lower()


@contextlib.contextmanager
def socket_that_answers() -> Iterator[tuple[str, list[str]]]:
    """Serve one request on a loopback socket, with IPv6 if available."""
    heard: list[str] = []
    family, host = (socket.AF_INET6, "::1") if has_ipv6() else (socket.AF_INET, "127.0.0.1")
    with socket.create_server((host, 0), family=family) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                heard.append(connection.recv(65536).decode())
                connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 14\r\nConnection: close\r\n\r\n{"now":"then"}')

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        named = f"[{host}]" if ":" in host else host
        yield f"http://{named}:{server.getsockname()[1]}", heard
        thread.join(5)


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.parametrize(
    "url", ["", "localhost:8080", "ftp://h", "http://", "http://h?x=1", "http://a:b@h", "http://[::1", "http://h:x"]
)
def test_an_invalid_url_is_rejected_before_anything_is_sent(url: str) -> None:
    with pytest.raises(WrongAccess):
        client(cut_request, url=url)


@pytest.mark.parametrize("token", ["", " ", "a b", "a\nb", "tökén"])
def test_an_invalid_token_is_rejected_and_not_shown(token: str) -> None:
    with pytest.raises(WrongAccess) as refusal:
        client(cut_request, token=token)
    assert not token.strip() or token not in str(refusal.value)


def cut_request(request: httpx.Request) -> httpx.Response:
    raise AssertionError("something was sent")


@pytest.mark.parametrize(
    ("error", "in_doubt"),
    [
        (httpx.ConnectError("x"), False),
        (httpx.ConnectTimeout("x"), False),
        (httpx.ReadTimeout("x"), True),
        (httpx.WriteError("x"), True),
    ],
)
def test_only_a_sent_request_may_have_arrived(waits: list[float], error: httpx.TransportError, in_doubt: bool) -> None:
    def fail(request: httpx.Request) -> httpx.Response:
        raise error

    with client(fail) as asked, pytest.raises(Unreachable) as failure:
        asked.activate_campaign("x")
    assert failure.value.may_have_arrived is in_doubt
    assert waits


def test_an_unknown_error_code_is_kept() -> None:
    told = {"code": "from_the_future", "status": 418, "detail": "not yet", "requestId": "req_1"}
    with client(lambda request: httpx.Response(418, json=told)) as asked, pytest.raises(Problem) as refusal:
        asked.now()
    assert (refusal.value.code, refusal.value.status, refusal.value.request_id) == ("from_the_future", 418, "req_1")


@pytest.mark.parametrize("amount", [1.0, True, "5", 0.1])
def test_an_amount_must_be_an_integer(amount: Any) -> None:
    with client(cut_request) as asked, pytest.raises(TypeError):
        asked.mint("acct_1", amount)


def test_a_time_without_an_offset_is_rejected_before_sending() -> None:
    with client(cut_request) as asked, pytest.raises(ValueError, match="time zone"):
        asked.mint("acct_1", 1, expires_at=datetime(2030, 1, 1))  # noqa: DTZ001 - that is what is refused
