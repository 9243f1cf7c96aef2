"""The audit log over HTTP. What is written to it, and how its rows are chained, is audit.py's."""

from typing import Any

from minibill.api.openapi.operation import operation
from minibill.api.request import Request
from minibill.api.response import Response
from minibill.api.types import optional_raw
from minibill.audit.log import SQL
from minibill.audit.schemas import AuditQuery, AuditRow
from minibill.core import ids
from minibill.core.clock import MAX_TIME_US, MIN_TIME_US, format_time
from minibill.db.queries import Row

# Filters that have more rows than this are all alike: whichever is used, a page of it is soon full, or the others are rarer.
COUNT_MAX = 1_000

# By filter, in the order of `audit_counts`: the page that this filter's index leads.
_PAGES = {
    "target_id": SQL.audit_page_of_target,
    "actor_id": SQL.audit_page_of_actor,
    "action": SQL.audit_page_of_action,
    "target_type": SQL.audit_page_of_target_type,
}


@operation(AuditRow, query=AuditQuery)
async def list_rows(request: Request) -> Response:
    """What admins did, newest first."""
    query, position = request.page(AuditQuery)
    # The end of the interval is open, so no row of that very time is before (to, 0).
    before_us, before_seq = position or [MAX_TIME_US + 1 if query.to is None else int(query.to), 0]
    interval = {
        "before_us": before_us,
        "before_seq": before_seq,
        "from_us": MIN_TIME_US if query.from_ is None else int(query.from_),
        "count": query.limit + 1,
    }
    filters: dict[str, Any] = {name: getattr(query, name) for name in _PAGES}
    reader = request.reader
    given = [name for name, value in filters.items() if value is not None]
    if not given:
        rows = await reader.all(SQL.audit_page, **interval)
    else:
        [counts] = await reader.all(SQL.audit_counts, count_max=COUNT_MAX, **filters)
        count_of = dict(zip(filters, counts, strict=True))
        rows = await reader.all(_PAGES[min(given, key=count_of.__getitem__)], **filters, **interval)
    return request.respond_page(query, rows, item=_row, position=lambda row: [row[11], row[0]])


def _row(row: Row) -> AuditRow:
    (
        seq, key, actor_id, action, target_type, target_id, details, ip, user_agent, correlation_id, token_id, created_at_us,
        own,
    ) = row  # fmt: skip
    return AuditRow(
        id=ids.encode(ids.AUDIT, key),
        seq=seq,
        actor_id=actor_id,
        action=action,
        target_type=target_type,
        target_id=target_id,
        details=optional_raw(details),
        ip=ip,
        user_agent=user_agent,
        correlation_id=correlation_id,
        token_id=token_id,
        created_at=format_time(created_at_us),
        hash=own.hex(),
    )
