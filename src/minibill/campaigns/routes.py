"""Campaigns and grants over HTTP."""

from functools import partial
from typing import Any

from minibill.api.decoding import Decoder, json_object
from minibill.api.openapi.operation import operation
from minibill.api.request import Request
from minibill.api.response import Response
from minibill.api.types import NoBody, Query
from minibill.campaigns.grants import grant_response, pay_batch, read_items
from minibill.campaigns.lifecycle import (
    SQL,
    CampaignRow,
    campaign_response,
    campaigns_at,
    create_campaign,
    edit_campaign,
    transition_campaign,
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
from minibill.campaigns.stats import stats_response
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
from minibill.db.write_operation import bind
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


@operation(Campaign, 201, body=CreateBody, problems=(AmountTooLarge,))
async def create(request: Request) -> Response:
    """Makes a campaign, as a draft."""
    fields = _fields(await request.read(_CREATE))
    caller = request.context.caller
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
    return await request.write(bind(create_campaign, created_by=caller.sub, **defaults | fields))


@operation(Campaign, body=EditBody, problems=(CampaignNotFound, CampaignFieldLocked, BudgetBelowSpent, AmountTooLarge))
async def edit(request: Request) -> Response:
    """Changes what the body names."""
    changes = _fields(await request.read(_EDIT))
    return await request.write(bind(edit_campaign, campaign_id=request.segment("campaign_id"), changes=changes))


@operation(Campaign, body=NoBody, problems=(CampaignNotFound, InvalidTransition))
async def activate(request: Request) -> Response:
    """Lets a campaign pay."""
    return await _move(request, "activate")


@operation(Campaign, body=NoBody, problems=(CampaignNotFound, InvalidTransition))
async def pause(request: Request) -> Response:
    """Stops a campaign from paying, for a while."""
    return await _move(request, "pause")


@operation(Campaign, body=NoBody, problems=(CampaignNotFound, InvalidTransition))
async def complete(request: Request) -> Response:
    """Ends a campaign."""
    return await _move(request, "complete")


@operation(Campaign, query=CampaignsQuery)
async def list_campaigns(request: Request) -> Response:
    """Campaigns, newest first."""
    query, position = request.page(CampaignsQuery)
    [before_id] = position or [_AFTER_ALL]
    # Before the reading: what falls due only afterwards must not count as settled.
    now_us = request.state.book.clock.now_us()
    values: dict[str, Any] = {"before_id": before_id, "campaign_type": query.campaign_type, "count": query.limit + 1}
    match query.status:
        case None:
            find = partial(SQL.campaigns_page.all, **values)
        case "expired":
            find = partial(SQL.campaigns_page_expired.all, now_us=now_us, **values)
        case status:
            find = partial(SQL.campaigns_page_by_status.all, status=status, now_us=now_us, **values)
    campaigns = await request.reader.run(lambda conn: campaigns_at(conn, find(conn), now_us=now_us))
    return request.respond_page(
        query, campaigns, item=lambda row: campaign_response(CampaignRow(*row), now_us=now_us), position=lambda row: [row[0]]
    )


@operation(Campaign, problems=(CampaignNotFound,))
async def show(request: Request) -> Response:
    """One campaign."""
    request.parameters(Query)
    campaign_id = request.segment("campaign_id")
    key = ids.decode(ids.CAMPAIGN, campaign_id)
    # Before the reading, as in a list.
    now_us = request.state.book.clock.now_us()
    # No campaign's key is NULL.
    campaigns = await request.reader.run(
        lambda conn: campaigns_at(conn, SQL.find_campaign.all(conn, campaign_id=key), now_us=now_us)
    )
    if not campaigns:
        raise CampaignNotFound(campaign_id)
    return request.answer(campaign_response(campaigns[0], now_us=now_us))


@operation(BatchResult, 201, 200, body=BatchBody, problems=PAY_REFUSALS)
async def pay(request: Request) -> Response:
    """Pays a batch of grants, each account once."""
    request.require_room_for_bulk()
    body = await request.read(_BATCH)
    return await request.write(
        bind(
            pay_batch,
            campaign_id=request.segment("campaign_id"),
            items=read_items(body),
            force=bool(body.force),
            ceiling_micro=request.state.settings.ceiling_micro,
        ),
        bulk=True,
    )


@operation(Grant, query=GrantsQuery, problems=(CampaignNotFound,))
async def list_grants(request: Request) -> Response:
    """The grants of a campaign, in the order in which they were paid."""
    query, position = request.page(GrantsQuery)
    [after_id] = position or [0]
    campaign = _require_campaign(request)
    reader = request.reader
    values: dict[str, Any] = {"campaign_id": campaign.id, "after_id": after_id, "count": query.limit + 1}
    if query.account_id is not None:
        # An id that no account has finds nothing; no key is negative.
        account_id = ids.decode(ids.ACCOUNT, query.account_id)
        key = -1 if account_id is None else account_id
        rows = await reader.all(SQL.grants_page_of_account, account_id=key, status=query.status, **values)
    elif query.status is not None:
        rows = await reader.all(SQL.grants_page_by_status, status=query.status, **values)
    else:
        rows = await reader.all(SQL.grants_page, **values)
    return request.respond_page(query, rows, item=grant_response, position=lambda row: [row[0]])


@operation(RevokedGrant, body=RevokeBody, problems=(CampaignNotFound, GrantNotFound))
async def revoke_one(request: Request) -> Response:
    """Takes back what is left of a grant."""
    body = await request.read(_REVOKE)
    return await request.write(
        bind(
            revoke_grant,
            campaign_id=request.segment("campaign_id"),
            grant_id=request.segment("grant_id"),
            reason=body.reason,
        )
    )


@operation(RevokedCampaign, body=RevokeBody, problems=(CampaignNotFound,))
async def revoke_all(request: Request) -> Response:
    """Takes back what is left of all grants of a campaign."""
    request.require_room_for_bulk()
    body = await request.read(_REVOKE)
    return await request.write(
        bind(revoke_campaign, campaign_id=request.segment("campaign_id"), reason=body.reason, really=not request.is_dry_run),
        bulk=True,
    )


@operation(Stats, problems=(CampaignNotFound,))
async def show_stats(request: Request) -> Response:
    """What became of the credits that a campaign granted."""
    request.parameters(Query)
    campaign = _require_campaign(request)
    book = request.state.book
    # Before the reading: what falls due only afterwards must not count as settled.
    now_us = book.clock.now_us()
    rows = await request.reader.all(SQL.campaign_stats, campaign_id=campaign.id, now_us=now_us)
    return request.answer(stats_response(campaign.id, rows))


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


async def _move(request: Request, verb: str) -> Response:
    await request.read(_NOTHING)
    return await request.write(bind(transition_campaign, campaign_id=request.segment("campaign_id"), verb=verb))


def _require_campaign(request: Request) -> CampaignRow:
    campaign_id = request.segment("campaign_id")
    key = ids.decode(ids.CAMPAIGN, campaign_id)
    rows = [] if key is None else request.reader.query_now(SQL.find_campaign, campaign_id=key)
    if not rows:
        raise CampaignNotFound(campaign_id)
    return CampaignRow(*rows[0])
