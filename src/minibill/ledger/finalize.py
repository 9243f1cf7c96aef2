"""Finalize and release: a caller ends a reservation. Finalize charges the actual cost, release charges nothing."""

import msgspec

from minibill.api.types import encode
from minibill.core import ids
from minibill.core.clock import format_time
from minibill.core.problems import ReservationConflict, ReservationNotPending
from minibill.core.write_result import WriteResult
from minibill.db.cache import keep_cache
from minibill.db.queries import queries
from minibill.db.sqlite import Connection
from minibill.ledger.account_cache import CachedReservation, account_cache_of
from minibill.ledger.debts import incur_debt
from minibill.ledger.drawdown import choose_draws, pools_of, record_draws
from minibill.ledger.expiry import return_credits
from minibill.ledger.limits import LOTS_PER_SPEND_MAX, require_within_ceiling
from minibill.ledger.posting import Balances, EntryDraft, LotUpdates, amounts, existing_pool_or_default, post
from minibill.ledger.pricing import metadata_with_discount
from minibill.ledger.reservations import reservation_for_update
from minibill.ledger.rows import ReservationRow
from minibill.ledger.schemas import AdminFinalizeBody, Finalized, PoolAmounts, Released

SQL = queries("reservations")


class SplitCost(msgspec.Struct, frozen=True, gc=False):
    """A cost split by the reserved amount, in micro-units."""

    finalized_micro: int
    overrun_micro: int
    absorbed_micro: int


def split_cost(cost_micro: int, *, held_micro: int, billing_mode: str) -> SplitCost:
    """Split a cost. Live mode absorbs the part above the reserved amount; the other modes count it as overrun."""
    over_micro = max(0, cost_micro - held_micro)
    if billing_mode == "live":
        return SplitCost(cost_micro - over_micro, 0, over_micro)
    return SplitCost(cost_micro - over_micro, over_micro, 0)


def finalize(
    conn: Connection, now_us: int, *, reservation_id: str, body: AdminFinalizeBody, ceiling_micro: int, closed_by: str
) -> WriteResult:
    """Charge the actual cost to a reservation and return the rest. The same cost again returns the same response.

    Raises `ReservationNotFound`, `ReservationNotPending`, `ReservationConflict` for another cost than before,
    `AmountTooLarge` and `ExpiryDue`. See docs/concepts/ledger.md.
    """
    actual_cost_micro = int(body.actual_cost_micro)
    reservation = reservation_for_update(conn, reservation_id, now_us=now_us)
    row, account, balances = reservation.row, reservation.account, reservation.account.balances
    if row.status == "finalized":
        return _repeat_finalize(row, actual_cost_micro)
    _require_pending(row)
    charged, metadata = _split_cost_of(row, actual_cost_micro), None
    if row.community_id is not None:
        metadata = metadata_with_discount(None, row.discount, actual_cost_micro)
    soft_overrun_micro = charged.overrun_micro if row.billing_mode == "soft" else 0
    require_within_ceiling(charged.finalized_micro + soft_overrun_micro, ceiling_micro)

    before = dict(balances)
    if row.billing_mode == "shadow":
        entries = [_shadow(row, actual_cost_micro, charged, balances)]
    else:
        entries = _spend_and_return(conn, reservation, charged.finalized_micro, metadata=metadata, now_us=now_us)
    post(conn, entries, balances=balances, now_us=now_us)
    if soft_overrun_micro:
        _charge_overrun(conn, reservation, soft_overrun_micro, metadata=metadata, now_us=now_us)
    SQL.finalize_reservation.run(
        conn,
        reservation_id=row.id,
        actual_cost_micro=actual_cost_micro,
        finalized_micro=charged.finalized_micro,
        overrun_micro=charged.overrun_micro,
        absorbed_micro=charged.absorbed_micro,
        closed_by=closed_by,
        now_us=now_us,
    )
    account_cache_of(conn).remove_reservation(row.id)
    account.record_end_of_reservation()
    keep_cache(conn)
    response = _finalized(row, charged, now_us)
    details = lambda: {
        "actualCostMicro": str(actual_cost_micro),
        "answer": response,
        **_before_and_after(row, before, balances),
    }
    return WriteResult(response, "reservation.finalize", "reservation", reservation_id, details)


def release(conn: Connection, now_us: int, *, reservation_id: str, closed_by: str) -> WriteResult:
    """Return all credits of a reservation. A released or expired one gets the same response, and nothing is written.

    Raises `ReservationNotFound`, `ReservationNotPending` if it is finalized, and `ExpiryDue`.
    """
    reservation = reservation_for_update(conn, reservation_id, now_us=now_us)
    row, account, balances = reservation.row, reservation.account, reservation.account.balances
    before = dict(balances)
    if row.status not in ("released", "expired"):
        _require_pending(row)
        entries = _spend_and_return(conn, reservation, 0, now_us=now_us)
        post(conn, entries, balances=balances, now_us=now_us)
        SQL.release_reservation.run(conn, reservation_id=row.id, closed_by=closed_by, now_us=now_us)
        account_cache_of(conn).remove_reservation(row.id)
        account.record_end_of_reservation()
        keep_cache(conn)
    account_id = ids.encode(ids.ACCOUNT, row.account_id)
    response = Released(reservation_id, account_id, str(row.held_micro))
    details = lambda: {
        "accountId": account_id,
        "releasedMicro": response.released_micro,
        **_before_and_after(row, before, balances),
    }
    return WriteResult(response, "reservation.release", "reservation", reservation_id, details)


