"""A welcome grant for new customers."""

from collections.abc import Sequence

from minibill.client import Client, Entity, GrantTo

GRANT_MICRO = 1_000_000


def open_campaign(book: Client, customers_max: int) -> str:
    """Create and activate a campaign for this many customers, and return its id."""
    campaign = book.create_campaign("Welcome", "promotional", customers_max * GRANT_MICRO)
    return book.activate_campaign(campaign.id).id


def welcome(book: Client, campaign_id: str, customers: Sequence[str]) -> int:
    """Pay each customer once, however often this runs; return the number of new grants."""
    grants = [GrantTo(Entity("person", customer), GRANT_MICRO) for customer in customers]
    return book.pay_batch(campaign_id, grants).total_granted
