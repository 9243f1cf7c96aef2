"""Request and response bodies of campaigns and grants."""

from typing import Annotated, Literal

from msgspec import Meta, Raw, field

from minibill.api.types import (
    NO_NUL,
    AnyId,
    Body,
    Entity,
    EntityType,
    KeptObject,
    Micro,
    MicroText,
    PageQuery,
    PoolId,
    Reason,
    ResponseBody,
    SentObject,
    TimeUs,
    one_of,
)

CampaignType = Literal["reverse_airdrop", "promotional", "loyalty", "referral"]
CampaignStatus = Literal["draft", "active", "paused", "completed", "expired"]
Formula = Literal["proportional_loss", "fixed_amount", "tiered"]
GrantStatus = Literal["granted", "revoked"]
ItemStatus = Literal["granted", "revoked", "skipped", "failed"]

Name = Annotated[str, Meta(min_length=1, max_length=200, pattern=NO_NUL)]
LongText = Annotated[str, Meta(max_length=2000, pattern=NO_NUL)]
# 100 years.
GrantTtl = Annotated[int, Meta(ge=1, le=3_153_600_000)]

GrantConfig = Annotated[
    SentObject,
    Meta(
        description="fixed_amount: {amountMicro}; without a config each grant names its amount. "
        "proportional_loss: {ratioBps, minLossMicro, capMicro}. "
        "tiered: {brackets: [{minMicro, maxMicro, amountMicro}]}, half-open and ascending."
    ),
]


class Terms(Body, frozen=True, kw_only=True):
    """Optional members of a campaign. An absent one has its default on creation, and is unchanged by an edit."""

    description: LongText | None = None
    grant_formula: Formula | None = None
    grant_config: GrantConfig = field(default_factory=Raw)
    pool_id: PoolId | None = None
    per_wallet_cap_micro: Micro | None = None
    starts_at: TimeUs | None = None
    expires_at: TimeUs | None = None
    grant_ttl_seconds: GrantTtl | None = None


class CreateBody(Terms, frozen=True, kw_only=True):
    """A new campaign."""

    name: Name
    campaign_type: CampaignType
    budget_micro: Micro


class EditBody(Terms, frozen=True, kw_only=True):
    """Changes of a campaign; absent members stay as they are."""

    name: Name | None = None
    campaign_type: CampaignType | None = None
    budget_micro: Micro | None = None


class GrantItem(Body, frozen=True):
    """One account to pay, by id or by entity, with its amount or the input of the campaign's formula."""

    account_id: AnyId | None = None
    entity: Entity | None = None
    amount_micro: Micro | None = None
    formula_input: SentObject = field(default_factory=Raw)


class BatchBody(Body, frozen=True):
    """1 to 1,000 grants."""

    grants: Annotated[list[GrantItem], Meta(min_length=1)]
    force: bool | None = None


class RevokeBody(Body, frozen=True):
    reason: Reason


class CampaignsQuery(PageQuery, frozen=True):
    status: CampaignStatus | None = None
    campaign_type: CampaignType | None = None


class GrantsQuery(PageQuery, frozen=True):
    status: GrantStatus | None = None
    account_id: AnyId | None = None


class Campaign(ResponseBody):
    id: str
    name: str
    description: str | None
    campaign_type: Annotated[str, one_of(CampaignType)]
    status: Annotated[str, one_of(CampaignStatus)]
    budget_micro: MicroText
    spent_micro: MicroText
    remaining_micro: MicroText
    grant_formula: Annotated[str, one_of(Formula)]
    grant_config: KeptObject | None
    pool_id: str
    per_wallet_cap_micro: MicroText
    starts_at: str | None
    expires_at: str | None
    grant_ttl_seconds: int | None
    grant_count: int
    created_by: str
    created_at: str
    updated_at: str


class GrantResult(ResponseBody, omit_defaults=True):
    """The result of one item of a batch. The ids of grant and lot are null if nothing was paid."""

    grant_id: str | None
    account_id: str | None
    lot_id: str | None
    amount_micro: MicroText
    status: Annotated[str, one_of(ItemStatus)]
    duplicate: bool
    code: str | None = None
    reason: str | None = None


class BatchResult(ResponseBody):
    campaign_id: str
    total_granted: int
    total_duplicates: int
    total_skipped: int
    total_failed: int
    total_amount_micro: MicroText
    remaining_micro: MicroText
    grants: list[GrantResult]


class Grant(ResponseBody):
    grant_id: str
    campaign_id: str
    account_id: str
    entity_type: Annotated[str, one_of(EntityType)]
    entity_id: str
    lot_id: str
    amount_micro: MicroText
    status: Annotated[str, one_of(GrantStatus)]
    grant_formula: Annotated[str, one_of(Formula)]
    formula_input: KeptObject | None
    created_at: str
    revoked_at: str | None
    revoked_micro: MicroText | None
    revoke_reason: str | None


class RevokedGrant(ResponseBody):
    """A revoked grant, with its amounts at the time of revocation."""

    grant_id: str
    status: str
    revoked_micro: MicroText
    consumed_micro: MicroText
    reserved_micro: MicroText


class RevokedCampaign(ResponseBody):
    """All revoked grants of a campaign, with the sums of their amounts at the time of revocation."""

    campaign_id: str
    total_revoked: int
    revoked_micro: MicroText
    consumed_micro: MicroText
    reserved_micro: MicroText


class GrantsByStatus(ResponseBody):
    granted: int
    revoked: int


class Day(ResponseBody):
    """The grants of one day (UTC), and the credits consumed on that day from any grant of the campaign."""

    date: str
    grants: int
    granted_micro: MicroText
    consumed_micro: MicroText


class Stats(ResponseBody):
    """Use of the credits that a campaign granted, as of now."""

    campaign_id: str
    budget_micro: MicroText
    spent_micro: MicroText
    granted_micro: MicroText
    consumed_micro: MicroText
    reserved_micro: MicroText
    available_micro: MicroText
    expired_micro: MicroText
    revoked_micro: MicroText
    grants_by_status: GrantsByStatus
    accounts: int
    accounts_that_spent: int
    per_day: list[Day]
