"""Campaigns and their grants."""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import TypeVar

from minibill.campaigns.schemas import (
    BatchResult,
    Campaign,
    CampaignStatus,
    CampaignType,
    Formula,
    Grant,
    GrantStatus,
    RevokedCampaign,
    RevokedGrant,
    Stats,
)
from minibill.client._async.base import AsyncBaseClient
from minibill.client.operation import GrantTo, Json, grant_item, micro, time

T = TypeVar("T")


class AsyncCampaigns(AsyncBaseClient):
    """Operations on campaigns."""

    async def create_campaign(
        self,
        name: str,
        campaign_type: CampaignType,
        budget_micro: int,
        *,
        description: str | None = None,
        grant_formula: Formula | None = None,
        grant_config: Json | None = None,
        pool_id: str | None = None,
        per_wallet_cap_micro: int | None = None,
        starts_at: datetime | str | None = None,
        expires_at: datetime | str | None = None,
        grant_ttl_seconds: int | None = None,
        key: str | None = None,
        dry_run: bool = False,
    ) -> Campaign:
        """Create a campaign with status `draft`; amounts are micro-units.

            campaign = book.create_campaign("Summer", "promotional", 5_000_000_000, per_wallet_cap_micro=20_000_000)
            book.activate_campaign(campaign.id)

        Raises `InvalidRequest` for a formula that can't be evaluated.
        """
        body = {
            "name": name,
            "campaignType": campaign_type,
            "budgetMicro": micro(budget_micro),
            "description": description,
            "grantFormula": grant_formula,
            "grantConfig": grant_config,
            "poolId": pool_id,
            "perWalletCapMicro": micro(per_wallet_cap_micro),
            "startsAt": time(starts_at),
            "expiresAt": time(expires_at),
            "grantTtlSeconds": grant_ttl_seconds,
        }
        return await self._write(Campaign, "POST", "/campaigns", {}, body, key, dry_run=dry_run)

    async def edit_campaign(
        self,
        campaign_id: str,
        *,
        name: str | None = None,
        campaign_type: CampaignType | None = None,
        budget_micro: int | None = None,
        description: str | None = None,
        grant_formula: Formula | None = None,
        grant_config: Json | None = None,
        pool_id: str | None = None,
        per_wallet_cap_micro: int | None = None,
        starts_at: datetime | str | None = None,
        expires_at: datetime | str | None = None,
        grant_ttl_seconds: int | None = None,
        key: str | None = None,
        dry_run: bool = False,
    ) -> Campaign:
        """Change the given members. Raises `CampaignFieldLocked`, `BudgetBelowSpent` or `CampaignNotFound`."""
        body = {
            "name": name,
            "campaignType": campaign_type,
            "budgetMicro": micro(budget_micro),
            "description": description,
            "grantFormula": grant_formula,
            "grantConfig": grant_config,
            "poolId": pool_id,
            "perWalletCapMicro": micro(per_wallet_cap_micro),
            "startsAt": time(starts_at),
            "expiresAt": time(expires_at),
            "grantTtlSeconds": grant_ttl_seconds,
        }
        segments = {"campaign_id": campaign_id}
        return await self._write(Campaign, "PATCH", "/campaigns/{campaign_id}", segments, body, key, dry_run=dry_run)

    async def activate_campaign(self, campaign_id: str, *, key: str | None = None, dry_run: bool = False) -> Campaign:
        """Activate a campaign, so that it pays grants. Raises `InvalidTransition` or `CampaignNotFound`."""
        return await self._transition(campaign_id, "activate", key, dry_run)

    async def pause_campaign(self, campaign_id: str, *, key: str | None = None, dry_run: bool = False) -> Campaign:
        """Pause a campaign. Raises `InvalidTransition` or `CampaignNotFound`."""
        return await self._transition(campaign_id, "pause", key, dry_run)

    async def complete_campaign(self, campaign_id: str, *, key: str | None = None, dry_run: bool = False) -> Campaign:
        """Complete a campaign; it can't be activated again. Raises `InvalidTransition` or `CampaignNotFound`."""
        return await self._transition(campaign_id, "complete", key, dry_run)

    async def _transition(self, campaign_id: str, verb: str, key: str | None, dry_run: bool) -> Campaign:
        route, segments = f"/campaigns/{{campaign_id}}/{verb}", {"campaign_id": campaign_id}
        return await self._write(Campaign, "POST", route, segments, {}, key, dry_run=dry_run)

    async def campaign(self, campaign_id: str) -> Campaign:
        """Return a campaign. Raises `CampaignNotFound`."""
        return await self._read(Campaign, "/campaigns/{campaign_id}", {"campaign_id": campaign_id})

    def campaigns(
        self, *, status: CampaignStatus | None = None, campaign_type: CampaignType | None = None
    ) -> AsyncIterator[Campaign]:
        """Yield campaigns, newest first."""
        return self._pages(Campaign, "/campaigns", {}, status=status, campaignType=campaign_type)

    async def pay_batch(
        self,
        campaign_id: str,
        grants: Sequence[GrantTo],
        *,
        force: bool = False,
        key: str | None = None,
        dry_run: bool = False,
    ) -> BatchResult:
        """Pay 1 to 1,000 grants, each account once. If the batch would exceed a limit, nothing is paid.

            book.pay_batch(campaign.id, [GrantTo(Entity("person", "ada"), 5_000_000)])

        An account that the campaign paid before gets `duplicate=True`. Raises `CampaignNotActive`, `DuplicateAccount`,
        `PerWalletCapExceeded`, `LargeGrantRequiresForce`, `BudgetExceeded` or `AmountTooLarge`.
        """
        body = {"grants": [grant_item(grant) for grant in grants], "force": force or None}
        route, segments = "/campaigns/{campaign_id}/grants/batch", {"campaign_id": campaign_id}
        return await self._write(BatchResult, "POST", route, segments, body, key, dry_run=dry_run)

    async def pay_encoded_batch(
        self, campaign_id: str, body: bytes, *, key: str | None = None, dry_run: bool = False
    ) -> BatchResult:
        """Pay a batch that is already encoded as the JSON of the request body; otherwise like `pay_batch`."""
        operation = self._operation(
            "POST",
            "/campaigns/{campaign_id}/grants/batch",
            {"campaign_id": campaign_id},
            key=key or self._new_key(),
            dry_run=dry_run,
        )
        return self._decode(await self.send(operation._replace(body=body)), BatchResult)

    def grants(
        self, campaign_id: str, *, status: GrantStatus | None = None, account_id: str | None = None
    ) -> AsyncIterator[Grant]:
        """Yield the grants of a campaign, in the order of payment."""
        route, segments = "/campaigns/{campaign_id}/grants", {"campaign_id": campaign_id}
        return self._pages(Grant, route, segments, status=status, accountId=account_id)

    async def revoke_grant(
        self, campaign_id: str, grant_id: str, reason: str, *, key: str | None = None, dry_run: bool = False
    ) -> RevokedGrant:
        """Revoke the credits of a grant that are neither consumed nor reserved. Repeating it returns the same response.

        Reserved credits are revoked when the reservation returns them. Raises `GrantNotFound`.
        """
        route, segments = (
            "/campaigns/{campaign_id}/grants/{grant_id}/revoke",
            {"campaign_id": campaign_id, "grant_id": grant_id},
        )
        return await self._write(RevokedGrant, "POST", route, segments, {"reason": reason}, key, dry_run=dry_run)

    async def revoke_campaign(
        self, campaign_id: str, reason: str, *, key: str | None = None, dry_run: bool = False
    ) -> RevokedCampaign:
        """Revoke all grants of a campaign. If it is interrupted, repeat it to revoke the rest."""
        route, segments = "/campaigns/{campaign_id}/revoke", {"campaign_id": campaign_id}
        return await self._write(RevokedCampaign, "POST", route, segments, {"reason": reason}, key, dry_run=dry_run)

    async def campaign_stats(self, campaign_id: str) -> Stats:
        """Return sums of the credits that a campaign granted, by state and by day."""
        return await self._read(Stats, "/campaigns/{campaign_id}/stats", {"campaign_id": campaign_id})
