"""Paying a batch: each account once per campaign, all or nothing where limits are concerned.

Everything is judged before anything is written, in the order of the contract. Look-ups and inserts are set-based: the
number of statements does not depend on the number of items.
"""

from typing import Any, NamedTuple

import msgspec

from minibill.api.decoding import Decoder, json_object
from minibill.api.types import Micro, optional_raw, optional_time
from minibill.campaigns import formulas
from minibill.campaigns.lifecycle import CampaignRow, campaign_for_update
from minibill.campaigns.schemas import BatchBody, BatchResult, Grant, GrantResult
from minibill.core import ids
from minibill.core.clock import format_time
from minibill.core.money import MAX_MICRO
from minibill.core.problems import (
    AmountTooLarge,
    BatchTooLarge,
    BudgetExceeded,
    CampaignNotActive,
    DuplicateAccount,
    FieldError,
    InvalidRequest,
    LargeGrantRequiresForce,
    MalformedJson,
    PerWalletCapExceeded,
    TooManyPools,
)
from minibill.core.write_result import WriteResult
from minibill.db.new_ids import next_ids
from minibill.db.queries import Row, queries
from minibill.db.sqlite import Connection
from minibill.ledger.accounts import accounts_of_entities, existing_accounts, open_accounts
from minibill.ledger.expiry import require_settled
from minibill.ledger.limits import POOLS_MAX, require_within_ceiling
from minibill.ledger.mint import (
    DEFAULT_PRIORITY,
    NO_HOLDINGS,
    Holdings,
    NewLot,
    insert_lots,
    load_holdings,
    lot_expiry_us,
)

SQL = queries("campaigns")

# A batch is one transaction of a few milliseconds; larger lists are sent as several.
BATCH_GRANTS_MAX = 1_000

# Above this a grant is more likely a slip of the decimal point than a gift.
LARGE_GRANT_MICRO = 50_000_000

# How many offending grants a refusal lists.
LISTED_MAX = 100


class LossInput(msgspec.Struct, rename="camel", frozen=True):
    """The member of `formulaInput` that formulas read; the others are evidence."""

    loss_micro: Micro


_LOSS = Decoder(LossInput)


class Item(NamedTuple):
    """One grant asked for: by account id or by (entity type, entity id)."""

    account_id: str | None
    entity: tuple[str, str] | None
    amount_micro: int | None
    formula_input: str | None


class ExistingGrant(NamedTuple):
    """The grant that this campaign gave an account earlier."""

    grant_id: int
    lot_id: int
    amount_micro: int
    status: str


class EvaluatedGrant(NamedTuple):
    """An item, the account it means (None: none is there yet), and what it comes to."""

    place: int
    item: Item
    account: int | None
    amount_micro: int
    reason: str | None
    paid_before: ExistingGrant | None

    @property
    def unknown(self) -> bool:
        return self.account is None and self.item.entity is None

    @property
    def is_new(self) -> bool:
        """Whether it is to be paid now, so that it counts towards the limits."""
        return self.paid_before is None and not self.unknown and self.amount_micro > 0


def read_items(body: BatchBody) -> list[Item]:
    """The items of a request. Raises `BatchTooLarge` and, with the path, `InvalidRequest`."""
    if len(body.grants) > BATCH_GRANTS_MAX:
        raise BatchTooLarge(
            f"a batch has at most {BATCH_GRANTS_MAX} grants; send several",
            limit=BATCH_GRANTS_MAX,
            grants=len(body.grants),
        )
    items = []
    for place, grant in enumerate(body.grants):
        if (grant.account_id is None) == (grant.entity is None):
            raise InvalidRequest(FieldError(f"grants[{place}]", "expected exactly one of accountId and entity"))
        items.append(
            Item(
                grant.account_id,
                None if grant.entity is None else (grant.entity.entity_type, str(grant.entity.entity_id)),
                None if grant.amount_micro is None else int(grant.amount_micro),
                json_object(grant.formula_input, f"grants[{place}].formulaInput"),
            )
        )
    return items


