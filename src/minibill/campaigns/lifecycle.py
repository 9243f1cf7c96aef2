"""Campaigns: create, edit, activate, pause, complete and expire. Paying grants is in batch.py."""

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import msgspec

from minibill.api.decoding import json_object
from minibill.api.types import encode, optional_raw, optional_time
from minibill.campaigns import formulas
from minibill.campaigns.schemas import Campaign, CreateBody, EditBody
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
from minibill.ledger.posting import DEFAULT_POOL

SQL = queries("campaigns")

T = TypeVar("T")

DEFAULT_FORMULA = "fixed_amount"
DEFAULT_CAP_MICRO = 5_000_000

# The largest table of brackets that a formula accepts fits, also with the longest amounts.
CONFIG_BYTES_MAX = 131_072

# A write reads at most this many overdue reservations, and lots that they hold, to find those that return budget.
OVERDUE_SCAN_MAX = 1_000

ENDED = ("completed", "expired")


class Transition(NamedTuple):
    """A change of status that a caller can request."""

    sources: tuple[str, ...]
    target: str
    action: Action


# Callers cannot request expiry. A background job records it.
TRANSITIONS = {
    "activate": Transition(("draft", "paused"), "active", "campaign.activate"),
    "pause": Transition(("active",), "paused", "campaign.pause"),
    "complete": Transition(("active", "paused"), "completed", "campaign.complete"),
}

# Members of the body that can be edited after a campaign was activated. A draft can be edited freely.
EDITABLE_ONCE_ACTIVE = {"name", "description", "budgetMicro", "expiresAt"}


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

    @property
    def remaining_micro(self) -> int:
        """The part of the budget that is not spent."""
        return self.budget_micro - self.spent_micro

    def status_at(self, now_us: int) -> str:
        """Return the status at that time. A campaign expires at `expires_at_us`, before the row records it."""
        is_over = self.expires_at_us is not None and self.expires_at_us <= now_us
        return "expired" if is_over and self.status != "completed" else self.status


class _BudgetReturn(NamedTuple):
    """Revoked credits of a campaign that overdue reservations hold, and the time of its last revocation."""

    campaign_id: int
    returned_micro: int
    revoked_at_us: int


def check_config(body: CreateBody | EditBody) -> None:
    """Check that `grantConfig` is an object within its size. Raises `InvalidRequest`; the formula is checked later."""
    _grant_config(body)


def create_campaign(conn: Connection, now_us: int, *, created_by: str, body: CreateBody) -> WriteResult:
    """Create a draft.

    Raises `InvalidRequest` for a config that the formula cannot use, an end in the past, or an end before the start.
    See docs/concepts/campaigns.md.
    """
    grant_config = _grant_config(body)
    new = next_ids(conn)
    campaign = CampaignRow(
        id=new.campaigns,
        name=body.name,
        description=body.description,
        campaign_type=body.campaign_type,
        status="draft",
        budget_micro=int(body.budget_micro),
        spent_micro=0,
        grant_formula=body.grant_formula or DEFAULT_FORMULA,
        grant_config=grant_config,
        pool_id=body.pool_id or DEFAULT_POOL,
        per_wallet_cap_micro=_integer(body.per_wallet_cap_micro, DEFAULT_CAP_MICRO),
        starts_at_us=_integer(body.starts_at, None),
        expires_at_us=_integer(body.expires_at, None),
        grant_ttl_seconds=body.grant_ttl_seconds,
        grant_count=0,
        created_by=created_by,
        created_at_us=now_us,
        updated_at_us=now_us,
    )
    _validate(campaign, is_end_new=campaign.expires_at_us is not None, now_us=now_us)
    new.campaigns += 1
    SQL.create_campaign.run(conn, **campaign._asdict())
    answer = campaign_response(campaign, now_us=now_us)
    return WriteResult(
        answer, "campaign.create", "campaign", answer.id, lambda: {"before": None, "after": answer}, created=True
    )


