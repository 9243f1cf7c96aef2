"""Campaigns and their grants."""

# Made from _async/campaigns.py by `make client`: change that one.

from collections.abc import Iterator, Sequence
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
from minibill.client._sync.base import Asking
from minibill.client.operation import GrantTo, Json, grant_item, micro, time, to_ask

T = TypeVar("T")


class Campaigns(Asking):
    """Operations on campaigns."""

    def create_campaign(
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
        """Makes a campaign, as a draft."""
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
        return self._write(Campaign, "POST", "/campaigns", {}, body, key, dry_run=dry_run)

    def edit_campaign(
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
        """Changes what is given; the rest stays."""
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
        return self._write(Campaign, "PATCH", "/campaigns/{campaign_id}", segments, body, key, dry_run=dry_run)

    def activate_campaign(self, campaign_id: str, *, key: str | None = None, dry_run: bool = False) -> Campaign:
        """Lets a campaign pay."""
        return self._move(campaign_id, "activate", key, dry_run)

    def pause_campaign(self, campaign_id: str, *, key: str | None = None, dry_run: bool = False) -> Campaign:
        """Stops a campaign from paying, for a while."""
        return self._move(campaign_id, "pause", key, dry_run)

    def complete_campaign(self, campaign_id: str, *, key: str | None = None, dry_run: bool = False) -> Campaign:
        """Ends a campaign."""
        return self._move(campaign_id, "complete", key, dry_run)

    def _move(self, campaign_id: str, verb: str, key: str | None, dry_run: bool) -> Campaign:
        route, segments = f"/campaigns/{{campaign_id}}/{verb}", {"campaign_id": campaign_id}
        return self._write(Campaign, "POST", route, segments, {}, key, dry_run=dry_run)

    def campaign(self, campaign_id: str) -> Campaign:
        """One campaign."""
        return self._read(Campaign, "/campaigns/{campaign_id}", {"campaign_id": campaign_id})

    def campaigns(
        self, *, status: CampaignStatus | None = None, campaign_type: CampaignType | None = None
    ) -> Iterator[Campaign]:
        """Campaigns, newest first."""
        return self._pages(Campaign, "/campaigns", {}, status=status, campaignType=campaign_type)

    def pay_batch(
        self,
        campaign_id: str,
        grants: Sequence[GrantTo],
        *,
        force: bool = False,
        key: str | None = None,
        dry_run: bool = False,
    ) -> BatchResult:
        """Pays 1 to 1,000 grants, each account once; all or nothing where limits are concerned."""
        body = {"grants": [grant_item(grant) for grant in grants], "force": force or None}
        route, segments = "/campaigns/{campaign_id}/grants/batch", {"campaign_id": campaign_id}
        return self._write(BatchResult, "POST", route, segments, body, key, dry_run=dry_run)

    def pay_encoded_batch(
        self, campaign_id: str, body: bytes, *, key: str | None = None, dry_run: bool = False
    ) -> BatchResult:
        """The same of a batch that is JSON already, as the route takes it."""
        ask = to_ask(
            "POST",
            "/campaigns/{campaign_id}/grants/batch",
            {"campaign_id": campaign_id},
            key=key or self._new_key(),
            dry_run=dry_run,
        )
        return self._understood(self.send(ask._replace(body=body)), BatchResult)

    def grants(
        self, campaign_id: str, *, status: GrantStatus | None = None, account_id: str | None = None
    ) -> Iterator[Grant]:
        """The grants of a campaign, in the order in which they were paid."""
        route, segments = "/campaigns/{campaign_id}/grants", {"campaign_id": campaign_id}
        return self._pages(Grant, route, segments, status=status, accountId=account_id)

    def revoke_grant(
        self, campaign_id: str, grant_id: str, reason: str, *, key: str | None = None, dry_run: bool = False
    ) -> RevokedGrant:
        """Takes back what is left of a grant."""
        route, segments = (
            "/campaigns/{campaign_id}/grants/{grant_id}/revoke",
            {"campaign_id": campaign_id, "grant_id": grant_id},
        )
        return self._write(RevokedGrant, "POST", route, segments, {"reason": reason}, key, dry_run=dry_run)

    def revoke_campaign(
        self, campaign_id: str, reason: str, *, key: str | None = None, dry_run: bool = False
    ) -> RevokedCampaign:
        """Takes back what is left of all grants of a campaign."""
        route, segments = "/campaigns/{campaign_id}/revoke", {"campaign_id": campaign_id}
        return self._write(RevokedCampaign, "POST", route, segments, {"reason": reason}, key, dry_run=dry_run)

    def campaign_stats(self, campaign_id: str) -> Stats:
        """What became of the credits that a campaign granted."""
        return self._read(Stats, "/campaigns/{campaign_id}/stats", {"campaign_id": campaign_id})
