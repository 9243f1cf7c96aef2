"""Request and response bodies of tiers, memberships and quotes."""

from typing import Annotated

from msgspec import Meta

from minibill.api.types import Body, Micro, MicroText, PageQuery, Query, ResponseBody, TimeUs
from minibill.ledger.pricing import BPS_IN_ALL
from minibill.ledger.schemas import Considered

TIERS_MAX = 100

# Text without NUL: SQLite's text functions end at it.
TierName = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[^\x00]*\Z")]


class TierBody(Body, frozen=True):
    """A discount for some members of a community; without `maxDiscountMicro` it has no cap."""

    tier: TierName
    rate_bps: Annotated[int, Meta(ge=0, le=BPS_IN_ALL)]
    max_discount_micro: Micro | None = None


class TiersBody(Body, frozen=True):
    tiers: Annotated[list[TierBody], Meta(max_length=TIERS_MAX)]


class MembershipBody(Body, frozen=True):
    """A tier of the community in the path; without `expiresAt` the membership does not expire."""

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
    """A price with its discount, and each membership with the reason why it was applied or not."""

    list_micro: MicroText
    discount_bps: int
    discount_micro: MicroText
    payable_micro: MicroText
    community_id: str | None
    tier: str | None
    considered: list[Considered]
