"""Tokens of the client: signed with a secret, supplied by a function, and renewed before they expire or after a 401."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import jwt
import pytest

from minibill.auth.tokens import signed_token
from minibill.client import AsyncClient, Client, WrongAccess
from minibill.client import tokens as client_tokens
from minibill.core import clock
from minibill.core.problems import InsufficientScope, Unauthorized
from minibill.testing import BookForTests
from tests.api_client import SECRETS, Api, Loop

ADMIN, SERVICE = SECRETS["BILLING_ADMIN_JWT_SECRET"], SECRETS["BILLING_INTERNAL_JWT_SECRET"]
URL = "http://minibill.test"
ACCOUNT = {"id": "acct_1", "entityType": "agent", "entityId": "bot", "createdAt": "2027-01-01T00:00:00.000000Z"}
UNAUTHORIZED = {"code": "unauthorized", "status": 401, "detail": "send a valid token"}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BookForTests]:
    """A served book whose secrets are known."""
    book = BookForTests(tmp_path_factory.mktemp("book") / "book.db", settings=SECRETS)
    yield book
    book.close()


class Seconds:
    """The clocks of the client, which tests move."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.passed = 0.0
        began_us, began_s = clock.real_now_us(), clock.monotonic_s()
        now = lambda: began_us + int(self.passed * 1_000_000)
        monkeypatch.setattr("minibill.auth.tokens.real_now_us", now)
        monkeypatch.setattr(client_tokens, "real_now_us", now)
        monkeypatch.setattr(client_tokens, "monotonic_s", lambda: began_s + self.passed)


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> Seconds:
    return Seconds(monkeypatch)


class Service:
    """A transport that notes the tokens of requests, and rejects those that it is told to."""

    def __init__(self) -> None:
        self.tokens: list[str] = []
        self.keys: list[str | None] = []
        self.rejected: set[str] = set()
        self.statuses: list[int] = []
        self.transport = httpx.MockTransport(self._answer)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        token = request.headers["Authorization"].removeprefix("Bearer ")
        self.tokens.append(token)
        self.keys.append(request.headers.get("Idempotency-Key"))
        if token in self.rejected:
            return httpx.Response(401, json=UNAUTHORIZED)
        if self.statuses:
            return httpx.Response(self.statuses.pop(), json={"code": "overloaded", "detail": "busy"})
        return httpx.Response(200, json=ACCOUNT)


@pytest.fixture
def service() -> Service:
    return Service()


def open_bot(client: Client) -> None:
    assert client.open_account("agent", "bot").entity_id == "bot"


def claims_of(token: str) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return claims


def sign(sub: str, ttl: int) -> str:
    return signed_token(SERVICE, "loa-finn", "arrakis-internal", sub=sub, scopes=None, ttl=ttl)


# --- a secret ---


def test_a_client_with_a_secret_is_an_admin_or_a_service(served: BookForTests) -> None:
    served.reset()
    with Client(served.url, secret=SERVICE, sub="gateway", service=True) as gateway:
        bot = gateway.open_account("agent", "bot")
        served.api.mint(bot.id, 100)
        held = gateway.reserve(bot.id, 30)
        assert gateway.reservation(held.reservation_id).created_by == "service:gateway"
        assert gateway.finalize(held.reservation_id, 10).finalized_micro == "10"
        assert gateway.balance(bot.id).total_available_micro == "90"
    with Client(served.url, secret=ADMIN, sub="ada") as admin:
        admin.mint(bot.id, 5)
        assert [row.actor_id for row in admin.audit(action="account.mint")] == ["ada", "test"]


def test_the_claims_of_signed_tokens_have_the_defaults_of_the_service(service: Service) -> None:
    with Client(URL, secret=ADMIN, sub="ada", transport=service.transport) as client:
        open_bot(client)
    with Client(URL, secret=SERVICE, sub="bot", service=True, transport=service.transport) as client:
        open_bot(client)
    admin, of_service = map(claims_of, service.tokens)
    assert (admin["iss"], admin["aud"], admin["scopes"]) == ("arrakis-admin", "arrakis-billing-admin", ["admin:*"])
    assert (of_service["iss"], of_service["aud"], of_service["sub"]) == ("loa-finn", "arrakis-internal", "bot")
    assert "scopes" not in of_service
    for claims in (admin, of_service):
        assert 299 <= claims["exp"] - claims["iat"] <= 300


