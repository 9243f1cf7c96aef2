"""Memberships: which account is in which tier of which community, and until when.

Whether one counts is decided at the moment of use, in ledger/discounts.py: nothing is done when one expires.
"""

from minibill.api.types import NoResponseBody, optional_time
from minibill.core import ids
from minibill.core.problems import NotFound, TierNotFound
from minibill.core.write_result import WriteResult
from minibill.db.queries import Row, queries
from minibill.db.sqlite import Connection
from minibill.discounts.schemas import Membership
from minibill.ledger.expiry import account_for_update

SQL = queries("discounts")


def put_membership(
    conn: Connection, now_us: int, *, account_id: str, community_id: str, tier: str, expires_at_us: int | None
) -> WriteResult:
    """Makes an account a member, or changes its tier and expiry; an expiry that has passed is a membership that is over.

    Raises `AccountNotFound`, `TierNotFound`, `InvalidRequest` for one membership too many, and `ExpiryDue`.
    Source: contract, section 5.
    """
    key = account_for_update(conn, account_id, now_us=now_us)
    if SQL.find_tier.one(conn, community_id=community_id, tier=tier) is None:
        raise TierNotFound(community_id=community_id, tier=tier)
    found = SQL.find_membership.one(conn, account_id=key, community_id=community_id)
    write = SQL.insert_membership if found is None else SQL.change_membership
    write.run(conn, account_id=key, community_id=community_id, tier=tier, expires_at_us=expires_at_us)
    answer = Membership(account_id, community_id, tier, optional_time(expires_at_us))
    before = None if found is None else Membership(account_id, community_id, found[0], optional_time(found[1]))
    return WriteResult(answer, "membership.put", "account", account_id, lambda: {"before": before, "after": answer})


def delete_membership(conn: Connection, now_us: int, *, account_id: str, community_id: str) -> WriteResult:
    """Ends a membership. Raises `AccountNotFound`, `NotFound` where there is none, and `ExpiryDue`.

    Source: contract, section 5.
    """
    key = account_for_update(conn, account_id, now_us=now_us)
    found = SQL.find_membership.one(conn, account_id=key, community_id=community_id)
    if found is None:
        raise NotFound("the account has no membership of this community", account_id=account_id, community_id=community_id)
    SQL.delete_membership.run(conn, account_id=key, community_id=community_id)
    before = Membership(account_id, community_id, found[0], optional_time(found[1]))
    return WriteResult(NoResponseBody(), "membership.delete", "account", account_id, lambda: {"before": before})


def membership_response(row: Row) -> Membership:
    """A membership as it is answered, from a row of `memberships_page`."""
    _, account_id, community_id, tier, expires_at_us = row
    return Membership(ids.encode(ids.ACCOUNT, account_id), community_id, tier, optional_time(expires_at_us))
