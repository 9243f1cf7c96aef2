"""Reservations: credits set aside but not yet spent. finalize.py ends them, settle.py lets them fall due."""

from functools import partial
from typing import Any

import msgspec

from minibill.api.decoding import json_object
from minibill.api.types import Entity, encode, optional_time
from minibill.core import ids
from minibill.core.clock import US_PER_SECOND, format_time
from minibill.core.problems import (
    AccountNotFound,
    FieldError,
    InsufficientBalance,
    InvalidRequest,
    ReservationNotFound,
    TooManyLots,
    TooManyReservations,
)
from minibill.core.write_result import WriteResult
from minibill.db.new_ids import next_ids
from minibill.db.queries import Row, queries
from minibill.db.sqlite import Connection
from minibill.ledger.account_cache import CachedAccount, CachedReservation, ReservationRow, account_cache_of
from minibill.ledger.accounts import account_of_entity
from minibill.ledger.drawdown import Draw, available_micro, draw, record_draw
from minibill.ledger.expiry import spending_account_for_update
from minibill.ledger.explanations import LOTS_MAX, LotRow, explain_reservation, explain_reserve
from minibill.ledger.limits import LOTS_PER_SPEND_MAX, PENDING_MAX, require_within_ceiling
from minibill.ledger.posting import DEFAULT_POOL, EntryDraft, pool_to_record_in, post
from minibill.ledger.pricing import NO_DISCOUNT, Membership, best_discount, metadata_with_discount
from minibill.ledger.schemas import Allocation, Reservation, ReservationExplained, ReserveBody, Reserved, ReservedExplained

SQL = queries("reservations")
LEDGER = queries("ledger")
DISCOUNTS = queries("discounts")

DEFAULT_TTL_SECONDS = 300

# The others are pending or have expired.
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
    """Holds credits of an account, lot by lot in drawdown order, until they are finalized, released or overdue.

    What is held is the list price less the discount of the account's best membership. Raises `AccountNotFound`,
    `AmountTooLarge`, `TooManyReservations`, and in live mode `InsufficientBalance` and `TooManyLots`; nothing is held then.
    Soft mode holds what there is, of as many lots as a reservation may have. Shadow mode holds nothing and writes down what
    it would have held, without a discount. With `explain` the answer, or the refusal, says why. Raises `ExpiryDue`.
    Source: contract, sections 3 and 5.
    """
    pool_id, list_micro = body.pool_id or DEFAULT_POOL, int(body.amount_micro)
    billing_mode = body.billing_mode or default_billing_mode
    description, metadata = body.description, json_object(body.metadata, "metadata")
    spender = _payer(conn, account_id or body.account_id, body.entity, pool_id=pool_id, now_us=now_us)
    key = spender.account_id
    require_within_ceiling(list_micro, ceiling_micro)
    if spender.pending >= PENDING_MAX:
        raise TooManyReservations(
            f"the account has {PENDING_MAX} pending reservations, which is the most; finalize or release some",
            limit=PENDING_MAX,
        )
    memberships: list[Membership] = []
    discount, discount_micro, entry_metadata = NO_DISCOUNT, 0, metadata
    if spender.has_memberships:
        memberships = [Membership(*row) for row in DISCOUNTS.memberships_with_terms.all(conn, account_id=key)]
        if billing_mode != "shadow":
            discount = best_discount(memberships, list_micro, now_us=now_us)
            discount_micro = discount.on(list_micro)
            entry_metadata = metadata_with_discount(metadata, discount, list_micro)
    why = None
    if explain:
        why = partial(
            explain_reserve, conn, account_id=key, pool_id=pool_id, list_micro=list_micro, discount=discount,
            memberships=memberships, now_us=now_us,
        )  # fmt: skip
    balances = spender.balances
    held_micro = list_micro - discount_micro
    draws: list[Draw] = []
    if billing_mode != "shadow":
        there_micro = available_micro(balances, key, pool_id)
        if there_micro < held_micro:
            if billing_mode == "live":
                extensions: dict[str, Any] = {}
                if why is not None:
                    draws = draw(conn, spender, pool_id=pool_id, amount_micro=there_micro, lots_max=LOTS_MAX)
                    extensions["explanation"] = why(held_micro=0, draws=draws, is_refused=True)
                raise InsufficientBalance(
                    available_micro=there_micro,
                    requested_micro=held_micro,
                    list_micro=list_micro,
                    pool_id=pool_id,
                    **extensions,
                )
            held_micro = there_micro
        draws, held_micro = _draw(conn, spender, pool_id, held_micro, billing_mode)
    explanation = None if why is None else why(held_micro=held_micro, draws=draws, is_refused=False)
    ttl_seconds = DEFAULT_TTL_SECONDS if body.ttl_seconds is None else body.ttl_seconds
    expires_at_us = now_us + ttl_seconds * US_PER_SECOND
    row = ReservationRow(
        0, key, pool_id, billing_mode, "pending", list_micro, discount.rate_bps, discount.max_discount_micro,
        discount_micro, discount.community_id, discount.tier, held_micro, expires_at_us, created_by,
        now_us,
    )  # fmt: skip
    row.id = reservation_id = _insert(conn, row, description, metadata)
    if billing_mode == "shadow":
        noted = _shadow_metadata({"listMicro": str(list_micro), "wouldReserveMicro": str(held_micro)}, metadata)
        recorded_in = pool_to_record_in(balances, key, pool_id)
        shadow = EntryDraft(key, recorded_in, "shadow_reserve", 0, 0, 0, None, reservation_id, description, noted)
        post(conn, [shadow], balances=balances, now_us=now_us)
    elif draws:
        _hold(conn, reservation_id, draws)
        movements = [
            EntryDraft(key, d.pool_id, "reserve", -d.amount_micro, -d.amount_micro, d.amount_micro, d.lot_id, reservation_id,
                     description, entry_metadata)
            for d in draws
        ]  # fmt: skip
        post(conn, movements, balances=balances, now_us=now_us)
        record_draw(spender, draws)
    spender.has_begun_a_reservation(expires_at_us)
    lots: list[Row] = [(d.lot_id, d.amount_micro, d.pool_id, d.expires_at_us, None) for d in draws]
    account_cache_of(conn).add_hold(CachedReservation(spender, row, lots))
    answer = Reserved(
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
        answer = ReservedExplained(**msgspec.structs.asdict(answer), explanation=explanation)
    details = lambda: _details(answer, available_micro(balances, key, pool_id), draws)
    return WriteResult(answer, "reservation.reserve", "account", answer.account_id, details, created=True)


def reservation_for_update(conn: Connection, reservation_id: str, *, now_us: int) -> CachedReservation:
    """Return a reservation on whose account nothing is due. Raises `ReservationNotFound`, `ExpiryDue`.

    Of one that is no longer pending the lots are left out.
    """
    key = ids.decode(ids.RESERVATION, reservation_id)
    hold = None if key is None else account_cache_of(conn).hold(key)
    if hold is not None and now_us < hold.spender.due_us:
        return hold
    row = None if key is None else SQL.find_reservation.one(conn, reservation_id=key)
    if row is None:
        raise ReservationNotFound(reservation_id)
    found = ReservationRow(*row)
    spender = spending_account_for_update(conn, found.account_id, pool_id=found.pool_id, now_us=now_us)
    assert spender is not None
    if found.status != "pending":
        return CachedReservation(spender, found, [])
    return CachedReservation(spender, found, SQL.lots_of_reservation.all(conn, reservation_id=key))


def reservation_response(row: ReservationRow, lots: list[Row], *, now_us: int) -> Reservation:
    """A reservation as it is answered at that time: overdue is expired, whether or not that is written down.

    `lots` are rows of `lots_of_reservation`.
    """
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
        lot_allocations=[Allocation(ids.encode(ids.LOT, lot_id), str(reserved)) for lot_id, reserved, *_ in lots],
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
    answer: Reservation, row: ReservationRow, lots: list[Row], to_explain: list[LotRow]
) -> ReservationExplained:
    """The answer with its explanation, as far as that is kept; `to_explain` are the first of the lots."""
    explanation = explain_reservation(
        list_micro=row.list_micro,
        held_micro=row.held_micro,
        actual_cost_micro=row.actual_cost_micro,
        finalized_micro=row.finalized_micro,
        discount=row.discount,
        drawn_micro={lot_id: reserved for lot_id, reserved, *_ in lots},
        lots=to_explain,
    )
    return ReservationExplained(**msgspec.structs.asdict(answer), explanation=explanation)


