"""Debts: the parts of soft-mode spends that no credits covered. Later credits pay them first, the oldest first."""

from collections.abc import Sequence
from typing import NamedTuple

from minibill.api.types import encode
from minibill.core import ids
from minibill.core.clock import format_time
from minibill.core.money import MAX_MICRO
from minibill.core.problems import AmountTooLarge
from minibill.db.new_ids import next_ids
from minibill.db.queries import queries
from minibill.db.sqlite import Connection
from minibill.ledger.posting import EntryDraft, LotUpdates
from minibill.ledger.rows import DebtRow, OpenDebt
from minibill.ledger.schemas import Debt

SQL = queries("reservations")


class NewDebt(NamedTuple):
    """A debt to insert, of a reservation or of a charge."""

    account_id: int
    owed_micro: int
    reservation_id: int | None = None
    charge_id: int | None = None


def debt_response(row: DebtRow) -> Debt:
    """Return a debt as the API shows it."""
    return Debt(
        debt_id=ids.encode(ids.DEBT, row.id),
        account_id=ids.encode(ids.ACCOUNT, row.account_id),
        pool_id=row.pool_id,
        reservation_id=ids.optional(ids.RESERVATION, row.reservation_id),
        charge_id=ids.optional(ids.CHARGE, row.charge_id),
        refund_id=None,
        original_micro=str(row.original_micro),
        paid_micro=str(row.paid_micro),
        created_at=format_time(row.created_at_us),
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
    """Insert the debt of a reservation and return its entry.

    Raises `AmountTooLarge` if the account would owe more than 2^63-1.
    """
    require_room_for_debt(conn, account_id, owed_micro)
    insert_debts(conn, [NewDebt(account_id, owed_micro, reservation_id=reservation_id)], now_us=now_us)
    return EntryDraft(account_id, pool_id, "debt_incurred", -owed_micro, 0, 0, None, reservation_id, metadata=metadata)


def require_room_for_debt(conn: Connection, account_id: int, owed_micro: int) -> None:
    """Raise `AmountTooLarge` if the account would owe more than 2^63-1 with this debt."""
    row = SQL.open_debt_of_account.one(conn, account_id=account_id)
    assert row is not None
    (debt_micro,) = row
    if debt_micro + owed_micro > MAX_MICRO:
        raise AmountTooLarge(
            f"an account owes at most {MAX_MICRO} micro-units", debt_micro=str(debt_micro), requested_micro=str(owed_micro)
        )


def insert_debts(conn: Connection, debts: Sequence[NewDebt], *, now_us: int) -> None:
    """Insert debts. The caller posts their entries."""
    new = next_ids(conn)
    SQL.insert_debts.many(
        conn,
        [
            (debt_id, debt.account_id, debt.reservation_id, debt.charge_id, debt.owed_micro, now_us)
            for debt_id, debt in enumerate(debts, new.debts)
        ],
    )
    new.debts += len(debts)


def pay_debts(conn: Connection, new_credits: Sequence[EntryDraft], *, only_debt: int | None = None) -> list[EntryDraft]:
    """Pay the open debts of accounts from their new lots, as far as the credits suffice; return the entries.

    `new_credits` are the entries of the new lots, one lot per account. `only_debt` is the key of the only debt to pay.
    """
    open_debts: dict[int, list[OpenDebt]] = {}
    for row in SQL.open_debts.all(conn, account_ids=encode([credit.account_id for credit in new_credits]).decode()):
        debt = OpenDebt(*row)
        if only_debt is None or debt.id == only_debt:
            open_debts.setdefault(debt.account_id, []).append(debt)
    if not open_debts:
        return []
    lot_updates, entries, payments = LotUpdates(), list[EntryDraft](), list[tuple[int, int]]()
    for credit in new_credits:
        left_micro, lot_id = credit.available_delta_micro, credit.lot_id
        assert lot_id is not None
        for debt in open_debts.pop(credit.account_id, ()):
            paid_micro = min(debt.owed_micro, left_micro)
            if not paid_micro:
                break
            left_micro -= paid_micro
            lot_updates.add(lot_id, available=-paid_micro, consumed=paid_micro)
            payments.append((paid_micro, debt.id))
            metadata = encode(_origin(debt)).decode()
            entries.append(
                EntryDraft(
                    credit.account_id, credit.pool_id, "debt_paid", -paid_micro, -paid_micro, 0, lot_id, metadata=metadata
                )
            )  # fmt: skip
    lot_updates.write(conn)
    SQL.pay_debt.many(conn, payments)
    return entries


def _origin(debt: OpenDebt) -> dict[str, str]:
    if debt.charge_id is not None:
        return {"debtChargeId": ids.encode(ids.CHARGE, debt.charge_id)}
    assert debt.reservation_id is not None
    return {"debtReservationId": ids.encode(ids.RESERVATION, debt.reservation_id)}
