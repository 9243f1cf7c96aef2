"""Entries: the only way in which an account's credits move.

An operation says what moves; here each movement gets its place in the sequence of its account's pool and the balances that
it leaves. The database checks both, and moves `credit_balances` by the entry alone.
"""

from collections.abc import Collection, Sequence

import msgspec

from minibill.api.types import encode
from minibill.db.new_ids import next_ids
from minibill.db.queries import Row, queries
from minibill.db.sqlite import Connection
from minibill.ledger.schemas import PoolAmounts

SQL = queries("ledger")

DEFAULT_POOL = "general"


class EntryDraft(msgspec.Struct, frozen=True, gc=False):
    """One entry to be: what it does to the available and the reserved credits of an account's pool, about which lot."""

    account_id: int
    pool_id: str
    entry_type: str
    amount_micro: int
    available_delta_micro: int
    reserved_delta_micro: int
    lot_id: int | None = None
    reservation_id: int | None = None
    description: str | None = None
    metadata: str | None = None


class PoolBalance(msgspec.Struct, frozen=True, gc=False):
    """An account's pool after its newest entry."""

    available_micro: int
    reserved_micro: int
    entry_seq: int


EMPTY = PoolBalance(0, 0, 0)


class LotUpdates:
    """What an operation moves between the parts of lots, summed up by lot and written at once."""

    __slots__ = ("_moves", "_revoked")

    def __init__(self) -> None:
        self._moves: dict[int, list[int]] = {}
        self._revoked: dict[int, int] = {}

    def add(self, lot_id: int, *, available: int = 0, reserved: int = 0, consumed: int = 0, expired: int = 0) -> None:
        """Adds micro-units to the parts of a lot, or takes them away."""
        move = self._moves.get(lot_id)
        if move is None:
            self._moves[lot_id] = [available, reserved, consumed, expired]
            return
        move[0] += available
        move[1] += reserved
        move[2] += consumed
        move[3] += expired

    def revoke_reserved(self, lot_id: int, returned_micro: int) -> None:
        """Credits that a reservation gives back to a lot that was revoked meanwhile."""
        self._revoked[lot_id] = self._revoked.get(lot_id, 0) + returned_micro

    def write(self, conn: Connection) -> None:
        """Writes them all; before the entries that speak of them."""
        SQL.move_lot.many(conn, [(*move, lot_id) for lot_id, move in self._moves.items()])
        if self._revoked:
            rows = [(returned_micro, returned_micro, lot_id) for lot_id, returned_micro in self._revoked.items()]
            SQL.return_to_revoked_lot.many(conn, rows)


# By account and pool. It holds the pools that were loaded and says nothing of others. One that the account does not have is
# `EMPTY`.
Balances = dict[tuple[int, str], PoolBalance]


def load_balances(conn: Connection, pools: Collection[tuple[int, str]]) -> Balances:
    """Load the balances of these pools, given as (account, pool)."""
    balances = dict.fromkeys(pools, EMPTY)
    for account_id, pool_id, *rest in SQL.balances_of_pools.all(conn, pools=encode(pools).decode()) if pools else ():
        balances[account_id, pool_id] = PoolBalance(*rest)
    return balances


def load_balances_of_spend(conn: Connection, account_id: int, pool_id: str) -> Balances:
    """Load the balances of the pools from which a spend draws: its own and `general`."""
    balances = {(account_id, pool_id): EMPTY, (account_id, DEFAULT_POOL): EMPTY}
    for pool, *rest in SQL.balances_of_spend.all(conn, account_id=account_id, pool_id=pool_id):
        balances[account_id, pool] = PoolBalance(*rest)
    return balances


def pool_to_record_in(balances: Balances, account_id: int, pool_id: str) -> str:
    """The pool of an entry that moves no credits: that of the request, or `general` where the account does not have it.

    So a shadow or a debt in a pool without credits begins no pool.
    """
    return pool_id if balances[account_id, pool_id].entry_seq else DEFAULT_POOL


def post(conn: Connection, movements: Sequence[EntryDraft], *, balances: Balances, now_us: int) -> None:
    """Writes the entries of these movements, in their order, and moves `balances` along.

    `balances` must hold the pools of all movements. Each lot's own parts are the caller's to change.
    """
    rows: list[Row] = []
    told = False
    for m in movements:
        told = told or m.description is not None or m.metadata is not None
        key = (m.account_id, m.pool_id)
        before = balances[key]
        available_micro = before.available_micro + m.available_delta_micro
        reserved_micro = before.reserved_micro + m.reserved_delta_micro
        entry_seq = before.entry_seq + 1
        balances[key] = PoolBalance(available_micro, reserved_micro, entry_seq)
        rows.append((
            m.account_id, m.pool_id, entry_seq, m.entry_type, m.lot_id, m.reservation_id, m.amount_micro,
            m.available_delta_micro, m.reserved_delta_micro, available_micro, reserved_micro, now_us,
        ))  # fmt: skip
    new = next_ids(conn)
    if told or new.first_entry is not None:
        rows = [(*row, m.description, m.metadata) for row, m in zip(rows, movements, strict=True)]
        if new.first_entry is None:
            SQL.insert_entries.many(conn, rows)
        elif rows:
            SQL.insert_first_entries.many(conn, [(entry_id, *row) for entry_id, row in enumerate(rows, new.first_entry)])
            new.first_entry = None
    else:
        SQL.insert_plain_entries.many(conn, rows)


def amounts(balance: PoolBalance) -> PoolAmounts:
    """A balance as it is answered."""
    return PoolAmounts(str(balance.available_micro), str(balance.reserved_micro))
