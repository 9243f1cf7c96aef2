"""The writer: the one connection that writes, and the order in which operations use it.

Operations are plain functions of a connection. All that wait share one transaction and so one sync of the disk. An operation
that fails after it wrote rolls the group back: its neighbors run again without it and commit, then it runs again alone.
Responses are sent after the COMMIT. Nothing is awaited between BEGIN and COMMIT, so a client that disconnects can't leave
half a write behind. Requests share groups with requests only; bulk and background work runs in slices (lanes.py).

Operations run on the event loop. Only BEGIN and COMMIT, which wait for the disk or for a lock, run on a thread.
"""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from minibill.core.clock import monotonic_s
from minibill.core.counters import COMMIT_SECONDS, GROUP_WRITES, Histogram
from minibill.core.problems import NotReady, Overloaded, Problem, StorageFull
from minibill.db.anchor import CommitAnchor, HighWaterMark
from minibill.db.connection import WriterConnection
from minibill.db.constraint_errors import SQLITE_BUSY, error_code, problem_from_sqlite_error
from minibill.db.lanes import Lane, LaneScheduler
from minibill.db.ledger_sequence import SequenceTracker, ledger_sequence
from minibill.db.sqlite import sqlite3
from minibill.db.wal import is_for_lack_of_room, may_hold_a_failed_commit
from minibill.db.write_task import Operation, WriteTask, fail_group, neighbor_error, unknown_outcome

log = logging.getLogger("minibill.writer")

T = TypeVar("T")

# An attribute of an enum costs more to find than a name of the module.
_REQUEST, _BULK = Lane.REQUEST, Lane.BULK

# A group closes when it holds this many operations, or has run this long: what waits for its COMMIT must not wait for a
# second large batch, and the event loop has others to serve.
GROUP_MAX = 256
GROUP_SECONDS_MAX = 0.010

# A slice takes no further job after this time. A job of background work ends by itself sooner (slices.py).
SLICE_SECONDS_MAX = 0.004

# How long a group waits for another program that holds the file, and how often it looks.
LOCK_SECONDS_MAX = 5.0
LOCK_POLL_SECONDS = 0.01


