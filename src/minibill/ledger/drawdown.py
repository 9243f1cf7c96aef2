"""Which lots a spend draws on: the pool's own, then those of `general`, each in drawdown order. Source: contract, section 3.

What is due on the account must be settled first; the lots that are left are live.
"""

import msgspec

from minibill.db.queries import queries
from minibill.db.sqlite import Connection
from minibill.ledger.account_cache import CachedAccount
from minibill.ledger.limits import LOTS_PER_SPEND_MAX
from minibill.ledger.posting import DEFAULT_POOL, Balances

SQL = queries("ledger")


class Draw(msgspec.Struct, frozen=True, gc=False):
    """What is taken from one lot, which has `left_micro` then."""

    lot_id: int
    pool_id: str
    amount_micro: int
    left_micro: int
    expires_at_us: int | None


def pools_of(pool_id: str) -> tuple[str, ...]:
    """The pools that a spend from this one may draw on, in their order."""
    return (pool_id,) if pool_id == DEFAULT_POOL else (pool_id, DEFAULT_POOL)


def available_micro(balances: Balances, account_id: int, pool_id: str) -> int:
    """What a spend from this pool can draw on."""
    own_micro = balances[account_id, pool_id].available_micro
    return own_micro if pool_id == DEFAULT_POOL else own_micro + balances[account_id, DEFAULT_POOL].available_micro


def draw(
    conn: Connection, spender: CachedAccount, *, pool_id: str, amount_micro: int, lots_max: int = LOTS_PER_SPEND_MAX
) -> list[Draw]:
    """Choose at most `lots_max` lots for an amount, in drawdown order; less than the amount when they have less.

    Changes nothing.
    """
    draws: list[Draw] = []
    left_micro = amount_micro
    for pool in pools_of(pool_id):
        if not left_micro or len(draws) == lots_max:
            break
        front = spender.first_lots.get(pool)
        if front is not None and front.available_micro >= left_micro:
            draws.append(Draw(front.lot_id, pool, left_micro, front.available_micro - left_micro, front.expires_at_us))
            break
        # Row by row: most spends need one or two of what may be thousands.
        rows = conn.execute(SQL.lots_in_drawdown_order.sql, (spender.account_id, pool))
        while left_micro and len(draws) != lots_max and (row := rows.fetchone()):
            lot_id, lot_available_micro, expires_at_us = row
            taken_micro = min(left_micro, lot_available_micro)
            draws.append(Draw(lot_id, pool, taken_micro, lot_available_micro - taken_micro, expires_at_us))
            left_micro -= taken_micro
    return draws


def record_draw(spender: CachedAccount, draws: list[Draw]) -> None:
    """What was chosen is taken."""
    for d in draws:
        spender.record_draw(d.lot_id, d.pool_id, d.left_micro, d.expires_at_us)
