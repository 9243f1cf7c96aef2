"""Reservations: credits set aside but not yet spent. finalize.py finalizes and releases them, expiry.py expires them."""

from typing import Any

import msgspec

from minibill.api.decoding import object_text
from minibill.api.types import optional_time
from minibill.core import ids
from minibill.core.clock import US_PER_SECOND, format_time
from minibill.core.problems import (
    ReservationNotFound,
    TooManyReservations,
)
from minibill.core.write_result import WriteResult
from minibill.db.cache import keep_cache
from minibill.db.new_ids import next_ids
from minibill.db.queries import queries
from minibill.db.sqlite import Connection
from minibill.ledger.account_cache import CachedReservation, account_cache_of
from minibill.ledger.drawdown import Draw, record_draws, spendable_micro
from minibill.ledger.expiry import spending_account_for_update
from minibill.ledger.explanations import explain_reservation
from minibill.ledger.limits import PENDING_MAX, require_within_ceiling
from minibill.ledger.posting import DEFAULT_POOL, EntryDraft, existing_pool_or_default, post
from minibill.ledger.pricing import metadata_with_discount
from minibill.ledger.rows import LotToExplain, ReservationRow, ReservedLot
from minibill.ledger.schemas import Allocation, Reservation, ReservationExplained, ReserveBody, Reserved, ReservedExplained
from minibill.ledger.spending import account_to_spend_from, plan_spend, shadow_metadata

SQL = queries("reservations")
LEDGER = queries("ledger")

DEFAULT_TTL_SECONDS = 300

# The statuses in which a caller has closed the reservation.
_CLOSED_BY_A_CALLER = ("finalized", "released")


def reserve(
    conn: Connection,
    now_us: int,
    *,
    account_id: str | None = None,
    body: ReserveBody,
    default_billing_mode: str,
    ceiling_micro: int,
    created_by: str,
    explain: bool = False,
) -> WriteResult:
    """Reserve the list price, less the discount of the account's best membership, from lots in drawdown order.

    `account_id` is the account that the path names; without it, the body names the account. Live mode reserves the whole
    amount or raises. Soft mode reserves what is available, from as many lots as a reservation may have. Shadow mode
    reserves nothing and records the amount, without a discount. With `explain`, the response or the error explains it.

    The body has passed its `check`. Raises `AccountNotFound`, `InvalidRequest` if the body names two accounts,
    `AmountTooLarge`, `TooManyReservations`, in live mode `InsufficientBalance` and `TooManyLots`, and `ExpiryDue`. See
    docs/concepts/ledger.md.
    """
    pool_id, list_micro = body.pool_id or DEFAULT_POOL, int(body.amount_micro)
    billing_mode = body.billing_mode or default_billing_mode
    description = body.description
    metadata = object_text(body.metadata) if body.metadata else None
    account = account_to_spend_from(conn, account_id or body.account_id, body.entity, pool_id=pool_id, now_us=now_us)
    key = account.account_id
    require_within_ceiling(list_micro, ceiling_micro)
    if account.pending >= PENDING_MAX:
        raise TooManyReservations(
            f"the account has the maximum of {PENDING_MAX} pending reservations; finalize or release some",
            limit=PENDING_MAX,
        )
    plan = plan_spend(
        conn, account, pool_id=pool_id, list_micro=list_micro, billing_mode=billing_mode, explain=explain, now_us=now_us
    )
    discount, discount_micro, held_micro, draws, explanation = plan
    balances = account.balances
    # A body without a TTL has None; 0 is not valid.
    expires_at_us = now_us + (body.ttl_seconds or DEFAULT_TTL_SECONDS) * US_PER_SECOND
    row = ReservationRow(
        0, key, pool_id, billing_mode, "pending", list_micro, discount.rate_bps, discount.max_discount_micro,
        discount_micro, discount.community_id, discount.tier, held_micro, expires_at_us, created_by,
        now_us,
    )  # fmt: skip
    row.id = reservation_id = _insert(conn, row, description, metadata)
    if billing_mode == "shadow":
        shadow_figures = shadow_metadata({"listMicro": str(list_micro), "wouldReserveMicro": str(held_micro)}, metadata)
        entry_pool = existing_pool_or_default(balances, key, pool_id)
        shadow = EntryDraft(key, entry_pool, "shadow_reserve", 0, 0, 0, None, reservation_id, description, shadow_figures)
        post(conn, [shadow], balances=balances, now_us=now_us)
    elif draws:
        _reserve_from_lots(conn, reservation_id, draws)
        entry_metadata = metadata_with_discount(metadata, discount, list_micro)
        entries = [
            EntryDraft(key, d.pool_id, "reserve", -d.amount_micro, -d.amount_micro, d.amount_micro, d.lot_id, reservation_id,
                       description, entry_metadata)
            for d in draws
        ]  # fmt: skip
        post(conn, entries, balances=balances, now_us=now_us)
        record_draws(account, draws)
    account.record_reservation(expires_at_us)
    lots = [ReservedLot(d.lot_id, d.amount_micro, d.pool_id, d.expires_at_us, None) for d in draws]
    account_cache_of(conn).add_reservation(CachedReservation(account, row, lots))
    keep_cache(conn)
    response = Reserved(
        reservation_id=ids.encode(ids.RESERVATION, reservation_id),
        account_id=ids.encode(ids.ACCOUNT, key),
        pool_id=pool_id,
        list_micro=str(list_micro),
        discount_bps=discount.rate_bps,
        discount_micro=str(discount_micro),
        total_reserved_micro=str(held_micro),
        status="pending",
        billing_mode=billing_mode,
        expires_at=format_time(expires_at_us),
        lot_allocations=[Allocation(ids.encode(ids.LOT, d.lot_id), str(d.amount_micro)) for d in draws],
    )
    if explanation is not None:
        response = ReservedExplained(**msgspec.structs.asdict(response), explanation=explanation)
    details = lambda: _details(response, spendable_micro(balances, key, pool_id), draws)
    return WriteResult(response, "reservation.reserve", "account", response.account_id, details, created=True)


