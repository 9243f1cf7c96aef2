"""Drawdown: the lots that a spend draws on. First the lots of its own pool, then those of `general`.

Within a pool, the lower priority number comes first, then the soonest to expire, then the oldest. See
docs/concepts/ledger.md. The caller expires lots first.
"""

from collections.abc import Iterable, Sequence

import msgspec

from minibill.db.queries import Row, queries
from minibill.db.sqlite import Connection
from minibill.ledger.account_cache import CachedAccount
from minibill.ledger.limits import LOTS_PER_SPEND_MAX
from minibill.ledger.posting import DEFAULT_POOL, Balances

SQL = queries("ledger")


class Draw(msgspec.Struct, frozen=True, gc=False):
    """Credits to take from one lot; `left_micro` remain available in it."""

    lot_id: int
    pool_id: str
    amount_micro: int
    left_micro: int
    expires_at_us: int | None


def pools_of(pool_id: str) -> tuple[str, ...]:
    """Return the pools that a spend from this pool draws on, in order."""
    return (pool_id,) if pool_id == DEFAULT_POOL else (pool_id, DEFAULT_POOL)


def spendable_micro(balances: Balances, account_id: int, pool_id: str) -> int:
    """Return the available credits of all pools that a spend from this pool draws on."""
    own_micro = balances[account_id, pool_id].available_micro
    return own_micro if pool_id == DEFAULT_POOL else own_micro + balances[account_id, DEFAULT_POOL].available_micro


def choose_draws(
    conn: Connection, account: CachedAccount, *, pool_id: str, amount_micro: int, lots_max: int = LOTS_PER_SPEND_MAX
) -> list[Draw]:
    """Choose up to `lots_max` lots for an amount, in drawdown order. They may hold less than the amount. Writes nothing."""
    draws: list[Draw] = []
    left_micro = amount_micro
    for pool in pools_of(pool_id):
        if not left_micro or len(draws) == lots_max:
            break
        first = account.first_lots.get(pool)
        if first is not None and first.available_micro >= left_micro:
            draws.append(Draw(first.lot_id, pool, left_micro, first.available_micro - left_micro, first.expires_at_us))
            break
        # Row by row: most spends need one or two lots of possibly thousands.
        rows = SQL.lots_in_drawdown_order.run(conn, account_id=account.account_id, pool_id=pool)
        while left_micro and len(draws) != lots_max and (row := rows.fetchone()):
            lot_id, lot_available_micro, expires_at_us = row
            taken_micro = min(left_micro, lot_available_micro)
            draws.append(Draw(lot_id, pool, taken_micro, lot_available_micro - taken_micro, expires_at_us))
            left_micro -= taken_micro
    return draws


def lots_in_drawdown_order(conn: Connection, account_id: int, pool_id: str) -> Iterable[Row]:
    """Yield key, available micro-units and expiry of the lots of a pool, row by row; write nothing before the last one."""
    query = SQL.lots_in_drawdown_order
    # Another statement would end the rows on the writer's shared cursor.
    return conn.cursor().execute(query.sql, query.values({"account_id": account_id, "pool_id": pool_id}))


def consume(conn: Connection, draws: Sequence[Draw]) -> None:
    """Move the credits of draws from available to consumed. There is one draw per lot."""
    SQL.move_lot.many(conn, [(-d.amount_micro, 0, d.amount_micro, 0, d.lot_id) for d in draws])


def record_draws(account: CachedAccount, draws: list[Draw]) -> None:
    """Update the cached first lots of an account after these draws were written."""
    for d in draws:
        account.record_draw(d.lot_id, d.pool_id, d.left_micro, d.expires_at_us)
