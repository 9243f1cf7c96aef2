"""Batches of grants: a campaign pays each account once, and a batch that would exceed a limit pays nobody.

The whole batch is evaluated before anything is written. Look-ups and inserts are set-based: the number of statements does
not depend on the number of items.
"""

from collections.abc import Hashable
from typing import NamedTuple

import msgspec

from minibill.api.decoding import Decoder, json_object, object_text
from minibill.api.types import Micro, encode
from minibill.campaigns import formulas
from minibill.campaigns.grants import AccountGrant, granted_result, skipped_result, unknown_account_result
from minibill.campaigns.lifecycle import SQL, CampaignRow, campaign_for_update
from minibill.campaigns.schemas import BatchBody, BatchResult, GrantItem, GrantResult
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
from minibill.db.sqlite import Connection
from minibill.ledger.accounts import entity_pair, find_accounts, open_accounts
from minibill.ledger.expiry import require_no_expiry_due
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

# A batch is one transaction of a few milliseconds; a client sends a larger list in several.
BATCH_GRANTS_MAX = 1_000

# A larger grant is more likely a misplaced decimal point than intended.
LARGE_GRANT_MICRO = 50_000_000

# An error lists at most this many of the grants that caused it.
LISTED_MAX = 100


class LossInput(msgspec.Struct, rename="camel", frozen=True):
    """The member of `formulaInput` that formulas read. Other members are evidence, and are stored as sent."""

    loss_micro: Micro


_LOSS = Decoder(LossInput)


class EvaluatedGrant(NamedTuple):
    """An item of a batch with its account and amount.

    `account_id` is None if the account does not exist yet; `existing` is the grant that the campaign paid it before.
    """

    position: int
    item: GrantItem
    account_id: int | None
    amount_micro: int
    # The reason for an amount of zero.
    reason: str | None
    existing: AccountGrant | None

    @property
    def is_unknown(self) -> bool:
        """Return true if the item names an account that does not exist."""
        return self.account_id is None and self.item.entity is None

    @property
    def is_new(self) -> bool:
        """Return true if this batch pays the grant, so that it counts toward the limits."""
        return self.existing is None and not self.is_unknown and self.amount_micro > 0


def check_batch(body: BatchBody) -> None:
    """Check the parts of a batch that its types do not cover. Raises `BatchTooLarge`, `InvalidRequest`."""
    if len(body.grants) > BATCH_GRANTS_MAX:
        raise BatchTooLarge(
            f"a batch has at most {BATCH_GRANTS_MAX} grants; send several",
            limit=BATCH_GRANTS_MAX,
            grants=len(body.grants),
        )
    for position, item in enumerate(body.grants):
        if (item.account_id is None) == (item.entity is None):
            raise InvalidRequest(FieldError(f"grants[{position}]", "expected exactly one of accountId and entity"))
        json_object(item.formula_input, f"grants[{position}].formulaInput")


def pay_batch(conn: Connection, now_us: int, *, campaign_id: str, body: BatchBody, ceiling_micro: int) -> WriteResult:
    """Pay each item whose account the campaign has not paid before; `created` if at least one was paid.

    The body has passed `check_batch`. Raises, in this order: `DuplicateAccount`, `CampaignNotFound`, `InvalidRequest` for
    input that the formula cannot use, `CampaignNotActive`, `PerWalletCapExceeded`, `LargeGrantRequiresForce`,
    `AmountTooLarge` for a sum above 2^63-1, `BudgetExceeded`, `AmountTooLarge` above the ceiling of one request,
    `TooManyPools`. Raises `ExpiryDue` for accounts whose overdue reservations return budget, then for the accounts to pay.
    See docs/concepts/campaigns.md.
    """
    account_ids = find_accounts(conn, body.grants)
    _require_distinct_accounts(body.grants, account_ids)
    campaign = campaign_for_update(conn, campaign_id, now_us=now_us)
    evaluated = _evaluate(conn, campaign, body.grants, account_ids)
    _require_active(campaign, now_us)
    new = [grant for grant in evaluated if grant.is_new]
    total_micro = sum(grant.amount_micro for grant in new)
    _require_within_limits(campaign, new, total_micro, force=bool(body.force), ceiling_micro=ceiling_micro)

    paid, balances = _pay(conn, campaign, new, total_micro, now_us=now_us) if new else ({}, [])
    results = [_result(grant, paid.get(grant.position)) for grant in evaluated]
    answer = BatchResult(
        campaign_id=campaign_id,
        total_granted=len(new),
        total_duplicates=sum(result.duplicate for result in results),
        total_skipped=sum(result.status == "skipped" for result in results),
        total_failed=sum(result.status == "failed" for result in results),
        total_amount_micro=str(total_micro),
        remaining_micro=str(campaign.remaining_micro - total_micro),
        grants=results,
    )
    details = lambda: {
        "totalGranted": answer.total_granted,
        "totalDuplicates": answer.total_duplicates,
        "totalSkipped": answer.total_skipped,
        "totalFailed": answer.total_failed,
        "totalAmountMicro": answer.total_amount_micro,
        "force": bool(body.force),
        "spentBeforeMicro": str(campaign.spent_micro),
        "spentAfterMicro": str(campaign.spent_micro + total_micro),
        # The available credits in the campaign's pool of each account that was paid.
        "balances": balances,
    }
    return WriteResult(answer, "campaign.grant", "campaign", campaign_id, details, created=bool(new))