def reservation_for_update(conn: Connection, reservation_id: str, *, now_us: int) -> CachedReservation:
    """Return a reservation; its lots only if it is pending. Raises `ReservationNotFound`, `ExpiryDue`."""
    key = ids.decode(ids.RESERVATION, reservation_id)
    cached = None if key is None else account_cache_of(conn).reservation(key)
    if cached is not None and now_us < cached.account.next_expiry_us:
        return cached
    found = None if key is None else SQL.find_reservation.one(conn, reservation_id=key)
    if found is None:
        raise ReservationNotFound(reservation_id)
    row = ReservationRow(*found)
    account = spending_account_for_update(conn, row.account_id, pool_id=row.pool_id, now_us=now_us)
    assert account is not None
    if row.status != "pending":
        return CachedReservation(account, row, [])
    lots = [ReservedLot(*lot) for lot in SQL.lots_of_reservation.all(conn, reservation_id=key)]
    return CachedReservation(account, row, lots)


def reservation_response(row: ReservationRow, lots: list[ReservedLot], *, now_us: int) -> Reservation:
    """Return a reservation as the API shows it at that time. An overdue one is shown as expired before it is written so."""
    overdue = row.status == "pending" and row.expires_at_us <= now_us
    return Reservation(
        reservation_id=ids.encode(ids.RESERVATION, row.id),
        account_id=ids.encode(ids.ACCOUNT, row.account_id),
        pool_id=row.pool_id,
        list_micro=str(row.list_micro),
        discount_bps=row.discount_bps,
        discount_micro=str(row.discount_micro),
        total_reserved_micro=str(row.held_micro),
        status="expired" if overdue else row.status,
        billing_mode=row.billing_mode,
        expires_at=format_time(row.expires_at_us),
        lot_allocations=[Allocation(ids.encode(ids.LOT, lot.lot_id), str(lot.reserved_micro)) for lot in lots],
        finalized_micro=_optional_micro(row.finalized_micro),
        released_micro=_optional_micro(row.held_micro if overdue else row.released_micro),
        overrun_micro=_optional_micro(row.overrun_micro),
        absorbed_micro=_optional_micro(row.absorbed_micro),
        finalized_at=optional_time(row.closed_at_us) if row.status == "finalized" else None,
        created_at=format_time(row.created_at_us),
        created_by=row.created_by,
        closed_by=(row.closed_by or row.created_by) if row.status in _CLOSED_BY_A_CALLER else None,
    )


def reservation_explained(
    response: Reservation, row: ReservationRow, lots: list[ReservedLot], to_explain: list[LotToExplain]
) -> ReservationExplained:
    """Return the response with its explanation, as far as the book stores it. `to_explain` are the first of the lots."""
    explanation = explain_reservation(
        list_micro=row.list_micro,
        held_micro=row.held_micro,
        actual_cost_micro=row.actual_cost_micro,
        finalized_micro=row.finalized_micro,
        discount=row.discount,
        drawn_micro={lot.lot_id: lot.reserved_micro for lot in lots},
        lots=to_explain,
    )
    return ReservationExplained(**msgspec.structs.asdict(response), explanation=explanation)


def _insert(conn: Connection, row: ReservationRow, description: str | None, metadata: str | None) -> int:
    new = next_ids(conn)
    cursor = SQL.insert_reservation.run(
        conn,
        reservation_id=new.first_reservation,
        account_id=row.account_id,
        pool_id=row.pool_id,
        billing_mode=row.billing_mode,
        list_micro=row.list_micro,
        discount_bps=row.discount_bps,
        max_discount_micro=row.max_discount_micro,
        discount_micro=row.discount_micro,
        community_id=row.community_id,
        tier=row.tier,
        held_micro=row.held_micro,
        expires_at_us=row.expires_at_us,
        description=description,
        metadata=metadata,
        created_by=row.created_by,
        now_us=row.created_at_us,
    )
    new.first_reservation = None
    reservation_id = cursor.lastrowid
    assert reservation_id is not None
    return reservation_id


def _details(response: Reserved, available_after_micro: int, draws: list[Draw]) -> dict[str, Any]:
    return {
        "reservationId": response.reservation_id,
        "poolId": response.pool_id,
        "listMicro": response.list_micro,
        "discountMicro": response.discount_micro,
        "totalReservedMicro": response.total_reserved_micro,
        "billingMode": response.billing_mode,
        "availableBeforeMicro": str(available_after_micro + sum(d.amount_micro for d in draws)),
        "availableAfterMicro": str(available_after_micro),
    }


def _reserve_from_lots(conn: Connection, reservation_id: int, draws: list[Draw]) -> None:
    # One draw per lot, so `LotUpdates` would have nothing to add up.
    LEDGER.move_lot.many(conn, [(-d.amount_micro, d.amount_micro, 0, 0, d.lot_id) for d in draws])
    SQL.insert_reservation_lots.many(
        conn, [(reservation_id, position, d.lot_id, d.amount_micro) for position, d in enumerate(draws, 1)]
    )


def _optional_micro(amount_micro: int | None) -> str | None:
    return None if amount_micro is None else str(amount_micro)
