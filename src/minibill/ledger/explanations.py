"""Explanations of a reservation or charge, on request: its lots, its discount, and the limits that bound its amount.

When it is made or rejected, the explanation is complete. Later it contains what the book stores.
"""

from collections.abc import Iterable, Sequence

from minibill.api.types import encode, optional_time
from minibill.core import ids
from minibill.db.queries import queries
from minibill.db.sqlite import Connection
from minibill.ledger.drawdown import Draw, pools_of
from minibill.ledger.pricing import Discount, Membership, discount_micro, explain_memberships
from minibill.ledger.rows import LotToExplain
from minibill.ledger.schemas import (
    BoundBy,
    CostExplained,
    DiscountExplained,
    Explanation,
    LotExplained,
    LotOutcome,
    ReservationExplanation,
    ReserveExplanation,
)

SQL = queries("ledger")

# Lots in one explanation: the drawn ones in drawdown order, then the newest of the others.
LOTS_MAX = 100


def explain_reserve(
    conn: Connection,
    *,
    account_id: int,
    pool_id: str,
    list_micro: int,
    held_micro: int,
    discount: Discount,
    memberships: Iterable[Membership],
    draws: list[Draw],
    is_rejected: bool,
    now_us: int,
) -> ReserveExplanation:
    """Explain a spend before it is written. For a rejected one, `draws` are all lots with available credits."""
    drawn_micro = {d.lot_id: d.amount_micro for d in draws}
    pools = pools_of(pool_id)
    drawn = lots_to_explain(conn, list(drawn_micro))
    newest = [LotToExplain(*row) for row in SQL.newest_lots_to_explain.all(conn, account_id=account_id, count=LOTS_MAX)]
    passed_over = [lot for lot in newest if lot.id not in drawn_micro][: LOTS_MAX - len(drawn)]
    if is_rejected:
        lots = [_lot_explained(lot, 0, "not_enough") for lot in drawn]
    else:
        lots = [_lot_explained(lot, drawn_micro[lot.id], "drawn") for lot in drawn]
    lots += [_lot_explained(lot, 0, _why_passed_over(lot, pools, now_us)) for lot in passed_over]
    count = SQL.count_lots_of_account.one(conn, account_id=account_id)
    assert count is not None
    priced = _discount_explained(list_micro, discount)
    bound_by = _capped(priced)
    if held_micro < int(priced.payable_micro):
        bound_by.append("availableMicro")
    considered = explain_memberships(memberships, list_micro, best=discount, now_us=now_us)
    return ReserveExplanation(priced, bound_by, lots, count[0] - len(lots), considered)


def lots_to_explain(conn: Connection, lot_ids: Sequence[int]) -> list[LotToExplain]:
    """Return the first of these lots, for the explanation of a stored amount."""
    return [LotToExplain(*row) for row in SQL.lots_to_explain.all(conn, lot_ids=encode(lot_ids[:LOTS_MAX]).decode())]


def explain_reservation(
    *,
    list_micro: int,
    held_micro: int,
    actual_cost_micro: int | None,
    finalized_micro: int | None,
    discount: Discount,
    drawn_micro: dict[int, int],
    lots: Iterable[LotToExplain],
) -> ReservationExplanation:
    """Explain a stored reservation. `drawn_micro` is by lot, in the order of the draws; `lots` are the first of them."""
    spend = explain_spend(
        list_micro=list_micro, spent_micro=held_micro, discount=discount, drawn_micro=drawn_micro, lots=lots
    )
    charge = None
    if actual_cost_micro is not None:
        cost = _discount_explained(actual_cost_micro, discount)
        over: list[BoundBy] = ["totalReservedMicro"] if finalized_micro != int(cost.payable_micro) else []
        charge = CostExplained(cost, _capped(cost) + over)
    return ReservationExplanation(spend.discount, spend.bound_by, spend.lots, spend.lots_not_shown, charge)


def explain_spend(
    *,
    list_micro: int,
    spent_micro: int,
    discount: Discount,
    drawn_micro: dict[int, int],
    lots: Iterable[LotToExplain],
) -> Explanation:
    """Explain a stored amount. `drawn_micro` is by lot, in the order of the draws; `lots` are the first of them."""
    priced = _discount_explained(list_micro, discount)
    bound_by = _capped(priced)
    if spent_micro < int(priced.payable_micro):
        bound_by.append("availableMicro")
    shown = [_lot_explained(lot, drawn_micro[lot.id], "drawn", is_past=True) for lot in lots]
    return Explanation(priced, bound_by, shown, len(drawn_micro) - len(shown))


def _why_passed_over(lot: LotToExplain, pools: tuple[str, ...], now_us: int) -> LotOutcome:
    if lot.pool_id not in pools:
        return "other_pool"
    if lot.available_micro:
        return "not_needed"
    # In the order of the states of a lot. If a lot was revoked while fully reserved, returned credits are revoked too.
    if lot.revoked_micro:
        return "revoked"
    if lot.consumed_micro == lot.original_micro:
        return "spent"
    if lot.revoked_at_us is not None:
        return "revoked"
    if lot.expires_at_us is not None and lot.expires_at_us <= now_us:
        return "expired"
    return "reserved"


def _lot_explained(lot: LotToExplain, drawn_micro: int, outcome: LotOutcome, *, is_past: bool = False) -> LotExplained:
    return LotExplained(
        lot_id=ids.encode(ids.LOT, lot.id),
        pool_id=lot.pool_id,
        priority=lot.priority,
        expires_at=optional_time(lot.expires_at_us),
        available_micro=None if is_past else str(lot.available_micro),
        drawn_micro=str(drawn_micro),
        outcome=outcome,
    )


def _discount_explained(list_micro: int, discount: Discount) -> DiscountExplained:
    off_micro = discount.on(list_micro)
    cap_micro = discount.max_discount_micro
    return DiscountExplained(
        list_micro=str(list_micro),
        discount_bps=discount.rate_bps,
        uncapped_micro=str(discount_micro(list_micro, rate_bps=discount.rate_bps, max_discount_micro=None)),
        max_discount_micro=None if cap_micro is None else str(cap_micro),
        discount_micro=str(off_micro),
        payable_micro=str(list_micro - off_micro),
        community_id=discount.community_id,
        tier=discount.tier,
    )


def _capped(priced: DiscountExplained) -> list[BoundBy]:
    return ["maxDiscountMicro"] if priced.discount_micro != priced.uncapped_micro else []
