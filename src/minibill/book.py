"""The book: the one object that owns a database file, and the one way in.

HTTP routes, the command line and the tests all write through `Book.write` and read through `Book.readers`, so that
idempotency, dry runs and the audit log are in one place and hold for every write.
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
from minibill.integrity.reconciler import Reconciler, last_reconciled, made_at_us, record
from minibill.integrity.report import Report
from minibill.ledger.expiry import ExpiryDue, sweep
from minibill.ledger.expiry_slices import ExpirySlices, result_or_due
from minibill.metrics.totals import TABLES, Totals

log = logging.getLogger("minibill.book")

BOOK = queries("book")

T = TypeVar("T")

# What one step of a sweep settles, well under a millisecond. A slice takes as many steps as its time allows.
SWEEP_STEP = 10

# What a stop waits for, where a book has much that no link covers: one that was not made by this service.
LINK_AT_CLOSE_SECONDS_MAX = 1.0

# What is no id of a token: none has U+0000 in it.
ID_OF_NONE = "-\x00"
LEDGER = queries("ledger")
REQUESTS = queries("requests")


def _end_the_process(error: BaseException) -> NoReturn:
    # Nothing may be answered from here on: only opening the file again tells whether the commit happened.
    os._exit(1)


# The response of a write, and its next transaction if there is one.
_Ran = tuple[StoredResponse, WriteOperation | None]


class Book:
    """An open database file: locked to this process, migrated, with its writer and readers. Made by `Book.open`."""

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
        self.running = ServiceUptime(newest_running_time_us(conn))
        self.readers = readers
        self.writer = writer
        self.feed = Feed(readers, writer)
        self.sweeps = Sweeps()
        self.totals = Totals(readers)
        self._slices = ExpirySlices(writer, clock)
        self.reconciler = Reconciler(path, clock, made_at_us=made_at_us(conn), last=last_reconciled(conn))
        self.epoch = current_epoch(conn)
        self._lock = lock
        self._conn = conn
        self._anchor = anchor
        self._checkpoints = checkpoints
        # Keys of writes that are done in part, with the fingerprint of what they came with: nobody else may take them.
        self._under_way: dict[tuple[str, str], bytes] = {}

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
        """Opens, and makes or migrates where needed. With 0 `checkpoint_pages` others fold the log into the file.

        Raises `DatabaseLocked` when another process has the file, `NotABook` when it is something else, `MigrationRefused`
        when it is newer than this minibill, `UnsafeFile` when others may interfere with its files, `BehindItsAnchor` when it
        lacks what was answered, unless that loss is accepted. A book that has or may have lost commits begins a new epoch.
        When a commit fails with an unknown outcome, `on_unknown_outcome` is called, from the loop or the writer's thread: by
        default it ends the process; whoever goes on must open the book anew.
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
        """Runs an operation that writes, and answers once it is on disk.

        With a key, the first success is answered again, byte for byte. A dry run does all of it, adds `"dryRun": true` to
        the answer and takes everything back. What an admin does is audited. Raises what the operation raises.

        An operation that is too long for one transaction goes on in further ones, with other writes between them: each is
        audited by itself, and the key is kept with the last; until then another request is refused it. What a failure leaves
        undone, the same request does later. A `bulk` operation gives way to requests, as the further transactions of any do.

        Overdue items of the accounts that it touches expire first, in slices of their own. An error or a dry run rolls none
        of them back.

        `observed` receives the ledger sequence that this request observed, also when it fails. A replayed response gets the
        current sequence, so a client never sees it go backwards.
        """
        # The key that this request keeps from others while it is done in part.
        held = ("", "")

        # Its types are in quotes since they would be made anew with each request, as it is.
        def run(conn: "Connection", at_us: "int | None" = None) -> "_Ran | ExpiryDue":
            nonlocal held
            if key is not None and (stored := self._stored(conn, key)) is not None:
                return stored, None
            now_us = self.clock.now_us() if at_us is None else at_us
            result = result_or_due(conn, operation, now_us)
            if isinstance(result, ExpiryDue):
                return result
            response = StoredResponse(_status(result), encode(result.body))
            if caller.kind == "admin":
                at_us = now_us if result.at_us is None else result.at_us
                audit_log.append(conn, result, actor_id=caller.sub, origin=origin, now_us=at_us)
            if key is not None and result.continuation is None:
                idempotency.store_response(conn, key, response, running_us=self.running.now_us())
            elif key is not None and not dry_run:
                held = (key.caller, key.key)
                self._under_way[held] = key.fingerprint
            return response, result.continuation

        is_begun = False
        try:
            lane = Lane.BULK if bulk else Lane.REQUEST
            ran = await self.writer.run(run, keep=not dry_run, observed=observed, lane=lane)
            if isinstance(ran, ExpiryDue):
                ran = await self._slices.run(run, ran, keep=not dry_run, observed=observed, lane=lane)
            while (continuation := ran[1]) is not None:
                is_begun = not dry_run
                operation = continuation
                ran = await self._go_on(run, keep=not dry_run, observed=observed)
        except Exception as error:
            if not is_begun:
                raise
            problem = error if isinstance(error, Problem) else InternalError()
            raise problem.as_partially_applied() from error
        finally:
            self._under_way.pop(held, None)
        response = ran[0]
        return msgspec.structs.replace(response, body=_with_dry_run(response.body)) if dry_run else response

    def _stored(self, conn: Connection, key: idempotency.Key) -> StoredResponse | None:
        """Return the stored response of a key, if there is one. Raises `IdempotencyKeyReused`."""
        if self._under_way:
            idempotency.require_own(key, self._under_way.get((key.caller, key.key), key.fingerprint))
        return idempotency.find_response(conn, key)

    async def _go_on(
        self, run: "Callable[..., _Ran | ExpiryDue]", *, keep: bool, observed: SequenceTracker | None
    ) -> "_Ran":
        """Run a further transaction of a long operation."""
        ran = await self.writer.run(run, keep=keep, observed=observed, lane=Lane.BACKGROUND)
        if isinstance(ran, ExpiryDue):
            ran = await self._slices.run(run, ran, keep=keep, observed=observed, lane=Lane.BACKGROUND)
        return ran

    async def in_background(self, operation: Operation[T]) -> T:
        """Run an operation that gives way to requests, and return what it returned once that is on disk.

        It takes a few milliseconds at most: long work is a slice of it at a time.
        """
        return await self.writer.run(operation, lane=Lane.BACKGROUND)

    async def sweep(self) -> None:
        """Writes down all that is due, a slice at a time, so that other writes come between."""
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

    async def link(self, *, until_s: float = math.inf) -> None:
        """Adds to the chain what it does not cover yet, a slice at a time; stops at that time, which is monotonic."""
        while monotonic_s() < until_s and await self.in_background(hash_chain.append_link):
            pass

    async def probe_if_failing(self) -> None:
        """When the last writes could not be made: tries one that changes nothing, so that it shows when they can again."""
        if self.writer.last_error is not None:
            await self.probe_write()

    async def probe_write(self) -> None:
        """Writes a row and takes it back: answers once that is on disk, and raises what any write would raise."""
        await self.writer.run(_write_nothing)

    async def prune(self) -> None:
        """Forgets idempotency keys that are older than they must be kept, a slice at a time."""
        while await self.in_background(in_steps(lambda conn: idempotency.prune(conn, running_us=self.running.now_us()))):
            pass

    async def reconcile(self) -> Report:
        """Recomputes the book and keeps the report as the last one."""
        reconciled = await self.reconciler.run()
        await self.in_background(lambda conn: record(conn, reconciled=reconciled, now_us=self.clock.now_us()))
        self.reconciler.keep(reconciled)
        return reconciled.report

    def kept_answer(self, key: idempotency.Key) -> StoredResponse | None:
        """The answer that a write with this key was given before; raises `IdempotencyKeyReused`."""
        return self.readers.point_read(lambda conn: idempotency.find_response(conn, key))

    def denied_tokens(self) -> Denied:
        """The tokens that were revoked. Read at once, so that none is revoked between reading and using it."""
        token_ids = frozenset(token_id for token_id, _ in self.readers.query_now(REQUESTS.revoked_tokens))
        return Denied(token_ids, dict(self.readers.query_now(REQUESTS.revoked_subjects)))

    async def close(self) -> None:
        """Finishes the writes that were taken on, folds the WAL into the file, and lets go of it."""
        self.feed.stop()
        await self.reconciler.close()
        try:
            await self.link(until_s=monotonic_s() + LINK_AT_CLOSE_SECONDS_MAX)
        except Exception as error:
            # The next start goes on with it, unless it is damaged, which verify tells.
            log.warning("the newest rows are not in the chain yet: %r", error)
        await self.writer.stop()
        await self.readers.close()
        try:
            if self._checkpoints:
                self._conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except DatabaseError as error:
            # Nothing is lost: what was answered is in the WAL, and the next start goes on from there.
            log.warning("the write-ahead log was not folded into the file: %s", error)
        self._conn.close()
        self._anchor.close()
        self._lock.release()


