"""Tiers: the discounts of a community. Each write replaces all tiers of the community."""

from typing import NamedTuple

from minibill.core.problems import FieldError, InvalidRequest
from minibill.core.write_result import WriteResult
from minibill.db.queries import queries
from minibill.db.sqlite import Connection
from minibill.discounts.schemas import Tier, TierBody, Tiers, TiersBody

SQL = queries("discounts")


class TierRow(NamedTuple):
    """A row of `tiers_of_community`; `max_discount_micro` None is no cap."""

    tier: str
    rate_bps: int
    max_discount_micro: int | None


def replace_tiers(conn: Connection, now_us: int, *, community_id: str, body: TiersBody) -> WriteResult:
    """Replace all tiers of a community. Existing reservations keep their discount.

    Members of a removed tier stay members, without a discount, until the tier exists again or they move to another. Raises
    `InvalidRequest` for a duplicate tier. See docs/concepts/discounts.md.
    """
    _require_distinct(body.tiers)
    before = _load(conn, community_id)
    after = [
        TierRow(each.tier, each.rate_bps, None if each.max_discount_micro is None else int(each.max_discount_micro))
        for each in body.tiers
    ]
    SQL.delete_tiers.run(conn, community_id=community_id)
    SQL.insert_tiers.many(
        conn,
        [(community_id, row.tier, position, row.rate_bps, row.max_discount_micro) for position, row in enumerate(after, 1)],
    )
    answer = tiers_response(community_id, after)
    details = lambda: {"before": tiers_response(community_id, before).tiers, "after": answer.tiers}
    return WriteResult(answer, "tiers.replace", "community", community_id, details)


def tiers_response(community_id: str, rows: list[TierRow]) -> Tiers:
    """Return the response body of the tiers of a community."""
    return Tiers(
        community_id,
        [
            Tier(row.tier, row.rate_bps, None if row.max_discount_micro is None else str(row.max_discount_micro))
            for row in rows
        ],
    )


def _load(conn: Connection, community_id: str) -> list[TierRow]:
    return list(map(TierRow._make, SQL.tiers_of_community.all(conn, community_id=community_id)))


def _require_distinct(tiers: list[TierBody]) -> None:
    positions: dict[str, int] = {}
    for position, each in enumerate(tiers):
        first = positions.setdefault(each.tier, position)
        if first != position:
            raise InvalidRequest(FieldError(f"tiers[{position}].tier", f"names the same tier as tiers[{first}]"))
