"""Expiry before an operation: slices that are committed whatever becomes of the operation."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from minibill.core.clock import Clock
from minibill.core.problems import Problem
from minibill.core.write_result import WriteResult
from minibill.db.lanes import Lane
from minibill.db.ledger_sequence import SequenceTracker
from minibill.db.savepoint import in_savepoint
from minibill.db.sqlite import Connection
from minibill.db.write_operation import WriteOperation
from minibill.db.writer import Writer
from minibill.ledger.expiry import ExpiryDue, expire_slice

T = TypeVar("T")

# An operation on a connection, at a time.
Operation = Callable[[Connection, int], T | ExpiryDue]


def result_or_due(conn: Connection, operation: WriteOperation, now_us: int) -> WriteResult | ExpiryDue:
    """Return the result of an operation, or the expiry that it needs first; it has then written nothing."""
    changes = conn.total_changes
    try:
        return operation(conn, now_us)
    except ExpiryDue as due:
        if conn.total_changes != changes:
            # A bug: what it wrote must not be committed.
            raise
        return due


class ExpirySlices:
    """Runs operations that need expiry first, once nothing is due on the accounts that they touch."""

    def __init__(self, writer: Writer, clock: Clock) -> None:
        self._writer = writer
        self._clock = clock
        # Accounts that a request is expiring, each with the event that ends it.
        self._expiring: dict[int, asyncio.Event] = {}

    async def run(
        self, operation: Operation[T], due: ExpiryDue, *, keep: bool, observed: SequenceTracker | None, lane: Lane
    ) -> T:
        """Commit slices until nothing is due; the last one shares its transaction and its time with the operation.

        At that time nothing is due, however much is a moment later. So each round makes progress: it expires a slice, or the
        operation names further accounts, or it is done. Slices are kept, also when the operation is not.
        """
        accounts = set(due.account_ids)

        def expire_and_run(conn: Connection) -> T | ExpiryDue | Exception | None:
            now_us = self._clock.now_us()
            if not expire_slice(conn, accounts, now_us=now_us).is_last:
                return None
            return in_savepoint(conn, lambda conn: operation(conn, now_us), keep=keep, rejections=(Problem, ExpiryDue))

        # One request at a time expires an account: slices of hundreds of requests would line up before all other writes.
        for ended in {ended for account in accounts if (ended := self._expiring.get(account)) is not None}:
            await ended.wait()
        own = [account for account in accounts if account not in self._expiring]
        ended = asyncio.Event()
        self._expiring |= dict.fromkeys(own, ended)
        try:
            while True:
                ran = await self._writer.run(expire_and_run, observed=observed, lane=lane)
                if isinstance(ran, ExpiryDue):
                    accounts.update(ran.account_ids)
                elif isinstance(ran, Exception):
                    raise ran
                elif ran is not None:
                    return ran
        finally:
            for account in own:
                del self._expiring[account]
            ended.set()
