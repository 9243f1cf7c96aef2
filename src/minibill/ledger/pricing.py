"""Discounts on a price: the arithmetic, and the choice of a membership. Pure functions. See docs/concepts/discounts.md.

Reserve, finalize and quotes use this module. Tiers and memberships belong to the package `discounts`.
"""

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from minibill.api.types import encode
from minibill.core.clock import format_time
from minibill.ledger.schemas import Considered

BPS_IN_ALL = 10_000


class Membership(NamedTuple):
    """A row of `memberships_with_terms`. `rate_bps` is None if the community no longer has the tier."""

    community_id: str
    tier: str
    expires_at_us: int | None
    rate_bps: int | None
    max_discount_micro: int | None


class Discount(NamedTuple):
    """The terms of a membership, which a reservation stores. `max_discount_micro` is None if there is no cap."""

    rate_bps: int
    max_discount_micro: int | None
    community_id: str | None
    tier: str | None

    def on(self, list_micro: int) -> int:
        """Return the discount on a list price, in micro-units."""
        return discount_micro(list_micro, rate_bps=self.rate_bps, max_discount_micro=self.max_discount_micro)


NO_DISCOUNT = Discount(0, None, None, None)


def discount_micro(list_micro: int, *, rate_bps: int, max_discount_micro: int | None) -> int:
    """Return the discount on a list price, rounded down and limited by its cap.

    Amounts are micro-units; the rate is in basis points, 0..10000. See docs/concepts/discounts.md.
    """
    share_micro = list_micro * rate_bps // BPS_IN_ALL
    return share_micro if max_discount_micro is None else min(share_micro, max_discount_micro)


def best_discount(memberships: Iterable[Membership], list_micro: int, *, now_us: int) -> Discount:
    """Return the terms of the active membership with the highest discount; a tie goes to the smaller community id."""
    active = [m for m in memberships if m.rate_bps is not None and _is_active(m, now_us)]
    if not active:
        return NO_DISCOUNT
    return min(map(_terms, active), key=lambda terms: (-terms.on(list_micro), terms.community_id))


def explain_memberships(
    memberships: Iterable[Membership], list_micro: int, *, best: Discount, now_us: int
) -> list[Considered]:
    """Return each membership with the reason why it applies or not; `best` is the result of `best_discount`.

    In shadow mode no discount applies, and `best` is `NO_DISCOUNT` although a membership may be active.
    """
    return [
        Considered(
            m.community_id, m.tier, m.rate_bps, m.community_id == best.community_id, _reason(m, list_micro, best, now_us)
        )
        for m in memberships
    ]


def metadata_with_discount(metadata: str | None, discount: Discount, list_micro: int) -> str | None:
    """Return the metadata of an entry with a discounted price: the figures next to the caller's own keys.

    On a name clash, the caller's metadata is nested under `metadata`.
    """
    if discount.community_id is None:
        return metadata
    figures = {
        "listMicro": str(list_micro),
        "discountBps": discount.rate_bps,
        "maxDiscountMicro": None if discount.max_discount_micro is None else str(discount.max_discount_micro),
        "discountMicro": str(discount.on(list_micro)),
        "communityId": discount.community_id,
        "tier": discount.tier,
    }
    own = {} if metadata is None else msgspec.json.decode(metadata, type=dict[str, msgspec.Raw])
    if metadata is not None and own.keys() & figures.keys():
        own = {"metadata": msgspec.Raw(metadata)}
    return encode(figures | own).decode()


def _reason(membership: Membership, list_micro: int, best: Discount, now_us: int) -> str:
    if not _is_active(membership, now_us):
        return f"it expired at {format_time(membership.expires_at_us or 0)}"
    if membership.rate_bps is None:
        return f"the community no longer has the tier {membership.tier}"
    if best.community_id is None:
        return "shadow mode applies no discount"
    own_micro, best_micro = _terms(membership).on(list_micro), best.on(list_micro)
    if membership.community_id == best.community_id:
        return f"it gives the most: {own_micro}"
    if own_micro == best_micro:
        return f"it gives {own_micro} as {best.community_id} does, and the smaller community id goes first"
    return f"it gives {own_micro}, and {best.community_id} gives {best_micro}"


def _is_active(membership: Membership, now_us: int) -> bool:
    return membership.expires_at_us is None or now_us < membership.expires_at_us


def _terms(membership: Membership) -> Discount:
    assert membership.rate_bps is not None
    return Discount(membership.rate_bps, membership.max_discount_micro, membership.community_id, membership.tier)
