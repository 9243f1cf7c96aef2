"""The book: an open database file, with all that reads and writes it.

HTTP routes, the command line and the tests write through `Book.write` and read through `Book.readers`. Idempotency keys,
dry runs and the audit log are handled here, once for every write.
"""

import logging
import math
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn, TypeVar

import msgspec

from minibill.api import idempotency
from minibill.api.idempotency import StoredResponse
from minibill.api.types import NoResponseBody, encode
from minibill.audit import log as audit_log
from minibill.auth.tokens import Caller, Denied
from minibill.campaigns.lifecycle import expire_campaigns
from minibill.core.clock import Clock, ServiceUptime, monotonic_s
from minibill.core.counters import Sweeps
from minibill.core.problems import InternalError, Problem
from minibill.core.write_result import Origin, WriteResult
from minibill.db.anchor import CommitAnchor
from minibill.db.connection import CHECKPOINT_PAGES, open_writer
from minibill.db.epochs import current_epoch
from minibill.db.file_lock import FileIdentity, FileLock
from minibill.db.lanes import Lane
from minibill.db.ledger_sequence import SequenceTracker
from minibill.db.migrations import migrate
from minibill.db.queries import queries
from minibill.db.readers import Readers
from minibill.db.slices import in_steps
from minibill.db.sqlite import Connection, DatabaseError, FileConnection
from minibill.db.wal import resync_wal
from minibill.db.write_operation import WriteOperation
from minibill.db.write_task import Operation
from minibill.db.writer import Writer
from minibill.events.feed import Feed
from minibill.integrity import hash_chain
from minibill.integrity.reconciler import Reconciler, created_at_us, last_reconciled, record
from minibill.integrity.report import Report
from minibill.ledger.expiry import ExpiryDue, sweep
from minibill.ledger.expiry_slices import ExpirySlices, result_or_due
from minibill.metrics.totals import TABLES, Totals

log = logging.getLogger("minibill.book")

BOOK = queries("book")
LEDGER = queries("ledger")
REQUESTS = queries("requests")

T = TypeVar("T")

# Items that one step of a sweep expires, in well under a millisecond. A slice takes as many steps as its time allows.
SWEEP_STEP = 10

# Time that a close spends on the hash chain. A served book has about a second of rows to add; an imported one may have many.
CHAIN_AT_CLOSE_SECONDS_MAX = 1.0

# A token id that no token has, because token ids contain no U+0000.
PROBE_ID = "-\x00"


def _end_the_process(error: BaseException) -> NoReturn:
    # No further response may be sent: only reopening the file shows whether the commit happened.
    os._exit(1)


