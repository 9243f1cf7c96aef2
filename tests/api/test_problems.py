"""Problems as responses, and the headers of every response."""

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from minibill.api.middleware import RequestMiddleware
from minibill.core.problems import StorageFull
from tests.api_client import Api, Json, log_fields, ok, problem_of

MEMBERS = ["type", "title", "status", "detail", "code", "requestId"]
SECRET_TEXT = "no such table: secret /var/lib/book.db SELECT"


def whole(response: httpx.Response, status: int, code: str) -> Json:
    """Return the problem of a response, after a check of all its members."""
    problem = problem_of(response, status, code)
    assert list(problem)[: len(MEMBERS)] == MEMBERS
    assert problem["type"].endswith(code)
    assert problem["title"]
    assert problem["detail"]
    assert problem["requestId"] == response.headers["x-request-id"]
    assert int(response.headers["content-length"]) == len(response.content)
    return problem


# --- not found, not allowed ---


@pytest.mark.parametrize(
    "path",
    ["/", "/admin", "/admin/billings", "/favicon.ico", "/health", "/health/live/x", "/api/internal", "/a\0b", "/ü"],
)  # fmt: skip
def test_an_unknown_path_is_not_found(api: Api, path: str) -> None:
    problem = whole(api.ask("GET", path, headers=[]), 404, "not_found")
    assert list(problem) == MEMBERS


@pytest.mark.parametrize(
    "path",
    ["", "/", "/nothing", "/accounts/x/nothing", "/accounts/x/lots/y", "/campaigns/x/grants/batch/y", "/tokens/x", "/../x"],
)  # fmt: skip
def test_an_unknown_path_after_the_prefix_is_not_found(api: Api, path: str) -> None:
    whole(api.ask("GET", f"/admin/billing{path}"), 404, "not_found")
    whole(api.ask("POST", f"/admin/billing{path}"), 404, "not_found")


@pytest.mark.parametrize(
    "account", ["acct_0", "acct_0000000000009", "lot_0000000000001", "x" * 64, "%00", "'; --", "ACCT_0"]
)
def test_an_unknown_account_is_not_found(api: Api, account: str) -> None:
    api.account()
    for path in ("", "/balance", "/lots", "/history"):
        problem = whole(api.call("GET", f"/accounts/{account}{path}"), 404, "account_not_found")
        assert "accountId" in problem
    with api.unchanged():
        whole(api.post(f"/accounts/{account}/mint", {"amountMicro": "5"}), 404, "account_not_found")


@pytest.mark.parametrize("campaign", ["camp_0", "camp_0000000000009", "acct_0000000000001", "x" * 64, "%00"])
def test_an_unknown_campaign_is_not_found(api: Api, campaign: str) -> None:
    account = api.account()
    api.draft()
    for path in ("", "/grants"):
        whole(api.call("GET", f"/campaigns/{campaign}{path}"), 404, "campaign_not_found")
    with api.unchanged():
        whole(api.call("PATCH", f"/campaigns/{campaign}", {"name": "x"}), 404, "campaign_not_found")
        for verb in ("activate", "pause", "complete"):
            whole(api.post(f"/campaigns/{campaign}/{verb}"), 404, "campaign_not_found")
        whole(api.batch(campaign, (account, 5)), 404, "campaign_not_found")


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/accounts", {"GET", "POST"}),
        ("/accounts/x", {"GET"}),
        ("/accounts/x/balance", {"GET"}),
        ("/accounts/x/mint", {"POST"}),
        ("/campaigns", {"GET", "POST"}),
        ("/campaigns/x", {"GET", "PATCH"}),
        ("/campaigns/x/activate", {"POST"}),
        ("/campaigns/x/grants/batch", {"POST"}),
        ("/clock", {"GET"}),
    ],
)
def test_an_unknown_method_is_not_allowed(api: Api, path: str, allowed: set[str]) -> None:
    with api.unchanged():
        for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "TRACE", "BREW"} - allowed:
            response = api.call(method, path, {})
            whole(response, 405, "method_not_allowed")
            assert set(response.headers["allow"].replace(" ", "").split(",")) - {"OPTIONS", "HEAD"} == allowed


