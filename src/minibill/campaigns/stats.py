"""What became of the credits that a campaign granted. Triggers keep count; here it is only put together."""

from minibill.campaigns.schemas import Day, GrantsByStatus, Stats
from minibill.core import ids
from minibill.core.clock import format_date
from minibill.db.queries import Row


def stats_response(campaign_id: int, rows: list[Row]) -> Stats:
    """The answer from the rows of `campaign_stats`. Source: contract, section 4."""
    (_, budget, spent, grants, grants_revoked, granted, reserved, expired, accounts_that_spent), *days = rows
    consumed = sum(consumed_micro for _, _, _, consumed_micro, *_ in days)
    return Stats(
        campaign_id=ids.encode(ids.CAMPAIGN, campaign_id),
        budget_micro=str(budget),
        spent_micro=str(spent),
        granted_micro=str(granted),
        consumed_micro=str(consumed),
        reserved_micro=str(reserved),
        available_micro=str(spent - consumed - reserved - expired),
        expired_micro=str(expired),
        revoked_micro=str(granted - spent),
        grants_by_status=GrantsByStatus(grants - grants_revoked, grants_revoked),
        # A campaign pays an account once.
        accounts=grants,
        accounts_that_spent=accounts_that_spent,
        per_day=[
            Day(format_date(day), day_grants, str(granted_micro), str(consumed_micro))
            for day, day_grants, granted_micro, consumed_micro, *_ in days
        ],
    )