class Book:
    """An open database file: locked to this process, migrated, with its writer and readers. `Book.open` makes it."""

    def __init__(
        self,
        path: Path,
        lock: FileLock,
        conn: FileConnection,
        anchor: CommitAnchor,
        writer: Writer,
        readers: Readers,
        clock: Clock,
        *,
        checkpoints: bool = True,
    ) -> None:
        self.path = path
        self.clock = clock
        self.uptime = ServiceUptime(newest_uptime_us(conn))
        self.readers = readers
        self.writer = writer
        self.feed = Feed(readers, writer)
        self.sweeps = Sweeps()
        self.totals = Totals(readers)
        self.expiry_slices = ExpirySlices(writer, clock)
        self.reconciler = Reconciler(path, clock, created_at_us=created_at_us(conn), last=last_reconciled(conn))
        self.epoch = current_epoch(conn)
        # Idempotency keys of writes between two of their transactions, with the fingerprints of their requests: another
        # request with such a key is rejected.
        self.claimed_keys: dict[tuple[str, str], bytes] = {}
        self._lock = lock
        self._conn = conn
        self._anchor = anchor
        self._checkpoints = checkpoints

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        clock: Clock | None = None,
        checkpoint_pages: int = CHECKPOINT_PAGES,
        accept_loss: bool = False,
        on_unknown_outcome: Callable[[BaseException], None] = _end_the_process,
    ) -> "Book":
        """Open a database file; create or migrate it if needed. With `checkpoint_pages=0` minibill never checkpoints.

        Raises `DatabaseLocked` if another process serves the file, `NotABook` if it is no minibill database, and
        `MigrationRefused` if a newer minibill wrote it. Raises `UnsafeFile` if other users may change its files, and
        `BehindItsAnchor` if acknowledged commits are missing. `accept_loss` opens such a file in a new epoch.

        `on_unknown_outcome` is called, on the event loop or the writer's thread, when a commit may or may not be on disk. By
        default it ends the process. Otherwise the book must be opened again.
        """
        with ExitStack() as stack:
            lock = FileLock(path, create=True)
            stack.callback(lock.release)
            path = lock.path
            conn = open_writer(path, checkpoint_pages=checkpoint_pages)
            stack.callback(conn.close)
            migrate(conn)
            resync_wal(conn, path)
            anchor = CommitAnchor(path, conn, accept_loss=accept_loss)
            stack.callback(anchor.close)
            clock = clock or Clock()
            clock.not_before(newest_time_us(conn))
            readers = await Readers.open(path)
            stack.pop_all()
        writer = Writer(
            conn, path, on_unknown_outcome=on_unknown_outcome, anchor=anchor, moved=FileIdentity(path).changed_file
        )
        return cls(path, lock, conn, anchor, writer, readers, clock, checkpoints=checkpoint_pages > 0)

    # --- writes ---

    async def write(
        self,
        operation: WriteOperation,
        /,
        *,
        caller: Caller,
        origin: Origin,
        key: idempotency.Key | None = None,
        dry_run: bool = False,
        observed: SequenceTracker | None = None,
        bulk: bool = False,
    ) -> StoredResponse:
        """Run a write operation; return its response once the transaction is on disk. Raises what the operation raises.

        - Overdue items of the accounts that the operation touches expire first, in transactions of their own.
        - With a `key`, the first success is stored in the same transaction. A repeated request gets the same bytes again.
        - The operation of an admin adds a row to the audit log in the same transaction.
        - A dry run does all of this, adds `"dryRun": true` to the response, and rolls back everything but the expiry.
        - A long operation continues in further transactions, which yield to requests. Each has its own audit row, and the
          last one stores the response. An error then says that a part was applied; the same request does the rest.
        - A `bulk` operation yields to requests from its first transaction on.

        `observed` receives the ledger sequence that this request observed, also when it fails. A replayed response gets the
        current sequence, so a client never sees it go backwards.
        """
        write = _Write(self, operation, caller, origin, key, dry_run, observed)
        has_committed = False
        try:
            response = await write.run(Lane.BULK if bulk else Lane.REQUEST)
            while (continuation := write.continuation) is not None:
                has_committed = not dry_run
                write.operation = continuation
                response = await write.run(Lane.BACKGROUND)
        except Exception as error:
            if not has_committed:
                raise
            problem = error if isinstance(error, Problem) else InternalError()
            raise problem.as_partially_applied() from error
        finally:
            write.release_key()
        return _with_dry_run(response) if dry_run else response

    async def in_background(self, operation: Operation[T]) -> T:
        """Run an operation that yields to requests; return its value once the transaction is on disk.

        It may take a few milliseconds. Longer work calls this once for each slice.
        """
        return await self.writer.run(operation, lane=Lane.BACKGROUND)

    async def probe_write(self) -> None:
        """Insert and delete a row, to see whether writes succeed. Raises what any write would raise."""
        await self.writer.run(_probe)

    async def probe_if_failing(self) -> None:
        """Try a write if the last ones failed, so that readiness recovers without a client's request."""
        if self.writer.last_error is not None:
            await self.probe_write()

    # --- upkeep ---

    async def sweep(self) -> None:
        """Expire all overdue lots, reservations and campaigns, in slices that yield to requests."""
        began_s, rows = monotonic_s(), 0
        while count := await self.in_background(
            in_steps(lambda conn: sweep(conn, now_us=self.clock.now_us(), at_most=SWEEP_STEP))
        ):
            rows += count
        while count := await self.in_background(
            in_steps(lambda conn: expire_campaigns(conn, now_us=self.clock.now_us(), at_most=SWEEP_STEP))
        ):
            rows += count
        self.sweeps.add(rows, monotonic_s() - began_s)

    async def extend_chain(self, *, until_s: float = math.inf) -> None:
        """Append links to the hash chain until it covers all rows, or until `until_s` in monotonic seconds."""
        while monotonic_s() < until_s and await self.in_background(hash_chain.append_link):
            pass

    async def prune(self) -> None:
        """Delete idempotency keys that are past their retention, in slices."""
        while await self.in_background(in_steps(lambda conn: idempotency.prune(conn, uptime_us=self.uptime.now_us()))):
            pass

    async def reconcile(self) -> Report:
        """Run all checks on a snapshot, record the report as the last one, and return it."""
        reconciled = await self.reconciler.run()
        await self.in_background(lambda conn: record(conn, reconciled=reconciled, now_us=self.clock.now_us()))
        self.reconciler.keep(reconciled)
        return reconciled.report

    # --- reads ---

    def stored_response(self, key: idempotency.Key) -> StoredResponse | None:
        """Return the stored response of a key. Raises `IdempotencyKeyReused` if it belongs to another request."""
        return self.readers.point_read(lambda conn: idempotency.find_response(conn, key))

    def denied_tokens(self) -> Denied:
        """Return the revoked tokens. The read never awaits, so the event loop revokes none before the caller uses them."""
        token_ids = frozenset(token_id for token_id, _ in self.readers.query_now(REQUESTS.revoked_tokens))
        return Denied(token_ids, dict(self.readers.query_now(REQUESTS.revoked_subjects)))

    async def close(self) -> None:
        """Finish accepted writes, checkpoint the WAL, and release the file."""
        self.feed.stop()
        await self.reconciler.close()
        try:
            await self.extend_chain(until_s=monotonic_s() + CHAIN_AT_CLOSE_SECONDS_MAX)
        except Exception as error:
            # The next start continues the chain, unless it is damaged, which `minibill verify` detects.
            log.warning("hash chain not extended at shutdown", extra={"reason": repr(error)})
        await self.writer.stop()
        await self.readers.close()
        try:
            if self._checkpoints:
                self._conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except DatabaseError as error:
            # Nothing is lost: acknowledged writes are in the WAL, and the next start continues from there.
            log.warning("write-ahead log not checkpointed at shutdown", extra={"reason": str(error)})
        self._conn.close()
        self._anchor.close()
        self._lock.release()