class Writer:
    """Runs operations on `conn`, which is open on `path`, in the order in which they come; used from one event loop.

    `on_unknown_outcome` is called, from the loop or from the thread, when a COMMIT fails in a way that leaves open whether
    it happened. The process must end then: only a restart can tell. The writer takes nothing more, and refuses what waits.
    Each COMMIT that keeps something is written to the `anchor`, if there is one, before anybody is answered.

    `moved` is asked after each COMMIT for a file of the database that is no longer where it was: what was written is in none
    that a restart would find, so it is not answered as done, and the writer takes nothing more.
    """

    def __init__(
        self,
        conn: sqlite3.Connection,
        path: Path,
        *,
        on_unknown_outcome: Callable[[BaseException], None],
        anchor: CommitAnchor | None = None,
        moved: Callable[[], str | None] = lambda: None,
    ) -> None:
        # The event loop never waits for a lock; the thread does, with a limit of its own.
        conn.execute("PRAGMA busy_timeout = 0")
        self._conn = conn
        # What operations remember of the book (db/connect.py), and by which version of the file.
        self._remembered: dict[str, Any] = {}
        self._version: int | None = None
        if isinstance(conn, WriterConnection):
            conn.remembered = self._remembered
        self._path = path
        self._on_unknown_outcome = on_unknown_outcome
        self._anchor = anchor
        self._moved = moved
        self._moved_file: str | None = None
        self._turns = LaneScheduler()
        self._busy = False
        # Set while only slices wait, and they wait for the end of a pause.
        self._pause: asyncio.TimerHandle | None = None
        self._began_s = 0.0
        self._idle = asyncio.Event()
        self._idle.set()
        self._stopping = False
        self._fatal_error: BaseException | None = None
        self._last_error: Exception | None = None
        self._changes = conn.total_changes
        # How many operations of which queue the next group runs again; 0 for none.
        self._again = 0
        self._queue = self._turns.requests
        # What is in the transaction that is under way.
        self._group: list[WriteTask] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        # Called on the event loop after each group, before its answers go out: whoever waits for news hears of it by this.
        self.after_group: Callable[[], None] = lambda: None
        self._disk: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        # How many operations shared a transaction, and how long its COMMIT took.
        self.group_writes = Histogram(GROUP_WRITES)
        self.commit_seconds = Histogram(COMMIT_SECONDS)
        self._thread = threading.Thread(target=self._wait_for_the_disk, name="minibill-disk", daemon=True)
        self._thread.start()

    def waiting(self, lane: Lane) -> int:
        """Return the number of writes of a kind that were accepted and have not begun."""
        return len(self._turns.queues[lane].jobs)

    @property
    def problem(self) -> str | None:
        """Why it takes no writes, or None."""
        if self._fatal_error is not None:
            return "a commit failed and its outcome is unknown; restart the service"
        if self._moved_file is not None:
            return f"{self._moved_file} was moved or deleted while it was served; put it back and restart the service"
        return "the service is stopping" if self._stopping else None

    @property
    def last_error(self) -> str | None:
        """Why the last writes could not be made, although it goes on trying; None once one could."""
        return self.problem or (str(self._last_error) if self._last_error else None)

    @property
    def is_overloaded(self) -> bool:
        """Return true if one more request would be rejected."""
        return self._turns.is_full(_REQUEST)

    @property
    def is_overloaded_with_bulk(self) -> bool:
        """Return true if one more batch would be rejected."""
        return self._turns.is_full(_BULK)

    async def run(
        self,
        operation: Operation[T],
        *,
        keep: bool = True,
        observed: SequenceTracker | None = None,
        lane: Lane = Lane.REQUEST,
    ) -> T:
        """Run an operation and return its value once the transaction is on disk.

        Requests of any number of clients share a transaction; other lanes give way to them (lanes.py). With `keep=False` the
        operation is rolled back. `observed` receives the newest entry at the end of the operation, also when it fails.
        Raises what the operation raised, `Overloaded` when too many writes wait, `StorageFull` when the disk is full,
        `NotReady` when the writer has stopped. Cancelling the caller does not stop an accepted operation. The writer may
        run an operation again after a rollback, so an operation has no effect but what it writes.
        """
        if (problem := self.problem) is not None:
            raise NotReady(problem)
        if self._turns.is_full(lane):
            raise Overloaded
        loop = self._loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._turns.queues[lane].jobs.append(WriteTask(operation, keep, observed, future))
        if not self._busy:
            self._idle.clear()
            self._go_on(loop)
        try:
            return await future
        finally:
            # A refusal that is raised here holds this frame, and the future the refusal: a circle for the garbage collector.
            del future

    async def alone(self, task: Callable[[sqlite3.Connection], T]) -> T:
        """Runs a task outside of any transaction, when no write is under way; everything else waits meanwhile."""
        await self._idle.wait()
        self._remembered.clear()
        return task(self._conn)

    async def stop(self) -> None:
        """Finishes what was taken on and ends the thread; nothing is taken on from now on."""
        self._stopping = True
        if self._pause is not None and self._loop is not None:
            self._go_on(self._loop)
        await self._idle.wait()
        self._disk.put(None)
        await asyncio.to_thread(self._thread.join)

    # --- on the event loop ---

    def _go_on(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begins the next group as soon as one may run."""
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        self._busy = False
        if not self._turns:
            self._idle.set()
        elif wait_s := self._turns.wait_s(monotonic_s(), hurry=self._stopping):
            self._pause = loop.call_later(wait_s, self._go_on, loop)
        else:
            self._busy = True
            # Not at once: what else comes in with this turn of the loop joins the group.
            loop.call_soon(self._begin, loop)

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            self._conn.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            if error_code(error) == SQLITE_BUSY:
                self._disk.put(lambda: self._begin_patiently(loop))
            else:
                self._refuse_waiting(loop, error)
            return
        self._or_give_up(self._run_waiting, loop)

    def _or_give_up(self, step: Callable[..., None], *arguments: Any) -> None:
        try:
            step(*arguments)
        except BaseException as error:
            self._give_up(error)
            raise

    def _run_waiting(self, loop: asyncio.AbstractEventLoop) -> None:
        conn, turns = self._conn, self._turns
        self._forget_what_others_changed()
        group: list[WriteTask] = []
        self._group = group
        began_s = monotonic_s()
        if not self._again:
            # What runs again has begun before.
            self._began_s = began_s
            self._queue = turns.next(began_s, hurry=self._stopping) or turns.requests
        queue, waiting = self._queue, self._queue.jobs
        group_max, self._again = self._again or GROUP_MAX, 0
        seconds_max = GROUP_SECONDS_MAX if queue is turns.requests or not turns.requests.jobs else SLICE_SECONDS_MAX
        changes = conn.total_changes
        # What is to be taken back has a transaction of its own.
        while waiting and (waiting[0].keep or not group):
            job = waiting.popleft()
            group.append(job)
            self._run_one(job)
            if not conn.in_transaction:
                # The whole transaction is gone, and with it the neighbours' work.
                self._remembered.clear()
                self._changes = conn.total_changes
                told = neighbor_error(job.error)
                for lost in group:
                    if lost is not job or job.error is None:
                        lost.fail(told)
                self._finish(loop, group)
                return
            before, changes = changes, conn.total_changes
            if changes != before and (job.error is not None or not job.keep):
                self._take_back(loop, group)
                return
            if len(group) >= group_max or monotonic_s() - began_s > seconds_max:
                break
        self.group_writes.observe(len(group))
        self._end_group(loop, group)

    def _take_back(self, loop: asyncio.AbstractEventLoop, group: list[WriteTask]) -> None:
        """Rolls back what the last of a group wrote; the others before it are run again, and then it by itself."""
        self._conn.rollback()
        self._remembered.clear()
        self._changes = self._conn.total_changes
        if len(group) == 1:
            [taken_back] = group
            if taken_back.observed is not None:
                # What it saw of its own is gone.
                taken_back.sequence = ledger_sequence(self._conn)
            self._finish(loop, group)
            return
        self._queue.jobs.extendleft(reversed(group))
        self._again = len(group) - 1
        loop.call_soon(self._begin, loop)

    def _run_one(self, job: WriteTask) -> None:
        job.error = job.sequence = None
        try:
            job.value = job.operation(self._conn)
        except Problem as refusal:
            # Where it was raised is nobody's question, and would hold this job in a circle for the garbage collector.
            job.error = refusal.with_traceback(None)
        except Exception as error:
            # A refusal comes before anything has changed. What else goes wrong may come between what is written and what is
            # remembered of it.
            self._remembered.clear()
            job.error = self._explain(error) if isinstance(error, sqlite3.Error) else error
        # Read, not counted along: so it is right whatever has been taken back. It costs 0.7 µs.
        if job.observed is not None and self._conn.in_transaction:
            job.sequence = ledger_sequence(self._conn)

    def _forget_what_others_changed(self) -> None:
        # Asked inside the transaction, so nobody changes anything between this and what the operations write.
        [version] = self._conn.execute("PRAGMA data_version").fetchone()
        if version != self._version:
            self._version = version
            self._remembered.clear()

    def _end_group(self, loop: asyncio.AbstractEventLoop, group: list[WriteTask]) -> None:
        """Hands the group's COMMIT to the thread, and counts it if it keeps anything."""
        conn, mark = self._conn, None
        changed = conn.total_changes != self._changes
        if changed and self._anchor is not None and any(job.error is None and job.keep for job in group):
            try:
                mark = self._anchor.count(conn)
            except sqlite3.Error as error:
                self._fail(loop, group, error)
                return
        self._changes = conn.total_changes
        self._disk.put(lambda: self._commit(loop, group, mark, changed=changed))

    def _end_commit(
        self,
        loop: asyncio.AbstractEventLoop,
        group: list[WriteTask],
        mark: HighWaterMark | None,
        *,
        changed: bool,
        seconds: float,
    ) -> None:
        """After a COMMIT. On the loop, since the thread would have to wait for the interpreter at each step."""
        self.commit_seconds.observe(seconds)
        # A group that changed nothing needed no room, so it says nothing of whether there is room.
        if changed:
            self._last_error = None
        if (moved := self._moved()) is not None:
            fail_group(group, self._refuse_from_now_on(moved))
        elif self._anchor is not None and mark is not None:
            self._anchor.write(mark)
        self._finish(loop, group)

    def _fail(self, loop: asyncio.AbstractEventLoop, group: list[WriteTask], error: sqlite3.Error) -> None:
        fail_group(group, self._failed_commit(error))
        self._finish(loop, group)

    def _failed_commit(self, error: sqlite3.Error) -> Exception:
        """What a group is told whose COMMIT failed.

        When there was no room to write all of it, nothing of it will ever be read. When all was written and the sync failed,
        or what comes after it, it may be there after a restart, or not. A broken disk is not to be trusted either way.
        """
        self._remembered.clear()
        if is_for_lack_of_room(error, self._path):
            if self._conn.in_transaction:
                self._conn.rollback()
            if not may_hold_a_failed_commit(self._conn, self._path):
                self._last_error = StorageFull()
                return StorageFull()
        self._give_up(error)
        return unknown_outcome()

    def _refuse_from_now_on(self, moved: str) -> Exception:
        self._moved_file = moved
        log.critical("%s was moved or deleted while it was served; no more writes are taken", moved)
        # The log may be what has gone: what is in it is safe in the database file only, wherever that is by now.
        try:
            self._conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:
            log.critical("the write-ahead log was not folded into the file: %s", error)
        return NotReady(f"{self.problem}; what was asked may have been done: send it again with the same idempotency key")

    def _explain(self, error: sqlite3.Error) -> Exception:
        return StorageFull() if is_for_lack_of_room(error, self._path) else problem_from_sqlite_error(error)

    def _finish(self, loop: asyncio.AbstractEventLoop, group: list[WriteTask]) -> None:
        """Answers a group, and goes on with what has come in meanwhile."""
        self.after_group()
        for job in group:
            if job.future.done():
                continue
            if job.observed is not None and job.sequence is not None:
                job.observed.note(job.sequence)
            if job.error is not None:
                job.future.set_exception(job.error)
            else:
                job.future.set_result(job.value)
        now_s = monotonic_s()
        if self._group:
            self._turns.ended(self._queue, len(group), seconds=now_s - self._began_s, now_s=now_s)
        self._group = []
        if self._fatal_error is not None:
            # What waits is refused by `_abandon`, and no further group is begun.
            return
        # Who was answered just now, and comes again at once, joins the next group.
        self._go_on(loop)

    def _abandon(self, loop: asyncio.AbstractEventLoop) -> None:
        """Answers all that were taken on once nothing more is."""
        for job in self._group:
            if not job.future.done():
                job.future.set_exception(unknown_outcome())
        for job in self._turns.take_all():
            if not job.future.done():
                job.future.set_exception(NotReady(self.problem or ""))
        self._group = []
        self._go_on(loop)

    def _refuse_waiting(self, loop: asyncio.AbstractEventLoop, error: sqlite3.Error) -> None:
        """Answers all that wait when no transaction could be begun: none of them waits for the lock a second time."""
        self._last_error = self._explain(error)
        refused = self._turns.take_all()
        self._again = 0
        fail_group(refused, self._last_error)
        self._finish(loop, refused)

    # --- on the thread ---

    def _wait_for_the_disk(self) -> None:
        while (task := self._disk.get()) is not None:
            try:
                task()
            except BaseException as error:
                self._give_up(error)

    def _begin_patiently(self, loop: asyncio.AbstractEventLoop) -> None:
        deadline_s = monotonic_s() + LOCK_SECONDS_MAX
        while True:
            try:
                self._conn.execute("BEGIN IMMEDIATE")
            except sqlite3.Error as error:
                if error_code(error) == SQLITE_BUSY and monotonic_s() < deadline_s and not self._stopping:
                    time.sleep(LOCK_POLL_SECONDS)
                    continue
                loop.call_soon_threadsafe(self._refuse_waiting, loop, error)
                return
            loop.call_soon_threadsafe(self._or_give_up, self._run_waiting, loop)
            return

    def _commit(
        self, loop: asyncio.AbstractEventLoop, group: list[WriteTask], mark: HighWaterMark | None, *, changed: bool
    ) -> None:
        began_s = monotonic_s()
        try:
            self._conn.execute("COMMIT")
        except sqlite3.Error as error:
            loop.call_soon_threadsafe(self._or_give_up, self._fail, loop, group, error)
            return
        done = partial(self._end_commit, loop, group, mark, changed=changed, seconds=monotonic_s() - began_s)
        loop.call_soon_threadsafe(self._or_give_up, done)

    def _give_up(self, error: BaseException) -> None:
        """After this nothing is known of what was under way; only opening the file again tells."""
        log.critical("the writer stopped, the outcome of what was under way is unknown: %r", error)
        self._fatal_error = error
        self._on_unknown_outcome(error)
        # Whoever goes on all the same gets an answer.
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._abandon, self._loop)
