"""The writer: the one connection that writes, and the order in which operations use it.

Operations are plain functions of a connection. All operations that wait form a group and share one transaction, and so one
sync of the disk. Their callers get their results after the COMMIT. Nothing is awaited between BEGIN and COMMIT, so a client
that disconnects can't leave half a write behind. Requests share groups with requests only. Bulk and background work runs in
slices (lanes.py).

Operations are repeatable: they have no effect but what they write. There are no savepoints. When an operation fails after it
wrote, the writer rolls the group back, runs the other operations again and commits them, then runs the failed one alone.

Operations run on the event loop. Only BEGIN and COMMIT run on a thread, where they wait for a lock or for the disk.
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
from minibill.db.cache import OperationCache
from minibill.db.connection import WriterConnection
from minibill.db.constraint_errors import SQLITE_BUSY, error_code, problem_from_sqlite_error
from minibill.db.lanes import Lane, LaneScheduler
from minibill.db.ledger_sequence import SequenceTracker, ledger_sequence
from minibill.db.sqlite import sqlite3
from minibill.db.storage_full import is_storage_full, may_hold_failed_commit
from minibill.db.write_task import Operation, WriteTask, fail_group, neighbor_error, unknown_outcome

log = logging.getLogger("minibill.writer")

T = TypeVar("T")
Loop = asyncio.AbstractEventLoop

# A module's name is faster to look up than an attribute of an enum.
_REQUEST, _BULK = Lane.REQUEST, Lane.BULK

# A group takes no further operation after this many, or after this time: the callers of a group must not wait for a second
# large batch, and the event loop has other work.
GROUP_MAX = 256
GROUP_SECONDS_MAX = 0.010

# A slice takes no further operation after this time. Background operations end by themselves sooner (slices.py).
SLICE_SECONDS_MAX = 0.004

# The longest wait for a lock that another program holds on the file, and the interval between attempts.
LOCK_SECONDS_MAX = 5.0
LOCK_POLL_SECONDS = 0.01


class Writer:
    """Runs operations on `conn`, a connection to `path`, in the order in which they arrive; used from one event loop.

    `on_unknown_outcome` is called, on the loop or on the thread, when a COMMIT fails and may have happened all the same. The
    process must then end, since only a restart can tell. The writer rejects waiting and later writes.

    The writer records each COMMIT that keeps something in the `anchor`, if there is one, before callers get their results.

    `moved` is called after each COMMIT and names a file of the database that was moved or deleted. A restart would not find
    the commit then, so the writer does not acknowledge it and rejects all later writes.
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
        # The event loop never waits for a lock. The thread does, for `LOCK_SECONDS_MAX`.
        conn.execute("PRAGMA busy_timeout = 0")
        self._conn = conn
        self.cache = OperationCache()
        # The version of the file that the cache is of.
        self._version: int | None = None
        if isinstance(conn, WriterConnection):
            conn.cache = self.cache
        self._path = path
        self._on_unknown_outcome = on_unknown_outcome
        self._anchor = anchor
        self._moved = moved
        self._moved_file: str | None = None
        self._scheduler = LaneScheduler()
        self._busy = False
        # Set while only slices wait, for the end of a pause.
        self._pause: asyncio.TimerHandle | None = None
        self._began_s = 0.0
        self._idle = asyncio.Event()
        self._idle.set()
        self._stopping = False
        self._fatal_error: BaseException | None = None
        self._last_error: Exception | None = None
        self._changes = conn.total_changes
        # The number of operations that the next group runs again; 0 for a new group.
        self._rerun = 0
        self._queue = self._scheduler.requests
        # The operations of the open transaction.
        self._group: list[WriteTask] = []
        self._loop: Loop | None = None
        # Called on the event loop after each group, before its results go out: it wakes the event feed.
        self.after_group: Callable[[], None] = lambda: None
        self._thread_calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self.group_writes = Histogram(GROUP_WRITES)
        self.commit_seconds = Histogram(COMMIT_SECONDS)
        self._thread = threading.Thread(target=self._run_thread, name="minibill-disk", daemon=True)
        self._thread.start()

    def waiting(self, lane: Lane) -> int:
        """Return the number of accepted writes of a lane that have not begun."""
        return len(self._scheduler.queues[lane].tasks)

    @property
    def unavailable_reason(self) -> str | None:
        """The reason why the writer rejects all writes, or None."""
        if self._fatal_error is not None:
            return "a commit failed and its outcome is unknown; restart the service"
        if self._moved_file is not None:
            return f"{self._moved_file} was moved or deleted while it was served; put it back and restart the service"
        return "the service is stopping" if self._stopping else None

    @property
    def last_error(self) -> str | None:
        """The reason why the latest writes failed, or None."""
        return self.unavailable_reason or (str(self._last_error) if self._last_error else None)

    @property
    def is_overloaded(self) -> bool:
        """True if one more request would be rejected."""
        return self._scheduler.is_full(_REQUEST)

    @property
    def is_overloaded_with_bulk(self) -> bool:
        """True if one more batch would be rejected."""
        return self._scheduler.is_full(_BULK)

    async def run(
        self,
        operation: Operation[T],
        *,
        keep: bool = True,
        observed: SequenceTracker | None = None,
        lane: Lane = Lane.REQUEST,
    ) -> T:
        """Run an operation and return its value once the transaction is on disk.

        Requests of any number of clients share a transaction. Other lanes give way to them (lanes.py). With `keep=False` the
        operation is rolled back. `observed` receives the newest entry at the end of the operation, also when it fails.

        An operation that writes evicts the cached values of its connection, unless it calls `keep_cache` (cache.py).

        Raises what the operation raised, `Overloaded` when too many writes wait, `StorageFull` when the disk is full, and
        `NotReady` when the writer has stopped. Cancelling the caller does not stop an accepted operation.
        """
        if (reason := self.unavailable_reason) is not None:
            raise NotReady(reason)
        if self._scheduler.is_full(lane):
            raise Overloaded
        loop = self._loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._scheduler.queues[lane].tasks.append(WriteTask(operation, keep, observed, future))
        if not self._busy:
            self._idle.clear()
            self._continue(loop)
        try:
            return await future
        finally:
            # The error refers to this frame, and the future to the error: a cycle for the garbage collector.
            del future

    async def alone(self, task: Callable[[sqlite3.Connection], T]) -> T:
        """Run a task outside of any transaction while no write is in flight; other writes wait."""
        await self._idle.wait()
        self.cache.clear()
        return task(self._conn)

    async def stop(self) -> None:
        """Reject new writes, finish the accepted ones and end the thread."""
        self._stopping = True
        if self._pause is not None and self._loop is not None:
            self._continue(self._loop)
        await self._idle.wait()
        self._thread_calls.put(None)
        await asyncio.to_thread(self._thread.join)

    # --- on the event loop ---

    def _continue(self, loop: Loop) -> None:
        """Begin the next group as soon as one may run."""
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        self._busy = False
        if not self._scheduler:
            self._idle.set()
        elif wait_s := self._scheduler.wait_s(monotonic_s(), hurry=self._stopping):
            self._pause = loop.call_later(wait_s, self._continue, loop)
        else:
            self._busy = True
            # Not now: writes that arrive in this turn of the loop join the group.
            loop.call_soon(self._begin, loop)

    def _begin(self, loop: Loop) -> None:
        try:
            self._conn.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            if error_code(error) == SQLITE_BUSY:
                self._thread_calls.put(lambda: self._begin_on_thread(loop))
            else:
                self._reject_waiting(loop, error)
            return
        self._guard(self._run_waiting, loop)

    def _guard(self, step: Callable[..., None], *arguments: Any) -> None:
        try:
            step(*arguments)
        except BaseException as error:
            self._stop_after(error)
            raise

    def _run_waiting(self, loop: Loop) -> None:
        conn, scheduler, cache = self._conn, self._scheduler, self.cache
        self._clear_cache_after_outside_writes()
        group: list[WriteTask] = []
        self._group = group
        began_s = monotonic_s()
        if not self._rerun:
            self._began_s = began_s
            self._queue = scheduler.next(began_s, hurry=self._stopping) or scheduler.requests
        queue, waiting = self._queue, self._queue.tasks
        group_max, self._rerun = self._rerun or GROUP_MAX, 0
        seconds_max = GROUP_SECONDS_MAX if queue is scheduler.requests or not scheduler.requests.tasks else SLICE_SECONDS_MAX
        changes = conn.total_changes
        # An operation that is not kept has a transaction of its own.
        while waiting and (waiting[0].keep or not group):
            task = waiting.popleft()
            group.append(task)
            cache.is_kept = False
            self._run_one(task)
            if not conn.in_transaction:
                # SQLite has rolled back the whole transaction, and with it the work of the neighbors.
                cache.clear()
                self._changes = conn.total_changes
                error = neighbor_error(task.error)
                for lost in group:
                    if lost is not task or task.error is None:
                        lost.fail(error)
                self._finish(loop, group)
                return
            before, changes = changes, conn.total_changes
            if changes != before:
                if task.error is not None or not task.keep:
                    self._roll_back_last(loop, group)
                    return
                if not cache.is_kept:
                    cache.evict()
            if len(group) >= group_max or monotonic_s() - began_s > seconds_max:
                break
        self.group_writes.observe(len(group))
        self._end_group(loop, group)

    def _roll_back_last(self, loop: Loop, group: list[WriteTask]) -> None:
        """Roll back a group because of its last operation; the others run again without it, and then it runs alone."""
        self._conn.rollback()
        self.cache.clear()
        self._changes = self._conn.total_changes
        if len(group) == 1:
            [task] = group
            if task.observed is not None:
                # The entries of its own are gone.
                task.sequence = ledger_sequence(self._conn)
            self._finish(loop, group)
            return
        self._queue.tasks.extendleft(reversed(group))
        self._rerun = len(group) - 1
        loop.call_soon(self._begin, loop)

    def _run_one(self, task: WriteTask) -> None:
        task.error = task.sequence = None
        try:
            task.value = task.operation(self._conn)
        except Problem as problem:
            # The traceback would hold this task in a cycle for the garbage collector.
            task.error = problem.with_traceback(None)
        except Exception as error:
            # Unlike a problem, this may have been raised between a statement and the change of the cache that belongs to it.
            self.cache.clear()
            task.error = self._problem_of(error) if isinstance(error, sqlite3.Error) else error
        # The writer reads the sequence instead of counting entries, so it is right after any rollback.
        if task.observed is not None and self._conn.in_transaction:
            task.sequence = ledger_sequence(self._conn)

    def _clear_cache_after_outside_writes(self) -> None:
        # Within the transaction no other program can write between this and the operations.
        [version] = self._conn.execute("PRAGMA data_version").fetchone()
        if version != self._version:
            self._version = version
            self.cache.clear()

    def _end_group(self, loop: Loop, group: list[WriteTask]) -> None:
        """Count a group that keeps something, and hand its COMMIT to the thread."""
        conn, mark = self._conn, None
        changed = conn.total_changes != self._changes
        if changed and self._anchor is not None and any(task.error is None and task.keep for task in group):
            try:
                mark = self._anchor.count(conn)
            except sqlite3.Error as error:
                self._fail(loop, group, error)
                return
        self._changes = conn.total_changes
        self._thread_calls.put(lambda: self._commit(loop, group, mark, changed=changed))

    def _end_commit(
        self, loop: Loop, group: list[WriteTask], mark: HighWaterMark | None, *, changed: bool, seconds: float
    ) -> None:
        """Finish a group after its COMMIT; on the loop, since the thread would wait for the interpreter at each step."""
        self.commit_seconds.observe(seconds)
        # A group that changed nothing needed no room on the disk, so it does not show that there is room.
        if changed:
            self._last_error = None
        if (moved := self._moved()) is not None:
            fail_group(group, self._stop_after_move(moved))
        elif self._anchor is not None and mark is not None:
            self._anchor.write(mark)
        self._finish(loop, group)

    def _fail(self, loop: Loop, group: list[WriteTask], error: sqlite3.Error) -> None:
        """Fail a group whose COMMIT failed.

        A full disk leaves no commit behind, so the writer rolls back and goes on. After any other error a restart may find
        the commit or not, so the process ends.
        """
        self.cache.clear()
        if is_storage_full(error, self._path):
            if self._conn.in_transaction:
                self._conn.rollback()
            if not may_hold_failed_commit(self._conn, self._path):
                self._last_error = StorageFull()
                fail_group(group, self._last_error)
                self._finish(loop, group)
                return
        self._stop_after(error)
        fail_group(group, unknown_outcome())
        self._finish(loop, group)

    def _stop_after_move(self, moved: str) -> Exception:
        self._moved_file = moved
        log.critical("database file moved: rejecting writes", extra={"file": moved})
        # The write-ahead log may be the missing file. A checkpoint saves its commits in the database file, wherever that is.
        try:
            self._conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:
            log.critical("checkpoint failed", extra={"error": str(error)})
        return NotReady(
            f"{self.unavailable_reason}; this write may have been done: send it again with the same idempotency key"
        )

    def _problem_of(self, error: sqlite3.Error) -> Exception:
        return StorageFull() if is_storage_full(error, self._path) else problem_from_sqlite_error(error)

    def _finish(self, loop: Loop, group: list[WriteTask]) -> None:
        """Hand a group its results, and continue with the writes that have arrived since."""
        self.after_group()
        for task in group:
            if task.future.done():
                continue
            if task.observed is not None and task.sequence is not None:
                task.observed.note(task.sequence)
            if task.error is not None:
                task.future.set_exception(task.error)
            else:
                task.future.set_result(task.value)
        now_s = monotonic_s()
        if self._group:
            self._scheduler.ended(self._queue, len(group), seconds=now_s - self._began_s, now_s=now_s)
        self._group = []
        if self._fatal_error is not None:
            # `_fail_all` rejects the waiting writes, and no further group begins.
            return
        # Clients that send their next write at once join the next group.
        self._continue(loop)

    def _fail_all(self, loop: Loop) -> None:
        """Fail all accepted writes after a fatal error."""
        for task in self._group:
            if not task.future.done():
                task.future.set_exception(unknown_outcome())
        for task in self._scheduler.take_all():
            if not task.future.done():
                task.future.set_exception(NotReady(self.unavailable_reason or ""))
        self._group = []
        self._continue(loop)

    def _reject_waiting(self, loop: Loop, error: sqlite3.Error) -> None:
        """Fail all waiting writes when no transaction could begin: none of them waits for the lock a second time."""
        self._last_error = self._problem_of(error)
        rejected = self._scheduler.take_all()
        self._rerun = 0
        fail_group(rejected, self._last_error)
        self._finish(loop, rejected)

    # --- on the thread ---

    def _run_thread(self) -> None:
        while (call := self._thread_calls.get()) is not None:
            try:
                call()
            except BaseException as error:
                self._stop_after(error)

    def _begin_on_thread(self, loop: Loop) -> None:
        deadline_s = monotonic_s() + LOCK_SECONDS_MAX
        while True:
            try:
                self._conn.execute("BEGIN IMMEDIATE")
            except sqlite3.Error as error:
                if error_code(error) == SQLITE_BUSY and monotonic_s() < deadline_s and not self._stopping:
                    time.sleep(LOCK_POLL_SECONDS)
                    continue
                loop.call_soon_threadsafe(self._reject_waiting, loop, error)
                return
            loop.call_soon_threadsafe(self._guard, self._run_waiting, loop)
            return

    def _commit(self, loop: Loop, group: list[WriteTask], mark: HighWaterMark | None, *, changed: bool) -> None:
        began_s = monotonic_s()
        try:
            self._conn.execute("COMMIT")
        except sqlite3.Error as error:
            loop.call_soon_threadsafe(self._guard, self._fail, loop, group, error)
            return
        end = partial(self._end_commit, loop, group, mark, changed=changed, seconds=monotonic_s() - began_s)
        loop.call_soon_threadsafe(self._guard, end)

    def _stop_after(self, error: BaseException) -> None:
        """Stop for good: only opening the file again tells the outcome of the writes in flight."""
        log.critical("writer stopped: the outcome of writes in flight is unknown", extra={"error": repr(error)})
        self._fatal_error = error
        self._on_unknown_outcome(error)
        # A process that goes on all the same, as tests do, gets errors instead of waiting.
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._fail_all, self._loop)