# --- accounts ---


def _require_distinct_accounts(items: list[GrantItem], account_ids: list[int | None]) -> None:
    positions_by_account: dict[Hashable, list[int]] = {}
    for position, (item, account_id) in enumerate(zip(items, account_ids, strict=True)):
        identity: Hashable = account_id
        if account_id is None:
            identity = item.account_id if item.entity is None else entity_pair(item.entity)
        positions_by_account.setdefault(identity, []).append(position)
    if len(positions_by_account) == len(items):
        return
    errors = [
        FieldError(
            f"grants[{position}]",
            "the same account as " + ", ".join(f"grants[{other}]" for other in positions if other != position),
        )
        for positions in positions_by_account.values()
        if len(positions) > 1
        for position in positions
    ]
    raise DuplicateAccount("a batch names an account twice; name each account once", errors=errors[:LISTED_MAX])


# --- amounts ---


def _evaluate(
    conn: Connection, campaign: CampaignRow, items: list[GrantItem], account_ids: list[int | None]
) -> list[EvaluatedGrant]:
    formula = formulas.build(
        campaign.grant_formula, campaign.grant_config, per_wallet_cap_micro=campaign.per_wallet_cap_micro
    )
    existing = _existing_grants(conn, campaign, account_ids)
    evaluated = []
    for position, (item, account_id) in enumerate(zip(items, account_ids, strict=True)):
        amount_micro, reason = _amount(formula, item, position)
        grant = None if account_id is None else existing.get(account_id)
        evaluated.append(EvaluatedGrant(position, item, account_id, amount_micro, reason, grant))
    return evaluated


def _existing_grants(conn: Connection, campaign: CampaignRow, account_ids: list[int | None]) -> dict[int, AccountGrant]:
    keys = [key for key in account_ids if key is not None]
    if not keys:
        return {}
    rows = SQL.grants_of_accounts.all(conn, campaign_id=campaign.id, account_ids=encode(keys).decode())
    return {grant.account_id: grant for grant in map(AccountGrant._make, rows)}


def _amount(formula: formulas.Formula, item: GrantItem, position: int) -> formulas.Result:
    if item.amount_micro is not None:
        return formulas.Result(int(item.amount_micro), None if item.amount_micro else "amount_is_zero")
    if formula.of_loss is not None:
        formula_input = object_text(item.formula_input)
        if formula_input is None:
            raise InvalidRequest(
                FieldError(
                    f"grants[{position}].formulaInput",
                    "is required by the campaign's formula where amountMicro is not given",
                )
            )
        return formula.of_loss(_loss_micro(formula_input, position))
    if formula.fixed_micro is None:
        raise InvalidRequest(FieldError(f"grants[{position}].amountMicro", "is required: the campaign has no fixed amount"))
    return formulas.Result(formula.fixed_micro, None if formula.fixed_micro else "comes_to_zero")


def _loss_micro(formula_input: str, position: int) -> int:
    try:
        return int(_LOSS.decode(formula_input.encode()).loss_micro)
    except InvalidRequest as error:
        errors: list[FieldError] = error.extensions["errors"]
        raise InvalidRequest(
            *[FieldError(f"grants[{position}].formulaInput.{each.path}", each.message) for each in errors]
        ) from None
    except MalformedJson as error:
        raise InvalidRequest(FieldError(f"grants[{position}].formulaInput", error.detail)) from None


# --- limits ---


def _require_active(campaign: CampaignRow, now_us: int) -> None:
    status = campaign.status_at(now_us)
    if status != "active":
        raise CampaignNotActive(f"the campaign is {status}", campaign_status=status)
    if campaign.starts_at_us is not None and now_us < campaign.starts_at_us:
        starts_at = format_time(campaign.starts_at_us)
        raise CampaignNotActive(f"the campaign starts at {starts_at}", campaign_status=status, starts_at=starts_at)


