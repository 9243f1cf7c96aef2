"""Tiers: what a community takes off the price for its members. The table of a community is replaced as a whole."""

from minibill.core.problems import FieldError, InvalidRequest
from minibill.core.write_result import WriteResult
from minibill.db.queries import Row, queries
from minibill.db.sqlite import Connection
from minibill.discounts.schemas import Tier, TierBody, Tiers

SQL = queries("discounts")


def replace_tiers(conn: Connection, now_us: int, *, community_id: str, tiers: list[TierBody]) -> WriteResult:
    """Puts these in place of all tiers of a community. Reservations keep the terms that they were made with.

    Members of a tier that is gone stay members, without a discount, until the community has that tier again or they are put
    in another. Raises `InvalidRequest` for a tier named twice. Source: contract, section 5.
    """
    _require_distinct(tiers)
    before = SQL.tiers_of_community.all(conn, community_id=community_id)
    rows = [
        (community_id, t.tier, position, t.rate_bps, None if t.max_discount_micro is None else int(t.max_discount_micro))
        for position, t in enumerate(tiers, 1)
    ]
    SQL.delete_tiers.run(conn, community_id=community_id)
    SQL.insert_tiers.many(conn, rows)
    answer = tiers_response(community_id, [(tier, rate_bps, max_micro) for _, tier, _, rate_bps, max_micro in rows])
    details = lambda: {"before": tiers_response(community_id, before).tiers, "after": answer.tiers}
    return WriteResult(answer, "tiers.replace", "community", community_id, details)


def tiers_response(community_id: str, rows: list[Row]) -> Tiers:
    """The tiers of a community as they are answered, from rows of `tiers_of_community`."""
    return Tiers(
        community_id,
        [Tier(tier, rate_bps, None if max_micro is None else str(max_micro)) for tier, rate_bps, max_micro in rows],
    )


def _require_distinct(tiers: list[TierBody]) -> None:
    places: dict[str, int] = {}
    for place, each in enumerate(tiers):
        first = places.setdefault(each.tier, place)
        if first != place:
            raise InvalidRequest(FieldError(f"tiers[{place}].tier", f"names the same tier as tiers[{first}]"))