def test_the_claims_of_signed_tokens_can_be_given(start: Callable[..., Api], loop: Loop, service: Service) -> None:
    own = {"issuer": "us", "audience": "them"}
    api = start(MINIBILL_ADMIN_JWT_ISSUER="us", MINIBILL_ADMIN_JWT_AUDIENCE="them", MINIBILL_ADMIN_TOKEN_MAX_TTL="20")
    transport = httpx.ASGITransport(api.app)  # type: ignore[arg-type]

    async def story() -> None:
        async with AsyncClient(
            URL,
            secret=ADMIN,
            sub="ada",
            issuer="us",
            audience="them",
            scopes=["admin:billing:read"],
            ttl=20,
            transport=transport,
        ) as reader:
            assert [account async for account in reader.accounts()] == []
            with pytest.raises(InsufficientScope):
                await reader.open_account("agent", "bot")
        for other in ({}, own | {"ttl": 21}, own | {"issuer": "loa-finn"}):
            async with AsyncClient(URL, secret=ADMIN, sub="ada", transport=transport, **other) as stranger:
                with pytest.raises(Unauthorized):
                    await stranger.open_account("agent", "bot")

    loop.run(story())


def test_a_token_is_renewed_when_two_thirds_of_its_life_are_over(service: Service, seconds: Seconds) -> None:
    with Client(URL, secret=SERVICE, sub="bot", service=True, ttl=60, transport=service.transport) as client:
        for passed in (0, 38, 41, 79, 82, 300):
            seconds.passed = passed
            open_bot(client)
    first, second, third, fourth, fifth, sixth = service.tokens
    assert first == second != third == fourth != fifth != sixth
    assert [claims_of(token)["exp"] - claims_of(first)["exp"] for token in (third, fifth, sixth)] == [41, 82, 300]


def test_a_client_outlives_many_tokens(served: BookForTests) -> None:
    served.reset()
    with Client(served.url, secret=SERVICE, sub="bot", service=True, ttl=1) as client:
        began_s = clock.monotonic_s()
        used = set()
        while clock.monotonic_s() < began_s + 2:
            open_bot(client)
            used.add(client._tokens._text)
            time.sleep(0.05)
    assert len(used) >= 2


def test_a_signed_token_is_later_than_a_revocation_in_the_same_second(served: BookForTests) -> None:
    served.reset()
    with Client(served.url, secret=SERVICE, sub="bot", service=True) as client:
        for _ in range(3):
            open_bot(client)
            leaked = client._tokens._text
            served.api.revoke_tokens("bot", clock.format_time(clock.real_now_us()))
            with Client(served.url, leaked or "", service=True) as thief, pytest.raises(Unauthorized):
                open_bot(thief)
            open_bot(client)


# --- a function ---


def test_a_function_supplies_tokens(served: BookForTests) -> None:
    served.reset()
    asked: list[str] = []

    def supply() -> str:
        asked.append(served.service_token(sub="bot"))
        return asked[-1] + "\n"

    with Client(served.url, supply, service=True) as client:
        for _ in range(3):
            open_bot(client)
        assert len(asked) == 1
        served.api.revoke_token(claims_of(asked[0])["jti"])
        open_bot(client)
    assert len(asked) == 2


def test_an_asynchronous_client_takes_both_kinds_of_functions(served: BookForTests, loop: Loop) -> None:
    served.reset()

    async def supply() -> str:
        await asyncio.sleep(0)
        return served.service_token()

    async def story() -> None:
        for source in (supply, served.service_token):
            async with AsyncClient(served.url, source, service=True) as client:
                assert (await client.open_account("agent", "bot")).entity_id == "bot"

    loop.run(story())


def test_a_token_of_a_function_is_renewed_by_its_exp(service: Service, seconds: Seconds) -> None:
    given = iter([sign("bot", 30), sign("bot", 300), sign("bot", 300)])
    with Client(URL, lambda: next(given), service=True, transport=service.transport) as client:
        for passed in (0, 18, 21, 150, 209):
            seconds.passed = passed
            open_bot(client)
    first, second, third, fourth, fifth = service.tokens
    # The third was 209 s old when it was supplied; the client reckons with what is left of it.
    assert first == second != third == fourth != fifth


