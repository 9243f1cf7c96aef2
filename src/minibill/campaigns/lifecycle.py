"""Campaigns: create, edit, and the steps of their life. Paying is in grants.py."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from minibill.api.types import encode, optional_raw, optional_time
from minibill.campaigns import formulas
from minibill.campaigns.schemas import Campaign
from minibill.core import ids
from minibill.core.clock import format_time
from minibill.core.problems import (
    BudgetBelowSpent,
    CampaignFieldLocked,
    CampaignNotFound,
    FieldError,
    InvalidRequest,
    InvalidTransition,
)
from minibill.core.write_result import Action, WriteResult
from minibill.db.new_ids import next_ids
from minibill.db.queries import Row, queries
from minibill.db.sqlite import Connection
from minibill.ledger.expiry import ExpiryDue

SQL = queries("campaigns")

# Overdue reservations, and holds of theirs, among which a write looks for those that give a campaign's budget back.
OVERDUE_LOOKED_AT_MAX = 1_000

ENDED = ("completed", "expired")

# The steps of a campaign's life that a caller can ask for; the sweep and the clock see to `expired`.
TRANSITIONS = {
    "draft": {"active"},
    "active": {"paused", "completed"},
    "paused": {"active", "completed"},
    "completed": set[str](),
    "expired": set[str](),
}
VERBS: dict[str, tuple[str, Action]] = {
    "activate": ("active", "campaign.activate"),
    "pause": ("paused", "campaign.pause"),
    "complete": ("completed", "campaign.complete"),
}

EDITABLE_ONCE_ACTIVE = {"name", "description", "budget_micro", "expires_at_us"}

_WIRE_NAMES = {
    "name": "name",
    "description": "description",
    "campaign_type": "campaignType",
    "budget_micro": "budgetMicro",
    "grant_formula": "grantFormula",
    "grant_config": "grantConfig",
    "pool_id": "poolId",
    "per_wallet_cap_micro": "perWalletCapMicro",
    "starts_at_us": "startsAt",
    "expires_at_us": "expiresAt",
    "grant_ttl_seconds": "grantTtlSeconds",
}


class CampaignRow(NamedTuple):
    """A row of `credit_campaigns`."""

    id: int
    name: str
    description: str | None
    campaign_type: str
    status: str
    budget_micro: int
    spent_micro: int
    grant_formula: str
    grant_config: str | None
    pool_id: str
    per_wallet_cap_micro: int
    starts_at_us: int | None
    expires_at_us: int | None
    grant_ttl_seconds: int | None
    grant_count: int
    created_by: str
    created_at_us: int
    updated_at_us: int

    def status_at(self, now_us: int) -> str:
        """What it is at that time: once its end has come it is expired, whether or not that is written down."""
        over = self.expires_at_us is not None and self.expires_at_us <= now_us
        return "expired" if over and self.status != "completed" else self.status


def create_campaign(
    conn: Connection,
    now_us: int,
    /,
    *,
    created_by: str,
    **fields: Any,
) -> WriteResult:
    """Makes a draft. Raises `InvalidRequest` for a config that can't be evaluated and for times that make no sense.

    `fields` are the editable columns of `credit_campaigns`. Source: contract, section 4.
    """
    _validate(fields, ends_anew=fields["expires_at_us"] is not None, now_us=now_us)
    new = next_ids(conn)
    key = new.campaigns
    new.campaigns += 1
    SQL.create_campaign.run(conn, campaign_id=key, created_by=created_by, now_us=now_us, **fields)
    answer = campaign_response(_load(conn, key), now_us=now_us)
    return WriteResult(
        answer, "campaign.create", "campaign", answer.id, lambda: {"before": None, "after": answer}, created=True
    )


def edit_campaign(conn: Connection, now_us: int, *, campaign_id: str, changes: dict[str, Any]) -> WriteResult:
    """Changes what `changes` names: anything of a draft, little once it is active, nothing once it has ended.

    Raises `CampaignNotFound`, `CampaignFieldLocked`, `BudgetBelowSpent`, `InvalidRequest`. Source: contract, section 4.
    """
    campaign = campaign_for_update(conn, campaign_id, now_us=now_us)
    before = _answer(conn, campaign, now_us=now_us)
    status = campaign.status_at(now_us)
    locked = changes.keys() - _editable(status)
    if locked:
        names = sorted(_WIRE_NAMES[name] for name in locked)
        raise CampaignFieldLocked(
            f"{', '.join(names)} can't be changed while the campaign is {status}", fields=names, campaign_status=status
        )
    fields = {name: getattr(campaign, name) for name in _WIRE_NAMES} | changes
    if fields["budget_micro"] < campaign.spent_micro:
        raise BudgetBelowSpent(
            f"the campaign has spent {campaign.spent_micro} micro-units already",
            budget_micro=str(fields["budget_micro"]),
            spent_micro=str(campaign.spent_micro),
        )
    if changes:
        _validate(fields, ends_anew="expires_at_us" in changes, now_us=now_us)
        SQL.edit_campaign.run(conn, campaign_id=campaign.id, now_us=now_us, **fields)
    answer = _answer(conn, _load(conn, campaign.id), now_us=now_us)
    details = lambda: {"changed": sorted(_WIRE_NAMES[name] for name in changes), "before": before, "after": answer}
    return WriteResult(answer, "campaign.edit", "campaign", campaign_id, details)


def transition_campaign(conn: Connection, now_us: int, *, campaign_id: str, verb: str) -> WriteResult:
    """One step of a campaign's life: `activate`, `pause` or `complete`.

    Raises `CampaignNotFound`, and `InvalidTransition` with `from` and `to`. Source: contract, section 4.
    """
    campaign = campaign_for_update(conn, campaign_id, now_us=now_us)
    status, (target, action) = campaign.status_at(now_us), VERBS[verb]
    if target not in TRANSITIONS[status]:
        raise InvalidTransition(status, target)
    before = _answer(conn, campaign, now_us=now_us)
    SQL.transition_campaign.run(conn, campaign_id=campaign.id, status=target, now_us=now_us)
    answer = _answer(conn, _load(conn, campaign.id), now_us=now_us)
    details = lambda: {"from": status, "to": target, "before": before, "after": answer}
    return WriteResult(answer, action, "campaign", campaign_id, details)


def expire_campaigns(conn: Connection, *, now_us: int, at_most: int) -> int:
    """Writes down which campaigns are over, so many at most; answers how many, 0 when nothing is left."""
    return SQL.expire_campaigns.run(conn, now_us=now_us, count=at_most).rowcount


def require_campaign(conn: Connection, campaign_id: str) -> CampaignRow:
    """A campaign that must exist; raises `CampaignNotFound`."""
    key = ids.decode(ids.CAMPAIGN, campaign_id)
    row = None if key is None else SQL.find_campaign.one(conn, campaign_id=key)
    if row is None:
        raise CampaignNotFound(campaign_id)
    return CampaignRow(*row)


def campaign_for_update(conn: Connection, campaign_id: str, *, now_us: int) -> CampaignRow:
    """The same, for a write that judges or tells its budget: no overdue reservation has any of it to give back.

    Raises `CampaignNotFound`, `ExpiryDue`.
    """
    campaign = require_campaign(conn, campaign_id)
    due = SQL.accounts_that_give_budget_back.all(conn, campaign_id=campaign.id, now_us=now_us, count=OVERDUE_LOOKED_AT_MAX)
    if due:
        raise ExpiryDue({account_id for (account_id,) in due})
    return campaign


def campaigns_at(conn: Connection, rows: Sequence[Row], *, now_us: int) -> list[CampaignRow]:
    """Campaigns as they are at that time, from rows of the same snapshot.

    What overdue reservations give back to their budgets counts, whether or not that is written down.
    """
    keys = encode([row[0] for row in rows]).decode()
    given_back = {key: rest for key, *rest in SQL.given_back_to_campaigns.all(conn, campaign_ids=keys, now_us=now_us)}
    campaigns = []
    for campaign in (CampaignRow(*row) for row in rows):
        given_back_micro, revoked_at_us = given_back.get(campaign.id, (0, 0))
        # Both as lots_give_their_campaign_back_what_is_revoked is going to write them down.
        campaigns.append(
            campaign._replace(
                spent_micro=campaign.spent_micro - given_back_micro,
                updated_at_us=max(campaign.updated_at_us, revoked_at_us),
            )
        )
    return campaigns


def campaign_response(campaign: CampaignRow, *, now_us: int) -> Campaign:
    """A campaign as it is answered at that time."""
    return Campaign(
        id=ids.encode(ids.CAMPAIGN, campaign.id),
        name=campaign.name,
        description=campaign.description,
        campaign_type=campaign.campaign_type,
        status=campaign.status_at(now_us),
        budget_micro=str(campaign.budget_micro),
        spent_micro=str(campaign.spent_micro),
        remaining_micro=str(campaign.budget_micro - campaign.spent_micro),
        grant_formula=campaign.grant_formula,
        grant_config=optional_raw(campaign.grant_config),
        pool_id=campaign.pool_id,
        per_wallet_cap_micro=str(campaign.per_wallet_cap_micro),
        starts_at=optional_time(campaign.starts_at_us),
        expires_at=optional_time(campaign.expires_at_us),
        grant_ttl_seconds=campaign.grant_ttl_seconds,
        grant_count=campaign.grant_count,
        created_by=campaign.created_by,
        created_at=format_time(campaign.created_at_us),
        updated_at=format_time(campaign.updated_at_us),
    )


def _answer(conn: Connection, campaign: CampaignRow, *, now_us: int) -> Campaign:
    [now] = campaigns_at(conn, [campaign], now_us=now_us)
    return campaign_response(now, now_us=now_us)


def _load(conn: Connection, key: int) -> CampaignRow:
    row = SQL.find_campaign.one(conn, campaign_id=key)
    assert row is not None
    return CampaignRow(*row)


def _editable(status: str) -> set[str]:
    if status == "draft":
        return set(_WIRE_NAMES)
    return set() if status in ENDED else EDITABLE_ONCE_ACTIVE


def _validate(fields: dict[str, Any], *, ends_anew: bool, now_us: int) -> None:
    formulas.build(fields["grant_formula"], fields["grant_config"], per_wallet_cap_micro=fields["per_wallet_cap_micro"])
    starts_at_us, expires_at_us = fields["starts_at_us"], fields["expires_at_us"]
    if ends_anew and expires_at_us <= now_us:
        raise InvalidRequest(FieldError("expiresAt", "expected a time in the future"))
    if starts_at_us is not None and expires_at_us is not None and expires_at_us <= starts_at_us:
        raise InvalidRequest(FieldError("expiresAt", "expected a time after startsAt"))