def pay_batch(
    conn: Connection, now_us: int, *, campaign_id: str, items: list[Item], force: bool, ceiling_micro: int
) -> WriteResult:
    """Pays each item that this campaign has not paid before; 201 when any was, else 200.

    Raises, in this order: `DuplicateAccount`, `CampaignNotFound`, `InvalidRequest` for what the formula can't use,
    `CampaignNotActive`, `PerWalletCapExceeded`, `LargeGrantRequiresForce`, `AmountTooLarge` for a sum past 2^63-1,
    `BudgetExceeded`, `AmountTooLarge`, `TooManyPools`. Source: contract, section 4. Raises `ExpiryDue` for the campaign,
    then for the accounts that would be paid.
    """
    accounts = _accounts_of(conn, items)
    _refuse_duplicates(items, accounts)
    campaign = campaign_for_update(conn, campaign_id, now_us=now_us)
    judged = _judge(conn, campaign, items, accounts)
    _require_active(campaign, now_us)
    new = [j for j in judged if j.is_new]
    total_micro = sum(j.amount_micro for j in new)
    _refuse_over_limits(campaign, new, total_micro, force=force, ceiling_micro=ceiling_micro)

    paid, balances = _pay(conn, campaign, new, now_us=now_us) if new else ({}, [])
    remaining_micro = campaign.budget_micro - campaign.spent_micro - total_micro
    results = [_result(j, paid.get(j.place)) for j in judged]
    answer = BatchResult(
        campaign_id=campaign_id,
        total_granted=len(new),
        total_duplicates=sum(r.duplicate for r in results),
        total_skipped=sum(r.status == "skipped" for r in results),
        total_failed=sum(r.status == "failed" for r in results),
        total_amount_micro=str(total_micro),
        remaining_micro=str(remaining_micro),
        grants=results,
    )
    details = lambda: {
        "totalGranted": answer.total_granted,
        "totalDuplicates": answer.total_duplicates,
        "totalSkipped": answer.total_skipped,
        "totalFailed": answer.total_failed,
        "totalAmountMicro": answer.total_amount_micro,
        "force": force,
        "spentBeforeMicro": str(campaign.spent_micro),
        "spentAfterMicro": str(campaign.spent_micro + total_micro),
        # Of each account that was paid: its available credits in the campaign's pool.
        "balances": balances,
    }
    return WriteResult(answer, "campaign.grant", "campaign", campaign_id, details, created=bool(new))


# --- who ---


def _accounts_of(conn: Connection, items: list[Item]) -> list[int | None]:
    """The account of each item; None where there is none."""
    keys = [None if item.account_id is None else ids.decode(ids.ACCOUNT, item.account_id) for item in items]
    named = [key for key in keys if key is not None]
    existing = existing_accounts(conn, named) if named else set()
    places = [place for place, item in enumerate(items) if item.entity is not None]
    entities = [entity for item in items if (entity := item.entity) is not None]
    found = accounts_of_entities(conn, entities) if entities else {}
    of_entities = {places[index]: key for index, key in found.items()}
    return [of_entities.get(place, key if key in existing else None) for place, key in enumerate(keys)]


def _refuse_duplicates(items: list[Item], accounts: list[int | None]) -> None:
    places_by_account: dict[Any, list[int]] = {}
    for place, (item, account) in enumerate(zip(items, accounts, strict=True)):
        identity = account if account is not None else item.entity or item.account_id
        places_by_account.setdefault(identity, []).append(place)
    if len(places_by_account) == len(items):
        return
    errors = [
        FieldError(
            f"grants[{place}]",
            "the same account as " + ", ".join(f"grants[{other}]" for other in places if other != place),
        )
        for places in places_by_account.values()
        if len(places) > 1
        for place in places
    ]
    raise DuplicateAccount("a batch pays an account once", errors=errors[:LISTED_MAX])


# --- how much ---


def _judge(conn: Connection, campaign: CampaignRow, items: list[Item], accounts: list[int | None]) -> list[EvaluatedGrant]:
    formula = formulas.build(
        campaign.grant_formula, campaign.grant_config, per_wallet_cap_micro=campaign.per_wallet_cap_micro
    )
    paid_before = _paid_before(conn, campaign, accounts)
    judged = []
    for place, (item, account) in enumerate(zip(items, accounts, strict=True)):
        amount_micro, reason = _amount(formula, item, place)
        earlier = None if account is None else paid_before.get(account)
        judged.append(EvaluatedGrant(place, item, account, amount_micro, reason, earlier))
    return judged


def _paid_before(conn: Connection, campaign: CampaignRow, accounts: list[int | None]) -> dict[int, ExistingGrant]:
    keys = [key for key in accounts if key is not None]
    if not keys:
        return {}
    rows = SQL.grants_of_accounts.all(conn, campaign_id=campaign.id, account_ids=msgspec.json.encode(keys).decode())
    return {account: ExistingGrant(*rest) for account, *rest in rows}


