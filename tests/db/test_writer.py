"""The writer: groups, rollbacks, results after the COMMIT, and failed commits."""

import asyncio
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from minibill.core.problems import AmountTooLarge, InternalError, NotReady, Overloaded, StorageFull
from minibill.db import lanes as turns_module
from minibill.db import writer as module
from minibill.db.cache import OperationCache, keep_cache
from minibill.db.connection import open_reader, open_writer
from minibill.db.constraint_errors import SQLITE_FULL
from minibill.db.sqlite import Connection, sqlite3
from minibill.db.writer import Writer
from tests.api_client import Loop

SQLITE_IOERR = 10


class Conn:
    """A connection for the writer that records its statements and fails on demand."""

    def __init__(self, path: Path) -> None:
        self.real = open_writer(path)
        self.real.execute("CREATE TABLE notes (text TEXT NOT NULL) STRICT")
        self.statements: list[str] = []
        self.fail: dict[str, sqlite3.Error] = {}
        self.cache: OperationCache | None = None

    def execute(self, sql: str, *values: Any) -> Any:
        self.statements.append(sql)
        if sql in self.fail:
            raise self.fail[sql]
        return self.real.execute(sql, *values)

    @property
    def in_transaction(self) -> bool:
        return self.real.in_transaction

    @property
    def total_changes(self) -> int:
        return self.real.total_changes

    def rollback(self) -> None:
        self.real.rollback()


class Fixture:
    def __init__(self, path: Path, loop: Loop) -> None:
        self.path, self.loop = path, loop
        self.conn = Conn(path)
        self.unknown: list[BaseException] = []
        self.writer = loop.run(self._open())

    async def _open(self) -> Writer:
        writer = Writer(self.conn, self.path, on_unknown_outcome=self.unknown.append)  # type: ignore[arg-type]
        self.conn.cache = writer.cache
        return writer

    def notes(self) -> list[str]:
        """Return the committed notes, as another connection sees them."""
        conn = open_reader(self.path)
        try:
            return [text for (text,) in conn.execute("SELECT text FROM notes ORDER BY rowid")]
        finally:
            conn.close()

    def together(self, *operations: Any, keep: bool = True) -> list[Any]:
        """Run operations that arrive in one turn of the loop; return values and exceptions."""

        async def run() -> list[Any]:
            return await asyncio.gather(*[self.writer.run(o, keep=keep) for o in operations], return_exceptions=True)

        return self.loop.run(run())


def note(text: str) -> Any:
    def operation(conn: Connection) -> str:
        conn.execute("INSERT INTO notes VALUES (?)", (text,))
        return text

    return operation


def note_and_raise(text: str, error: BaseException) -> Any:
    def operation(conn: Connection) -> None:
        conn.execute("INSERT INTO notes VALUES (?)", (text,))
        raise error

    return operation


def refuse(conn: Connection) -> None:
    raise AmountTooLarge("too large")


def sqlite_error(code: int) -> sqlite3.Error:
    error = sqlite3.OperationalError("a fault made by the test")
    error.sqlite_errorcode = code
    return error


@pytest.fixture
def w(tmp_path: Path, loop: Loop) -> Iterator[Fixture]:
    fixture = Fixture(tmp_path / "notes.db", loop)
    yield fixture
    loop.run(fixture.writer.stop())
    fixture.conn.real.close()