def test_a_slow_clock_does_not_prolong_a_token(service: Service, seconds: Seconds) -> None:
    seconds.passed = 100
    token = sign("bot", 60)
    seconds.passed = 0
    given = iter([token, sign("bot", 60)])
    with Client(URL, lambda: next(given), service=True, transport=service.transport) as client:
        open_bot(client)
        seconds.passed = 41
        open_bot(client)
    assert len(set(service.tokens)) == 2


@pytest.mark.parametrize("opaque", ["opaque", "a.b.c", "a.bm8.c", "a.e30.c", "a.W10.c", "a.eyJleHAiOiJ4In0.c", "a.\x7e.c"])
def test_a_token_that_can_not_be_read_is_used_until_it_is_rejected(service: Service, seconds: Seconds, opaque: str) -> None:
    given = iter([opaque, "another"])
    with Client(URL, lambda: next(given), transport=service.transport) as client:
        open_bot(client)
        seconds.passed = 1e6
        open_bot(client)
        service.rejected.add(opaque)
        open_bot(client)
    assert service.tokens == [opaque, opaque, opaque, "another"]


def test_an_exception_of_the_function_ends_the_request(service: Service) -> None:
    class Locked(Exception):
        pass

    def fail() -> str:
        raise Locked

    with Client(URL, fail, transport=service.transport) as client, pytest.raises(Locked):
        open_bot(client)
    assert service.tokens == []


# --- a rejected token ---


def test_a_rejected_request_is_sent_once_more_with_a_new_token_and_its_key(service: Service) -> None:
    given = iter(["t1", "t2", "t3"])
    service.rejected = {"t1"}
    with Client(URL, lambda: next(given), transport=service.transport) as client:
        open_bot(client)
        assert service.tokens == ["t1", "t2"] and len(set(service.keys)) == 1 and service.keys[0]
        open_bot(client)
        assert service.tokens == ["t1", "t2", "t2"]
        service.rejected |= {"t2", "t3"}
        with pytest.raises(Unauthorized):
            open_bot(client)
    assert service.tokens == ["t1", "t2", "t2", "t2", "t3"]


def test_a_given_token_is_not_sent_again(service: Service) -> None:
    service.rejected = {"t"}
    with Client(URL, "t", transport=service.transport) as client, pytest.raises(Unauthorized):
        open_bot(client)
    assert service.tokens == ["t"]


def test_a_401_of_something_else_does_not_renew_the_token() -> None:
    sent: list[str] = []

    def proxy(request: httpx.Request) -> httpx.Response:
        sent.append(request.headers["Authorization"])
        return httpx.Response(401, json={"code": "sign_in_first", "detail": "x"})

    with Client(URL, lambda: "t", transport=httpx.MockTransport(proxy)) as client, pytest.raises(Exception, match="x"):
        open_bot(client)
    assert len(sent) == 1


