"""The end of a reservation that its holder asks for: finalize charges what the work cost, release charges nothing."""

import msgspec

from minibill.api.types import encode
from minibill.core import ids
from minibill.core.clock import format_time
from minibill.core.problems import ReservationConflict, ReservationNotPending
from minibill.core.write_result import WriteResult
from minibill.db.queries import queries
from minibill.db.sqlite import Connection
from minibill.ledger.account_cache import CachedReservation, ReservationRow, account_cache_of
from minibill.ledger.debts import incur_debt
from minibill.ledger.drawdown import draw, pools_of, record_draw
from minibill.ledger.expiry import return_credits
from minibill.ledger.limits import LOTS_PER_SPEND_MAX, require_within_ceiling
from minibill.ledger.posting import Balances, EntryDraft, LotUpdates, amounts, pool_to_record_in, post
from minibill.ledger.pricing import metadata_with_discount
from minibill.ledger.reservations import reservation_for_update
from minibill.ledger.schemas import AdminFinalizeBody, Finalized, PoolAmounts, Released

SQL = queries("reservations")


class Charge(msgspec.Struct, frozen=True, gc=False):
    """What a cost comes to against what was held, all in micro-units."""

    finalized_micro: int
    overrun_micro: int
    absorbed_micro: int


def charge(cost_micro: int, *, held_micro: int, billing_mode: str) -> Charge:
    """Splits a cost: live mode absorbs what is above the reservation, the others count it as overrun."""
    over_micro = max(0, cost_micro - held_micro)
    if billing_mode == "live":
        return Charge(cost_micro - over_micro, 0, over_micro)
    return Charge(cost_micro - over_micro, over_micro, 0)


def finalize(
    conn: Connection, now_us: int, *, reservation_id: str, body: AdminFinalizeBody, ceiling_micro: int, closed_by: str
) -> WriteResult:
    """Charges a reservation with what the work cost and gives the rest back; again with the same cost is the same answer.

    Raises `ReservationNotFound`, `ReservationNotPending`, `ReservationConflict` for another cost than before,
    `AmountTooLarge`, and `ExpiryDue`. Source: contract, section 3.
    """
    actual_cost_micro = int(body.actual_cost_micro)
    hold = reservation_for_update(conn, reservation_id, now_us=now_us)
    row, balances = hold.row, hold.spender.balances
    if row.status == "finalized":
        return _finalized_before(row, actual_cost_micro)
    _require_pending(row)
    charged, metadata = _charge(row, actual_cost_micro), None
    if row.community_id is not None:
        metadata = metadata_with_discount(None, row.discount, actual_cost_micro)
    soft_overrun_micro = charged.overrun_micro if row.billing_mode == "soft" else 0
    require_within_ceiling(charged.finalized_micro + soft_overrun_micro, ceiling_micro)

    before = dict(balances)
    if row.billing_mode == "shadow":
        movements = [_shadow(row, actual_cost_micro, charged, balances)]
    else:
        movements = _spend_and_return(conn, hold, charged.finalized_micro, metadata=metadata, now_us=now_us)
    post(conn, movements, balances=balances, now_us=now_us)
    if soft_overrun_micro:
        _charge_overrun(conn, hold, soft_overrun_micro, metadata=metadata, now_us=now_us)
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
    account_cache_of(conn).drop_hold(row.id)
    hold.spender.has_ended_a_reservation()
    answer = _finalized(row, charged, now_us)
    details = lambda: {"actualCostMicro": str(actual_cost_micro), "answer": answer, **_moved(row, before, balances)}
    return WriteResult(answer, "reservation.finalize", "reservation", reservation_id, details)


def release(conn: Connection, now_us: int, *, reservation_id: str, closed_by: str) -> WriteResult:
    """Gives all of a reservation back; again is the same answer, and so is one that has expired: its credits are back.

    Raises `ReservationNotFound`, `ReservationNotPending` once it is finalized, and `ExpiryDue`. Source: contract, section 3.
    """
    hold = reservation_for_update(conn, reservation_id, now_us=now_us)
    row, balances = hold.row, hold.spender.balances
    before = dict(balances)
    if row.status not in ("released", "expired"):
        _require_pending(row)
        movements = _spend_and_return(conn, hold, 0, now_us=now_us)
        post(conn, movements, balances=balances, now_us=now_us)
        SQL.release_reservation.run(conn, reservation_id=row.id, closed_by=closed_by, now_us=now_us)
        account_cache_of(conn).drop_hold(row.id)
        hold.spender.has_ended_a_reservation()
    account_id = ids.encode(ids.ACCOUNT, row.account_id)
    answer = Released(reservation_id, account_id, str(row.held_micro))
    details = lambda: {"accountId": account_id, "releasedMicro": answer.released_micro, **_moved(row, before, balances)}
    return WriteResult(answer, "reservation.release", "reservation", reservation_id, details)


