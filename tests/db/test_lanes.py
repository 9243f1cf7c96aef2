"""Requests beside bulk and background work, and the lane of each write of the service."""

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from minibill.api.tokens import prune_revocations
from minibill.campaigns import revocation
from minibill.core.problems import NotReady, Overloaded
from minibill.db import lanes
from minibill.db import writer as module
from minibill.db.lanes import Lane
from minibill.db.slices import in_steps
from minibill.db.sqlite import Connection, sqlite3
from tests.api_client import Api, Loop, ok, record_uptime
from tests.db.test_writer import SQLITE_IOERR, Fixture, note, note_and_raise, sqlite_error

SLICES = pytest.mark.parametrize("lane", [Lane.BULK, Lane.BACKGROUND])

# Longer than any test, so a pause that does not end early fails the test.
ENDLESS = 1e9


@pytest.fixture
def w(tmp_path: Path, loop: Loop) -> Iterator[Fixture]:
    fixture = Fixture(tmp_path / "notes.db", loop)
    yield fixture
    loop.run(fixture.writer.stop())
    fixture.conn.real.close()


def together(w: Fixture, *jobs: tuple[Any, Lane], keep: bool = True) -> list[Any]:
    """Run operations that arrive in one turn of the loop; return values and exceptions."""

    async def run() -> list[Any]:
        runs = [w.writer.run(operation, lane=lane, keep=keep) for operation, lane in jobs]
        return await asyncio.gather(*runs, return_exceptions=True)

    return w.loop.run(run())


@SLICES
def test_requests_run_before_a_slice_and_share_no_transaction_with_it(w: Fixture, lane: Lane) -> None:
    together(w, (note("slice"), lane), *[(note(str(number)), Lane.REQUEST) for number in range(5)])
    assert w.notes() == ["0", "1", "2", "3", "4", "slice"]
    assert w.conn.statements.count("COMMIT") == 2