def edit_campaign(conn: Connection, now_us: int, *, campaign_id: str, body: EditBody) -> WriteResult:
    """Change the members that the body names: all of a draft, few once it is active, none after it has ended.

    Raises `CampaignNotFound`, `CampaignFieldLocked`, `BudgetBelowSpent`, and `InvalidRequest` as `create_campaign` does.
    Raises `ExpiryDue` for accounts whose overdue reservations return budget. See docs/concepts/campaigns.md.
    """
    grant_config = _grant_config(body)
    campaign = campaign_for_update(conn, campaign_id, now_us=now_us)
    before = _response_in_write(conn, campaign, now_us=now_us)
    changed = _named_members(body, grant_config)
    _require_editable(changed, campaign.status_at(now_us))
    edited = campaign._replace(
        name=_or(body.name, campaign.name),
        description=_or(body.description, campaign.description),
        campaign_type=_or(body.campaign_type, campaign.campaign_type),
        budget_micro=_integer(body.budget_micro, campaign.budget_micro),
        grant_formula=_or(body.grant_formula, campaign.grant_formula),
        grant_config=_or(grant_config, campaign.grant_config),
        pool_id=_or(body.pool_id, campaign.pool_id),
        per_wallet_cap_micro=_integer(body.per_wallet_cap_micro, campaign.per_wallet_cap_micro),
        starts_at_us=_integer(body.starts_at, campaign.starts_at_us),
        expires_at_us=_integer(body.expires_at, campaign.expires_at_us),
        grant_ttl_seconds=_or(body.grant_ttl_seconds, campaign.grant_ttl_seconds),
    )
    if edited.budget_micro < campaign.spent_micro:
        raise BudgetBelowSpent(
            f"the campaign has spent {campaign.spent_micro} micro-units already",
            budget_micro=str(edited.budget_micro),
            spent_micro=str(campaign.spent_micro),
        )
    if changed:
        _validate(edited, is_end_new="expiresAt" in changed, now_us=now_us)
        SQL.edit_campaign.run(
            conn,
            campaign_id=campaign.id,
            name=edited.name,
            description=edited.description,
            campaign_type=edited.campaign_type,
            budget_micro=edited.budget_micro,
            grant_formula=edited.grant_formula,
            grant_config=edited.grant_config,
            pool_id=edited.pool_id,
            per_wallet_cap_micro=edited.per_wallet_cap_micro,
            starts_at_us=edited.starts_at_us,
            expires_at_us=edited.expires_at_us,
            grant_ttl_seconds=edited.grant_ttl_seconds,
            now_us=now_us,
        )
    answer = _response_in_write(conn, _load(conn, campaign.id), now_us=now_us)
    details = lambda: {"changed": sorted(changed), "before": before, "after": answer}
    return WriteResult(answer, "campaign.edit", "campaign", campaign_id, details)


def transition_campaign(conn: Connection, now_us: int, *, campaign_id: str, transition: str) -> WriteResult:
    """Change the status of a campaign; `transition` is a key of `TRANSITIONS`.

    Raises `CampaignNotFound`, `InvalidTransition` with `from` and `to`, and `ExpiryDue` for accounts whose overdue
    reservations return budget. See docs/concepts/campaigns.md.
    """
    campaign = campaign_for_update(conn, campaign_id, now_us=now_us)
    status, (sources, target, action) = campaign.status_at(now_us), TRANSITIONS[transition]
    if status not in sources:
        raise InvalidTransition(status, target)
    before = _response_in_write(conn, campaign, now_us=now_us)
    SQL.transition_campaign.run(conn, campaign_id=campaign.id, status=target, now_us=now_us)
    answer = _response_in_write(conn, _load(conn, campaign.id), now_us=now_us)
    details = lambda: {"from": status, "to": target, "before": before, "after": answer}
    return WriteResult(answer, action, "campaign", campaign_id, details)


def expire_campaigns(conn: Connection, *, now_us: int, at_most: int) -> int:
    """Record that campaigns have expired, `at_most` of them; return their number, 0 if none is left."""
    return SQL.expire_campaigns.run(conn, now_us=now_us, count=at_most).rowcount


def require_campaign(conn: Connection, campaign_id: str) -> CampaignRow:
    """Return a campaign. Raises `CampaignNotFound`."""
    key = ids.decode(ids.CAMPAIGN, campaign_id)
    row = None if key is None else SQL.find_campaign.one(conn, campaign_id=key)
    if row is None:
        raise CampaignNotFound(campaign_id)
    return CampaignRow(*row)


