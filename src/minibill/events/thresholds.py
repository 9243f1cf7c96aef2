"""Thresholds: when somebody wants to hear of an account's available credits.

They are judged by the database, entry by entry (0002_events.sql); here those of an account are put, as a whole, and read.
"""

from minibill.core.problems import FieldError, InvalidRequest
from minibill.core.write_result import WriteResult
from minibill.db.queries import Row, queries
from minibill.db.sqlite import Connection
from minibill.events.schemas import ThresholdBody, Thresholds
from minibill.events.serialization import threshold_response
from minibill.ledger.expiry import account_for_update
from minibill.ledger.posting import DEFAULT_POOL

SQL = queries("events")


def replace_thresholds(conn: Connection, now_us: int, *, account_id: str, thresholds: list[ThresholdBody]) -> WriteResult:
    """Puts these in place of all thresholds of an account; no event comes of that.

    A new one is below or above by what is available now. One that was there before (the same pool and `belowMicro`) and was
    below stays so until its recovery, so that putting the same again changes nothing. Raises `AccountNotFound`,
    `InvalidRequest` for a threshold that recovers too low or comes twice, and `ExpiryDue`.
    """
    _require_sense(thresholds)
    key = account_for_update(conn, account_id, now_us=now_us)
    before = SQL.thresholds_of_account.all(conn, account_id=key)
    available: dict[str, int] = dict(SQL.available_by_pool.all(conn, account_id=key))
    were_below = {(pool_id, below_micro) for _, pool_id, below_micro, _, is_below, _ in before if is_below}
    rows: list[Row] = []
    for position, each in enumerate(thresholds, 1):
        pool_id, below_micro, recovered_micro = _terms(each)
        limit_micro = recovered_micro if (pool_id, below_micro) in were_below else below_micro
        is_below = available.get(pool_id, 0) < limit_micro
        rows.append((key, pool_id, below_micro, recovered_micro, position, int(is_below)))
    SQL.delete_thresholds.run(conn, account_id=key)
    SQL.insert_thresholds.many(conn, rows)
    answer = thresholds_response(account_id, SQL.thresholds_of_account.all(conn, account_id=key))
    details = lambda: {"before": thresholds_response(account_id, before).thresholds, "after": answer.thresholds}
    return WriteResult(answer, "thresholds.replace", "account", account_id, details)


def thresholds_response(account_id: str, rows: list[Row]) -> Thresholds:
    """The thresholds of an account as they are answered, from rows of `thresholds_of_account`."""
    return Thresholds(account_id, [threshold_response(row) for row in rows])


def _terms(each: ThresholdBody) -> tuple[str, int, int]:
    recovered_micro = each.below_micro if each.recovered_micro is None else each.recovered_micro
    return each.pool_id or DEFAULT_POOL, int(each.below_micro), int(recovered_micro)


def _require_sense(thresholds: list[ThresholdBody]) -> None:
    places: dict[tuple[str, int], int] = {}
    for place, each in enumerate(thresholds):
        pool_id, below_micro, recovered_micro = _terms(each)
        if below_micro == 0:
            raise InvalidRequest(FieldError(f"thresholds[{place}].belowMicro", "expected more than 0: nothing is below 0"))
        if recovered_micro < below_micro:
            raise InvalidRequest(FieldError(f"thresholds[{place}].recoveredMicro", "expected at least belowMicro"))
        first = places.setdefault((pool_id, below_micro), place)
        if first != place:
            what = f"is the same pool and amount as thresholds[{first}]"
            raise InvalidRequest(FieldError(f"thresholds[{place}].belowMicro", what))
