"""The log: one line per event, the ids of requests, and no secrets."""

import io
import json
import logging
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from minibill.api import access_log
from minibill.server.logging import configure_logs
from tests.api_client import SECRETS, Api, Json, log_fields, ok, problem_of
from tests.service_process import SERVE, environment

KEY = "key-that-nobody-else-may-know"
EVIDENCE = "evidence-from-a-body"


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """The log as lines of JSON; logging is restored afterwards."""
    root, ours = logging.getLogger(), logging.getLogger("minibill")
    handlers, level, our_level = root.handlers[:], root.level, ours.level
    root.handlers = []
    stream = io.StringIO()
    configure_logs("info", for_people=False, stream=stream)
    yield stream
    root.handlers = handlers
    root.setLevel(level)
    ours.setLevel(our_level)


def lines(log: io.StringIO) -> list[Json]:
    return [json.loads(line) for line in log.getvalue().splitlines()]


# --- the lines ---


def test_an_event_is_one_line_of_json_with_its_fields(log: io.StringIO) -> None:
    logging.getLogger("minibill.http").warning(
        "no valid token", extra={"ip": "192.0.2.7", "path": "/a\nb", "odd": Path("x")}
    )
    [line] = lines(log)
    assert list(line)[:4] == ["timestamp", "level", "logger", "event"]
    assert line["timestamp"].endswith("Z")
    assert (line["level"], line["logger"], line["event"]) == ("warning", "minibill.http", "no valid token")
    assert (line["ip"], line["path"], line["odd"]) == ("192.0.2.7", "/a\nb", repr(Path("x")))


def test_a_failure_has_its_traceback_in_the_same_line(log: io.StringIO) -> None:
    try:
        raise RuntimeError("what went wrong")
    except RuntimeError as error:
        logging.getLogger("minibill.http").error("request failed", exc_info=error)
    [line] = lines(log)
    assert line["exception"].startswith("Traceback") and "what went wrong" in line["exception"]


def test_libraries_log_warnings_in_the_same_form(log: io.StringIO) -> None:
    for name in ("uvicorn.error", "asyncio", "aiosqlite"):
        logging.getLogger(name).debug("%s", "executing INSERT with values")
        logging.getLogger(name).info("started")
        logging.getLogger(name).error("failed: %s", name)
    assert [line["event"] for line in lines(log)] == ["failed: uvicorn.error", "failed: asyncio", "failed: aiosqlite"]


@pytest.mark.parametrize(("level", "said"), [("info", 3), ("warning", 2), ("error", 1)])
def test_the_setting_is_the_minimum_level(log: io.StringIO, level: str, said: int) -> None:
    configure_logs(level, for_people=False, stream=log)
    for word in ("info", "warning", "error"):
        getattr(logging.getLogger("minibill.x"), word)("event")
    assert len(lines(log)) == said


def test_console_lines_can_not_be_forged(log: io.StringIO) -> None:
    configure_logs("info", for_people=True, stream=log)
    logging.getLogger("minibill.http").warning("no valid token", extra={"path": "/x\n2026-01-01 [error] forged"})
    [line] = log.getvalue().splitlines()
    assert "no valid token" in line and "forged" in line


# --- which requests ---


def test_reads_and_requests_of_services_are_not_logged(api: Api, log: io.StringIO) -> None:
    account = api.account(5)
    log.truncate(0)
    log.seek(0)
    problem_of(api.call("GET", "/accounts/acct_none"), 404, "account_not_found")
    held = ok(api.internal("POST", "/reservations", {"accountId": account, "amountMicro": "5"}))["reservationId"]
    ok(api.internal("POST", "/finalize", {"reservationId": held, "actualCostMicro": "5"}))
    problem_of(api.internal("POST", "/release", {"reservationId": held}), 409, "reservation_not_pending")
    assert lines(log) == []


def test_a_write_of_an_admin_is_one_line_with_any_outcome(api: Api, log: io.StringIO) -> None:
    account = "acct_0000000000001"
    asked: list[tuple[str, str, Json, int]] = [
        ("POST", "/accounts", {"entityType": "person", "entityId": "ada"}, 201),
        ("PUT", "/discounts/guild/tiers", {"tiers": [{"tier": "gold", "rateBps": 5}]}, 200),
        ("PUT", f"/accounts/{account}/memberships/guild", {"tier": "gold"}, 200),
        ("DELETE", f"/accounts/{account}/memberships/guild", None, 204),
        ("PATCH", "/campaigns/camp_none", {"name": "x"}, 404),
        ("POST", "/accounts", {}, 400),
        ("POST", f"/accounts/{account}/reservations", {"amountMicro": "5"}, 402),
    ]
    answers = [
        api.call(method, path, body, headers={"X-Correlation-Id": f"trace-{number}"})
        for number, (method, path, body, _) in enumerate(asked)
    ]
    assert [
        (line["event"], line["level"], line["correlation_id"], line["method"], line["path"], line["status"], line["actor"])
        for line in lines(log)
    ] == [
        ("request", "info", f"trace-{number}", method, f"/admin/billing{path}", status, "admin:operator")
        for number, (method, path, _, status) in enumerate(asked)
    ]
    assert [line["request_id"] for line in lines(log)] == [answer.headers["X-Request-Id"] for answer in answers]