def test_a_body_over_the_limit_is_rejected_with_the_limit(start: Callable[..., Api]) -> None:
    api = start(MINIBILL_MAX_BODY_BYTES="10")
    problem = whole(api.post("/accounts", raw=b"x" * 11), 413, "payload_too_large")
    assert list(problem) == [*MEMBERS, "limitBytes"]


def test_another_content_type_gets_a_problem(api: Api) -> None:
    problem = whole(api.post("/accounts", {}, headers={"Content-Type": "text/plain"}), 415, "unsupported_media_type")
    assert list(problem) == MEMBERS


def test_an_invalid_request_names_the_path(api: Api) -> None:
    problem = whole(api.post("/accounts", {"entityType": "person"}), 400, "validation_error")
    assert list(problem) == [*MEMBERS, "errors"]
    assert problem["errors"] == [{"path": "entityId", "message": "is required"}]


def test_times_and_amounts_in_a_problem_are_as_in_a_response(api: Api) -> None:
    campaign = api.campaign(100)
    problem = whole(api.batch(campaign, (api.account(), 101)), 422, "budget_exceeded")
    facts = {name: problem[name] for name in problem if name not in MEMBERS}
    assert facts == {"budgetMicro": "100", "spentMicro": "0", "remainingMicro": "100", "requestedMicro": "101"}


# --- internal errors ---


def _raise(*_: object, **__: object) -> Any:
    raise RuntimeError(SECRET_TEXT)


@pytest.mark.parametrize(
    ("where", "method", "path", "body"),
    [
        ("minibill.ledger.routes.open_account", "POST", "/accounts", {"entityType": "mod", "entityId": "x"}),
        ("minibill.campaigns.routes.create_campaign", "POST", "/campaigns",
         {"name": "x", "campaignType": "loyalty", "budgetMicro": "1"}),
        ("minibill.audit.log.append", "POST", "/accounts", {"entityType": "mod", "entityId": "x"}),
        ("minibill.api.request.encode", "GET", "/accounts", None),
        ("minibill.db.readers.RequestReader.all", "GET", "/accounts", None),
    ],
)  # fmt: skip
def test_an_internal_error_is_logged_and_has_no_detail(
    api: Api,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    where: str,
    method: str,
    path: str,
    body: Json,
) -> None:
    with api.unchanged(), monkeypatch.context() as patched, caplog.at_level(logging.ERROR):
        patched.setattr(where, _raise)
        response = api.call(method, path, body)
        problem = whole(response, 500, "internal_error")
    assert list(problem) == MEMBERS
    for word in ("secret", "book.db", "SELECT", "RuntimeError", "Traceback"):
        assert word not in response.text
    [record] = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert log_fields(record)["request_id"] == problem["requestId"]
    assert SECRET_TEXT in str(record.exc_info and record.exc_info[1])
    # The service still works.
    ok(api.post("/accounts", {"entityType": "mod", "entityId": "next"}))


