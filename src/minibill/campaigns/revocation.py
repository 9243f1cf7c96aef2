"""Revocation: take back the unspent credits of grants, now or when a reservation returns them.

ledger/revocation.py moves the credits now, and ledger/expiry.py and ledger/finalize.py move those that return later. A
trigger, lots_return_revoked_credits_to_campaign, returns them to the budget of the campaign.
"""

from typing import NamedTuple

from minibill.campaigns.lifecycle import SQL, require_campaign
from minibill.campaigns.schemas import RevokedCampaign, RevokedGrant
from minibill.core import ids
from minibill.core.problems import GrantNotFound
from minibill.core.write_result import WriteResult
from minibill.db.slices import Slice
from minibill.db.sqlite import Connection
from minibill.db.write_operation import bind
from minibill.ledger.revocation import RevokedLot, revoke_lots

# One transaction of a large revocation revokes at most this many grants, in chunks, and ends early when its time is over.
SLICE_GRANTS_MAX = 200
CHUNK_GRANTS = 10


class GrantToRevoke(NamedTuple):
    """A row of `grants_to_revoke`."""

    id: int
    account_id: int
    lot_id: int


class FoundGrant(NamedTuple):
    """A row of `find_grant`. The amounts are set once the grant is revoked, and are those at that time."""

    id: int
    account_id: int
    lot_id: int
    status: str
    revoked_micro: int
    revoked_consumed_micro: int
    revoked_reserved_micro: int


class Totals(NamedTuple):
    """Revoked grants, and the sums of their amounts at revocation, in micro-units: a row of `revoked_totals`."""

    grants: int
    revoked_micro: int
    consumed_micro: int
    reserved_micro: int

    def plus(self, more: "Totals") -> "Totals":
        """Return the sums of both."""
        return Totals(*(own + other for own, other in zip(self, more, strict=True)))


NOTHING = Totals(0, 0, 0, 0)


class Progress(NamedTuple):
    """The state of a revocation between two transactions.

    Grants up to `after_id` are done; grants after `until_id` are newer than the request. A dry run rolls back each
    transaction, so it carries the totals: `rolled_back` of its own transactions, `before` of what was revoked without it.
    """

    after_id: int
    until_id: int
    rolled_back: Totals
    before: Totals


def revoke_grant(conn: Connection, now_us: int, *, campaign_id: str, grant_id: str, reason: str) -> WriteResult:
    """Revoke the credits of a grant that are neither consumed nor reserved.

    A repeated call returns the first result, also when a reservation has returned credits since. Raises `CampaignNotFound`,
    `GrantNotFound` (also for a grant of another campaign), `ExpiryDue`. See docs/concepts/campaigns.md.
    """
    campaign = require_campaign(conn, campaign_id)
    key = ids.decode(ids.GRANT, grant_id)
    row = None if key is None else SQL.find_grant.one(conn, grant_id=key, campaign_id=campaign.id)
    if row is None:
        raise GrantNotFound(grant_id)
    grant = FoundGrant(*row)
    if grant.status == "revoked":
        answer = _revoked_grant(grant_id, grant.revoked_micro, grant.revoked_consumed_micro, grant.revoked_reserved_micro)
        duplicate = {"campaignId": campaign_id, "duplicate": True}
        return WriteResult(answer, "grant.revoke", "grant", grant_id, lambda: duplicate)
    [lot] = _revoke(conn, [GrantToRevoke(grant.id, grant.account_id, grant.lot_id)], reason=reason, now_us=now_us)
    answer = _revoked_grant(grant_id, lot.revoked_micro, lot.consumed_micro, lot.reserved_micro)
    details = lambda: {
        "campaignId": campaign_id,
        "reason": reason,
        "revokedMicro": answer.revoked_micro,
        "consumedMicro": answer.consumed_micro,
        "reservedMicro": answer.reserved_micro,
        "spentBeforeMicro": str(campaign.spent_micro),
        "spentAfterMicro": str(campaign.spent_micro - lot.revoked_micro),
        **_balance_change(lot),
    }
    return WriteResult(answer, "grant.revoke", "grant", grant_id, details)


