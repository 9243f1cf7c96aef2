"""Expiry before an operation, in slices that are committed even if the operation then fails."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from minibill.core.clock import Clock
from minibill.core.problems import Problem
from minibill.core.write_result import WriteResult
from minibill.db.cache import cache_of
from minibill.db.lanes import Lane
from minibill.db.ledger_sequence import SequenceTracker
from minibill.db.savepoint import in_savepoint
from minibill.db.sqlite import Connection
from minibill.db.write_operation import WriteOperation
from minibill.db.writer import Writer
from minibill.ledger.expiry import ExpiryDue, expire_slice

T = TypeVar("T")

# An operation with a connection and the time as its arguments.
Operation = Callable[[Connection, int], T | ExpiryDue]


def result_or_due(conn: Connection, operation: WriteOperation, now_us: int) -> WriteResult | ExpiryDue:
    """Run an operation; return its result, or its `ExpiryDue`, in which case it has written nothing."""
    changes = conn.total_changes
    try:
        return operation(conn, now_us)
    except ExpiryDue as due:
        if conn.total_changes != changes:
            # The operation has a bug, and its writes must not be committed.
            raise
        return due


class ExpirySlices:
    """Runs operations that raised `ExpiryDue`, after it has expired the accounts that they touch."""

    def __init__(self, writer: Writer, clock: Clock) -> None:
        self._writer = writer
        self._clock = clock
        # The accounts that a request is expiring, each with the event that is set when it ends.
        self._expiring: dict[int, asyncio.Event] = {}

    async def run(
        self, operation: Operation[T], due: ExpiryDue, *, keep: bool, observed: SequenceTracker | None, lane: Lane
    ) -> T:
        """Commit slices until no expiry is due, then run the operation. Slices stay committed if the operation fails.

        The operation shares its transaction and its time with the last slice, so no expiry is due at that time. Each round
        makes progress: it expires a slice, the operation names more accounts, or the operation completes.
        """
        accounts = set(due.account_ids)

        def expire_and_run(conn: Connection) -> T | ExpiryDue | Exception | None:
            now_us = self._clock.now_us()
            if not expire_slice(conn, accounts, now_us=now_us).is_last:
                return None
            # The slice has changed these accounts, and the operation itself may not evict them.
            if (cache := cache_of(conn)) is not None:
                cache.evict()
            return in_savepoint(conn, lambda conn: operation(conn, now_us), keep=keep, rejections=(Problem, ExpiryDue))

        # One request at a time expires an account. Otherwise hundreds of requests would queue slices ahead of other writes.
        for ended in {ended for account in accounts if (ended := self._expiring.get(account)) is not None}:
            await ended.wait()
        own = [account for account in accounts if account not in self._expiring]
        ended = asyncio.Event()
        self._expiring |= dict.fromkeys(own, ended)
        try:
            while True:
                result = await self._writer.run(expire_and_run, observed=observed, lane=lane)
                if isinstance(result, ExpiryDue):
                    accounts.update(result.account_ids)
                elif isinstance(result, Exception):
                    raise result
                elif result is not None:
                    return result
        finally:
            for account in own:
                del self._expiring[account]
            ended.set()
