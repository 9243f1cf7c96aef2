"""What the whole book comes to: sums over every balance, for the metrics. No rule of the ledger rests on them.

A million balances take a tenth of a second to add up, so that is done on a reader, and as seldom as keeps it to a hundredth
of the time.
"""

import asyncio
from typing import NamedTuple

from minibill.core.clock import monotonic_s
from minibill.core.problems import Overloaded
from minibill.db.queries import queries
from minibill.db.readers import Readers

SQL = queries("book")

# How old sums may be that are answered again.
AGE_SECONDS_MIN = 15
# And how many times as long as it took to make them.
AGE_TO_COST = 100

TABLES = ("accounts", "lots", "entries", "reservations", "campaigns", "grants", "audit")


class LedgerTotals(NamedTuple):
    """All balances and open debts, in micro-units, and the rows of each table; `made_s` is monotonic."""

    available_micro: int
    reserved_micro: int
    debt_micro: int
    rows: dict[str, int]
    webhook_behind: int
    webhooks_failing: int
    made_s: float
    cost_s: float


NOT_YET = LedgerTotals(0, 0, 0, dict.fromkeys(TABLES, 0), 0, 0, 0.0, 0.0)


class Totals:
    """Answers sums, and makes them anew when they are old."""

    def __init__(self, readers: Readers) -> None:
        self._readers = readers
        self._sums: LedgerTotals | None = None
        self._making = asyncio.Lock()

    async def sums(self) -> LedgerTotals:
        """What the book came to a short while ago."""
        async with self._making:
            sums = self._sums
            if sums is None or monotonic_s() - sums.made_s > max(AGE_SECONDS_MIN, sums.cost_s * AGE_TO_COST):
                try:
                    sums = self._sums = await self._make()
                except Overloaded:
                    # How busy it is, is what is asked for just then: old sums will do.
                    sums = sums or NOT_YET
            return sums

    async def _make(self) -> LedgerTotals:
        began_s = monotonic_s()
        [balances] = await self._readers.all(SQL.total_balances)
        [debts] = await self._readers.all(SQL.total_debts)
        [rows] = await self._readers.all(SQL.row_counts)
        [(behind, failing)] = await self._readers.all(SQL.webhook_lag)
        made_s = monotonic_s()
        return LedgerTotals(
            available_micro=_whole(*balances[:2]),
            reserved_micro=_whole(*balances[2:]),
            debt_micro=_whole(*debts),
            rows=dict(zip(TABLES, rows, strict=True)),
            webhook_behind=behind,
            webhooks_failing=failing,
            made_s=made_s,
            cost_s=made_s - began_s,
        )


def _whole(high: int, low: int) -> int:
    return (high << 32) + low
