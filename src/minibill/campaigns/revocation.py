"""Taking grants back: what is neither consumed nor reserved now, and what is reserved as it comes back.

The credits are the ledger's to move (ledger/revoke.py, and settle.py for what comes back later); that the campaign may spend
them again is the database's to see to (lots_give_their_campaign_back_what_is_revoked).
"""

from typing import NamedTuple

from minibill.campaigns.lifecycle import SQL, require_campaign
from minibill.campaigns.schemas import RevokedCampaign, RevokedGrant
from minibill.core import ids
from minibill.core.problems import GrantNotFound
from minibill.core.write_result import WriteResult
from minibill.db.queries import Row
from minibill.db.slices import Slice
from minibill.db.sqlite import Connection
from minibill.db.write_operation import bind
from minibill.ledger.revocation import RevokedLot, revoke_lots

# What one transaction of a large revocation takes back at most. It takes less where that takes longer than a slice may, and
# looks at the time after each step.
SLICE_GRANTS_MAX = 200
STEP_GRANTS = 10


class Totals(NamedTuple):
    """How many grants are revoked, and what they came to when they were, in micro-units."""

    grants: int
    revoked_micro: int
    consumed_micro: int
    reserved_micro: int

    def plus(self, more: "Totals") -> "Totals":
        return Totals(*(own + other for own, other in zip(self, more, strict=True)))


NOTHING = Totals(0, 0, 0, 0)


class Progress(NamedTuple):
    """How far a revocation in slices has come: the grants up to `after_id` are done, those after `until_id` came too late.

    `taken_back` is what a dry run has revoked in the slices before, of which nothing is left, and `before` what was revoked
    without it.
    """

    after_id: int
    until_id: int
    taken_back: Totals
    before: Totals


def revoke_grant(conn: Connection, now_us: int, *, campaign_id: str, grant_id: str, reason: str) -> WriteResult:
    """Revokes a grant; again is the same answer, whatever has come back since.

    Raises `CampaignNotFound`, `GrantNotFound` also for a grant of another campaign, and `ExpiryDue`. Source: contract,
    section 4.
    """
    campaign = require_campaign(conn, campaign_id)
    key = ids.decode(ids.GRANT, grant_id)
    row = None if key is None else SQL.find_grant.one(conn, grant_id=key, campaign_id=campaign.id)
    if row is None:
        raise GrantNotFound(grant_id)
    _, account_id, lot_id, status, *amounts = row
    if status == "revoked":
        answer = _revoked_grant(grant_id, *amounts)
        again = {"campaignId": campaign_id, "duplicate": True}
        return WriteResult(answer, "grant.revoke", "grant", grant_id, lambda: again)
    [lot] = _revoke(conn, [(row[0], account_id, lot_id)], reason=reason, now_us=now_us)
    answer = _revoked_grant(grant_id, lot.revoked_micro, lot.consumed_micro, lot.reserved_micro)
    details = lambda: {
        "campaignId": campaign_id,
        "reason": reason,
        "revokedMicro": answer.revoked_micro,
        "consumedMicro": answer.consumed_micro,
        "reservedMicro": answer.reserved_micro,
        "spentBeforeMicro": str(campaign.spent_micro),
        "spentAfterMicro": str(campaign.spent_micro - lot.revoked_micro),
        **_moved(lot),
    }
    return WriteResult(answer, "grant.revoke", "grant", grant_id, details)


