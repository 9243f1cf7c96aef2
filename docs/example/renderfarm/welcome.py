"""A present for new customers."""

from collections.abc import Sequence

from minibill.client import Client, Entity, GrantTo

PRESENT_MICRO = 1_000_000


def open_campaign(book: Client, customers_max: int) -> str:
    """A campaign that can pay so many presents; answers its id."""
    campaign = book.create_campaign("Welcome", "promotional", customers_max * PRESENT_MICRO)
    return book.activate_campaign(campaign.id).id


def welcome(book: Client, campaign_id: str, customers: Sequence[str]) -> int:
    """Gives each customer the present, once, however often this is run; answers how many got it now."""
    grants = [GrantTo(Entity("person", customer), PRESENT_MICRO) for customer in customers]
    return book.pay_batch(campaign_id, grants).total_granted
