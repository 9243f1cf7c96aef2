"""Debts: what soft mode charged beyond what was there. Any later credits pay them first, oldest first."""

import msgspec

from minibill.api.types import encode
from minibill.core import ids
from minibill.core.clock import format_time
from minibill.core.money import MAX_MICRO
from minibill.core.problems import AmountTooLarge
from minibill.db.new_ids import next_ids
from minibill.db.queries import Row, queries
from minibill.db.sqlite import Connection
from minibill.ledger.posting import EntryDraft, LotUpdates
from minibill.ledger.schemas import Debt

SQL = queries("reservations")


class PayableLot(msgspec.Struct):
    """A lot that was just made, and what it still has."""

    lot_id: int
    account_id: int
    pool_id: str
    available_micro: int


def debt_response(row: Row) -> Debt:
    """A debt as it is answered, from a row of `debts_page`."""
    key, account_id, pool_id, reservation_id, original_micro, paid_micro, created_at_us = row
    return Debt(
        debt_id=ids.encode(ids.DEBT, key),
        account_id=ids.encode(ids.ACCOUNT, account_id),
        pool_id=pool_id,
        reservation_id=ids.encode(ids.RESERVATION, reservation_id),
        charge_id=None,
        refund_id=None,
        original_micro=str(original_micro),
        paid_micro=str(paid_micro),
        created_at=format_time(created_at_us),
    )


def incur_debt(
    conn: Connection,
    *,
    account_id: int,
    pool_id: str,
    reservation_id: int,
    owed_micro: int,
    metadata: str | None,
    now_us: int,
) -> EntryDraft:
    """Writes a debt down; answers the entry that says so. Raises `AmountTooLarge` past what an account can owe."""
    row = SQL.open_debt_of_account.one(conn, account_id=account_id)
    assert row is not None
    if row[0] + owed_micro > MAX_MICRO:
        raise AmountTooLarge(
            f"an account owes at most {MAX_MICRO} micro-units", debt_micro=str(row[0]), requested_micro=str(owed_micro)
        )
    new = next_ids(conn)
    debt_id = new.debts
    new.debts += 1
    SQL.insert_debt.run(
        conn,
        debt_id=debt_id,
        account_id=account_id,
        reservation_id=reservation_id,
        original_micro=owed_micro,
        now_us=now_us,
    )
    return EntryDraft(account_id, pool_id, "debt_incurred", -owed_micro, 0, 0, None, reservation_id, metadata=metadata)


def pay_debts(conn: Connection, lots: list[PayableLot], *, only: int | None = None) -> list[EntryDraft]:
    """Pays the open debts of the accounts of new lots as far as these go; answers the entries that say so.

    `only` is the key of the one debt that may be paid, whatever else is open.
    """
    account_ids = encode([lot.account_id for lot in lots]).decode()
    open_debts: dict[int, list[Row]] = {}
    for row in SQL.open_debts.all(conn, account_ids=account_ids):
        if only is None or row[1] == only:
            open_debts.setdefault(row[0], []).append(row)
    if not open_debts:
        return []
    moves, movements, payments = LotUpdates(), list[EntryDraft](), list[tuple[int, int]]()
    for lot in lots:
        # A batch has one lot an account; a later one finds what the first left over by asking again.
        for _, debt_id, reservation_id, owed_micro in open_debts.pop(lot.account_id, ()):
            paid_micro = min(owed_micro, lot.available_micro)
            if not paid_micro:
                break
            lot.available_micro -= paid_micro
            moves.add(lot.lot_id, available=-paid_micro, consumed=paid_micro)
            payments.append((paid_micro, debt_id))
            metadata = encode({"debtReservationId": ids.encode(ids.RESERVATION, reservation_id)}).decode()
            movements.append(
                EntryDraft(
                    lot.account_id, lot.pool_id, "debt_paid", -paid_micro, -paid_micro, 0, lot.lot_id, metadata=metadata
                )
            )  # fmt: skip
    moves.write(conn)
    SQL.pay_debt.many(conn, payments)
    return movements
