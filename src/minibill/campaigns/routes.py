"""Campaigns and grants over HTTP."""

from functools import partial
from typing import Any

from minibill.api.decoding import Decoder, json_object
from minibill.api.openapi.operation import describe
from minibill.api.request import Call
from minibill.api.response import Reply
from minibill.api.types import NoBody, Query
from minibill.campaigns.grants import grant_answer, pay_batch, read_items
from minibill.campaigns.lifecycle import (
    SQL,
    CampaignRow,
    campaign_answer,
    campaigns_at,
    create_campaign,
    edit_campaign,
    move_campaign,
)
from minibill.campaigns.revocation import revoke_campaign, revoke_grant
from minibill.campaigns.schemas import (
    BatchBody,
    BatchResult,
    Campaign,
    CampaignsQuery,
    CreateBody,
    EditBody,
    Grant,
    GrantsQuery,
    RevokeBody,
    RevokedCampaign,
    RevokedGrant,
    Stats,
)
from minibill.campaigns.stats import stats_answer
from minibill.core import ids
from minibill.core.problems import (
    AmountTooLarge,
    BatchTooLarge,
    BudgetBelowSpent,
    BudgetExceeded,
    CampaignFieldLocked,
    CampaignNotActive,
    CampaignNotFound,
    DuplicateAccount,
    GrantNotFound,
    InvalidTransition,
    LargeGrantRequiresForce,
    PerWalletCapExceeded,
    TooManyPools,
)
from minibill.ledger.posting import DEFAULT_POOL

_CREATE, _EDIT, _BATCH, _NOTHING = Decoder(CreateBody), Decoder(EditBody), Decoder(BatchBody), Decoder(NoBody)
_REVOKE = Decoder(RevokeBody)

DEFAULT_CAP_MICRO = 5_000_000

# A table of as many brackets as a formula takes, with the longest amounts.
CONFIG_BYTES_MAX = 131_072

# An id above every row's.
_AFTER_ALL = 2**63 - 1

PAY_REFUSALS = (
    BatchTooLarge, DuplicateAccount, CampaignNotFound, CampaignNotActive, PerWalletCapExceeded, LargeGrantRequiresForce,
    BudgetExceeded, AmountTooLarge, TooManyPools,
)  # fmt: skip


@describe(Campaign, 201, body=CreateBody, refusals=(AmountTooLarge,))
async def create(call: Call) -> Reply:
    """Makes a campaign, as a draft."""
    fields = _fields(await call.read(_CREATE))
    caller = call.context.caller
    assert caller is not None
    defaults: dict[str, Any] = {
        "description": None,
        "grant_formula": "fixed_amount",
        "grant_config": None,
        "pool_id": DEFAULT_POOL,
        "per_wallet_cap_micro": DEFAULT_CAP_MICRO,
        "starts_at_us": None,
        "expires_at_us": None,
        "grant_ttl_seconds": None,
    }
    return await call.write(create_campaign, created_by=caller.sub, **(defaults | fields))


@describe(Campaign, body=EditBody, refusals=(CampaignNotFound, CampaignFieldLocked, BudgetBelowSpent, AmountTooLarge))
async def edit(call: Call) -> Reply:
    """Changes what the body names."""
    changes = _fields(await call.read(_EDIT))
    return await call.write(edit_campaign, campaign_id=call.segment("campaign_id"), changes=changes)


@describe(Campaign, body=NoBody, refusals=(CampaignNotFound, InvalidTransition))
async def activate(call: Call) -> Reply:
    """Lets a campaign pay."""
    return await _move(call, "activate")


@describe(Campaign, body=NoBody, refusals=(CampaignNotFound, InvalidTransition))
async def pause(call: Call) -> Reply:
    """Stops a campaign from paying, for a while."""
    return await _move(call, "pause")


@describe(Campaign, body=NoBody, refusals=(CampaignNotFound, InvalidTransition))
async def complete(call: Call) -> Reply:
    """Ends a campaign."""
    return await _move(call, "complete")


@describe(Campaign, query=CampaignsQuery)
async def list_campaigns(call: Call) -> Reply:
    """Campaigns, newest first."""
    query, position = call.page(CampaignsQuery)
    [before_id] = position or [_AFTER_ALL]
    # Before the reading: what falls due only afterwards must not count as settled.
    now_us = call.service.book.clock.now_us()
    values: dict[str, Any] = {"before_id": before_id, "campaign_type": query.campaign_type, "count": query.limit + 1}
    match query.status:
        case None:
            find = partial(SQL.campaigns_page.all, **values)
        case "expired":
            find = partial(SQL.campaigns_page_expired.all, now_us=now_us, **values)
        case status:
            find = partial(SQL.campaigns_page_by_status.all, status=status, now_us=now_us, **values)
    campaigns = await call.reading.run(lambda conn: campaigns_at(conn, find(conn), now_us=now_us))
    return call.page_answer(
        query, campaigns, item=lambda row: campaign_answer(CampaignRow(*row), now_us=now_us), position=lambda row: [row[0]]
    )