def _split_cost_of(row: ReservationRow, actual_cost_micro: int) -> SplitCost:
    """Apply the reservation's discount to a cost at list price, and split the result."""
    discount_micro = 0 if row.community_id is None else row.discount.on(actual_cost_micro)
    return split_cost(actual_cost_micro - discount_micro, held_micro=row.held_micro, billing_mode=row.billing_mode)


def _before_and_after(row: ReservationRow, before: Balances, after: Balances) -> dict[str, dict[str, PoolAmounts]]:
    """Return the balances of the reservation's pools for the audit log."""
    return {
        name: {
            pool: amounts(balance) for pool in pools_of(row.pool_id) if (balance := balances[row.account_id, pool]).entry_seq
        }
        for name, balances in (("before", before), ("after", after))
    }


def _require_pending(row: ReservationRow) -> None:
    if row.status != "pending":
        raise ReservationNotPending(
            f"the reservation is {row.status}",
            reservation_id=ids.encode(ids.RESERVATION, row.id),
            reservation_status=row.status,
        )


def _spend_and_return(
    conn: Connection, reservation: CachedReservation, cost_micro: int, *, metadata: str | None = None, now_us: int
) -> list[EntryDraft]:
    """Consume a cost from the reserved lots, in the order in which they were reserved, and return the rest to them."""
    row = reservation.row
    lot_updates = LotUpdates()
    spent: list[EntryDraft] = []
    returned: list[EntryDraft] = []
    left_micro = cost_micro
    for lot_id, reserved_micro, pool_id, expires_at_us, revoked_at_us in reservation.lots:
        spent_micro = min(left_micro, reserved_micro)
        left_micro -= spent_micro
        if spent_micro:
            lot_updates.add(lot_id, reserved=-spent_micro, consumed=spent_micro)
            spent.append(
                EntryDraft(
                    row.account_id, pool_id, "finalize", -spent_micro, 0, -spent_micro, lot_id, row.id, None, metadata
                )
            )  # fmt: skip
        if spent_micro < reserved_micro:
            entry = return_credits(
                row.account_id, pool_id, lot_id, row.id, reserved_micro - spent_micro,
                expires_at_us=expires_at_us, revoked=revoked_at_us is not None, at_us=now_us, lot_updates=lot_updates,
                metadata=metadata,
            )  # fmt: skip
            returned.append(entry)
            if entry.available_delta_micro:
                reservation.account.record_return(lot_id, pool_id, entry.available_delta_micro, expires_at_us)
    lot_updates.write(conn)
    return spent + returned


def _charge_overrun(
    conn: Connection, reservation: CachedReservation, overrun_micro: int, *, metadata: str | None, now_us: int
) -> None:
    """Charge an overrun to further lots in drawdown order, and the rest as a debt.

    The reserved lots count toward the limit of lots per spend.
    """
    account, row = reservation.account, reservation.row
    lots_max = LOTS_PER_SPEND_MAX - len(reservation.lots)
    draws = choose_draws(conn, account, pool_id=row.pool_id, amount_micro=overrun_micro, lots_max=lots_max)
    lot_updates = LotUpdates()
    for d in draws:
        lot_updates.add(d.lot_id, available=-d.amount_micro, consumed=d.amount_micro)
    lot_updates.write(conn)
    entries = [
        EntryDraft(
            row.account_id, d.pool_id, "finalize", -d.amount_micro, -d.amount_micro, 0, d.lot_id, row.id, None, metadata
        )
        for d in draws
    ]
    owed_micro = overrun_micro - sum(d.amount_micro for d in draws)
    if owed_micro:
        entries.append(
            incur_debt(
                conn,
                account_id=row.account_id,
                pool_id=existing_pool_or_default(account.balances, row.account_id, row.pool_id),
                reservation_id=row.id,
                owed_micro=owed_micro,
                metadata=metadata,
                now_us=now_us,
            )
        )
    post(conn, entries, balances=account.balances, now_us=now_us)
    record_draws(account, draws)


def _shadow(row: ReservationRow, actual_cost_micro: int, charged: SplitCost, balances: Balances) -> EntryDraft:
    figures = {
        "actualCostMicro": str(actual_cost_micro),
        "finalizedMicro": str(charged.finalized_micro),
        "overrunMicro": str(charged.overrun_micro),
    }
    metadata = encode(figures).decode()
    entry_pool = existing_pool_or_default(balances, row.account_id, row.pool_id)
    return EntryDraft(row.account_id, entry_pool, "shadow_finalize", 0, 0, 0, None, row.id, metadata=metadata)


def _repeat_finalize(row: ReservationRow, actual_cost_micro: int) -> WriteResult:
    assert row.actual_cost_micro is not None
    assert row.closed_at_us is not None
    if row.actual_cost_micro != actual_cost_micro:
        raise ReservationConflict(
            f"the reservation was finalized with a cost of {row.actual_cost_micro} micro-units",
            finalized_with_micro=str(row.actual_cost_micro),
            actual_cost_micro=str(actual_cost_micro),
        )
    response = _finalized(row, _split_cost_of(row, actual_cost_micro), row.closed_at_us)
    details = lambda: {"accountId": response.account_id, "duplicate": True}
    return WriteResult(response, "reservation.finalize", "reservation", response.reservation_id, details)


def _finalized(row: ReservationRow, charged: SplitCost, finalized_at_us: int) -> Finalized:
    return Finalized(
        reservation_id=ids.encode(ids.RESERVATION, row.id),
        account_id=ids.encode(ids.ACCOUNT, row.account_id),
        finalized_micro=str(charged.finalized_micro),
        released_micro=str(row.held_micro - charged.finalized_micro),
        overrun_micro=str(charged.overrun_micro),
        absorbed_micro=str(charged.absorbed_micro),
        billing_mode=row.billing_mode,
        finalized_at=format_time(finalized_at_us),
    )