def test_a_violated_database_constraint_is_an_internal_error(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    account = api.account()
    # Without the check of its pattern, the pool id reaches the database.
    monkeypatch.setattr("minibill.ledger.mint.DEFAULT_POOL", "Not A Pool")
    with api.unchanged():
        response = api.post(f"/accounts/{account}/mint", {"amountMicro": "5"})
        problem = whole(response, 500, "internal_error")
        assert "pool" not in response.text
    assert problem["requestId"] in [log_fields(record).get("request_id") for record in caplog.records]


# --- headers ---


def _every_kind_of_answer(api: Api) -> dict[int, httpx.Response]:
    draft, account = api.draft(), api.account()
    answers = [
        api.call("GET", "/accounts"),
        api.post("/accounts", {"entityType": "mod", "entityId": "x"}),
        api.post("/accounts", {}),
        api.call("GET", "/accounts", token="nonsense"),
        api.call("GET", "/accounts", token=api.sign(scopes=("admin:mint:write",))),
        api.call("GET", "/nothing"),
        api.call("DELETE", "/accounts"),
        api.post(f"/campaigns/{draft}/pause"),
        api.post("/accounts", raw=b" " * 1_048_577),
        api.post("/accounts", {}, headers={"Content-Type": "text/plain"}),
        api.post(f"/accounts/{account}/mint", {"amountMicro": str(2**63 - 1)}),
    ]
    return {answer.status_code: answer for answer in answers}


def test_every_response_has_its_headers(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = _every_kind_of_answer(api)
    monkeypatch.setattr("minibill.ledger.routes.open_account", _raise)
    answers[500] = api.post("/accounts", {"entityType": "mod", "entityId": "y"})
    assert sorted(answers) == [200, 201, 400, 401, 403, 404, 405, 409, 413, 415, 422, 500]
    for answer in [*answers.values(), api.ask("GET", "/health/live", headers=[]), api.ask("GET", "/x", headers=[])]:
        for name, value in [("x-content-type-options", "nosniff"), ("cache-control", "no-store")]:
            assert answer.headers.get_list(name) == [value]
        assert len(answer.headers.get_list("x-request-id")) == 1
        assert len(answer.headers.get_list("x-correlation-id")) == 1
        [media_type] = answer.headers.get_list("content-type")
        assert media_type == ("application/json" if answer.status_code < 400 else "application/problem+json")
        json.loads(answer.content)


def test_request_ids_differ(api: Api) -> None:
    answers = [
        api.ask("GET", path, headers=[]) for path in ("/health/live", "/x", "/admin/billing/accounts") for _ in range(5)
    ]
    assert len({answer.headers["x-request-id"] for answer in answers}) == len(answers)


@pytest.mark.parametrize("given", [b"a", b"order-17", b"x" * 128, b"!~", b'{"a":1}'])
def test_a_correlation_id_is_echoed_and_audited(api: Api, given: bytes) -> None:
    for status, path, token in [(201, "/accounts", None), (404, "/nothing", None), (401, "/accounts", "nonsense")]:
        answer = api.post(
            path, {"entityType": "mod", "entityId": "x"}, headers={"X-Correlation-Id": given.decode()}, token=token
        )
        assert (answer.status_code, answer.headers["x-correlation-id"]) == (status, given.decode())
    assert _audited(api) == [given.decode()]


@pytest.mark.parametrize(
    "given", [None, b"", b" ", b"a b", b"a\tb", b"x" * 129, b"\xc3\xa9", b"a\x00", b"a\x7f", b"a\r\nX: y"]
)
def test_an_invalid_correlation_id_is_replaced(api: Api, given: bytes | None) -> None:
    headers = [*api.admin_headers(), *([] if given is None else [(b"x-correlation-id", given)])]
    message = {"type": "http.request", "body": b'{"entityType": "mod", "entityId": "x"}'}
    answer = api.ask("POST", "/admin/billing/accounts", headers=headers, messages=[message])
    made = answer.headers["x-correlation-id"]
    assert answer.status_code == 201
    assert made.isascii()
    assert made.isprintable()
    assert 1 <= len(made) <= 128
    assert given is None or made.encode() != given
    assert _audited(api) == [made]


def _audited(api: Api) -> list[str]:
    return [row["correlation_id"] for row in api.audited("account.open")]


def test_health_needs_no_token(api: Api) -> None:
    assert api.ask("GET", "/health/live", headers=[]).status_code == 200
    assert api.ask("GET", "/health/ready", headers=[]).status_code == 200


def test_readiness_reports_the_reason(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api.book.writer, "_fatal_error", OSError(SECRET_TEXT))
    problem = whole(api.ask("GET", "/health/ready", headers=[]), 503, "not_ready")
    assert "secret" not in json.dumps(problem)
    assert api.ask("GET", "/health/live", headers=[]).status_code == 200
    with api.unchanged():
        whole(api.post("/accounts", {"entityType": "mod", "entityId": "x"}), 503, "not_ready")


def test_writes_over_the_queue_limit_are_rejected(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minibill.db.lanes.QUEUE_MAX", 0)
    with api.unchanged():
        response = api.post("/accounts", {"entityType": "mod", "entityId": "x"})
        whole(response, 503, "overloaded")
        assert int(response.headers["retry-after"]) > 0
    ok(api.call("GET", "/accounts"))


def test_batches_over_the_queue_limit_are_rejected_unread(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    campaign = api.campaign()
    monkeypatch.setattr("minibill.db.lanes.BULK_MAX", 0)
    with api.unchanged():
        # The body is invalid, which a read would report.
        for path, body in (("grants/batch", {"grants": 5}), ("revoke", {"reason": 5})):
            response = api.post(f"/campaigns/{campaign}/{path}", body)
            whole(response, 503, "overloaded")
            assert int(response.headers["retry-after"]) > 0
    # Other requests and background jobs have their own limits.
    ok(api.post("/accounts", {"entityType": "mod", "entityId": "x"}))
    api.loop.run(api.book.sweep())


def test_reads_over_the_queue_limit_are_rejected(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minibill.db.readers.WAITING_MAX", 0)
    response = api.call("GET", "/accounts")
    whole(response, 503, "overloaded")
    assert int(response.headers["retry-after"]) > 0
    # Health and metrics still respond.
    assert api.ask("GET", "/metrics", headers=[]).status_code == 200
    ok(api.post("/accounts", {"entityType": "mod", "entityId": "x"}))


def test_only_a_test_clock_can_be_advanced(api: Api) -> None:
    assert isinstance(api.app, RequestMiddleware)
    api.app._state = api.app._state._replace(has_test_clock=False)
    with api.unchanged():
        before = api.book.clock.now_us()
        whole(api.call("GET", "/clock"), 404, "not_found")
        whole(api.post("/clock/advance", {"seconds": 3_600}), 404, "not_found")
        assert api.book.clock.now_us() - before < 3_000_000_000


def test_the_log_of_a_problem_has_the_correlation_id_and_path(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    api.call("GET", "/x%0AERROR forged", token="nonsense", headers={"X-Correlation-Id": "trace-7"})
    api.call("GET", "/campaigns", token=api.sign(scopes=()), headers={"X-Correlation-Id": "trace-8"})
    first, second = map(log_fields, caplog.records)
    assert (first["correlation_id"], first["path"]) == ("trace-7", "/admin/billing/x\nERROR forged")
    assert (second["correlation_id"], second["scope"], second["actor"]) == (
        "trace-8",
        "admin:billing:read",
        "admin:operator",
    )


def test_a_request_cancelled_by_the_server_gets_a_problem(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    async def cancelled(*_: object, **__: object) -> None:
        raise asyncio.CancelledError

    monkeypatch.setattr(api.book, "write", cancelled)
    problem = problem_of(
        api.post("/campaigns", {"name": "x", "campaignType": "loyalty", "budgetMicro": "5"}), 503, "not_ready"
    )
    assert "same idempotency key" in problem["detail"]


def test_readiness_fails_while_writes_fail(api: Api) -> None:
    def ready() -> int:
        return api.loop.run(api.http.get("/health/ready")).status_code

    assert ready() == 200
    api.book.writer._last_error = StorageFull()
    assert ready() == 503
    api.account()
    assert ready() == 200


def test_options_is_not_allowed(api: Api) -> None:
    for path, allowed in [
        ("/campaigns", "GET, HEAD, POST"), ("/campaigns/", "GET, HEAD, POST"), ("/campaigns/x", "GET, HEAD, PATCH"),
        ("/accounts/x/balance", "GET, HEAD"), ("/accounts/x/memberships/y", "DELETE, PUT"), ("/tokens/x/revoke", "POST"),
    ]:  # fmt: skip
        response = api.call("OPTIONS", path)
        problem_of(response, 405, "method_not_allowed")
        assert response.headers["Allow"] == allowed == api.call("BREW", path).headers["Allow"]
    problem_of(api.call("OPTIONS", "/nothing"), 404, "not_found")
    assert api.ask("OPTIONS", "/health/live", headers=[]).headers["Allow"] == "GET, HEAD"