@describe(Campaign, refusals=(CampaignNotFound,))
async def show(call: Call) -> Reply:
    """One campaign."""
    call.parameters(Query)
    campaign_id = call.segment("campaign_id")
    key = ids.decode(ids.CAMPAIGN, campaign_id)
    # Before the reading, as in a list.
    now_us = call.service.book.clock.now_us()
    # No campaign's key is NULL.
    campaigns = await call.reading.run(
        lambda conn: campaigns_at(conn, SQL.find_campaign.all(conn, campaign_id=key), now_us=now_us)
    )
    if not campaigns:
        raise CampaignNotFound(campaign_id)
    return call.answer(campaign_answer(campaigns[0], now_us=now_us))


@describe(BatchResult, 201, 200, body=BatchBody, refusals=PAY_REFUSALS)
async def pay(call: Call) -> Reply:
    """Pays a batch of grants, each account once."""
    call.require_room_for_bulk()
    body = await call.read(_BATCH)
    return await call.write(
        pay_batch,
        bulk=True,
        campaign_id=call.segment("campaign_id"),
        items=read_items(body),
        force=bool(body.force),
        ceiling_micro=call.service.settings.ceiling_micro,
    )


@describe(Grant, query=GrantsQuery, refusals=(CampaignNotFound,))
async def list_grants(call: Call) -> Reply:
    """The grants of a campaign, in the order in which they were paid."""
    query, position = call.page(GrantsQuery)
    [after_id] = position or [0]
    campaign = _require_campaign(call)
    reading = call.reading
    values: dict[str, Any] = {"campaign_id": campaign.id, "after_id": after_id, "count": query.limit + 1}
    if query.account_id is not None:
        # An id that no account has finds nothing; no key is negative.
        account_id = ids.decode(ids.ACCOUNT, query.account_id)
        key = -1 if account_id is None else account_id
        rows = await reading.all(SQL.grants_page_of_account, account_id=key, status=query.status, **values)
    elif query.status is not None:
        rows = await reading.all(SQL.grants_page_by_status, status=query.status, **values)
    else:
        rows = await reading.all(SQL.grants_page, **values)
    return call.page_answer(query, rows, item=grant_answer, position=lambda row: [row[0]])


@describe(RevokedGrant, body=RevokeBody, refusals=(CampaignNotFound, GrantNotFound))
async def revoke_one(call: Call) -> Reply:
    """Takes back what is left of a grant."""
    body = await call.read(_REVOKE)
    return await call.write(
        revoke_grant, campaign_id=call.segment("campaign_id"), grant_id=call.segment("grant_id"), reason=body.reason
    )


@describe(RevokedCampaign, body=RevokeBody, refusals=(CampaignNotFound,))
async def revoke_all(call: Call) -> Reply:
    """Takes back what is left of all grants of a campaign."""
    call.require_room_for_bulk()
    body = await call.read(_REVOKE)
    return await call.write(
        revoke_campaign, bulk=True, campaign_id=call.segment("campaign_id"), reason=body.reason, really=not call.is_dry_run
    )


@describe(Stats, refusals=(CampaignNotFound,))
async def show_stats(call: Call) -> Reply:
    """What became of the credits that a campaign granted."""
    call.parameters(Query)
    campaign = _require_campaign(call)
    book = call.service.book
    # Before the reading: what falls due only afterwards must not count as settled.
    now_us = book.clock.now_us()
    rows = await call.reading.all(SQL.campaign_stats, campaign_id=campaign.id, now_us=now_us)
    return call.answer(stats_answer(campaign.id, rows))


def _fields(body: CreateBody | EditBody) -> dict[str, Any]:
    """What the body names, by the column that it goes to."""
    values = {
        "name": body.name,
        "description": body.description,
        "campaign_type": body.campaign_type,
        "budget_micro": _integer(body.budget_micro),
        "grant_formula": body.grant_formula,
        "grant_config": json_object(body.grant_config, "grantConfig", bytes_max=CONFIG_BYTES_MAX),
        "pool_id": body.pool_id,
        "per_wallet_cap_micro": _integer(body.per_wallet_cap_micro),
        "starts_at_us": _integer(body.starts_at),
        "expires_at_us": _integer(body.expires_at),
        "grant_ttl_seconds": body.grant_ttl_seconds,
    }
    return {name: value for name, value in values.items() if value is not None}


def _integer(value: int | None) -> int | None:
    return None if value is None else int(value)


async def _move(call: Call, verb: str) -> Reply:
    await call.read(_NOTHING)
    return await call.write(move_campaign, campaign_id=call.segment("campaign_id"), verb=verb)


def _require_campaign(call: Call) -> CampaignRow:
    campaign_id = call.segment("campaign_id")
    key = ids.decode(ids.CAMPAIGN, campaign_id)
    rows = [] if key is None else call.reading.at_once(SQL.find_campaign, campaign_id=key)
    if not rows:
        raise CampaignNotFound(campaign_id)
    return CampaignRow(*rows[0])
