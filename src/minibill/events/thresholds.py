"""Thresholds: events about the available credits of an account's pool.

Triggers compare each entry with the thresholds (sql/migrations/0016_thresholds.sql). This module reads and replaces the
thresholds of an account.
"""

from collections.abc import Sequence

from minibill.core.problems import FieldError, InvalidRequest
from minibill.core.write_result import WriteResult
from minibill.db.queries import Row, queries
from minibill.db.sqlite import Connection
from minibill.events.schemas import ThresholdBody, Thresholds, ThresholdsBody
from minibill.events.serialization import ThresholdRow, threshold_response
from minibill.ledger.expiry import account_for_update
from minibill.ledger.posting import DEFAULT_POOL

SQL = queries("events")


def replace_thresholds(conn: Connection, now_us: int, *, account_id: str, body: ThresholdsBody) -> WriteResult:
    """Replace all thresholds of an account. This emits no event.

    The state of a new threshold follows from the credits available now. A threshold that existed before (same pool and
    `belowMicro`) and was below stays below until it recovers, so repeating a request changes nothing. Raises
    `AccountNotFound`, `InvalidRequest` for a duplicate or a `recoveredMicro` below `belowMicro`, `ExpiryDue`. See
    docs/guides/events.md.
    """
    _validate(body.thresholds)
    key = account_for_update(conn, account_id, now_us=now_us)
    before = _load(conn, key)
    available: dict[str, int] = dict(SQL.available_by_pool.all(conn, account_id=key))
    were_below = {(row.pool_id, row.below_micro) for row in before if row.is_below}
    rows: list[Row] = []
    for position, each in enumerate(body.thresholds, 1):
        pool_id, below_micro, recovered_micro = _terms(each)
        limit_micro = recovered_micro if (pool_id, below_micro) in were_below else below_micro
        is_below = available.get(pool_id, 0) < limit_micro
        rows.append((key, pool_id, below_micro, recovered_micro, position, int(is_below)))
    SQL.delete_thresholds.run(conn, account_id=key)
    SQL.insert_thresholds.many(conn, rows)
    answer = thresholds_response(account_id, _load(conn, key))
    details = lambda: {"before": thresholds_response(account_id, before).thresholds, "after": answer.thresholds}
    return WriteResult(answer, "thresholds.replace", "account", account_id, details)


def thresholds_response(account_id: str, rows: Sequence[ThresholdRow]) -> Thresholds:
    """Return the response body of an account's thresholds, from rows of `thresholds_of_account`."""
    return Thresholds(account_id, [threshold_response(row) for row in rows])


def _load(conn: Connection, key: int) -> list[ThresholdRow]:
    return list(map(ThresholdRow._make, SQL.thresholds_of_account.all(conn, account_id=key)))


def _terms(each: ThresholdBody) -> tuple[str, int, int]:
    recovered_micro = each.below_micro if each.recovered_micro is None else each.recovered_micro
    return each.pool_id or DEFAULT_POOL, int(each.below_micro), int(recovered_micro)


def _validate(thresholds: list[ThresholdBody]) -> None:
    positions: dict[tuple[str, int], int] = {}
    for position, each in enumerate(thresholds):
        pool_id, below_micro, recovered_micro = _terms(each)
        if below_micro == 0:
            raise InvalidRequest(FieldError(f"thresholds[{position}].belowMicro", "expected more than 0"))
        if recovered_micro < below_micro:
            raise InvalidRequest(FieldError(f"thresholds[{position}].recoveredMicro", "expected at least belowMicro"))
        first = positions.setdefault((pool_id, below_micro), position)
        if first != position:
            message = f"is the same pool and amount as thresholds[{first}]"
            raise InvalidRequest(FieldError(f"thresholds[{position}].belowMicro", message))
