"""Totals of the whole book, for the metrics. The ledger itself does not use them.

Summing a million balances takes a tenth of a second. A reader therefore computes the totals,
and they are cached for a hundred times as long as that takes.
"""

import asyncio
from typing import NamedTuple

from minibill.core.clock import monotonic_s
from minibill.core.problems import Overloaded
from minibill.db.queries import queries
from minibill.db.readers import Readers

SQL = queries("book")

# Totals are cached for this time at least, or for this many times their own cost.
CACHE_SECONDS_MIN = 15
CACHE_TO_COST = 100

TABLES = ("accounts", "lots", "entries", "reservations", "charges", "campaigns", "grants", "audit")


class LedgerTotals(NamedTuple):
    """Sums of all balances and open debts in micro-units, and counts; `computed_s` is a monotonic time."""

    available_micro: int
    reserved_micro: int
    debt_micro: int
    rows: dict[str, int]
    webhook_lag_events: int
    webhooks_failing: int
    computed_s: float
    cost_s: float


UNKNOWN = LedgerTotals(0, 0, 0, dict.fromkeys(TABLES, 0), 0, 0, 0.0, 0.0)


class Totals:
    """The cached totals of a book."""

    def __init__(self, readers: Readers) -> None:
        self._readers = readers
        self._cached: LedgerTotals | None = None
        self._computing = asyncio.Lock()

    async def current(self) -> LedgerTotals:
        """Return the totals; compute them if the cached ones are too old."""
        async with self._computing:
            totals = self._cached
            if totals is None or monotonic_s() - totals.computed_s > max(CACHE_SECONDS_MIN, totals.cost_s * CACHE_TO_COST):
                try:
                    totals = self._cached = await self._compute()
                except Overloaded:
                    # The other metrics show the overload, so the response must not fail: old totals are good enough.
                    totals = totals or UNKNOWN
            return totals

    async def _compute(self) -> LedgerTotals:
        began_s = monotonic_s()
        [(available_high, available_low, reserved_high, reserved_low)] = await self._readers.all(SQL.total_balances)
        [(debts_high, debts_low)] = await self._readers.all(SQL.total_debts)
        [rows] = await self._readers.all(SQL.row_counts)
        [(lag_events, failing)] = await self._readers.all(SQL.webhook_lag)
        computed_s = monotonic_s()
        return LedgerTotals(
            available_micro=_joined(available_high, available_low),
            reserved_micro=_joined(reserved_high, reserved_low),
            debt_micro=_joined(debts_high, debts_low),
            rows=dict(zip(TABLES, rows, strict=True)),
            webhook_lag_events=lag_events,
            webhooks_failing=failing,
            computed_s=computed_s,
            cost_s=computed_s - began_s,
        )


def _joined(high: int, low: int) -> int:
    # SQLite sums both halves of 32 bits apart, because the sum of all balances may exceed 64 bits.
    return (high << 32) + low