def _amount(formula: formulas.Formula, item: Item, place: int) -> formulas.Result:
    if item.amount_micro is not None:
        return formulas.Result(item.amount_micro, None if item.amount_micro else "amount_is_zero")
    if formula.of_loss is not None:
        if item.formula_input is None:
            raise InvalidRequest(
                FieldError(
                    f"grants[{place}].formulaInput",
                    "is required by the campaign's formula where amountMicro is not given",
                )
            )
        return formula.of_loss(_loss_micro(item.formula_input, place))
    if formula.fixed_micro is None:
        raise InvalidRequest(FieldError(f"grants[{place}].amountMicro", "is required: the campaign has no fixed amount"))
    return formulas.Result(formula.fixed_micro, None if formula.fixed_micro else "comes_to_zero")


def _loss_micro(formula_input: str, place: int) -> int:
    try:
        return int(_LOSS.decode(formula_input.encode()).loss_micro)
    except InvalidRequest as error:
        wrong: list[FieldError] = error.extensions["errors"]
        raise InvalidRequest(*[FieldError(f"grants[{place}].formulaInput.{e.path}", e.message) for e in wrong]) from None
    except MalformedJson as error:
        raise InvalidRequest(FieldError(f"grants[{place}].formulaInput", error.detail)) from None


# --- whether ---


def _require_active(campaign: CampaignRow, now_us: int) -> None:
    status = campaign.status_at(now_us)
    if status != "active":
        raise CampaignNotActive(f"the campaign is {status}", campaign_status=status)
    if campaign.starts_at_us is not None and now_us < campaign.starts_at_us:
        starts_at = format_time(campaign.starts_at_us)
        raise CampaignNotActive(f"the campaign starts at {starts_at}", campaign_status=status, starts_at=starts_at)


def _refuse_over_limits(
    campaign: CampaignRow, new: list[EvaluatedGrant], total_micro: int, *, force: bool, ceiling_micro: int
) -> None:
    cap_micro = campaign.per_wallet_cap_micro
    if over := [j for j in new if j.amount_micro > cap_micro]:
        raise PerWalletCapExceeded(
            f"{len(over)} of the grants are over the cap of {cap_micro} micro-units per wallet",
            per_wallet_cap_micro=str(cap_micro),
            grants=_listed(over),
        )
    if not force and (large := [j for j in new if j.amount_micro > LARGE_GRANT_MICRO]):
        raise LargeGrantRequiresForce(
            f"{len(large)} of the grants are over {LARGE_GRANT_MICRO} micro-units; send force: true if they are meant",
            threshold_micro=str(LARGE_GRANT_MICRO),
            grants=_listed(large),
        )
    # No budget covers it, and no amount of money says it.
    if total_micro > MAX_MICRO:
        raise AmountTooLarge(
            f"the grants of a batch come to at most {MAX_MICRO} micro-units together", limit_micro=str(MAX_MICRO)
        )
    remaining_micro = campaign.budget_micro - campaign.spent_micro
    if total_micro > remaining_micro:
        raise BudgetExceeded(
            f"the new grants come to {total_micro} micro-units and the campaign has {remaining_micro} left",
            budget_micro=str(campaign.budget_micro),
            spent_micro=str(campaign.spent_micro),
            remaining_micro=str(remaining_micro),
            requested_micro=str(total_micro),
        )
    require_within_ceiling(total_micro, ceiling_micro)


def _refuse_too_many_pools(new: list[EvaluatedGrant], holdings: dict[int, Holdings], pool_id: str) -> None:
    if over := [j for j in new if j.account in holdings and holdings[j.account].is_at_limit]:
        raise TooManyPools(
            f"{len(over)} of the accounts have {POOLS_MAX} pools, which is the most, without {pool_id}; leave them out",
            limit=POOLS_MAX,
            grants=_listed(over),
        )


def _listed(judged: list[EvaluatedGrant]) -> list[dict[str, str]]:
    return [{"path": f"grants[{j.place}].amountMicro", "amountMicro": str(j.amount_micro)} for j in judged[:LISTED_MAX]]


# --- paying ---


class Paid(NamedTuple):
    """What an item was paid as."""

    grant_id: int
    lot_id: int
    account: int


