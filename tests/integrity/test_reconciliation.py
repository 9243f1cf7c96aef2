"""Reconciliations: the report, shared runs, the schedule, and writes during a run."""

import asyncio
import contextlib
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from minibill.background import run_jobs
from minibill.core.clock import parse_time
from minibill.core.problems import NotReady
from minibill.db.connection import open_writer
from minibill.db.sqlite import sqlite3
from minibill.integrity import checks
from minibill.integrity.checks import CHECKS, Finding
from minibill.integrity.reconciler import Reconciled
from tests.api_client import UNIT, Api, Json, Loop, ok, problem_of
from tests.fake_clocks import set_time

NEVER_RUN: Json = {"lastReconciliationAt": None, "status": "never_run", "durationMs": None, "checks": {}}


@pytest.fixture
def doomed(tmp_path: Path, migrated_file: Path, loop: Loop) -> Iterator[Api]:
    """Return a served book that a test may damage: the invariants are not checked afterwards."""
    path = tmp_path / "doomed.db"
    shutil.copyfile(migrated_file, path)
    api = Api(path, loop, {})
    yield api
    api.stop()


def harm(path: Path, *statements: str) -> None:
    """Run a statement on a served file without its triggers and constraints."""
    with closing(open_writer(path)) as conn:
        conn.execute("PRAGMA foreign_keys = OFF")
        conn.execute("PRAGMA ignore_check_constraints = ON")
        triggers = conn.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            conn.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            assert conn.execute(statement).rowcount != 0
        for _, sql in triggers:
            conn.execute(sql)


def live_a_little(api: Api) -> str:
    account, campaign = api.account(500), api.campaign()
    ok(api.batch(campaign, (account, 7)))
    ok(api.finalize(api.reserve(account, 100), 60))
    ok(api.finalize(api.reserve(account, 10, billingMode="soft"), 5_000))
    ok(api.finalize(api.reserve(account, 10, billingMode="shadow"), 5))
    ok(api.internal("POST", "/charges", {"accountId": account, "costMicro": "20", "billingMode": "soft"}), 201)
    api.mint(account, 9_000, expiresAt=api.after(60))
    api.reserve(account, 30, ttlSeconds=30)
    api.reserve(account, 30)
    api.advance(60)
    return account


# --- the report ---


def test_before_the_first_run_the_status_is_never_run(api: Api) -> None:
    assert api.get("/reconciliation") == NEVER_RUN


def test_the_report_counts_the_rows_of_each_check(api: Api) -> None:
    live_a_little(api)
    before_us = api.book.clock.now_us()
    report = ok(api.post("/reconciliation"), 200)
    assert list(report) == ["lastReconciliationAt", "status", "durationMs", "checks"]
    assert report["status"] == "healthy" and report["durationMs"] >= 0
    assert before_us <= parse_time(report["lastReconciliationAt"]) <= api.book.clock.now_us()
    assert list(report["checks"]) == list(CHECKS)
    for check in report["checks"].values():
        assert check == {"status": "pass", "checked": check["checked"], "violations": 0, "examples": []}
        assert check["checked"] > 0
    assert report["checks"]["campaign_spent_match"]["checked"] == 1


def test_the_last_report_survives_a_restart_byte_for_byte(start: Callable[..., Api]) -> None:
    api = start()
    answered = api.post("/reconciliation").content
    assert api.call("GET", "/reconciliation").content == answered
    assert start().call("GET", "/reconciliation").content == answered


def test_a_run_is_audited_and_changes_nothing_else(api: Api) -> None:
    live_a_little(api)
    tables = api.everything()
    ok(api.post("/reconciliation"))
    # The report, the audit log, and the commit count.
    assert sum(before != after for before, after in zip(tables, api.everything(), strict=True)) == 3
    [row] = api.audited("reconciliation.run")
    assert row["details"].keys() == {"status", "durationMs", "failed"} and row["details"]["failed"] == []


def test_unknown_parameters_and_members_are_rejected(api: Api) -> None:
    problem_of(api.call("GET", "/reconciliation", limit=5), 400, "validation_error", "limit")
    problem_of(api.post("/reconciliation", {"deep": True}), 400, "validation_error", "deep")
    problem_of(api.post("/reconciliation", limit=5), 400, "validation_error", "limit")
    assert api.get("/reconciliation") == NEVER_RUN