def _require_within_limits(
    campaign: CampaignRow, new: list[EvaluatedGrant], total_micro: int, *, force: bool, ceiling_micro: int
) -> None:
    cap_micro = campaign.per_wallet_cap_micro
    if over := [grant for grant in new if grant.amount_micro > cap_micro]:
        raise PerWalletCapExceeded(
            f"{len(over)} of the grants are over the cap of {cap_micro} micro-units per wallet",
            per_wallet_cap_micro=str(cap_micro),
            grants=_listed(over),
        )
    if not force and (large := [grant for grant in new if grant.amount_micro > LARGE_GRANT_MICRO]):
        raise LargeGrantRequiresForce(
            f"{len(large)} of the grants are over {LARGE_GRANT_MICRO} micro-units; send force: true if they are intended",
            threshold_micro=str(LARGE_GRANT_MICRO),
            grants=_listed(large),
        )
    # The total exceeds 2^63-1 and cannot be represented, so the error cannot name it as an amount.
    if total_micro > MAX_MICRO:
        raise AmountTooLarge(
            f"the grants of a batch come to at most {MAX_MICRO} micro-units together", limit_micro=str(MAX_MICRO)
        )
    remaining_micro = campaign.remaining_micro
    if total_micro > remaining_micro:
        raise BudgetExceeded(
            f"the new grants come to {total_micro} micro-units and the campaign has {remaining_micro} left",
            budget_micro=str(campaign.budget_micro),
            spent_micro=str(campaign.spent_micro),
            remaining_micro=str(remaining_micro),
            requested_micro=str(total_micro),
        )
    require_within_ceiling(total_micro, ceiling_micro)


def _require_room_for_pool(new: list[EvaluatedGrant], holdings: dict[int, Holdings], pool_id: str) -> None:
    if over := [grant for grant in new if grant.account_id in holdings and holdings[grant.account_id].is_at_limit]:
        raise TooManyPools(
            f"{len(over)} of the accounts have {POOLS_MAX} pools, the maximum, without {pool_id}; leave them out",
            limit=POOLS_MAX,
            grants=_listed(over),
        )


def _listed(grants: list[EvaluatedGrant]) -> list[dict[str, str]]:
    return [
        {"path": f"grants[{grant.position}].amountMicro", "amountMicro": str(grant.amount_micro)}
        for grant in grants[:LISTED_MAX]
    ]


# --- paying ---


def _pay(
    conn: Connection, campaign: CampaignRow, new: list[EvaluatedGrant], total_micro: int, *, now_us: int
) -> tuple[dict[int, AccountGrant], list[dict[str, str]]]:
    """Open missing accounts, insert lots and grants, and charge the budget.

    Return the grant at each position, and the balances for the audit log.
    """
    existing = [grant.account_id for grant in new if grant.account_id is not None]
    require_no_expiry_due(conn, existing, now_us=now_us)
    pool_id = campaign.pool_id
    holdings = load_holdings(conn, existing, pool_id)
    _require_room_for_pool(new, holdings, pool_id)

    missing = [entity_pair(grant.item.entity) for grant in new if grant.account_id is None and grant.item.entity is not None]
    opened = iter(open_accounts(conn, missing, now_us=now_us))
    account_ids = [next(opened) if grant.account_id is None else grant.account_id for grant in new]

    expires_at_us = lot_expiry_us(now_us, campaign.grant_ttl_seconds)
    lots = [
        NewLot(key, pool_id, "grant", None, DEFAULT_PRIORITY, grant.amount_micro, expires_at_us, campaign_id=campaign.id)
        for grant, key in zip(new, account_ids, strict=True)
    ]
    first_lot, balances = insert_lots(conn, lots, holdings=holdings, now_us=now_us)
    new_ids = next_ids(conn)
    first_grant = new_ids.grants
    new_ids.grants += len(new)
    paid = {
        grant.position: AccountGrant(key, first_grant + index, first_lot + index, grant.amount_micro, "granted")
        for index, (grant, key) in enumerate(zip(new, account_ids, strict=True))
    }
    SQL.insert_grants.many_as_json(
        conn,
        [
            (row.grant_id, campaign.id, row.account_id, row.lot_id, row.amount_micro, campaign.grant_formula,
             object_text(grant.item.formula_input), now_us)
            for grant, row in zip(new, paid.values(), strict=True)
        ],
    )  # fmt: skip
    SQL.charge_campaign.run(conn, campaign_id=campaign.id, total_micro=total_micro, new_grants=len(new), now_us=now_us)
    audited = [
        {
            "accountId": ids.encode(ids.ACCOUNT, key),
            "beforeMicro": str(holdings.get(key, NO_HOLDINGS).balance.available_micro),
            "afterMicro": str(balances[key, pool_id].available_micro),
        }
        for key in account_ids
    ]
    return paid, audited


def _result(grant: EvaluatedGrant, paid: AccountGrant | None) -> GrantResult:
    if paid is not None:
        return granted_result(paid, duplicate=False)
    if grant.existing is not None:
        return granted_result(grant.existing, duplicate=True)
    account_id = grant.item.account_id if grant.account_id is None else ids.encode(ids.ACCOUNT, grant.account_id)
    if grant.is_unknown:
        return unknown_account_result(account_id, grant.amount_micro)
    return skipped_result(account_id, grant.reason)
