"""The reads and writes of services that work as under /admin/billing, and the dry run that services do not have."""

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from minibill.app import INTERNAL
from tests.api_client import UNIT, Api, Json, ok, problem_of

PAGE = "https://console.example"


def body_of(path: str, account: str, reservation: str) -> Json:
    """Return a valid body of a service's write."""
    return {
        "/accounts": {"entityType": "agent", "entityId": "bot"},
        "/reservations": {"accountId": account, "amountMicro": "5"},
        "/finalize": {"reservationId": reservation, "actualCostMicro": "3"},
        "/release": {"reservationId": reservation},
        "/charges": {"accountId": account, "costMicro": "5"},
        "/charges/batch": {"charges": [{"accountId": account, "costMicro": "5", "sourceId": "call-1"}]},
    }[path]


SERVICE_WRITES = [path for method, path, _ in INTERNAL if method == "POST"]


def open_agent(api: Api, name: str = "bot", **options: Any) -> Any:
    return api.internal("POST", "/accounts", {"entityType": "agent", "entityId": name}, **options)


# --- accounts ---


def test_a_service_opens_an_account_once(api: Api) -> None:
    first = open_agent(api, " 0x" + "A" * 40, headers={"X-Correlation-Id": "job-7"})
    problem_of(first, 400, "validation_error", "entityId")
    first = open_agent(api, "0x" + "A" * 40, headers={"X-Correlation-Id": "job-7"})
    assert ok(first, 201)["entityId"] == "0x" + "a" * 40
    assert first.headers["x-correlation-id"] == "job-7"
    assert ok(open_agent(api, "0x" + "a" * 40), 200) == first.json()
    assert ok(api.post("/accounts", {"entityType": "agent", "entityId": "0x" + "a" * 40}), 200) == first.json()
    problem_of(api.internal("POST", "/accounts", {"entityType": "agent", "entityId": "x", "x": 1}), 400, "validation_error")


def test_opening_an_account_as_a_service_is_idempotent_by_key(api: Api) -> None:
    first = open_agent(api, key="k")
    again = open_agent(api, key="k", token=api.sign_service())
    assert (again.status_code, again.content) == (201, first.content)
    assert again.headers["idempotency-replayed"] == "true"
    problem_of(open_agent(api, "other", key="k"), 422, "idempotency_key_reused")
    # The key belongs to the caller.
    assert "idempotency-replayed" not in open_agent(api, key="k", token=api.sign_service(sub="other")).headers


def test_an_account_of_a_service_has_an_event_and_no_audit_row(api: Api) -> None:
    account = ok(open_agent(api), 201)
    events = api.get("/events")["items"]
    assert [(event["type"], event["data"]["id"]) for event in events] == [("account.opened", account["id"])]
    assert api.get("/audit")["items"] == []
    assert ok(api.post("/reconciliation"))["status"] == "healthy"


def test_a_service_lists_accounts_in_pages_with_its_own_cursors(api: Api) -> None:
    for name in ("a", "b", "c"):
        open_agent(api, name)
    api.account()
    admin = api.get("/accounts", limit=2, entityType="agent")
    service = ok(api.internal("GET", "/accounts", limit=2, entityType="agent"))
    assert service["items"] == admin["items"]
    rest = ok(api.internal("GET", "/accounts", cursor=service["nextCursor"]))
    assert [item["entityId"] for item in rest["items"]] == ["c"] and rest["nextCursor"] is None
    assert ok(api.internal("GET", "/accounts", entityId="b"))["items"] == [service["items"][1]]
    # A cursor belongs to one list, and the lists of admins and services are two.
    problem_of(api.internal("GET", "/accounts", cursor=admin["nextCursor"]), 400, "invalid_cursor")
    problem_of(api.call("GET", "/accounts", cursor=service["nextCursor"]), 400, "invalid_cursor")
    changed = api.internal("GET", "/accounts", cursor=service["nextCursor"], entityType="person")
    problem_of(changed, 400, "invalid_cursor")
    problem_of(api.internal("GET", "/accounts", entityType="robot"), 400, "validation_error", "entityType")
    problem_of(api.internal("GET", "/accounts", entity="a"), 400, "validation_error", "entity")


# --- balance and quote ---


def test_a_service_reads_balances_and_quotes_as_admins_do(api: Api) -> None:
    account = api.account(UNIT)
    ok(api.call("PUT", "/discounts/guild/tiers", {"tiers": [{"tier": "gold", "rateBps": 5000}]}))
    ok(api.call("PUT", f"/accounts/{account}/memberships/guild", {"tier": "gold"}))
    api.reserve(account, 10)
    before = api.get(f"/accounts/{account}/balance")["at"]
    api.mint(account, 7)
    reads: list[tuple[str, dict[str, Any]]] = [
        (f"/accounts/{account}/balance", {"at": before}),
        (f"/accounts/{account}/balance", {"at": before, "poolId": "gpu"}),
        (f"/accounts/{account}/balance", {"poolId": "General"}),
        (f"/accounts/{account}/balance", {"at": "2999-01-01T00:00:00Z"}),
        (f"/accounts/{account}/quote", {"amountMicro": "9"}),
        (f"/accounts/{account}/quote", {}),
        (f"/accounts/{account}/quote", {"amountMicro": "9", "x": "1"}),
        ("/accounts/acct_none/balance", {}),
        ("/accounts/acct_none/quote", {"amountMicro": "9"}),
    ]
    for path, query in reads:
        admin, service = api.call("GET", path, **query), api.internal("GET", path, **query)
        head = api.internal("HEAD", path, **query)
        assert service.status_code == admin.status_code == head.status_code, path
        assert {**service.json(), "requestId": ""} == {**admin.json(), "requestId": ""}, path
        assert head.content == b""
        for name in ("ledger-sequence", "content-type", "cache-control"):
            assert service.headers.get(name) == admin.headers.get(name) == head.headers.get(name), (path, name)


