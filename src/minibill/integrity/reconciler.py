"""Reconciliations of a served book: all checks on a snapshot, on a thread, while requests continue.

One runs at a time. A caller that arrives during a run waits for the next one, because the snapshot of the current run may be
older than the caller's last write. All waiting callers share that next run.
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

# The niceness of the thread, from 0 to 19: requests come first. Not the maximum: the thread sometimes holds the interpreter
# lock, and a request must not wait for a thread that the system never runs.
NICENESS = 10


class Reconciled(NamedTuple):
    """The report of a run, and the newest audit row of its snapshot if the audit log passed its check."""

    at_us: int
    report: Report
    audit_seq: int | None
    audit_hash: bytes | None


class Reconciler:
    """Run the checks on the file of an open book. One event loop uses it."""

    def __init__(self, path: Path, clock: Clock, *, created_at_us: int, last: Reconciled | None = None) -> None:
        # The newest recorded run, of this process or an earlier one; None before the first.
        self.last = last
        # Its age at a monotonic time. Before the first run, the age of the database, because a new one has nothing to check.
        age_us = real_now_us() - created_at_us if last is None else clock.now_us() - last.at_us
        self._age_s = max(0, age_us) / US_PER_SECOND
        self._noted_s = monotonic_s()
        self._path = path
        self._clock = clock
        self._current: asyncio.Task[Reconciled] | None = None
        self._next: asyncio.Task[Reconciled] | None = None
        self._thread = ThreadPoolExecutor(1, "minibill-reconcile", initializer=_lower_priority)
        self._stopping = False

    async def run(self) -> Reconciled:
        """Check a snapshot that is no older than this call. Cancelling one caller does not stop a run that others wait for.

        Raises `NotReady` while the book closes.
        """
        if self._stopping:
            raise _stopped()
        if self._next is None:
            self._next = asyncio.create_task(self._run_after(self._current))
            self._next.add_done_callback(_retrieve_exception)
        return await asyncio.shield(self._next)

    def keep(self, reconciled: Reconciled) -> None:
        """Keep a recorded run as the last one. An earlier run never replaces a later one."""
        if self.last is None or reconciled.at_us >= self.last.at_us:
            self.last, self._age_s, self._noted_s = reconciled, 0, monotonic_s()

    def age_s(self) -> float:
        """Return the seconds since the last recorded run, or since the database was created if there was none."""
        return self._age_s + monotonic_s() - self._noted_s

    def stop(self) -> None:
        """End the current run soon; its callers and all later ones get `NotReady`."""
        self._stopping = True

    async def close(self) -> None:
        """Stop, and wait until the current run has ended."""
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
        self._raise_if_stopping()
        began_s = monotonic_s()
        at_us = self._clock.now_us()
        with open_snapshot(self._path) as conn:
            conn.set_progress_handler(self._pause, STEPS_BETWEEN_PAUSES)
            try:
                newest = AUDIT.last_audit_row.one(conn)
                findings = run_checks(conn, pause=self._pause)
            except OperationalError as error:
                # `_pause` interrupted the statement, or its sort found no space, or the disk failed.
                self._raise_if_stopping()
                raise problem_from_sqlite_error(error) from error
        _give_back_memory()
        report = report_of(findings, at_us=at_us, duration_ms=round((monotonic_s() - began_s) * 1000))
        for name in failed_checks(report):
            log.error("reconciliation check failed", extra={"check": name, **findings[name]._asdict()})
        is_whole = newest is not None and not findings["audit_chain"].violations
        return Reconciled(at_us, report, *(newest if newest is not None and is_whole else (None, None)))

    def _pause(self) -> bool:
        """Yield the core to other threads; return true to interrupt the statement."""
        pause()
        return self._stopping

    def _raise_if_stopping(self) -> None:
        if self._stopping:
            raise _stopped()


def created_at_us(conn: Connection) -> int:
    """Return the creation time of a database by the wall clock, in microseconds."""
    row = SQL.first_migration_at.one(conn)
    assert row is not None
    created_us: int = row[0]
    return created_us


def last_reconciled(conn: Connection) -> Reconciled | None:
    """Return the last recorded run; None if there is none or if its report can't be decoded."""
    row = SQL.last_reconciliation.one(conn)
    with suppress(msgspec.DecodeError):
        return None if row is None else Reconciled(row[0], msgspec.json.decode(row[1], type=Report), None, None)
    return None


def record(conn: Connection, now_us: int, *, reconciled: Reconciled) -> WriteResult:
    """Record a report as the last one; the response is the report."""
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
    """Return freed memory to the system. Without this the C library keeps some 30 MiB of 120 after a run."""
    # Only glibc has malloc_trim.
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _lower_priority() -> None:
    # Only Linux has a niceness per thread; elsewhere the number would name a process.
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


def _stopped() -> NotReady:
    return NotReady("the service is stopping")


def _retrieve_exception(task: asyncio.Task[Reconciled]) -> None:
    # Waiting callers get the exception. Without one, asyncio would log it as never retrieved.
    if not task.cancelled():
        task.exception()
