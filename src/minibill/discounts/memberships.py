"""Memberships: the tier of an account in a community, until an optional end.

ledger/pricing.py decides at each use whether a membership is active, so nothing is written when one expires.
"""

from typing import NamedTuple

from minibill.api.types import NoResponseBody, optional_time
from minibill.core import ids
from minibill.core.problems import NotFound, TierNotFound
from minibill.core.write_result import WriteResult
from minibill.db.queries import queries
from minibill.db.sqlite import Connection
from minibill.discounts.schemas import Membership, MembershipBody
from minibill.ledger.expiry import account_for_update

SQL = queries("discounts")


class MembershipRow(NamedTuple):
    """A row of `memberships_page`."""

    id: int
    account_id: int
    community_id: str
    tier: str
    expires_at_us: int | None


def put_membership(
    conn: Connection, now_us: int, *, account_id: str, community_id: str, body: MembershipBody
) -> WriteResult:
    """Create a membership, or change its tier and end. An end in the past is allowed: the membership has then expired.

    Raises `AccountNotFound`, `TierNotFound`, `InvalidRequest` above the limit of memberships of an account, `ExpiryDue`. See
    docs/concepts/discounts.md.
    """
    key = account_for_update(conn, account_id, now_us=now_us)
    if SQL.find_tier.one(conn, community_id=community_id, tier=body.tier) is None:
        raise TierNotFound(community_id=community_id, tier=body.tier)
    before = _find(conn, key, account_id, community_id)
    expires_at_us = None if body.expires_at is None else int(body.expires_at)
    write = SQL.insert_membership if before is None else SQL.update_membership
    write.run(conn, account_id=key, community_id=community_id, tier=body.tier, expires_at_us=expires_at_us)
    answer = Membership(account_id, community_id, body.tier, optional_time(expires_at_us))
    return WriteResult(answer, "membership.put", "account", account_id, lambda: {"before": before, "after": answer})


def delete_membership(conn: Connection, now_us: int, *, account_id: str, community_id: str) -> WriteResult:
    """Delete a membership. Raises `AccountNotFound`, `NotFound` without such a membership, `ExpiryDue`."""
    key = account_for_update(conn, account_id, now_us=now_us)
    before = _find(conn, key, account_id, community_id)
    if before is None:
        raise NotFound("the account has no membership of this community", account_id=account_id, community_id=community_id)
    SQL.delete_membership.run(conn, account_id=key, community_id=community_id)
    return WriteResult(NoResponseBody(), "membership.delete", "account", account_id, lambda: {"before": before})


def membership_response(row: MembershipRow) -> Membership:
    """Return the response body of a membership."""
    return Membership(ids.encode(ids.ACCOUNT, row.account_id), row.community_id, row.tier, optional_time(row.expires_at_us))


def _find(conn: Connection, key: int, account_id: str, community_id: str) -> Membership | None:
    found = SQL.find_membership.one(conn, account_id=key, community_id=community_id)
    if found is None:
        return None
    tier, expires_at_us = found
    return Membership(account_id, community_id, tier, optional_time(expires_at_us))