# --- events ---


def test_a_service_reads_events_and_waits_for_them(api: Api) -> None:
    account = api.account(UNIT)
    assert ok(api.internal("GET", "/events")) == api.get("/events")
    # A position in the feed is the same for all callers.
    end = api.get("/events", after="latest")["nextCursor"]
    problem_of(api.internal("GET", "/events", after="evt_none"), 400, "invalid_cursor")
    problem_of(api.internal("GET", "/events", types="robot"), 400, "validation_error", "types")

    with ThreadPoolExecutor(1) as pool:
        poll = pool.submit(api.internal, "GET", "/events", after=end, types="ledger.reserve", wait=20)
        while not api.book.feed.waiters:
            assert not poll.done()
            time.sleep(0.001)
        api.reserve(account, 5)
        page = ok(poll.result())
    assert [(event["type"], event["accountId"]) for event in page["items"]] == [("ledger.reserve", account)]


# --- who may call ---


def test_the_reads_of_services_take_service_tokens_only(api: Api) -> None:
    account = api.account(5)
    for path in ("/accounts", f"/accounts/{account}/balance", f"/accounts/{account}/quote?amountMicro=5", "/events"):
        problem_of(api.internal("GET", path, token=api.token), 401, "unauthorized")
        problem_of(api.call("GET", path, token=api.sign_service()), 401, "unauthorized")
    with api.unchanged():
        problem_of(open_agent(api, token=api.token), 401, "unauthorized")


def test_a_service_has_nothing_else_of_the_admin_api(api: Api) -> None:
    account = api.account(5)
    with api.unchanged():
        for path in (
            f"/accounts/{account}",
            f"/accounts/{account}/lots",
            f"/accounts/{account}/history",
            "/audit",
            "/campaigns",
        ):
            problem_of(api.internal("GET", path), 404, "not_found")
        problem_of(api.internal("POST", f"/accounts/{account}/mint", {"amountMicro": "5"}), 404, "not_found")
        problem_of(api.internal("POST", f"/accounts/{account}/balance"), 405, "method_not_allowed")


def test_the_rate_limit_of_services_counts_their_reads(start: Callable[..., Api]) -> None:
    api = start(MINIBILL_SERVICE_RATE_PER_MINUTE="3")
    token = api.sign_service(sub="busy")
    for remaining in ("2", "1", "0"):
        response = api.internal("GET", "/accounts", token=token)
        assert ok(response) and response.headers["ratelimit-remaining"] == remaining
    problem_of(api.internal("GET", "/events", token=token), 429, "rate_limited")
    problem_of(open_agent(api, token=token), 429, "rate_limited")
    ok(api.internal("GET", "/accounts", token=api.sign_service(sub="idle")))


def test_a_browser_may_call_as_a_service(start: Callable[..., Api]) -> None:
    api = start(MINIBILL_CORS_ORIGINS=PAGE)
    response = api.internal("GET", "/accounts", headers={"Origin": PAGE})
    assert response.headers["access-control-allow-origin"] == PAGE
    asked = [(b"origin", PAGE.encode()), (b"access-control-request-method", b"POST")]
    preflight = api.ask("OPTIONS", "/api/internal/billing/accounts", headers=asked)
    assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (204, PAGE)


def test_the_log_names_a_service_that_is_rejected(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "minibill.auth"):
        open_agent(api, token=api.token)
    assert [record.getMessage() for record in caplog.records] == ["no valid token"]


# --- no dry run ---


@pytest.mark.parametrize("path", SERVICE_WRITES)
def test_a_service_has_no_dry_run(api: Api, path: str) -> None:
    account = api.account(100)
    body = body_of(path, account, api.reserve(account, 9))
    with api.unchanged():
        for value in ("true", "false", "", "maybe"):
            problem = problem_of(api.internal("POST", path, body, dryRun=value), 400, "validation_error", "dryRun")
            assert "is not known here" in problem["detail"]
        problem_of(api.internal("POST", path, body, key="k", dryRun="true"), 400, "validation_error", "dryRun")
        problem_of(api.internal("POST", path, body, unknown="1"), 400, "validation_error", "unknown")
    ok(api.internal("POST", path, body, key="k"))
    # A stored key does not make it known.
    problem_of(api.internal("POST", path, body, key="k", dryRun="true"), 400, "validation_error", "dryRun")


def test_the_explanation_of_a_reservation_is_no_dry_run(api: Api) -> None:
    sent = {"accountId": api.account(100), "amountMicro": "5"}
    assert "explanation" in ok(api.internal("POST", "/reservations", sent, explain="true"), 201)
    with api.unchanged():
        response = api.internal("POST", "/reservations", sent, explain="true", dryRun="true")
        problem_of(response, 400, "validation_error", "dryRun")
