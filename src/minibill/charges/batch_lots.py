"""The lots of the accounts of a batch, in drawdown order, as its items draw them down in memory."""

from collections.abc import Collection, Iterator, Sequence
from itertools import islice

import msgspec

from minibill.api.types import encode
from minibill.charges.rows import SQL
from minibill.db.queries import Row
from minibill.db.sqlite import Connection
from minibill.ledger.drawdown import Draw, lots_in_drawdown_order
from minibill.ledger.limits import LOTS_PER_SPEND_MAX

# Lots of a pool that one statement loads for all pools. A pool whose items need more is read on by itself.
FIRST_LOTS = 8

_NO_MORE: Iterator[Row] = iter(())


class _Lot(msgspec.Struct, gc=False):
    lot_id: int
    left_micro: int
    expires_at_us: int | None


class _PoolLots:
    """The lots of a pool. `first` is the index of the first one with credits left."""

    __slots__ = ("_rest", "first", "lots")

    def __init__(self, lots: list[_Lot], rest: Iterator[Row]) -> None:
        self.lots = lots
        self.first = 0
        self._rest = rest

    def lot(self, index: int) -> _Lot | None:
        """Return the lot at an index, None after the last."""
        if index == len(self.lots):
            row = next(self._rest, None)
            if row is None:
                return None
            self.lots.append(_Lot(*row))
        return self.lots[index]


class BatchLots:
    """Chooses lots for the items of a batch, without writing.

    The database must stay as it is until the last item has chosen.
    """

    def __init__(self, conn: Connection, pools: Collection[tuple[int, str]]) -> None:
        """Load the first lots of these pools, given as (account, pool)."""
        found: dict[tuple[int, str], list[_Lot]] = {}
        rows = SQL.first_lots_of_pools.all(conn, pools=encode(pools).decode(), count=FIRST_LOTS) if pools else ()
        for account_id, pool_id, *lot in rows:
            found.setdefault((account_id, pool_id), []).append(_Lot(*lot))
        self._pools = {
            pool: _PoolLots(lots, _NO_MORE if len(lots) < FIRST_LOTS else _rest(conn, pool)) for pool, lots in found.items()
        }

    def choose(self, account_id: int, pools: Sequence[str], amount_micro: int) -> list[Draw]:
        """Choose lots for an amount, at most as many as one spend may draw on. They may hold less than the amount."""
        draws: list[Draw] = []
        missing_micro = amount_micro
        for pool_id in pools:
            pool = self._pools.get((account_id, pool_id))
            if pool is None:
                continue
            index = pool.first
            while missing_micro and len(draws) < LOTS_PER_SPEND_MAX and (lot := pool.lot(index)) is not None:
                taken_micro = min(missing_micro, lot.left_micro)
                draws.append(Draw(lot.lot_id, pool_id, taken_micro, lot.left_micro - taken_micro, lot.expires_at_us))
                missing_micro -= taken_micro
                index += 1
        return draws

    def take(self, account_id: int, draws: Sequence[Draw]) -> None:
        """Draw the chosen lots down. They are the first ones of their pools."""
        for draw in draws:
            pool = self._pools[account_id, draw.pool_id]
            pool.lots[pool.first].left_micro = draw.left_micro
            if not draw.left_micro:
                pool.first += 1


def _rest(conn: Connection, pool: tuple[int, str]) -> Iterator[Row]:
    """Yield the lots of a pool after the first ones, once one is asked for."""
    account_id, pool_id = pool
    yield from islice(lots_in_drawdown_order(conn, account_id, pool_id), FIRST_LOTS, None)