def _charge(row: ReservationRow, actual_cost_micro: int) -> Charge:
    """What a list cost comes to for this reservation, at the discount that it keeps."""
    discount_micro = 0 if row.community_id is None else row.discount.on(actual_cost_micro)
    return charge(actual_cost_micro - discount_micro, held_micro=row.held_micro, billing_mode=row.billing_mode)


def _moved(row: ReservationRow, before: Balances, after: Balances) -> dict[str, dict[str, PoolAmounts]]:
    """The balances before and after of the pools that the reservation may touch, for the audit log."""
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
    conn: Connection, hold: CachedReservation, cost_micro: int, *, metadata: str | None = None, now_us: int
) -> list[EntryDraft]:
    """Takes a cost out of what is held, in the order in which it was reserved, and gives the rest back to its lots."""
    spender, row = hold.spender, hold.row
    moves = LotUpdates()
    spent: list[EntryDraft] = []
    back: list[EntryDraft] = []
    left_micro = cost_micro
    for lot_id, reserved_micro, pool_id, expires_at_us, revoked_at_us in hold.lots:
        spent_micro = min(left_micro, reserved_micro)
        left_micro -= spent_micro
        if spent_micro:
            moves.add(lot_id, reserved=-spent_micro, consumed=spent_micro)
            spent.append(
                EntryDraft(
                    row.account_id, pool_id, "finalize", -spent_micro, 0, -spent_micro, lot_id, row.id, None, metadata
                )
            )  # fmt: skip
        if spent_micro < reserved_micro:
            back.append(
                return_credits(
                    row.account_id, pool_id, lot_id, row.id, reserved_micro - spent_micro,
                    expires_at_us=expires_at_us, revoked=revoked_at_us is not None, at_us=now_us, moves=moves,
                    metadata=metadata,
                )
            )  # fmt: skip
            if returned_micro := back[-1].available_delta_micro:
                spender.record_return(lot_id, pool_id, returned_micro, expires_at_us)
    moves.write(conn)
    return spent + back


def _charge_overrun(
    conn: Connection, hold: CachedReservation, overrun_micro: int, *, metadata: str | None, now_us: int
) -> None:
    """Charges what is above the reservation to lots in drawdown order, and the rest as a debt.

    What the reservation holds counts toward the lots that it may draw on.
    """
    spender, row = hold.spender, hold.row
    lots_max = LOTS_PER_SPEND_MAX - len(hold.lots)
    draws = draw(conn, spender, pool_id=row.pool_id, amount_micro=overrun_micro, lots_max=lots_max)
    moves = LotUpdates()
    for d in draws:
        moves.add(d.lot_id, available=-d.amount_micro, consumed=d.amount_micro)
    moves.write(conn)
    movements = [
        EntryDraft(
            row.account_id, d.pool_id, "finalize", -d.amount_micro, -d.amount_micro, 0, d.lot_id, row.id, None, metadata
        )
        for d in draws
    ]
    owed_micro = overrun_micro - sum(d.amount_micro for d in draws)
    if owed_micro:
        movements.append(
            incur_debt(
                conn,
                account_id=row.account_id,
                pool_id=pool_to_record_in(spender.balances, row.account_id, row.pool_id),
                reservation_id=row.id,
                owed_micro=owed_micro,
                metadata=metadata,
                now_us=now_us,
            )
        )
    post(conn, movements, balances=spender.balances, now_us=now_us)
    record_draw(spender, draws)


def _shadow(row: ReservationRow, actual_cost_micro: int, charged: Charge, balances: Balances) -> EntryDraft:
    figures = {
        "actualCostMicro": str(actual_cost_micro),
        "finalizedMicro": str(charged.finalized_micro),
        "overrunMicro": str(charged.overrun_micro),
    }
    metadata = encode(figures).decode()
    recorded_in = pool_to_record_in(balances, row.account_id, row.pool_id)
    return EntryDraft(row.account_id, recorded_in, "shadow_finalize", 0, 0, 0, None, row.id, metadata=metadata)


def _finalized_before(row: ReservationRow, actual_cost_micro: int) -> WriteResult:
    assert row.actual_cost_micro is not None
    assert row.closed_at_us is not None
    if row.actual_cost_micro != actual_cost_micro:
        raise ReservationConflict(
            f"the reservation was finalized with {row.actual_cost_micro} micro-units",
            finalized_with_micro=str(row.actual_cost_micro),
            actual_cost_micro=str(actual_cost_micro),
        )
    answer = _finalized(row, _charge(row, actual_cost_micro), row.closed_at_us)
    details = lambda: {"accountId": answer.account_id, "duplicate": True}
    return WriteResult(answer, "reservation.finalize", "reservation", answer.reservation_id, details)


def _finalized(row: ReservationRow, charged: Charge, finalized_at_us: int) -> Finalized:
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
