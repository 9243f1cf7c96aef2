"""Statistics of a campaign. Triggers maintain the counters; this module builds the response."""

from typing import NamedTuple

from minibill.campaigns.schemas import Day, GrantsByStatus, Stats
from minibill.core import ids
from minibill.core.clock import format_date
from minibill.db.queries import Row


class _Totals(NamedTuple):
    """The first row of `campaign_stats`, without its empty day."""

    budget_micro: int
    spent_micro: int
    grants: int
    grants_revoked: int
    granted_micro: int
    reserved_micro: int
    expired_micro: int
    spending_accounts: int


class _Day(NamedTuple):
    """A further row of `campaign_stats`, without its empty columns; `day` counts from 1970-01-01 in UTC."""

    day: int
    grants: int
    granted_micro: int
    consumed_micro: int


def stats_response(campaign_id: int, rows: list[Row]) -> Stats:
    """Return the statistics from the rows of `campaign_stats`. See docs/concepts/campaigns.md."""
    totals, days = _Totals(*rows[0][1:]), [_Day(*row[:4]) for row in rows[1:]]
    consumed_micro = sum(day.consumed_micro for day in days)
    return Stats(
        campaign_id=ids.encode(ids.CAMPAIGN, campaign_id),
        budget_micro=str(totals.budget_micro),
        spent_micro=str(totals.spent_micro),
        granted_micro=str(totals.granted_micro),
        consumed_micro=str(consumed_micro),
        reserved_micro=str(totals.reserved_micro),
        available_micro=str(totals.spent_micro - consumed_micro - totals.reserved_micro - totals.expired_micro),
        expired_micro=str(totals.expired_micro),
        revoked_micro=str(totals.granted_micro - totals.spent_micro),
        grants_by_status=GrantsByStatus(totals.grants - totals.grants_revoked, totals.grants_revoked),
        # A campaign pays an account once, so grants count accounts.
        accounts=totals.grants,
        accounts_that_spent=totals.spending_accounts,
        per_day=[Day(format_date(day.day), day.grants, str(day.granted_micro), str(day.consumed_micro)) for day in days],
    )