def test_a_retry_after_a_renewal_uses_the_new_token(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minibill.client._sync.http.time.sleep", lambda seconds: None)
    given = iter(["t1", "t2"])
    service.rejected, service.statuses = {"t1"}, [503, 503]
    with Client(URL, lambda: next(given), transport=service.transport) as client:
        open_bot(client)
    assert service.tokens == ["t1", "t2", "t2", "t2"]


def test_a_function_may_not_change_the_sub(service: Service) -> None:
    given = iter([sign("bot", 60), sign("eve", 60)])
    with Client(URL, lambda: next(given), transport=service.transport) as client:
        open_bot(client)
        service.rejected.add(service.tokens[0])
        with pytest.raises(WrongAccess, match="another sub"):
            open_bot(client)
    assert len(service.tokens) == 2


# --- many at once ---


def test_many_threads_wait_for_one_renewal(service: Service) -> None:
    asked: list[str] = []
    all_there = threading.Barrier(8)

    def supply() -> str:
        # Long enough for the other threads to arrive.
        time.sleep(0.05)
        asked.append(f"t{len(asked)}")
        return asked[-1]

    with Client(URL, supply, transport=service.transport) as client, ThreadPoolExecutor(8) as pool:

        def open_at_once(_: int) -> None:
            all_there.wait(10)
            open_bot(client)

        list(pool.map(open_at_once, range(8)))
        assert asked == ["t0"]
        service.rejected = {"t0"}
        list(pool.map(open_at_once, range(8)))
    assert asked == ["t0", "t1"]


def test_many_tasks_wait_for_one_renewal(service: Service, loop: Loop) -> None:
    asked: list[str] = []

    async def supply() -> str:
        await asyncio.sleep(0.02)
        asked.append(f"t{len(asked)}")
        return asked[-1]

    async def story() -> None:
        async with AsyncClient(URL, supply, transport=service.transport) as client:
            await asyncio.gather(*(client.open_account("agent", "bot") for _ in range(20)))
            assert asked == ["t0"]
            service.rejected = {"t0"}
            await asyncio.gather(*(client.open_account("agent", "bot") for _ in range(20)))
            assert asked == ["t0", "t1"]

    loop.run(story())


def test_a_cancelled_renewal_lets_the_next_task_renew(service: Service, loop: Loop) -> None:
    asked: list[int] = []

    async def supply() -> str:
        asked.append(1)
        if len(asked) == 1:
            await asyncio.sleep(3600)
        return "t"

    async def story() -> None:
        async with AsyncClient(URL, supply, transport=service.transport) as client:
            first, second = (asyncio.create_task(client.open_account("agent", "bot")) for _ in range(2))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            first.cancel()
            assert (await second).entity_id == "bot"

    loop.run(story())


# --- arguments, and secrets that stay secret ---


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, TypeError, "either a token or a secret"),
        ({"token": "t", "secret": ADMIN, "sub": "a"}, TypeError, "either a token or a secret"),
        ({"token": "t", "sub": "a", "ttl": 5}, TypeError, "sub, ttl: only with a secret"),
        ({"token": str, "issuer": "a"}, TypeError, "issuer: only with a secret"),
        ({"token": 5}, TypeError, "a token is a string or a function"),
        ({"secret": ADMIN}, TypeError, "sub is missing"),
        ({"secret": ADMIN, "sub": " "}, ValueError, "sub is a name"),
        ({"secret": ADMIN, "sub": "x" * 129}, ValueError, "sub is a name"),
        ({"secret": "short" * 6, "sub": "a"}, WrongAccess, "the secret has fewer than 32 bytes"),
        ({"secret": ADMIN, "sub": "a", "ttl": 0}, ValueError, "ttl is in seconds, at least 1, not 0"),
        ({"secret": SERVICE, "sub": "a", "service": True, "ttl": 301}, ValueError, "at most 300"),
        ({"secret": SERVICE, "sub": "a", "service": True, "scopes": []}, TypeError, "no scopes"),
        ({"secret": ADMIN, "sub": "a", "scopes": "admin:*"}, TypeError, "scopes is a list"),
    ],
)
def test_unclear_arguments_are_rejected(options: dict[str, Any], error: type[Exception], message: str) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(error, match=message) as refusal:
            kind(URL, **options)
        assert "short" not in str(refusal.value) and ADMIN not in str(refusal.value)


@pytest.mark.parametrize("given", ["", "a b", "tökén", b"bytes", None, 5])
def test_a_malformed_token_of_a_function_is_not_sent_and_not_shown(service: Service, given: Any) -> None:
    with (
        Client(URL, lambda: given, transport=service.transport) as client,
        pytest.raises((WrongAccess, TypeError)) as refusal,
    ):
        open_bot(client)
    assert service.tokens == [] and (not given or str(given) not in str(refusal.value))


def test_neither_secret_nor_token_is_shown(served: BookForTests, service: Service, caplog: pytest.LogCaptureFixture) -> None:
    served.reset()
    with caplog.at_level(logging.DEBUG), Client(served.url, secret=SERVICE, sub="bot", service=True) as client:
        open_bot(client)
        token = client._tokens._text or ""
        shown = [repr(part) for part in (client, client._tokens, client._tokens._source, client._http)]
        shown += [repr(vars(client)), str(vars(client._http))]
    with Client(URL, secret=SERVICE, sub="bot", transport=service.transport) as client:
        service.rejected = AnyToken()
        with pytest.raises(Unauthorized) as refusal:
            open_bot(client)
        shown += [str(refusal.value), repr(refusal.value), repr(vars(refusal.value))]
    text = "\n".join([*shown, caplog.text])
    assert "127.0.0.1" in text
    for hidden in (SERVICE, token, token.split(".")[2], *service.tokens):
        assert hidden and hidden not in text


class AnyToken(set[str]):
    """The set of all tokens."""

    def __contains__(self, token: object) -> bool:
        return True