def test_requests_during_a_batch_run_before_the_next_batch(w: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    # Each batch takes longer than a slice accepts further tasks.
    monkeypatch.setattr(module, "GROUP_SECONDS_MAX", 0)
    came: list[asyncio.Task[Any]] = []

    def batch(name: str) -> Callable[[Connection], Any]:
        def operation(conn: Connection) -> Any:
            came.extend(asyncio.ensure_future(w.writer.run(note(f"{number} during {name}"))) for number in range(2))
            return note(name)(conn)

        return operation

    async def run() -> None:
        await asyncio.gather(*[w.writer.run(batch(name), lane=Lane.BULK) for name in "ab"])
        await asyncio.gather(*came)

    w.loop.run(run())
    # All requests that arrived during the first batch run before the second, however they are grouped.
    assert w.notes() == ["a", "0 during a", "1 during a", "b", "0 during b", "1 during b"]


@SLICES
def test_slices_continue_under_constant_requests(w: Fixture, lane: Lane) -> None:
    async def run() -> int:
        is_over, served = False, 0

        async def ask() -> None:
            nonlocal served
            while not is_over:
                await w.writer.run(note("request"))
                served += 1

        clients = [asyncio.ensure_future(ask()) for _ in range(8)]
        async with asyncio.timeout(30):
            for _ in range(20):
                await w.writer.run(note("slice"), lane=lane)
        is_over = True
        await asyncio.gather(*clients)
        return served

    served = w.loop.run(run())
    assert w.notes().count("slice") == 20
    # At least one client was served between two of them.
    assert served >= 20


def test_a_request_does_not_wait_for_the_end_of_a_pause(w: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "PAUSE_SHARE", ENDLESS)

    async def run() -> None:
        await asyncio.gather(w.writer.run(note("a")), w.writer.run(note("slice"), lane=Lane.BACKGROUND))
        held = asyncio.ensure_future(w.writer.run(note("held"), lane=Lane.BACKGROUND))
        await w.writer.run(note("b"))
        assert not held.done() and w.writer.waiting(Lane.BACKGROUND) == 1

    w.loop.run(run())
    assert w.notes() == ["a", "slice", "b"]
    # A stop finishes accepted writes and does not wait for the pause.
    w.loop.run(w.writer.stop())
    assert w.notes() == ["a", "slice", "b", "held"]
    w.writer = w.loop.run(w._open())


@SLICES
def test_a_failed_slice_does_not_affect_its_neighbors(w: Fixture, lane: Lane) -> None:
    fault = ValueError("a fault made by the test")
    answers = together(
        w,
        (note("a"), lane),
        (note_and_raise("b", fault), lane),
        (note("c"), lane),
        (note("d"), Lane.REQUEST),
        (note_and_raise("e", fault), Lane.REQUEST),
        (note("f"), Lane.REQUEST),
    )
    assert answers == ["a", fault, "c", "d", fault, "f"]
    assert w.notes() == ["d", "f", "a", "c"]


@SLICES
def test_a_slice_that_is_not_kept_is_rolled_back(w: Fixture, lane: Lane) -> None:
    assert together(w, (note("a"), lane), (note("b"), lane), keep=False) == ["a", "b"]
    assert w.notes() == []


def test_batches_have_a_limit_of_their_own(w: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "BULK_MAX", 2)
    answers = together(
        w,
        *[(note(f"batch {number}"), Lane.BULK) for number in range(4)],
        (note("request"), Lane.REQUEST),
        *[(note(f"background {number}"), Lane.BACKGROUND) for number in range(4)],
    )
    assert [type(answer) for answer in answers] == [str, str, Overloaded, Overloaded, *[str] * 5]
    assert not w.writer.is_overloaded and not w.writer.is_overloaded_with_bulk


def test_background_work_is_accepted_while_requests_are_rejected(w: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "QUEUE_MAX", 0)
    answers = together(w, (note("a"), Lane.REQUEST), (note("b"), Lane.BACKGROUND))
    assert isinstance(answers[0], Overloaded) and answers[1] == "b"


def test_a_lock_of_another_program_rejects_writes_of_every_lane(w: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOCK_SECONDS_MAX", 0.03)
    other = sqlite3.connect(w.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        assert [type(answer) for answer in together(w, *[(note("a"), lane) for lane in Lane])] == [Overloaded] * 3
    finally:
        other.close()
    assert together(w, *[(note(lane.name), lane) for lane in Lane]) == ["REQUEST", "BULK", "BACKGROUND"]


def test_after_an_unknown_outcome_waiting_slices_are_rejected(w: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "PAUSE_SHARE", ENDLESS)

    async def run() -> list[Any]:
        await asyncio.gather(w.writer.run(note("a")), w.writer.run(note("slice"), lane=Lane.BACKGROUND))
        held = asyncio.ensure_future(w.writer.run(note("held"), lane=Lane.BACKGROUND))
        await asyncio.sleep(0)
        w.conn.fail["COMMIT"] = sqlite_error(SQLITE_IOERR)
        await asyncio.gather(w.writer.run(note("b")), return_exceptions=True)
        return list(await asyncio.gather(held, return_exceptions=True))

    assert [type(answer) for answer in w.loop.run(run())] == [NotReady]
    assert "held" not in w.notes()


# --- lanes of the service's writes ---


@pytest.fixture
def lanes_used(api: Api, monkeypatch: pytest.MonkeyPatch) -> list[Lane]:
    """The lanes of all later writes."""
    run, found = api.book.writer.run, list[Lane]()

    async def running(*args: Any, lane: Lane = Lane.REQUEST, **options: Any) -> Any:
        found.append(lane)
        return await run(*args, lane=lane, **options)

    monkeypatch.setattr(api.book.writer, "run", running)
    return found


def test_batches_and_revocations_of_campaigns_are_bulk(
    api: Api, lanes_used: list[Lane], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revocation, "SLICE_GRANTS_MAX", 2)
    campaign = api.campaign()
    accounts = [api.account() for _ in range(5)]
    assert set(lanes_used) == {Lane.REQUEST}
    lanes_used.clear()
    ok(api.batch(campaign, *[(account, 100) for account in accounts]), 201)
    assert lanes_used == [Lane.BULK]
    lanes_used.clear()
    ok(api.post(f"/campaigns/{campaign}/revoke", {"reason": "test"}))
    # The service continues by itself: work that has begun is not rejected half way.
    assert lanes_used == [Lane.BULK, Lane.BACKGROUND, Lane.BACKGROUND]
    lanes_used.clear()
    usage = {"accountId": accounts[0], "costMicro": "0", "sourceId": "call-1"}
    ok(api.internal("POST", "/charges/batch", {"charges": [usage]}), 200)
    ok(api.internal("POST", "/charges", usage), 200)
    assert lanes_used == [Lane.BULK, Lane.REQUEST]


def test_maintenance_of_the_book_is_background_work(api: Api, lanes_used: list[Lane]) -> None:
    api.reserve(api.account(10), 5, ttlSeconds=5)
    api.pass_time(10)
    uptime_us = api.book.uptime.now_us() * 10
    lanes_used.clear()
    for upkeep in (api.book.sweep, api.book.extend_chain, api.book.prune, api.book.reconcile):
        before = len(lanes_used)
        api.loop.run(upkeep())
        assert len(lanes_used) > before
    api.loop.run(api.book.in_background(in_steps(partial(prune_revocations, settings=api.settings, uptime_us=uptime_us))))
    assert set(lanes_used) == {Lane.BACKGROUND}


def test_old_revoked_tokens_are_pruned_in_steps(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minibill.api.tokens.PRUNE_TOKENS_MAX", 2)
    for number in range(5):
        ok(api.post(f"/tokens/j-{number}/revoke"))
    uptime_us = api.book.uptime.now_us() + 30 * 86_400 * 1_000_000
    record_uptime(api, uptime_us)
    forget = partial(prune_revocations, settings=api.settings, uptime_us=uptime_us)
    assert api.loop.run(api.book.in_background(forget)) == 2
    assert api.loop.run(api.book.in_background(in_steps(forget))) == 3
    assert api.book.denied_tokens().token_ids == set()
