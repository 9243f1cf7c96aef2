"""Entries: every change of an account's credits is an entry of the ledger.

An operation drafts entries. `post` numbers them within their pool, adds the resulting balances and inserts them. Triggers
check both and update `credit_balances`.
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
    """An entry before it has a number: the changes of one pool's available and reserved credits, in micro-units."""

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
    charge_id: int | None = None


class PoolBalance(msgspec.Struct, frozen=True, gc=False):
    """The balance of an account's pool after its newest entry."""

    available_micro: int
    reserved_micro: int
    entry_seq: int


EMPTY = PoolBalance(0, 0, 0)


class LotUpdates:
    """Changes to the parts of lots, added up per lot and written together."""

    __slots__ = ("_moves", "_revoked")

    def __init__(self) -> None:
        self._moves: dict[int, list[int]] = {}
        self._revoked: dict[int, int] = {}

    def add(self, lot_id: int, *, available: int = 0, reserved: int = 0, consumed: int = 0, expired: int = 0) -> None:
        """Add micro-units to the parts of a lot; negative amounts subtract."""
        move = self._moves.get(lot_id)
        if move is None:
            self._moves[lot_id] = [available, reserved, consumed, expired]
            return
        move[0] += available
        move[1] += reserved
        move[2] += consumed
        move[3] += expired

    def revoke_reserved(self, lot_id: int, returned_micro: int) -> None:
        """Revoke credits that a reservation returns to a revoked lot."""
        self._revoked[lot_id] = self._revoked.get(lot_id, 0) + returned_micro

    def write(self, conn: Connection) -> None:
        """Write all changes. Call it before the entries are posted: triggers compare them."""
        SQL.move_lot.many(conn, [(*move, lot_id) for lot_id, move in self._moves.items()])
        if self._revoked:
            rows = [(returned_micro, returned_micro, lot_id) for lot_id, returned_micro in self._revoked.items()]
            SQL.return_to_revoked_lot.many(conn, rows)


# By account and pool; only the pools that were loaded. A pool that the account does not have is `EMPTY`.
Balances = dict[tuple[int, str], PoolBalance]


def load_balances(conn: Connection, pools: Collection[tuple[int, str]]) -> Balances:
    """Load the balances of these pools, given as (account, pool)."""
    balances = dict.fromkeys(pools, EMPTY)
    for account_id, pool_id, *balance in SQL.balances_of_pools.all(conn, pools=encode(pools).decode()) if pools else ():
        balances[account_id, pool_id] = PoolBalance(*balance)
    return balances


def load_balances_of_spend(conn: Connection, account_id: int, pool_id: str) -> Balances:
    """Load the balances of the pools that a spend draws on: its own and `general`."""
    balances = {(account_id, pool_id): EMPTY, (account_id, DEFAULT_POOL): EMPTY}
    for pool, *balance in SQL.balances_of_spend.all(conn, account_id=account_id, pool_id=pool_id):
        balances[account_id, pool] = PoolBalance(*balance)
    return balances


def existing_pool_or_default(balances: Balances, account_id: int, pool_id: str) -> str:
    """Return the pool, or `general` if the account does not have it.

    Shadow entries and debts move no credits; recorded this way, they never create a pool.
    """
    return pool_id if balances[account_id, pool_id].entry_seq else DEFAULT_POOL


def post(conn: Connection, entries: Sequence[EntryDraft], *, balances: Balances, now_us: int) -> None:
    """Insert entries in their order, and update `balances`, which must hold the pools of all of them.

    The caller updates the lots.
    """
    rows: list[Row] = []
    for e in entries:
        key = (e.account_id, e.pool_id)
        before = balances[key]
        available_micro = before.available_micro + e.available_delta_micro
        reserved_micro = before.reserved_micro + e.reserved_delta_micro
        entry_seq = before.entry_seq + 1
        balances[key] = PoolBalance(available_micro, reserved_micro, entry_seq)
        rows.append((
            e.account_id, e.pool_id, entry_seq, e.entry_type, e.lot_id, e.reservation_id, e.charge_id, e.amount_micro,
            e.available_delta_micro, e.reserved_delta_micro, available_micro, reserved_micro, now_us, e.description,
            e.metadata,
        ))  # fmt: skip
    new = next_ids(conn)
    new.newest_entry += len(rows)
    if new.first_entry is not None and rows:
        SQL.insert_first_entries.many(conn, [(entry_id, *row) for entry_id, row in enumerate(rows, new.first_entry)])
        new.first_entry = None
    else:
        SQL.insert_entries.many(conn, rows)


def amounts(balance: PoolBalance) -> PoolAmounts:
    """Return a balance as the API shows it."""
    return PoolAmounts(str(balance.available_micro), str(balance.reserved_micro))
