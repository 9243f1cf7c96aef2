"""A charge: a reserve and a finalize of the same amount in one step."""

from typing import Any

from minibill.api.decoding import object_text
from minibill.api.types import Entity, optional_raw
from minibill.charges.rows import SQL, ChargeRow, LotOfCharge, charge_entries, entries_to_find
from minibill.charges.schemas import AdminChargeBody, ChargedExplained, ChargeExplained, ConsumedLot
from minibill.core import ids
from minibill.core.clock import format_time
from minibill.core.problems import SourceAlreadyCharged
from minibill.core.write_result import WriteResult
from minibill.db.cache import keep_cache
from minibill.db.new_ids import next_ids
from minibill.db.sqlite import Connection
from minibill.ledger.debts import NewDebt, insert_debts, require_room_for_debt
from minibill.ledger.drawdown import Draw, consume, record_draws, spendable_micro
from minibill.ledger.limits import require_within_ceiling
from minibill.ledger.posting import DEFAULT_POOL, existing_pool_or_default, post
from minibill.ledger.spending import account_to_spend_from, plan_spend


def charge(
    conn: Connection,
    now_us: int,
    *,
    account_id: str | None,
    entity: Entity | None = None,
    body: AdminChargeBody,
    default_billing_mode: str,
    ceiling_micro: int,
    created_by: str,
    explain: bool = False,
) -> WriteResult:
    """Charge the list price, less the discount of the account's best membership, to lots in drawdown order.

    Live mode charges the whole price or raises. Soft mode charges what is available and incurs a debt for the rest. Shadow
    mode records the full price and moves nothing. A source that charged the account before returns the first charge. With
    `explain`, the response of a new charge or the error explains the amount.

    The body has passed its `check`. Raises, in this order: `AccountNotFound`, `ExpiryDue`, `SourceAlreadyCharged`,
    `AmountTooLarge`, in live mode `InsufficientBalance` and `TooManyLots`, otherwise `AmountTooLarge` for the debt and
    `TooManyPools`. See docs/concepts/ledger.md.
    """
    pool_id, list_micro = body.pool_id or DEFAULT_POOL, int(body.cost_micro)
    billing_mode = body.billing_mode or default_billing_mode
    account = account_to_spend_from(conn, account_id, entity, pool_id=pool_id, now_us=now_us)
    key = account.account_id
    if body.source_id is not None:
        found = SQL.find_charge_of_source.one(conn, account_id=key, source_id=body.source_id)
        if found is not None:
            return _repeat(conn, ChargeRow(*found), list_micro, pool_id)
    require_within_ceiling(list_micro, ceiling_micro)
    plan = plan_spend(
        conn, account, pool_id=pool_id, list_micro=list_micro, billing_mode=billing_mode, explain=explain, now_us=now_us
    )
    discount, discount_micro, charged_micro, draws, explanation = plan
    debt_micro = list_micro - discount_micro - charged_micro
    if debt_micro:
        require_room_for_debt(conn, key, debt_micro)
    balances = account.balances
    new = next_ids(conn)
    row = ChargeRow(
        new.charges, key, pool_id, body.source_id, billing_mode, list_micro, discount.rate_bps,
        discount.max_discount_micro, discount_micro, discount.community_id, discount.tier, charged_micro, debt_micro,
        new.newest_entry, 1 if billing_mode == "shadow" else len(draws) + (debt_micro > 0), body.description,
        object_text(body.metadata), created_by, now_us,
    )  # fmt: skip
    new.charges += 1
    SQL.insert_charges.many(conn, [row])
    if draws:
        consume(conn, draws)
    if debt_micro:
        insert_debts(conn, [NewDebt(key, debt_micro, charge_id=row.id)], now_us=now_us)
    entry_pool = existing_pool_or_default(balances, key, pool_id)
    post(conn, charge_entries(row, draws, entry_pool=entry_pool), balances=balances, now_us=now_us)
    record_draws(account, draws)
    keep_cache(conn)
    response = _charged(row, [LotOfCharge(row.id, d.lot_id, d.amount_micro) for d in draws], duplicate=False)
    if explanation is not None:
        response.explanation = explanation
    details = lambda: _details(response, draws, spendable_micro(balances, key, pool_id))
    return WriteResult(response, "account.charge", "account", response.account_id, details, created=True)


def charge_response(row: ChargeRow, lots: list[LotOfCharge]) -> ChargeExplained:
    """Return a charge as the API shows it; `lots` are those that it consumed, in drawdown order."""
    return ChargeExplained(
        **_members(row, lots),
        description=row.description,
        metadata=optional_raw(row.metadata),
        created_by=row.created_by,
    )


def _repeat(conn: Connection, row: ChargeRow, list_micro: int, pool_id: str) -> WriteResult:
    if (row.list_micro, row.pool_id) != (list_micro, pool_id):
        raise SourceAlreadyCharged(
            "this source charged another cost or pool before",
            source_id=row.source_id,
            charge_id=ids.encode(ids.CHARGE, row.id),
            list_micro=str(row.list_micro),
            pool_id=row.pool_id,
        )
    lots = [LotOfCharge(*lot) for lot in SQL.lots_of_charges.all(conn, charges=entries_to_find([row]))]
    keep_cache(conn)
    response = _charged(row, lots, duplicate=True)
    details = lambda: {"chargeId": response.charge_id, "sourceId": response.source_id, "duplicate": True}
    return WriteResult(response, "account.charge", "account", response.account_id, details)


def _charged(row: ChargeRow, lots: list[LotOfCharge], *, duplicate: bool) -> ChargedExplained:
    return ChargedExplained(**_members(row, lots), duplicate=duplicate)


def _members(row: ChargeRow, lots: list[LotOfCharge]) -> dict[str, Any]:
    return {
        "charge_id": ids.encode(ids.CHARGE, row.id),
        "account_id": ids.encode(ids.ACCOUNT, row.account_id),
        "pool_id": row.pool_id,
        "source_id": row.source_id,
        "list_micro": str(row.list_micro),
        "discount_bps": row.discount_bps,
        "discount_micro": str(row.discount_micro),
        "charged_micro": str(row.charged_micro),
        "debt_micro": str(row.debt_micro),
        "billing_mode": row.billing_mode,
        "lot_allocations": [ConsumedLot(ids.encode(ids.LOT, lot.lot_id), str(lot.consumed_micro)) for lot in lots],
        "created_at": format_time(row.created_at_us),
    }


def _details(response: ChargedExplained, draws: list[Draw], available_after_micro: int) -> dict[str, Any]:
    return {
        "chargeId": response.charge_id,
        "sourceId": response.source_id,
        "poolId": response.pool_id,
        "listMicro": response.list_micro,
        "discountMicro": response.discount_micro,
        "chargedMicro": response.charged_micro,
        "debtMicro": response.debt_micro,
        "billingMode": response.billing_mode,
        "availableBeforeMicro": str(available_after_micro + sum(d.amount_micro for d in draws)),
        "availableAfterMicro": str(available_after_micro),
    }