def test_the_access_log_setting_logs_every_request(start: Callable[..., Api], log: io.StringIO) -> None:
    api = start(MINIBILL_ACCESS_LOG="on")
    response = api.call("GET", "/accounts?limit=7", headers={"X-Correlation-Id": "trace-1"})
    ok(api.internal("GET", "/nothing"), 404)
    asked, unknown = lines(log)
    assert asked["request_id"] == response.headers["X-Request-Id"]
    assert (asked["correlation_id"], asked["method"], asked["path"]) == ("trace-1", "GET", "/admin/billing/accounts")
    assert (asked["status"], asked["actor"], asked["ip"]) == (200, "admin:operator", "192.0.2.7")
    assert 0 < asked["elapsed_us"] < 60_000_000
    assert (unknown["path"], unknown["status"]) == ("/api/internal/billing/nothing", 404)


def test_a_slow_request_is_logged(api: Api, log: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_log, "SLOW_SECONDS", 0)
    api.get("/accounts")
    [line] = lines(log)
    assert (line["level"], line["path"], line["status"]) == ("warning", "/admin/billing/accounts", 200)


def test_a_failed_request_is_logged_with_its_error(api: Api, log: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("minibill.api.request.encode", fail)
    response = problem_of(api.call("GET", "/accounts"), 500, "internal_error")
    why, what = lines(log)
    assert why["request_id"] == what["request_id"] == response["requestId"]
    assert "a bug" in why["exception"]
    assert (what["status"], what["level"]) == (500, "warning")


def test_a_request_without_authority_is_logged_with_its_path(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    problem_of(api.call("GET", "/accounts", token="nonsense"), 401, "unauthorized")
    problem_of(api.call("GET", "/accounts", token=api.sign(sub="eve", scopes=())), 403, "insufficient_scope")
    unknown, lacking = map(log_fields, caplog.records)
    assert (unknown["msg"], unknown["ip"], unknown["path"]) == ("no valid token", "192.0.2.7", "/admin/billing/accounts")
    assert (lacking["msg"], lacking["actor"], lacking["scope"]) == ("insufficient scope", "admin:eve", "admin:billing:read")


def test_a_flood_of_bad_tokens_does_not_flood_the_log(start: Callable[..., Api], caplog: pytest.LogCaptureFixture) -> None:
    api = start(MINIBILL_ADMIN_RATE_PER_MINUTE="30")
    statuses = [api.call("GET", "/accounts", token="nonsense").status_code for _ in range(70)]
    assert statuses == [401] * 60 + [429] * 10
    assert len(caplog.records) == 60


# --- secrets ---


def _everything(http: httpx.Client, service: str) -> None:
    """Send requests of every kind with a secret in each place that a log line could copy."""
    body = {"entityType": "person", "entityId": EVIDENCE}
    key = {"Idempotency-Key": KEY}
    assert http.post("/accounts", json=body, headers=key).status_code == 201
    assert http.post("/accounts", json={**body, "entityId": "x"}, headers=key).status_code == 422
    assert http.post("/accounts", json={EVIDENCE: 1}).status_code == 400
    assert http.post("/accounts", content=f"{{{EVIDENCE}").status_code in (400, 415)
    assert http.get("/accounts", params={"entityId": EVIDENCE}).status_code == 200
    for token in (service, http.headers["Authorization"] + "x", "Basic " + KEY):
        assert http.get("/accounts", headers={"Authorization": token}).status_code == 401


def _run(db: Path, settings: dict[str, str], log: Path, *options: str) -> list[str]:
    """Run the service with such requests; return all secrets."""
    token, service = (
        subprocess.run(
            [*SERVE[:-1], "token", *kind], env=settings, capture_output=True, text=True, check=True
        ).stdout.strip()
        for kind in ((), ("--service",))
    )
    command = [*SERVE, "--db", str(db), "--port", "0", *options]
    with (
        log.open("w") as stderr,
        subprocess.Popen(command, env=settings, stdout=subprocess.PIPE, stderr=stderr, text=True) as process,
    ):
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        headers = {"Authorization": f"Bearer {token}"}
        with httpx.Client(base_url=f"{url}/admin/billing", headers=headers, trust_env=False) as http:
            _everything(http, f"Bearer {service}")
        process.terminate()
        assert process.wait(15) == 0
    return [*(secret.strip() for secret in SECRETS.values()), token, service, token.split(".")[2], KEY, EVIDENCE]


@pytest.mark.parametrize("options", [(), ("--dev",)], ids=["for machines", "for people"])
def test_a_whole_run_logs_no_secret_token_key_or_body(tmp_path: Path, options: tuple[str, ...]) -> None:
    log = tmp_path / "log"
    secrets = _run(tmp_path / "book.db", environment(**SECRETS, MINIBILL_ACCESS_LOG="on"), log, *options)
    text = log.read_text()
    assert text.count("no valid token") == 3 and text.count("/admin/billing/accounts") == 11
    assert [secret for secret in secrets if secret in text] == []
    if not options:
        events = [json.loads(line)["event"] for line in text.splitlines()]
        assert (events[0], events[-1]) == ("started", "stopped")
