"""Revoking lots: what is available of them is taken back now; what is reserved, when it comes back (settle.py, finalize.py).

Who may take back what, and why, is the caller's business; so is what is said of it elsewhere.
"""

from typing import NamedTuple

from minibill.api.types import encode
from minibill.db.queries import queries
from minibill.db.sqlite import Connection
from minibill.ledger.expiry import require_settled
from minibill.ledger.posting import EntryDraft, load_balances, post

SQL = queries("ledger")


class RevokedLot(NamedTuple):
    """What a lot came to when it was revoked, in micro-units, and what its account had available in its pool."""

    account_id: int
    pool_id: str
    revoked_micro: int
    consumed_micro: int
    reserved_micro: int
    available_before_micro: int
    available_after_micro: int


def revoke_lots(conn: Connection, lots: dict[int, int], *, description: str | None, now_us: int) -> dict[int, RevokedLot]:
    """Takes back what is neither consumed nor reserved of lots that were not revoked before; answers each by its key.

    `lots` are the accounts of the lots; each account has one of them. Raises `ExpiryDue` where anything is due on the
    accounts: an expired lot has nothing to take back. `description` goes into the entries.
    """
    require_settled(conn, list(lots.values()), now_us=now_us)
    keys = encode(list(lots)).decode()
    rows = SQL.lots_to_revoke.all(conn, lot_ids=keys)
    SQL.revoke_lots.run(conn, lot_ids=keys, now_us=now_us)
    balances = load_balances(conn, [(account_id, pool_id) for _, account_id, pool_id, *_ in rows])
    before = dict(balances)
    movements = [
        EntryDraft(account_id, pool_id, "revoke", -available_micro, -available_micro, 0, lot_id, None, description)
        for lot_id, account_id, pool_id, available_micro, _, _ in rows
        if available_micro
    ]
    post(conn, movements, balances=balances, now_us=now_us)
    return {
        lot_id: RevokedLot(
            account_id, pool_id, available_micro, consumed_micro, reserved_micro,
            before[account_id, pool_id].available_micro, balances[account_id, pool_id].available_micro,
        )
        for lot_id, account_id, pool_id, available_micro, consumed_micro, reserved_micro in rows
    }  # fmt: skip
