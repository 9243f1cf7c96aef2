"""Reconciliations of a served book: the checks on a snapshot of their own, on a thread, beside all that goes on.

Only one runs at a time. Whoever asks for one while it runs waits for the next, since the snapshot of the one that is under
way may be older than what he just wrote; all who wait share that next one.
"""

import asyncio
import ctypes
import logging
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from minibill.api.types import encode
from minibill.core.clock import US_PER_SECOND, Clock, monotonic_s, real_now_us
from minibill.core.problems import NotReady
from minibill.core.write_result import WriteResult
from minibill.db.constraint_errors import problem_from_sqlite_error
from minibill.db.pacing import STEPS_BETWEEN_PAUSES, pause
from minibill.db.queries import queries
from minibill.db.snapshot import open_snapshot
from minibill.db.sqlite import Connection, OperationalError
from minibill.integrity.checks import run_checks
from minibill.integrity.report import Report, failed_checks, report_of

log = logging.getLogger("minibill.reconcile")

SQL = queries("reconcile")
AUDIT = queries("audit")

# How much the thread gives way to others that want its core, from 0 to 19: requests come first. Not all the way, since it
# holds the interpreter now and then, and whoever waits for that must not wait for a thread that is never run.
NICENESS = 10


class Reconciled(NamedTuple):
    """What a run came to, and the newest row of the audit log if that was whole."""

    at_us: int
    report: Report
    audit_seq: int | None
    audit_hash: bytes | None


class Reconciler:
    """Runs the checks on the file of a book that is open; used from one event loop."""

    def __init__(self, path: Path, clock: Clock, *, created_at_us: int, last: Reconciled | None = None) -> None:
        # What the newest run came to that is recorded, of this process or of one before; None before the first.
        self.last = last
        # How old it was, and when, by the clock that does not jump. Before the first the schedule counts from when the book
        # was made: a fresh one has nothing yet that a run could tell of.
        age_us = real_now_us() - created_at_us if last is None else clock.now_us() - last.at_us
        self._age_s = max(0, age_us) / US_PER_SECOND
        self._noted_s = monotonic_s()
        self._path = path
        self._clock = clock
        self._current: asyncio.Task[Reconciled] | None = None
        self._next: asyncio.Task[Reconciled] | None = None
        self._thread = ThreadPoolExecutor(1, "minibill-reconcile", initializer=_give_way)
        self._stopping = False

    async def run(self) -> Reconciled:
        """Checks the book as it is now or a little later. Cancelling the caller does not stop what others wait for.

        Raises `NotReady` when the book is being closed.
        """
        if self._stopping:
            raise _stopped()
        if self._next is None:
            self._next = asyncio.create_task(self._run_after(self._current))
            self._next.add_done_callback(_hear_of_failure)
        return await asyncio.shield(self._next)

    def keep(self, reconciled: Reconciled) -> None:
        """Takes note of a run that has been recorded. An earlier one does not replace a later one."""
        if self.last is None or reconciled.at_us >= self.last.at_us:
            self.last, self._age_s, self._noted_s = reconciled, 0, monotonic_s()

    def age_s(self) -> float:
        """Seconds since the last recorded run; since the book was made when there was none."""
        return self._age_s + monotonic_s() - self._noted_s

    def stop(self) -> None:
        """What is under way ends soon, and is answered with `NotReady`; nothing is begun from now on."""
        self._stopping = True

    async def close(self) -> None:
        """Stops, and waits until what was under way has ended."""
        self.stop()
        for task in (self._current, self._next):
            if task is not None and not task.done():
                await asyncio.wait([task])
        self._thread.shutdown()

    async def _run_after(self, before: asyncio.Task[Reconciled] | None) -> Reconciled:
        if before is not None:
            await asyncio.wait([before])
        self._current, self._next = self._next, None
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._reconcile)

    # --- on the thread ---

    def _reconcile(self) -> Reconciled:
        self._go_on()
        began_s = monotonic_s()
        at_us = self._clock.now_us()
        with open_snapshot(self._path) as conn:
            conn.set_progress_handler(self._pause, STEPS_BETWEEN_PAUSES)
            try:
                newest = AUDIT.last_audit_row.one(conn)
                findings = run_checks(conn, pause=self._pause)
            except OperationalError as error:
                # A statement that was ended by the pause; else one that found no room for its sort, or a broken disk.
                self._go_on()
                raise problem_from_sqlite_error(error) from error
        _give_back_memory()
        report = report_of(findings, at_us=at_us, duration_ms=round((monotonic_s() - began_s) * 1000))
        for name in failed_checks(report):
            log.error("a check of the reconciliation fails", extra={"check": name, **findings[name]._asdict()})
        is_whole = newest is not None and not findings["audit_chain"].violations
        return Reconciled(at_us, report, *(newest if newest is not None and is_whole else (None, None)))

    def _pause(self) -> bool:
        """Lets others work; true when the statement is to end."""
        pause()
        return self._stopping

    def _go_on(self) -> None:
        if self._stopping:
            raise _stopped()


def created_at_us(conn: Connection) -> int:
    """When a book was made, by the machine's clock."""
    row = SQL.first_migration_at.one(conn)
    assert row is not None
    made_at: int = row[0]
    return made_at


def last_reconciled(conn: Connection) -> Reconciled | None:
    """The last run that is recorded; None where there is none. One that can't be read keeps no service from starting."""
    row = SQL.last_reconciliation.one(conn)
    with suppress(msgspec.DecodeError):
        return None if row is None else Reconciled(row[0], msgspec.json.decode(row[1], type=Report), None, None)
    return None


def record(conn: Connection, now_us: int, *, reconciled: Reconciled) -> WriteResult:
    """Keeps a report as the last one; its answer is that report. Source: contract, section 6."""
    report = reconciled.report
    SQL.record_reconciliation.run(
        conn,
        reconciled_at_us=reconciled.at_us,
        report=encode(report).decode(),
        audit_seq=reconciled.audit_seq,
        audit_hash=reconciled.audit_hash,
    )
    details = lambda: {"status": report.status, "durationMs": report.duration_ms, "failed": failed_checks(report)}
    return WriteResult(report, "reconciliation.run", "book", "book", details)


def _give_back_memory() -> None:
    """Returns to the system what reading the whole book took: the C library keeps it otherwise, some 30 MiB of 120."""
    # Not everywhere is the C library one that can be asked.
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _give_way() -> None:
    # Threads have a niceness of their own on Linux only; elsewhere the number would be taken for a process.
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


def _stopped() -> NotReady:
    return NotReady("the service is stopping")


def _hear_of_failure(task: asyncio.Task[Reconciled]) -> None:
    # Whoever waited is told; when nobody does any more, it is not the event loop's to complain.
    if not task.cancelled():
        task.exception()