def test_a_replay_or_an_error_runs_no_checks(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    first = api.post("/reconciliation", key="k-1")

    async def run() -> Reconciled:
        raise AssertionError("it ran")

    monkeypatch.setattr(api.book.reconciler, "run", run)
    assert api.post("/reconciliation", key="k-1").content == first.content
    problem_of(api.post("/reconciliation", {}, key="k-1"), 422, "idempotency_key_reused")
    problem_of(api.post("/reconciliation", dryRun="maybe"), 400, "validation_error", "dryRun")


# --- a damaged book ---


def test_a_damaged_book_is_unhealthy_and_its_rows_are_named(doomed: Api) -> None:
    account = live_a_little(doomed)
    harm(doomed.book.path, "UPDATE credit_balances SET available_micro = available_micro + 1")
    report = ok(doomed.post("/reconciliation"))
    assert report["status"] == "unhealthy"
    failed = {name: check for name, check in report["checks"].items() if check["status"] == "fail"}
    checked = failed["balance_cache_match"]["checked"]
    assert failed == {"balance_cache_match": {"status": "fail", "checked": checked, "violations": 1, "examples": [account]}}
    assert doomed.audited("reconciliation.run")[0]["details"]["failed"] == ["balance_cache_match"]
    assert doomed.get("/reconciliation") == report


def test_rows_deleted_from_the_end_of_the_audit_log_are_detected(doomed: Api) -> None:
    campaign = doomed.campaign()
    ok(doomed.post("/reconciliation"))
    # The last run covered the activation; nothing else is newer than the creation.
    harm(doomed.book.path, "DELETE FROM admin_audit_log WHERE seq >= 2")
    for _ in range(2):
        report = ok(doomed.post("/reconciliation"))
        assert report["checks"]["audit_chain"]["examples"] == ["audit_0000000000002"]
        ok(doomed.post(f"/campaigns/{campaign}/pause"))
        ok(doomed.post(f"/campaigns/{campaign}/activate"))


def test_an_audit_log_older_than_its_effects_is_detected(doomed: Api) -> None:
    doomed.account()
    newest = doomed.account()
    lot = doomed.mint(newest, 5)["lotId"]
    harm(doomed.book.path, "DELETE FROM admin_audit_log WHERE seq >= 2")
    examples = ok(doomed.post("/reconciliation"))["checks"]["audit_chain"]["examples"]
    # Services open accounts, too, and their writes have no audit row.
    assert lot in examples and newest not in examples


# --- shared runs ---


class RequestMiddleware:
    """A replacement for the checks: counts the runs, and blocks each at its snapshot until released."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.runs = self.running = self.most = 0
        self.accounts: list[int] = []
        self.entered, self.let_go = threading.Event(), threading.Event()
        monkeypatch.setattr("minibill.integrity.reconciler.run_checks", self)

    def __call__(self, conn: sqlite3.Connection, **hooks: Any) -> dict[str, Finding]:
        self.runs += 1
        self.running += 1
        self.most = max(self.most, self.running)
        self.entered.set()
        assert self.let_go.wait(10)
        self.accounts.append(conn.execute("SELECT count(*) FROM credit_accounts").fetchone()[0])
        found = checks.run_checks(conn, **hooks)
        self.running -= 1
        return found


def test_callers_during_a_run_share_the_next_run(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = RequestMiddleware(monkeypatch)
    reconciler = api.book.reconciler

    async def run() -> list[Reconciled]:
        first = asyncio.create_task(reconciler.run())
        await asyncio.to_thread(gate.entered.wait, 10)
        others = [asyncio.create_task(reconciler.run()) for _ in range(5)]
        await asyncio.sleep(0)
        gate.let_go.set()
        return [await first, *await asyncio.gather(*others)]

    first, *others = api.loop.run(run())
    assert (gate.runs, gate.most) == (2, 1)
    assert all(other is others[0] for other in others)
    assert others[0].at_us > first.at_us


def test_a_run_reads_one_snapshot_and_blocks_no_writes(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    api.account()
    gate = RequestMiddleware(monkeypatch)

    async def start() -> asyncio.Task[Reconciled]:
        return asyncio.create_task(api.book.reconciler.run())

    async def finish(task: asyncio.Task[Reconciled]) -> Reconciled:
        return await task

    task = api.loop.run(start())
    assert gate.entered.wait(10)
    account = api.account(50)
    assert api.available(account) == 50
    gate.let_go.set()
    assert api.loop.run(finish(task)).report.status == "healthy"
    assert gate.accounts == [1]


def test_a_cancelled_caller_does_not_stop_a_shared_run(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = RequestMiddleware(monkeypatch)

    async def run() -> Reconciled:
        one, other = (asyncio.create_task(api.book.reconciler.run()) for _ in range(2))
        await asyncio.to_thread(gate.entered.wait, 10)
        one.cancel()
        gate.let_go.set()
        return await other

    assert api.loop.run(run()).report.status == "healthy"
    assert gate.runs == 1


def test_a_stop_interrupts_the_current_run(doomed: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    entered = threading.Event()

    def endless(conn: sqlite3.Connection, **_: Any) -> dict[str, Finding]:
        entered.set()
        conn.execute("WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT max(x) FROM n").fetchall()
        return {}

    monkeypatch.setattr("minibill.integrity.reconciler.run_checks", endless)

    async def run() -> None:
        task = asyncio.create_task(doomed.book.reconciler.run())
        await asyncio.to_thread(entered.wait, 10)
        async with asyncio.timeout(5):
            await doomed.book.reconciler.close()
        with pytest.raises(NotReady):
            await task
        with pytest.raises(NotReady):
            await doomed.book.reconciler.run()

    doomed.loop.run(run())


def test_a_run_without_space_to_sort_is_storage_full(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorcode = sqlite3.SQLITE_FULL

    def full(*_: Any, **__: Any) -> dict[str, Finding]:
        raise error

    with api.unchanged(), monkeypatch.context() as patch:
        patch.setattr("minibill.integrity.reconciler.run_checks", full)
        response = api.post("/reconciliation")
        problem_of(response, 503, "storage_full")
        assert int(response.headers["Retry-After"]) > 0
    ok(api.post("/reconciliation"))


# --- the schedule ---


async def jobs_for(api: Api, seconds: float) -> None:
    """Run the background jobs for some seconds."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(seconds):
            await run_jobs(api.app._state)  # type: ignore[attr-defined]


async def jobs_until_reconciled(api: Api, *, after: str | None = None) -> None:
    """Run the background jobs until there is a reconciliation later than `after`."""
    jobs = asyncio.create_task(run_jobs(api.app._state))  # type: ignore[attr-defined]
    try:
        async with asyncio.timeout(30):
            # Nothing tells of a reconciliation but its report.
            while (last := api.book.reconciler.last) is None or last.report.last_reconciliation_at == after:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    finally:
        jobs.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await jobs


def test_reconciliations_run_on_a_schedule(start: Callable[..., Api]) -> None:
    api = start(MINIBILL_RECONCILE_SECONDS="1")
    api.loop.run(jobs_until_reconciled(api))
    first = api.get("/reconciliation")
    assert first["status"] == "healthy"
    api.loop.run(jobs_until_reconciled(api, after=first["lastReconciliationAt"]))
    assert api.get("/reconciliation")["lastReconciliationAt"] > first["lastReconciliationAt"]
    # Scheduled runs are not audited.
    assert api.audited("reconciliation.run") == []


def test_a_new_book_is_reconciled_after_one_period_or_on_request(start: Callable[..., Api]) -> None:
    api = start(MINIBILL_RECONCILE_SECONDS="3600")
    api.loop.run(jobs_for(api, 0.5))
    assert api.get("/reconciliation") == NEVER_RUN
    # The period is in real time.
    api.pass_time(10**8)
    api.loop.run(jobs_for(api, 0.3))
    assert api.get("/reconciliation") == NEVER_RUN
    report = ok(api.post("/reconciliation"))
    assert report["status"] == "healthy"
    assert api.get("/reconciliation") == report


def test_an_old_book_without_a_reconciliation_runs_one_at_once(db: Path, start: Callable[..., Api]) -> None:
    # Restarts within a period change nothing.
    with closing(open_writer(db)) as conn:
        conn.execute("UPDATE schema_migrations SET applied_at_us = applied_at_us - 3600 * 1000000")
    api = start(MINIBILL_RECONCILE_SECONDS="3600")
    api.loop.run(jobs_for(api, 0.5))
    assert api.get("/reconciliation")["status"] == "healthy"


def test_a_period_of_0_disables_the_schedule(start: Callable[..., Api]) -> None:
    api = start(MINIBILL_RECONCILE_SECONDS="0")
    api.pass_time(10**8)
    api.loop.run(jobs_for(api, 0.3))
    assert api.get("/reconciliation") == NEVER_RUN


def test_the_schedule_continues_after_a_restart(start: Callable[..., Api], monkeypatch: pytest.MonkeyPatch) -> None:
    first = ok(start().post("/reconciliation"))
    api = start(MINIBILL_RECONCILE_SECONDS="3600")
    api.loop.run(jobs_for(api, 0.2))
    assert api.get("/reconciliation") == first
    set_time(monkeypatch, lambda: parse_time(first["lastReconciliationAt"]) + 3600 * UNIT)
    api = start(MINIBILL_RECONCILE_SECONDS="3600")
    api.loop.run(jobs_until_reconciled(api, after=first["lastReconciliationAt"]))
    later = parse_time(api.get("/reconciliation")["lastReconciliationAt"])
    assert later >= parse_time(first["lastReconciliationAt"]) + 3600 * UNIT


def test_a_clock_jump_does_not_change_the_schedule(start: Callable[..., Api]) -> None:
    api = start(MINIBILL_RECONCILE_SECONDS="3600")
    first = ok(api.post("/reconciliation"))
    api.pass_time(10**8)
    api.loop.run(jobs_for(api, 0.3))
    assert api.get("/reconciliation") == first


def test_a_dry_run_is_not_recorded_as_the_last_run(start: Callable[..., Api]) -> None:
    api = start()
    ok(api.post("/reconciliation", dryRun="true"))
    never = api.book.reconciler.last
    assert never is None
    ok(api.post("/reconciliation"))
    last = api.book.reconciler.last
    ok(api.post("/reconciliation", dryRun="true"))
    assert last is not None
    assert api.book.reconciler.last is last
    # The metrics show the same run after a restart.
    again = start().book.reconciler.last
    assert again is not None
    assert (again.at_us, again.report) == (last.at_us, last.report)