def _pay(
    conn: Connection, campaign: CampaignRow, new: list[EvaluatedGrant], *, now_us: int
) -> tuple[dict[int, Paid], list[dict[str, str]]]:
    """Opens accounts, makes lots and grants, charges the budget; answers what each place was paid as, and the balances."""
    there = [j.account for j in new if j.account is not None]
    require_settled(conn, there, now_us=now_us)
    pool_id = campaign.pool_id
    holdings = load_holdings(conn, there, pool_id)
    _refuse_too_many_pools(new, holdings, pool_id)

    opening = [j for j in new if j.account is None]
    opened = open_accounts(conn, [j.item.entity for j in opening if j.item.entity is not None], now_us=now_us)
    key_by_place = dict(zip((j.place for j in opening), opened, strict=True))
    accounts = [key_by_place[j.place] if j.account is None else j.account for j in new]

    expires_at_us = lot_expiry_us(now_us, campaign.grant_ttl_seconds)
    lots = [
        NewLot(key, pool_id, "grant", None, DEFAULT_PRIORITY, j.amount_micro, expires_at_us, campaign_id=campaign.id)
        for j, key in zip(new, accounts, strict=True)
    ]
    first_lot, balances = insert_lots(conn, lots, holdings=holdings, now_us=now_us)
    first_grant = _insert_grants(conn, campaign, new, accounts, first_lot, now_us=now_us)
    SQL.charge_campaign.run(
        conn, campaign_id=campaign.id, total_micro=sum(j.amount_micro for j in new), new_grants=len(new), now_us=now_us
    )
    paid = {
        j.place: Paid(first_grant + index, first_lot + index, key)
        for index, (j, key) in enumerate(zip(new, accounts, strict=True))
    }
    moved = [
        {
            "accountId": ids.encode(ids.ACCOUNT, key),
            "beforeMicro": str(holdings.get(key, NO_HOLDINGS).balance.available_micro),
            "afterMicro": str(balances[key, pool_id].available_micro),
        }
        for key in accounts
    ]
    return paid, moved


def _insert_grants(
    conn: Connection,
    campaign: CampaignRow,
    new: list[EvaluatedGrant],
    accounts: list[int],
    first_lot: int,
    *,
    now_us: int,
) -> int:
    ids_left = next_ids(conn)
    first = ids_left.grants
    ids_left.grants += len(new)
    SQL.insert_grants.many(
        conn,
        [
            (first + index, campaign.id, key, first_lot + index, j.amount_micro, campaign.grant_formula,
             j.item.formula_input, now_us)
            for index, (j, key) in enumerate(zip(new, accounts, strict=True))
        ],
    )  # fmt: skip
    return first


# --- the answer ---


def _result(judged: EvaluatedGrant, paid: Paid | None) -> GrantResult:
    if paid is not None:
        return GrantResult(
            ids.encode(ids.GRANT, paid.grant_id),
            ids.encode(ids.ACCOUNT, paid.account),
            ids.encode(ids.LOT, paid.lot_id),
            str(judged.amount_micro),
            "granted",
            False,
        )
    account_id = judged.item.account_id if judged.account is None else ids.encode(ids.ACCOUNT, judged.account)
    if (earlier := judged.paid_before) is not None:
        return GrantResult(
            ids.encode(ids.GRANT, earlier.grant_id),
            account_id,
            ids.encode(ids.LOT, earlier.lot_id),
            str(earlier.amount_micro),
            earlier.status,
            True,
        )
    if judged.unknown:
        return GrantResult(
            None, account_id, None, str(judged.amount_micro), "failed", False, code="account_not_found",
            reason="no account has this id",
        )  # fmt: skip
    return GrantResult(None, account_id, None, "0", "skipped", False, reason=judged.reason)


def grant_response(row: Row) -> Grant:
    """A grant as it is answered, from a row of `grants_page`."""
    (
        key, campaign_id, account_id, entity_type, entity_id, lot_id, amount_micro, status, grant_formula, formula_input,
        created_at_us, revoked_at_us, revoked_micro, revoke_reason,
    ) = row  # fmt: skip
    return Grant(
        grant_id=ids.encode(ids.GRANT, key),
        campaign_id=ids.encode(ids.CAMPAIGN, campaign_id),
        account_id=ids.encode(ids.ACCOUNT, account_id),
        entity_type=entity_type,
        entity_id=entity_id,
        lot_id=ids.encode(ids.LOT, lot_id),
        amount_micro=str(amount_micro),
        status=status,
        grant_formula=grant_formula,
        formula_input=optional_raw(formula_input),
        created_at=format_time(created_at_us),
        revoked_at=optional_time(revoked_at_us),
        revoked_micro=None if revoked_micro is None else str(revoked_micro),
        revoke_reason=revoke_reason,
    )
