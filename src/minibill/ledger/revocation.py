"""Revoking lots: available credits are revoked now, reserved credits when a reservation returns them.

Returns are in expiry.py and finalize.py. The caller decides which lots are revoked, and updates its own tables.
"""

from typing import NamedTuple

from minibill.api.types import encode
from minibill.db.queries import queries
from minibill.db.sqlite import Connection
from minibill.ledger.expiry import require_no_expiry_due
from minibill.ledger.posting import EntryDraft, load_balances, post
from minibill.ledger.rows import LotToRevoke

SQL = queries("ledger")


class RevokedLot(NamedTuple):
    """The parts of a lot when it was revoked, and the available credits of its pool before and after; micro-units."""

    account_id: int
    pool_id: str
    revoked_micro: int
    consumed_micro: int
    reserved_micro: int
    available_before_micro: int
    available_after_micro: int


def revoke_lots(conn: Connection, lots: dict[int, int], *, description: str | None, now_us: int) -> dict[int, RevokedLot]:
    """Revoke the available credits of lots that were not revoked before; return the result by lot key.

    `lots` maps each lot to its account; each account has one of them. `description` goes into the entries. Raises
    `ExpiryDue`: the credits of an expired lot expire, and are not revoked.
    """
    require_no_expiry_due(conn, list(lots.values()), now_us=now_us)
    keys = encode(list(lots)).decode()
    rows = [LotToRevoke(*row) for row in SQL.lots_to_revoke.all(conn, lot_ids=keys)]
    SQL.revoke_lots.run(conn, lot_ids=keys, now_us=now_us)
    balances = load_balances(conn, [(row.account_id, row.pool_id) for row in rows])
    before = dict(balances)
    entries = [
        EntryDraft(
            row.account_id, row.pool_id, "revoke", -row.available_micro, -row.available_micro, 0, row.id, None, description
        )
        for row in rows
        if row.available_micro
    ]
    post(conn, entries, balances=balances, now_us=now_us)
    return {
        row.id: RevokedLot(
            row.account_id, row.pool_id, row.available_micro, row.consumed_micro, row.reserved_micro,
            before[row.account_id, row.pool_id].available_micro, balances[row.account_id, row.pool_id].available_micro,
        )
        for row in rows
    }  # fmt: skip