def _write_nothing(conn: Connection) -> None:
    BOOK.write_a_row.run(conn, token_id=ID_OF_NONE)
    BOOK.take_the_row_back.run(conn, token_id=ID_OF_NONE)


def newest_time_us(conn: Connection) -> int:
    """The latest time that a book has written; 0 for an empty one."""
    newest = LEDGER.newest_time.one(conn)
    assert newest is not None
    found: int = newest[0]
    return found


def newest_running_time_us(conn: Connection) -> int:
    """The latest running time that a book has written; 0 for none."""
    newest = REQUESTS.newest_running_time.one(conn)
    assert newest is not None
    found: int = newest[0]
    return found


def rows_in_all(conn: Connection) -> dict[str, int]:
    """How many rows each of `TABLES` has. They are never deleted: a later state of the same book has no fewer of any."""
    counts = BOOK.rows_in_all.one(conn)
    assert counts is not None
    return dict(zip(TABLES, counts, strict=True))


def _status(result: WriteResult) -> int:
    if isinstance(result.body, NoResponseBody):
        return 204
    return 201 if result.created else 200


def _with_dry_run(body: bytes) -> bytes:
    """Return the response body with one more member, so that a dry run shows the very bytes of the real run."""
    members = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    return encode({**members, "dryRun": True})
