"""Routes of campaigns and grants."""

from functools import partial
from typing import Any

from minibill.api.decoding import Decoder
from minibill.api.openapi.operation import operation
from minibill.api.request import Request
from minibill.api.response import Response
from minibill.api.types import NoBody, Query
from minibill.campaigns.batch import check_batch, pay_batch
from minibill.campaigns.grants import GrantRow, grant_response
from minibill.campaigns.lifecycle import (
    SQL,
    CampaignRow,
    campaign_response,
    campaigns_at,
    check_config,
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

_CREATE, _EDIT, _BATCH, _NOTHING = Decoder(CreateBody), Decoder(EditBody), Decoder(BatchBody), Decoder(NoBody)
_REVOKE = Decoder(RevokeBody)

_PAY_PROBLEMS = (
    BatchTooLarge, DuplicateAccount, CampaignNotFound, CampaignNotActive, PerWalletCapExceeded, LargeGrantRequiresForce,
    BudgetExceeded, AmountTooLarge, TooManyPools,
)  # fmt: skip


@operation(Campaign, 201, body=CreateBody, problems=(AmountTooLarge,))
async def create(request: Request) -> Response:
    """Create a campaign as a draft."""
    body = await request.read(_CREATE)
    check_config(body)
    caller = request.caller
    assert caller is not None
    return await request.write(bind(create_campaign, created_by=caller.sub, body=body))


@operation(Campaign, body=EditBody, problems=(CampaignNotFound, CampaignFieldLocked, BudgetBelowSpent, AmountTooLarge))
async def edit(request: Request) -> Response:
    """Change the members that the body names."""
    body = await request.read(_EDIT)
    check_config(body)
    return await request.write(bind(edit_campaign, campaign_id=request.segment("campaign_id"), body=body))


@operation(Campaign, body=NoBody, problems=(CampaignNotFound, InvalidTransition))
async def activate(request: Request) -> Response:
    """Activate a campaign, so that it can pay grants."""
    return await _transition(request, "activate")


@operation(Campaign, body=NoBody, problems=(CampaignNotFound, InvalidTransition))
async def pause(request: Request) -> Response:
    """Pause a campaign: it pays no grants until it is activated again."""
    return await _transition(request, "pause")


@operation(Campaign, body=NoBody, problems=(CampaignNotFound, InvalidTransition))
async def complete(request: Request) -> Response:
    """Complete a campaign. This is final."""
    return await _transition(request, "complete")


@operation(Campaign, query=CampaignsQuery)
async def list_campaigns(request: Request) -> Response:
    """List campaigns, newest first."""
    query, position = request.page(CampaignsQuery)
    [before_id] = position or [ids.KEY_MAX]
    # Read the clock before the snapshot: a reservation that expires in between must not count as released.
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
        query,
        campaigns,
        item=lambda campaign: campaign_response(campaign, now_us=now_us),
        position=lambda campaign: [campaign.id],
    )


@operation(Campaign, problems=(CampaignNotFound,))
async def show(request: Request) -> Response:
    """Return one campaign."""
    request.parameters(Query)
    campaign_id = request.segment("campaign_id")
    key = ids.decode(ids.CAMPAIGN, campaign_id)
    # Read the clock before the snapshot, as in a list.
    now_us = request.state.book.clock.now_us()
    # A key of None matches no campaign.
    campaigns = await request.reader.run(
        lambda conn: campaigns_at(conn, SQL.find_campaign.all(conn, campaign_id=key), now_us=now_us)
    )
    if not campaigns:
        raise CampaignNotFound(campaign_id)
    return request.answer(campaign_response(campaigns[0], now_us=now_us))


@operation(BatchResult, 201, 200, body=BatchBody, problems=_PAY_PROBLEMS)
async def pay(request: Request) -> Response:
    """Pay a batch of grants, each account once."""
    request.require_room_for_bulk()
    body = await request.read(_BATCH)
    check_batch(body)
    return await request.write(
        bind(
            pay_batch,
            campaign_id=request.segment("campaign_id"),
            body=body,
            ceiling_micro=request.state.settings.ceiling_micro,
        ),
        bulk=True,
    )


@operation(Grant, query=GrantsQuery, problems=(CampaignNotFound,))
async def list_grants(request: Request) -> Response:
    """List the grants of a campaign in the order of payment."""
    query, position = request.page(GrantsQuery)
    [after_id] = position or [0]
    campaign = _require_campaign(request)
    reader = request.reader
    values: dict[str, Any] = {"campaign_id": campaign.id, "after_id": after_id, "count": query.limit + 1}
    if query.account_id is not None:
        # An unknown id matches no grant; no key is negative.
        account_id = ids.decode(ids.ACCOUNT, query.account_id)
        key = -1 if account_id is None else account_id
        rows = await reader.all(SQL.grants_page_of_account, account_id=key, status=query.status, **values)
    elif query.status is not None:
        rows = await reader.all(SQL.grants_page_by_status, status=query.status, **values)
    else:
        rows = await reader.all(SQL.grants_page, **values)
    grants = list(map(GrantRow._make, rows))
    return request.respond_page(query, grants, item=grant_response, position=lambda grant: [grant.id])


@operation(RevokedGrant, body=RevokeBody, problems=(CampaignNotFound, GrantNotFound))
async def revoke_one(request: Request) -> Response:
    """Revoke the credits of a grant that are neither consumed nor reserved."""
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
    """Revoke the credits of all grants of a campaign that are neither consumed nor reserved."""
    request.require_room_for_bulk()
    body = await request.read(_REVOKE)
    return await request.write(
        bind(revoke_campaign, campaign_id=request.segment("campaign_id"), reason=body.reason, dry_run=request.is_dry_run),
        bulk=True,
    )


@operation(Stats, problems=(CampaignNotFound,))
async def show_stats(request: Request) -> Response:
    """Return statistics on the credits that a campaign granted."""
    request.parameters(Query)
    campaign = _require_campaign(request)
    book = request.state.book
    # Read the clock before the snapshot, as in a list.
    now_us = book.clock.now_us()
    rows = await request.reader.all(SQL.campaign_stats, campaign_id=campaign.id, now_us=now_us)
    return request.answer(stats_response(campaign.id, rows))


async def _transition(request: Request, transition: str) -> Response:
    await request.read(_NOTHING)
    return await request.write(bind(transition_campaign, campaign_id=request.segment("campaign_id"), transition=transition))


def _require_campaign(request: Request) -> CampaignRow:
    campaign_id = request.segment("campaign_id")
    key = ids.decode(ids.CAMPAIGN, campaign_id)
    rows = [] if key is None else request.reader.query_now(SQL.find_campaign, campaign_id=key)
    if not rows:
        raise CampaignNotFound(campaign_id)
    return CampaignRow(*rows[0])