class _Write:
    """One write request: its transactions, its audit rows, and its idempotency key."""

    __slots__ = (
        "_book", "_caller", "_dry_run", "_has_claimed_key", "_key", "_observed", "_origin", "continuation", "operation",
    )  # fmt: skip

    def __init__(
        self,
        book: Book,
        operation: WriteOperation,
        caller: Caller,
        origin: Origin,
        key: idempotency.Key | None,
        dry_run: bool,
        observed: SequenceTracker | None,
    ) -> None:
        self.operation = operation
        # The operation of the next transaction, if the one that ran last did not do all of the work.
        self.continuation: WriteOperation | None = None
        self._book = book
        self._caller = caller
        self._origin = origin
        self._key = key
        self._dry_run = dry_run
        self._observed = observed
        self._has_claimed_key = False

    async def run(self, lane: Lane) -> StoredResponse:
        """Run one transaction; expire overdue items of its accounts before it, in slices that are always committed."""
        book, keep = self._book, not self._dry_run
        ran = await book.writer.run(self._transaction, keep=keep, observed=self._observed, lane=lane)
        if isinstance(ran, ExpiryDue):
            ran = await book.expiry_slices.run(self._transaction, ran, keep=keep, observed=self._observed, lane=lane)
        return ran

    def _transaction(self, conn: Connection, now_us: int | None = None) -> StoredResponse | ExpiryDue:
        # The writer may run this again after a rollback; `continuation` is then set anew.
        key = self._key
        if key is not None and (stored := self._find_response(conn, key)) is not None:
            self.continuation = None
            return stored
        if now_us is None:
            now_us = self._book.clock.now_us()
        result = result_or_due(conn, self.operation, now_us)
        if isinstance(result, ExpiryDue):
            return result
        response = StoredResponse(_status(result), encode(result.body))
        if self._caller.kind == "admin":
            at_us = now_us if result.at_us is None else result.at_us
            audit_log.append(conn, result, actor_id=self._caller.sub, origin=self._origin, now_us=at_us)
        self.continuation = result.continuation
        if key is not None:
            if result.continuation is None:
                idempotency.store_response(conn, key, response, uptime_us=self._book.uptime.now_us())
            elif not self._dry_run:
                self._claim_key(key)
        return response

    def _find_response(self, conn: Connection, key: idempotency.Key) -> StoredResponse | None:
        if claims := self._book.claimed_keys:
            idempotency.require_own(key, claims.get((key.caller, key.key), key.fingerprint))
        return idempotency.find_response(conn, key)

    def _claim_key(self, key: idempotency.Key) -> None:
        self._has_claimed_key = True
        self._book.claimed_keys[key.caller, key.key] = key.fingerprint

    def release_key(self) -> None:
        """Let other requests use the key, if this write claimed it between two of its transactions."""
        if self._has_claimed_key and (key := self._key) is not None:
            self._book.claimed_keys.pop((key.caller, key.key), None)


def _status(result: WriteResult) -> int:
    if isinstance(result.body, NoResponseBody):
        return 204
    return 201 if result.created else 200


def _with_dry_run(response: StoredResponse) -> StoredResponse:
    """Return the response with one more member; the others stay byte for byte, also those of a stored response."""
    members = msgspec.json.decode(response.body, type=dict[str, msgspec.Raw])
    return msgspec.structs.replace(response, body=encode({**members, "dryRun": True}))


def _probe(conn: Connection) -> None:
    BOOK.insert_probe_row.run(conn, token_id=PROBE_ID)
    BOOK.delete_probe_row.run(conn, token_id=PROBE_ID)


def newest_time_us(conn: Connection) -> int:
    """Return the latest time that the database has recorded; 0 if it is empty."""
    newest = LEDGER.newest_time.one(conn)
    assert newest is not None
    found: int = newest[0]
    return found


def newest_uptime_us(conn: Connection) -> int:
    """Return the latest service uptime that the database has recorded; 0 if there is none."""
    newest = REQUESTS.newest_uptime.one(conn)
    assert newest is not None
    found: int = newest[0]
    return found


def row_counts(conn: Connection) -> dict[str, int]:
    """Return the number of rows in each of `TABLES`. Their rows are never deleted, so a count never decreases."""
    counts = BOOK.row_counts.one(conn)
    assert counts is not None
    return dict(zip(TABLES, counts, strict=True))