def revoke_campaign(
    conn: Connection,
    now_us: int,
    *,
    campaign_id: str,
    reason: str,
    really: bool,
    progress: Progress | None = None,
) -> WriteResult:
    """Revokes every grant that the campaign has made so far, a slice in each transaction; answers the totals of all.

    Those that were revoked before count with what they came to then, so that again is the same answer. A revocation that was
    cut short leaves grants that are revoked and grants that are not; asking again goes on with these. Raises
    `CampaignNotFound`, `ExpiryDue`. Source: contract, section 4.
    """
    campaign = require_campaign(conn, campaign_id)
    found = SQL.revoked_of_campaign.one(conn, campaign_id=campaign.id)
    assert found is not None
    before = Totals(*found)
    if progress is None or not (really or before == progress.before):
        # Where others have revoked since, a dry run begins anew: what it had counted may be among theirs.
        newest = SQL.last_grant.one(conn)
        assert newest is not None
        progress = Progress(0, newest[0], NOTHING, before)
    grants = SQL.grants_to_revoke.all(
        conn,
        campaign_id=campaign.id,
        after_id=progress.after_id,
        until_id=progress.until_id,
        count=SLICE_GRANTS_MAX + 1,
    )
    own, lots = Slice(), list[RevokedLot]()
    while len(lots) < min(len(grants), SLICE_GRANTS_MAX) and not (lots and own.is_over):
        step = grants[len(lots) : min(len(lots) + STEP_GRANTS, SLICE_GRANTS_MAX)]
        lots += _revoke(conn, step, reason=reason, now_us=now_us)
    is_last = len(lots) == len(grants)
    of_slice = Totals(
        len(lots),
        sum(lot.revoked_micro for lot in lots),
        sum(lot.consumed_micro for lot in lots),
        sum(lot.reserved_micro for lot in lots),
    )
    totals = before.plus(progress.taken_back).plus(of_slice)
    answer = RevokedCampaign(
        campaign_id=campaign_id,
        total_revoked=totals.grants,
        revoked_micro=str(totals.revoked_micro),
        consumed_micro=str(totals.consumed_micro),
        reserved_micro=str(totals.reserved_micro),
    )
    details = lambda: {
        "reason": reason,
        # Of this transaction; a large revocation is several, and the last one is complete.
        "grants": of_slice.grants,
        "revokedMicro": str(of_slice.revoked_micro),
        "consumedMicro": str(of_slice.consumed_micro),
        "reservedMicro": str(of_slice.reserved_micro),
        "complete": is_last,
        "spentBeforeMicro": str(campaign.spent_micro),
        "spentAfterMicro": str(campaign.spent_micro - of_slice.revoked_micro),
        "balances": [_moved(lot) for lot in lots],
    }
    continuation = None
    if not is_last:
        taken_back = NOTHING if really else progress.taken_back.plus(of_slice)
        reached = Progress(grants[len(lots) - 1][0], progress.until_id, taken_back, progress.before)
        continuation = bind(revoke_campaign, campaign_id=campaign_id, reason=reason, really=really, progress=reached)
    return WriteResult(answer, "campaign.revoke", "campaign", campaign_id, details, continuation=continuation)


def _revoke(conn: Connection, grants: list[Row], *, reason: str, now_us: int) -> list[RevokedLot]:
    """Revokes grants, given as (grant, account, lot), with their lots; answers these in the same order."""
    lots = revoke_lots(conn, {lot_id: account_id for _, account_id, lot_id in grants}, description=reason, now_us=now_us)
    SQL.revoke_grant.many(
        conn,
        [
            (now_us, lots[lot_id].revoked_micro, lots[lot_id].consumed_micro, lots[lot_id].reserved_micro, reason, grant_id)
            for grant_id, _, lot_id in grants
        ],
    )
    return [lots[lot_id] for _, _, lot_id in grants]


def _revoked_grant(grant_id: str, revoked_micro: int, consumed_micro: int, reserved_micro: int) -> RevokedGrant:
    return RevokedGrant(grant_id, "revoked", str(revoked_micro), str(consumed_micro), str(reserved_micro))


def _moved(lot: RevokedLot) -> dict[str, str]:
    """The available credits of the account in the pool of the lot, for the audit log."""
    return {
        "accountId": ids.encode(ids.ACCOUNT, lot.account_id),
        "beforeMicro": str(lot.available_before_micro),
        "afterMicro": str(lot.available_after_micro),
    }