def revoke_campaign(
    conn: Connection,
    now_us: int,
    *,
    campaign_id: str,
    reason: str,
    dry_run: bool,
    progress: Progress | None = None,
) -> WriteResult:
    """Revoke every grant that exists when the request arrives, a slice in each transaction; return the totals of all.

    The totals count earlier revocations with their amounts at that time, so a repeated call returns the same result. If a
    request is interrupted after some slices, the same request revokes the rest. Raises `CampaignNotFound`, `ExpiryDue`. See
    docs/concepts/campaigns.md.
    """
    campaign = require_campaign(conn, campaign_id)
    found = SQL.revoked_totals.one(conn, campaign_id=campaign.id)
    assert found is not None
    before = Totals(*found)
    if progress is None or (dry_run and before != progress.before):
        # A dry run starts again when another request has revoked grants meanwhile: it may have counted the same ones.
        newest = SQL.last_grant.one(conn)
        assert newest is not None
        progress = Progress(0, newest[0], NOTHING, before)
    rows = SQL.grants_to_revoke.all(
        conn,
        campaign_id=campaign.id,
        after_id=progress.after_id,
        until_id=progress.until_id,
        count=SLICE_GRANTS_MAX + 1,
    )
    grants = list(map(GrantToRevoke._make, rows))
    lots = _revoke_slice(conn, grants[:SLICE_GRANTS_MAX], reason=reason, now_us=now_us)
    is_last = len(lots) == len(grants)
    slice_totals = Totals(
        len(lots),
        sum(lot.revoked_micro for lot in lots),
        sum(lot.consumed_micro for lot in lots),
        sum(lot.reserved_micro for lot in lots),
    )
    totals = before.plus(progress.rolled_back).plus(slice_totals)
    answer = RevokedCampaign(
        campaign_id=campaign_id,
        total_revoked=totals.grants,
        revoked_micro=str(totals.revoked_micro),
        consumed_micro=str(totals.consumed_micro),
        reserved_micro=str(totals.reserved_micro),
    )
    details = lambda: {
        "reason": reason,
        # The amounts of this transaction. A large revocation takes several, and the last one is complete.
        "grants": slice_totals.grants,
        "revokedMicro": str(slice_totals.revoked_micro),
        "consumedMicro": str(slice_totals.consumed_micro),
        "reservedMicro": str(slice_totals.reserved_micro),
        "complete": is_last,
        "spentBeforeMicro": str(campaign.spent_micro),
        "spentAfterMicro": str(campaign.spent_micro - slice_totals.revoked_micro),
        "balances": [_balance_change(lot) for lot in lots],
    }
    continuation = None
    if not is_last:
        rolled_back = progress.rolled_back.plus(slice_totals) if dry_run else NOTHING
        reached = Progress(grants[len(lots) - 1].id, progress.until_id, rolled_back, progress.before)
        continuation = bind(revoke_campaign, campaign_id=campaign_id, reason=reason, dry_run=dry_run, progress=reached)
    return WriteResult(answer, "campaign.revoke", "campaign", campaign_id, details, continuation=continuation)


def _revoke_slice(conn: Connection, grants: list[GrantToRevoke], *, reason: str, now_us: int) -> list[RevokedLot]:
    """Revoke grants in chunks until the time of a slice is over; return the lots of those that were revoked."""
    time_limit, lots = Slice(), list[RevokedLot]()
    while len(lots) < len(grants) and not (lots and time_limit.is_over):
        lots += _revoke(conn, grants[len(lots) : len(lots) + CHUNK_GRANTS], reason=reason, now_us=now_us)
    return lots


def _revoke(conn: Connection, grants: list[GrantToRevoke], *, reason: str, now_us: int) -> list[RevokedLot]:
    """Revoke grants with their lots; return the lots in the same order."""
    lots = revoke_lots(conn, {grant.lot_id: grant.account_id for grant in grants}, description=reason, now_us=now_us)
    revoked = [(grant.id, lots[grant.lot_id]) for grant in grants]
    SQL.revoke_grant.many(
        conn,
        [(now_us, lot.revoked_micro, lot.consumed_micro, lot.reserved_micro, reason, grant_id) for grant_id, lot in revoked],
    )
    return [lot for _, lot in revoked]


def _revoked_grant(grant_id: str, revoked_micro: int, consumed_micro: int, reserved_micro: int) -> RevokedGrant:
    return RevokedGrant(grant_id, "revoked", str(revoked_micro), str(consumed_micro), str(reserved_micro))


def _balance_change(lot: RevokedLot) -> dict[str, str]:
    """Return the available credits in the lot's pool before and after, for the audit log."""
    return {
        "accountId": ids.encode(ids.ACCOUNT, lot.account_id),
        "beforeMicro": str(lot.available_before_micro),
        "afterMicro": str(lot.available_after_micro),
    }