def _payer(conn: Connection, account_id: str | None, entity: Entity | None, *, pool_id: str, now_us: int) -> CachedAccount:
    name = account_of_entity(conn, entity) if entity is not None else account_id or ""
    if account_id is not None and name != account_id:
        raise InvalidRequest(
            FieldError("entity", f"expected the entity of {account_id}, which is named as well, or nothing")
        )
    key = ids.decode(ids.ACCOUNT, name)
    spender = None if key is None else spending_account_for_update(conn, key, pool_id=pool_id, now_us=now_us)
    if spender is None:
        raise AccountNotFound(name)
    return spender


def _draw(
    conn: Connection, spender: CachedAccount, pool_id: str, amount_micro: int, billing_mode: str
) -> tuple[list[Draw], int]:
    """Choose lots for an available amount; return them and what they hold. Raises `TooManyLots` in live mode."""
    draws = draw(conn, spender, pool_id=pool_id, amount_micro=amount_micro)
    if len(draws) < LOTS_PER_SPEND_MAX:
        return draws, amount_micro
    held_micro = sum(d.amount_micro for d in draws)
    if held_micro < amount_micro and billing_mode == "live":
        raise TooManyLots(
            f"the first {LOTS_PER_SPEND_MAX} lots have {held_micro} micro-units and {amount_micro} were to be held; "
            f"reserve at most {held_micro}",
            limit=LOTS_PER_SPEND_MAX,
            available_micro=str(held_micro),
            requested_micro=str(amount_micro),
        )
    return draws, held_micro


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


def _details(answer: Reserved, available_after_micro: int, draws: list[Draw]) -> dict[str, Any]:
    return {
        "reservationId": answer.reservation_id,
        "poolId": answer.pool_id,
        "listMicro": answer.list_micro,
        "discountMicro": answer.discount_micro,
        "totalReservedMicro": answer.total_reserved_micro,
        "billingMode": answer.billing_mode,
        "availableBeforeMicro": str(available_after_micro + sum(d.amount_micro for d in draws)),
        "availableAfterMicro": str(available_after_micro),
    }


def _hold(conn: Connection, reservation_id: int, draws: list[Draw]) -> None:
    # Of each lot there is one draw, so there is nothing to sum up.
    LEDGER.move_lot.many(conn, [(-d.amount_micro, d.amount_micro, 0, 0, d.lot_id) for d in draws])
    SQL.insert_reservation_lots.many(
        conn, [(reservation_id, position, d.lot_id, d.amount_micro) for position, d in enumerate(draws, 1)]
    )


def _shadow_metadata(figures: dict[str, Any], metadata: str | None) -> str:
    return encode(figures if metadata is None else figures | {"metadata": msgspec.Raw(metadata)}).decode()


def _optional_micro(amount_micro: int | None) -> str | None:
    return None if amount_micro is None else str(amount_micro)
