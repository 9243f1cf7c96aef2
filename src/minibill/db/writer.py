"""The writer: one thread that owns the one connection that writes.

Operations are plain functions of a connection. As many as are waiting share one transaction and so one sync of the disk,
each in a savepoint of its own: a refusal takes back its own work and its neighbours commit. Answers go out after the COMMIT.
Nothing is awaited between BEGIN and COMMIT, so a client that goes away can't leave half a write behind.
"""

import asyncio
import logging
import queue
import threading
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from minibill.clock import monotonic_s
from minibill.db.constraints import explain
from minibill.db.sqlite import sqlite3
from minibill.problems import InternalError, NotReady, Overloaded, StorageFull

log = logging.getLogger("minibill.writer")

T = TypeVar("T")
Operation = Callable[[sqlite3.Connection], T]

# Writes that may wait; one more is refused at once. At 5,000 writes a second the last of them waits 0.4 s.
QUEUE_MAX = 2_000

# A group closes when it holds this many operations, or has run this long: what waits for its COMMIT must not wait for a
# second large batch.
GROUP_MAX = 256
GROUP_SECONDS_MAX = 0.010

SQLITE_FULL = 13


class _Job(NamedTuple):
    operation: Operation[Any]
    keep: bool
    future: asyncio.Future[Any]


class _Result(NamedTuple):
    job: _Job
    value: Any
    error: BaseException | None


class Writer:
    """Runs operations on `conn`, in the order in which they come.

    `on_unknown_outcome` is called from the writer's thread when a COMMIT fails in a way that leaves open whether it
    happened. The process must end then: only a restart can tell. The writer takes nothing more.
    """

    def __init__(self, conn: sqlite3.Connection, *, on_unknown_outcome: Callable[[BaseException], None]) -> None:
        self._conn = conn
        self._on_unknown_outcome = on_unknown_outcome
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._stopping = False
        self._broken: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="minibill-writer", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many operations wait."""
        return self._jobs.qsize()

    @property
    def problem(self) -> str | None:
        """Why it takes no writes, or None."""
        if self._broken is not None:
            return "a commit failed and its outcome is unknown; restart the service"
        return "the service is stopping" if self._stopping else None

    async def run(self, operation: Operation[T], *, keep: bool = True) -> T:
        """Runs an operation and answers what it answered, once that is on disk.

        With `keep=False` it runs and is then taken back. Raises what the operation raised, `Overloaded` when too much is
        waiting, `StorageFull` when there is no room, `NotReady` when the writer has stopped. Cancelling the caller does not
        stop an operation that has been taken on.
        """
        if (problem := self.problem) is not None:
            raise NotReady(problem)
        if self._jobs.qsize() >= QUEUE_MAX:
            raise Overloaded
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._jobs.put(_Job(operation, keep, future))
        return await future

    def stop(self) -> None:
        """Finishes what was taken on and ends the thread; blocks until then."""
        self._stopping = True
        self._jobs.put(None)
        self._thread.join()

    # --- the writer's thread ---

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._run_group(job)

    def _run_group(self, first: _Job) -> None:
        results: list[_Result] = []
        try:
            self._conn.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            _answer([_Result(first, None, explain(error))])
            return
        stop = self._run_operations(first, results)
        if self._conn.in_transaction:
            self._commit(results)
        _answer(results)
        if stop:
            # The end of the queue came with this group; leave it for the loop to see.
            self._jobs.put(None)

    def _run_operations(self, first: _Job, results: list[_Result]) -> bool:
        """Runs `first` and what waits behind it; answers whether the end of the queue was reached."""
        job: _Job | None = first
        began_s = monotonic_s()
        while job is not None:
            results.append(self._run_one(job))
            if not self._conn.in_transaction:
                # SQLite gave up the whole transaction, and with it the neighbours' work.
                results[:] = [r if r.error else r._replace(value=None, error=StorageFull()) for r in results]
                return False
            if len(results) >= GROUP_MAX or monotonic_s() - began_s > GROUP_SECONDS_MAX:
                return False
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return False
        return True

    def _run_one(self, job: _Job) -> _Result:
        conn = self._conn
        conn.execute("SAVEPOINT operation")
        try:
            value = job.operation(conn)
        except BaseException as error:
            if conn.in_transaction:
                conn.execute("ROLLBACK TO operation")
                conn.execute("RELEASE operation")
            return _Result(job, None, explain(error) if isinstance(error, sqlite3.Error) else error)
        if not job.keep:
            conn.execute("ROLLBACK TO operation")
        conn.execute("RELEASE operation")
        return _Result(job, value, None)

    def _commit(self, results: list[_Result]) -> None:
        try:
            self._conn.execute("COMMIT")
        except sqlite3.Error as error:
            failure: BaseException
            if getattr(error, "sqlite_errorcode", 0) & 0xFF == SQLITE_FULL:
                if self._conn.in_transaction:
                    self._conn.rollback()
                failure = StorageFull()
            else:
                log.critical("COMMIT failed, its outcome is unknown: %s", error)
                self._broken = error
                self._on_unknown_outcome(error)
                failure = InternalError("the outcome of this write is unknown; send it again with the same idempotency key")
            results[:] = [r if r.error else r._replace(value=None, error=failure) for r in results]


def _answer(results: list[_Result]) -> None:
    """Hands results to the event loops that wait for them, one wake-up a loop."""
    loops: dict[asyncio.AbstractEventLoop, list[_Result]] = {}
    for result in results:
        loops.setdefault(result.job.future.get_loop(), []).append(result)
    for loop, theirs in loops.items():
        try:
            loop.call_soon_threadsafe(_settle, theirs)
        except RuntimeError:
            log.warning("%d answers found their event loop closed", len(theirs))


def _settle(results: list[_Result]) -> None:
    for result in results:
        if result.job.future.done():
            continue
        if result.error is not None:
            result.job.future.set_exception(result.error)
        else:
            result.job.future.set_result(result.value)
