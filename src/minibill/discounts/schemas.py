"""The wire of tiers, memberships and quotes."""

from typing import Annotated

from msgspec import Meta

from minibill.api.types import Body, Micro, MicroText, PageQuery, Query, ResponseBody, TimeUs
from minibill.ledger.pricing import BPS_IN_ALL
from minibill.ledger.schemas import Considered

TIERS_MAX = 100

# Text without NUL, at which SQLite's functions stop.
TierName = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[^\x00]*\Z")]


class TierBody(Body, frozen=True):
    """What a community takes off for some of its members; no maximum is no cap."""

    tier: TierName
    rate_bps: Annotated[int, Meta(ge=0, le=BPS_IN_ALL)]
    max_discount_micro: Micro | None = None


class TiersBody(Body, frozen=True):
    tiers: Annotated[list[TierBody], Meta(max_length=TIERS_MAX)]


class MembershipBody(Body, frozen=True):
    """A tier of the community that the path names; without an end it lasts until it is deleted."""

    tier: TierName
    expires_at: TimeUs | None = None


class MembershipsQuery(PageQuery, frozen=True):
    pass


class QuoteQuery(Query, frozen=True):
    amount_micro: Micro


class Tier(ResponseBody):
    tier: str
    rate_bps: int
    max_discount_micro: MicroText | None


class Tiers(ResponseBody):
    community_id: str
    tiers: list[Tier]


class Membership(ResponseBody):
    account_id: str
    community_id: str
    tier: str
    expires_at: str | None


class Quote(ResponseBody):
    """A price, and which memberships were considered for it."""

    list_micro: MicroText
    discount_bps: int
    discount_micro: MicroText
    payable_micro: MicroText
    community_id: str | None
    tier: str | None
    considered: list[Considered]