def campaign_for_update(conn: Connection, campaign_id: str, *, now_us: int) -> CampaignRow:
    """Return a campaign whose spent amount is current: no overdue reservation holds credits that it revoked.

    Raises `CampaignNotFound`, and `ExpiryDue` for the accounts of such reservations.
    """
    campaign = require_campaign(conn, campaign_id)
    rows = SQL.accounts_returning_budget.all(conn, campaign_id=campaign.id, now_us=now_us, count=OVERDUE_SCAN_MAX)
    if rows:
        raise ExpiryDue({account_id for (account_id,) in rows})
    return campaign


def campaigns_at(conn: Connection, rows: Sequence[Row], *, now_us: int) -> list[CampaignRow]:
    """Return campaigns as of that time, from rows of the same snapshot.

    The budget that overdue reservations return is counted, also while they are not yet recorded as expired.
    """
    campaigns = [CampaignRow(*row) for row in rows]
    keys = encode([campaign.id for campaign in campaigns]).decode()
    found = map(_BudgetReturn._make, SQL.overdue_budget_returns.all(conn, campaign_ids=keys, now_us=now_us))
    returns = {each.campaign_id: each for each in found}
    return [
        # The trigger lots_return_revoked_credits_to_campaign will record the same values.
        campaign._replace(
            spent_micro=campaign.spent_micro - returns[campaign.id].returned_micro,
            updated_at_us=max(campaign.updated_at_us, returns[campaign.id].revoked_at_us),
        )
        if campaign.id in returns
        else campaign
        for campaign in campaigns
    ]


def campaign_response(campaign: CampaignRow, *, now_us: int) -> Campaign:
    """Return the response body of a campaign, with its status at that time."""
    return Campaign(
        id=ids.encode(ids.CAMPAIGN, campaign.id),
        name=campaign.name,
        description=campaign.description,
        campaign_type=campaign.campaign_type,
        status=campaign.status_at(now_us),
        budget_micro=str(campaign.budget_micro),
        spent_micro=str(campaign.spent_micro),
        remaining_micro=str(campaign.remaining_micro),
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


def _response_in_write(conn: Connection, campaign: CampaignRow, *, now_us: int) -> Campaign:
    [current] = campaigns_at(conn, [campaign], now_us=now_us)
    return campaign_response(current, now_us=now_us)


def _load(conn: Connection, key: int) -> CampaignRow:
    row = SQL.find_campaign.one(conn, campaign_id=key)
    assert row is not None
    return CampaignRow(*row)


def _grant_config(body: CreateBody | EditBody) -> str | None:
    return json_object(body.grant_config, "grantConfig", bytes_max=CONFIG_BYTES_MAX)


def _or(sent: T | None, default: T) -> T:
    return default if sent is None else sent


def _integer(sent: int | None, default: T) -> int | T:
    # `Micro` and `TimeUs` become plain integers, which SQLite binds.
    return default if sent is None else int(sent)


def _named_members(body: EditBody, grant_config: str | None) -> set[str]:
    """Return the wire names of the members to change; null counts as absent."""
    values = msgspec.structs.asdict(body) | {"grant_config": grant_config}
    return {field.encode_name for field in msgspec.structs.fields(body) if values[field.name] is not None}


def _require_editable(names: set[str], status: str) -> None:
    if status == "draft":
        return
    locked = sorted(names if status in ENDED else names - EDITABLE_ONCE_ACTIVE)
    if locked:
        raise CampaignFieldLocked(
            f"{', '.join(locked)} can't be changed while the campaign is {status}", fields=locked, campaign_status=status
        )


def _validate(campaign: CampaignRow, *, is_end_new: bool, now_us: int) -> None:
    formulas.build(campaign.grant_formula, campaign.grant_config, per_wallet_cap_micro=campaign.per_wallet_cap_micro)
    starts_at_us, expires_at_us = campaign.starts_at_us, campaign.expires_at_us
    if expires_at_us is None:
        return
    if is_end_new and expires_at_us <= now_us:
        raise InvalidRequest(FieldError("expiresAt", "expected a time in the future"))
    if starts_at_us is not None and expires_at_us <= starts_at_us:
        raise InvalidRequest(FieldError("expiresAt", "expected a time after startsAt"))