def test_waiting_writes_share_one_commit(w: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GROUP_SECONDS_MAX", 60)
    assert w.together(*[note(str(n)) for n in range(50)]) == [str(n) for n in range(50)]
    assert (w.conn.statements.count("BEGIN IMMEDIATE"), w.conn.statements.count("COMMIT")) == (1, 1)
    assert w.notes() == [str(n) for n in range(50)]


def test_a_group_is_bounded_in_number_and_time(w: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GROUP_MAX", 10)
    w.together(*[note(str(n)) for n in range(25)])
    assert w.conn.statements.count("COMMIT") >= 3
    monkeypatch.setattr(module, "GROUP_SECONDS_MAX", 0)
    clock = itertools.count()
    monkeypatch.setattr(module, "monotonic_s", lambda: next(clock) / 2)
    before = w.conn.statements.count("COMMIT")
    w.together(note("a"), note("b"))
    assert w.conn.statements.count("COMMIT") == before + 2


def test_a_rejection_rolls_back_its_own_writes_only(w: Fixture) -> None:
    refusal = AmountTooLarge("too large")
    assert w.together(note("a"), note_and_raise("b", refusal), note("c")) == ["a", refusal, "c"]
    assert w.notes() == ["a", "c"]


def test_a_rejection_without_writes_needs_no_second_run(w: Fixture) -> None:
    answers = w.together(note("a"), refuse, note("c"))
    assert (answers[0], type(answers[1]), answers[2]) == ("a", AmountTooLarge, "c")
    assert (w.conn.statements.count("BEGIN IMMEDIATE"), w.conn.statements.count("COMMIT")) == (1, 1)
    assert w.notes() == ["a", "c"]


def test_neighbors_of_rejections_run_again_in_order_with_one_effect(w: Fixture) -> None:
    operations = [note_and_raise(str(n), AmountTooLarge("too large")) if n % 5 == 0 else note(str(n)) for n in range(21)]
    answers = w.together(*operations)
    assert [n for n, answer in enumerate(answers) if isinstance(answer, AmountTooLarge)] == [0, 5, 10, 15, 20]
    assert w.notes() == [str(n) for n in range(21) if n % 5]
    assert not w.conn.in_transaction


def test_a_rejected_statement_rolls_back_its_operation(w: Fixture) -> None:
    def note_twice(conn: Connection) -> None:
        conn.execute("INSERT INTO notes VALUES ('b')")
        conn.execute("INSERT INTO notes VALUES (NULL)")

    assert [type(answer) for answer in w.together(note("a"), note_twice, note("c"))] == [str, InternalError, str]
    assert w.notes() == ["a", "c"]


def test_an_operation_that_is_not_kept_spares_its_neighbors(w: Fixture) -> None:
    async def run() -> list[Any]:
        kept = [w.writer.run(note(text), keep=text.islower()) for text in "abCdEFg"]
        return await asyncio.gather(*kept)

    assert w.loop.run(run()) == list("abCdEFg")
    assert w.notes() == list("abdg")


def test_a_result_is_returned_only_after_the_commit(w: Fixture) -> None:
    seen: list[list[str]] = []

    async def run() -> None:
        await w.writer.run(note("a"))
        seen.append(w.notes())

    w.loop.run(run())
    assert seen == [["a"]]
    w.conn.fail["COMMIT"] = sqlite_error(SQLITE_IOERR)
    [answer] = w.together(note("b"))
    assert isinstance(answer, Exception)


def test_an_operation_that_is_not_kept_is_rolled_back(w: Fixture) -> None:
    assert w.together(note("a"), note("b"), keep=False) == ["a", "b"]
    assert w.notes() == []


def test_a_cancelled_caller_leaves_its_write_complete(w: Fixture) -> None:
    async def run() -> None:
        for turns in range(8):
            task = asyncio.ensure_future(w.writer.run(note(str(turns))))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
        await w.writer.run(note("last"))

    w.loop.run(run())
    # The first was cancelled before it was accepted. The others ran to their end.
    assert w.notes() == [*map(str, range(1, 8)), "last"]
    assert not w.conn.in_transaction


def test_too_many_waiting_writes_are_rejected(w: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns_module, "QUEUE_MAX", 2)
    answers = w.together(*[note(str(n)) for n in range(4)])
    refused = [a for a in answers if isinstance(a, Overloaded)]
    assert refused and refused[0].headers == {"Retry-After": "1"}
    assert w.notes() == [a for a in answers if isinstance(a, str)]


def test_a_write_with_a_long_expected_wait_is_rejected(w: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns_module, "WAIT_SECONDS_MAX", 0.1)
    monkeypatch.setattr(turns_module, "QUEUE_MIN", 5)

    def slow(_: object) -> str:
        time.sleep(0.02)
        return "done"

    async def run() -> list[Any]:
        first = [asyncio.ensure_future(w.writer.run(slow)) for _ in range(30)]
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait(first[10:20], return_when=asyncio.FIRST_COMPLETED)
        late = await asyncio.gather(w.writer.run(slow), return_exceptions=True)
        await asyncio.wait(first[26:27])
        later = await w.writer.run(slow)
        return [*late, later, *await asyncio.gather(*first)]

    late, later, *first = w.loop.run(run())
    # Accepted writes are done, however long they take, and a few may wait in any case.
    assert isinstance(late, Overloaded) and [later, *first] == ["done"] * 31
    assert w.together(note("a")) == ["a"]


def test_a_full_disk_in_an_operation_spares_its_neighbors(w: Fixture) -> None:
    answers = w.together(note("a"), note_and_raise("b", sqlite_error(SQLITE_FULL)))
    assert answers[0] == "a" and isinstance(answers[1], StorageFull)
    assert w.notes() == ["a"]


def test_writes_resume_when_a_full_file_may_grow_again(w: Fixture) -> None:
    pages = w.conn.real.execute("PRAGMA page_count").fetchone()[0]
    w.conn.real.execute(f"PRAGMA max_page_count = {pages + 2}")
    [answer] = w.together(note("x" * 100_000))
    assert isinstance(answer, StorageFull)
    assert w.together(note("small")) == ["small"]
    w.conn.real.execute("PRAGMA max_page_count = 1000000")
    assert w.together(note("y" * 100_000)) == ["y" * 100_000]
    assert w.notes() == ["small", "y" * 100_000]


def test_a_full_disk_that_ends_the_transaction_fails_the_whole_group(w: Fixture) -> None:
    def roll_back_all(conn: Any) -> None:
        conn.execute("ROLLBACK")
        raise sqlite_error(SQLITE_FULL)

    answers = w.together(note("a"), roll_back_all, note("c"))
    assert [type(a) for a in answers[:2]] == [StorageFull, StorageFull]
    assert answers[2] == "c"
    assert w.notes() == ["c"]


def test_an_empty_commit_does_not_clear_a_full_disk(w: Fixture) -> None:
    w.conn.fail["COMMIT"] = sqlite_error(SQLITE_FULL)
    w.together(note("a"))
    del w.conn.fail["COMMIT"]
    assert w.together(lambda conn: 0) == [0]
    assert w.writer.last_error and w.writer.unavailable_reason is None
    w.together(note("b"))
    assert w.writer.last_error is None


def test_a_full_disk_at_commit_fails_the_group_only(w: Fixture) -> None:
    w.conn.fail["COMMIT"] = sqlite_error(SQLITE_FULL)
    assert [type(answer) for answer in w.together(note("a"), note("b"))] == [StorageFull, StorageFull]
    del w.conn.fail["COMMIT"]
    assert w.together(note("c")) == ["c"]
    assert w.notes() == ["c"]
    assert w.unknown == []


def test_a_rejection_in_a_lost_group_is_lost_too(w: Fixture) -> None:
    w.conn.fail["COMMIT"] = sqlite_error(SQLITE_FULL)
    answers = w.together(note("a"), refuse)
    assert [type(answer) for answer in answers] == [StorageFull, StorageFull]


def test_any_other_commit_error_is_an_unknown_outcome(w: Fixture) -> None:
    fault = sqlite_error(SQLITE_IOERR)
    w.conn.fail["COMMIT"] = fault

    async def run() -> list[Any]:
        first = await asyncio.gather(w.writer.run(note("a")), return_exceptions=True)
        second = await asyncio.gather(w.writer.run(note("b")), return_exceptions=True)
        return [*first, *second]

    first, second = w.loop.run(run())
    assert isinstance(first, InternalError) and isinstance(second, NotReady)
    assert w.unknown == [fault]


def test_a_write_evicts_the_cache_unless_its_operation_keeps_it(w: Fixture) -> None:
    cache = w.writer.cache

    def write(conn: Any, *, keep: bool) -> None:
        note("a")(conn)
        cache.values["probe"] = 1
        if keep:
            keep_cache(conn)

    w.together(lambda conn: write(conn, keep=True))
    assert cache.values == {"probe": 1}
    w.together(lambda conn: conn.execute("SELECT 1").fetchone())
    assert cache.values == {"probe": 1}
    # The first keeps the cache for itself only.
    w.together(lambda conn: write(conn, keep=True), lambda conn: write(conn, keep=False))
    assert cache.values == {}


def test_a_rollback_clears_the_cache_and_the_next_ids(w: Fixture) -> None:
    cache = w.writer.cache

    def keep(conn: Any) -> None:
        note("a")(conn)
        cache.values["probe"] = 1
        cache.ids = object()  # type: ignore[assignment]
        keep_cache(conn)

    w.together(keep)
    assert cache.values and cache.ids is not None
    w.together(keep, keep=False)
    assert cache.values == {} and cache.ids is None


def test_another_program_that_holds_the_file_is_overloaded(w: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOCK_SECONDS_MAX", 0.03)
    other = sqlite3.connect(w.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        assert isinstance(w.together(note("a"))[0], Overloaded)
    finally:
        other.close()
    assert w.together(note("b")) == ["b"]


def test_writes_that_wait_for_a_lock_are_rejected_together(w: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = itertools.count()
    monkeypatch.setattr(module, "LOCK_SECONDS_MAX", 0.02)
    monkeypatch.setattr("minibill.db.writer.time.sleep", lambda _: next(waits))
    other = sqlite3.connect(w.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    before = w.writer.last_error
    began = w.conn.statements.count("BEGIN IMMEDIATE")
    assert [type(answer) for answer in w.together(*[note(str(n)) for n in range(20)])] == [Overloaded] * 20
    # One wait for all writes, not one for each.
    assert w.conn.statements.count("BEGIN IMMEDIATE") - began == next(waits) + 2
    during, problem = w.writer.last_error, w.writer.unavailable_reason
    other.close()
    assert w.together(note("a")) == ["a"]
    assert (before, problem, w.writer.last_error) == (None, None, None) and during


def test_a_stop_does_not_wait_for_another_programs_lock(tmp_path: Path, loop: Loop) -> None:
    fixture = Fixture(tmp_path / "locked.db", loop)
    other = sqlite3.connect(fixture.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    async def run() -> list[Any]:
        tasks = [asyncio.ensure_future(fixture.writer.run(note(str(n)))) for n in range(3)]
        await asyncio.sleep(0.02)
        async with asyncio.timeout(2):
            await fixture.writer.stop()
        return await asyncio.gather(*tasks, return_exceptions=True)

    assert [type(answer) for answer in loop.run(run())] == [Overloaded] * 3
    other.close()
    fixture.conn.real.close()


async def with_a_waiting_write(w: Fixture) -> list[Any]:
    """Return the results of two writes, the second of which arrived during the transaction of the first."""
    second: list[asyncio.Task[Any]] = []

    def first(conn: Connection) -> str:
        second.append(asyncio.ensure_future(w.writer.run(note("b"))))
        answer: str = note("a")(conn)
        return answer

    answers = await asyncio.gather(w.writer.run(first), return_exceptions=True)
    return [*answers, *await asyncio.gather(*second, return_exceptions=True)]


def test_an_error_of_the_writer_itself_fails_all_writes(w: Fixture) -> None:
    w.conn.fail["COMMIT"] = sqlite_error(SQLITE_FULL)
    w.conn.rollback = lambda: (_ for _ in ()).throw(sqlite_error(SQLITE_IOERR))  # type: ignore[method-assign]

    async def run() -> list[Any]:
        # The process would have ended. If it goes on, the waiting and the later writes are rejected.
        answers = await with_a_waiting_write(w)
        late = await asyncio.gather(w.writer.run(note("c")), return_exceptions=True)
        await w.writer.stop()
        return [*answers, *late]

    assert [type(answer) for answer in w.loop.run(run())] == [InternalError, NotReady, NotReady]
    assert len(w.unknown) == 1


def test_after_an_unknown_outcome_no_waiting_write_runs(w: Fixture) -> None:
    w.conn.fail["COMMIT"] = sqlite_error(SQLITE_IOERR)

    assert [type(answer) for answer in w.loop.run(with_a_waiting_write(w))] == [InternalError, NotReady]
    w.loop.run(w.writer.stop())
    assert "b" not in w.notes()
    assert w.conn.statements.count("BEGIN IMMEDIATE") == 1


def test_the_writer_waits_for_a_short_lock_of_another_program(w: Fixture) -> None:
    other = sqlite3.connect(w.path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")

    async def run() -> list[Any]:
        asyncio.get_running_loop().call_later(0.05, other.close)
        return list(await asyncio.gather(w.writer.run(note("a")), w.writer.run(note("b"))))

    assert w.loop.run(run()) == ["a", "b"]
    assert w.notes() == ["a", "b"]


def test_a_stop_finishes_accepted_writes_and_rejects_later_ones(tmp_path: Path, loop: Loop) -> None:
    fixture = Fixture(tmp_path / "stop.db", loop)

    async def run() -> list[Any]:
        tasks = [asyncio.ensure_future(fixture.writer.run(note(str(n)))) for n in range(20)]
        await asyncio.sleep(0)
        await fixture.writer.stop()
        late = await asyncio.gather(fixture.writer.run(note("late")), return_exceptions=True)
        return [*await asyncio.gather(*tasks), *late]

    *answers, late = loop.run(run())
    assert answers == [str(n) for n in range(20)] == fixture.notes()
    assert isinstance(late, NotReady)
    fixture.conn.real.close()
