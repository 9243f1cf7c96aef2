"""The audit log over HTTP. log.py writes it."""

from typing import Any, NamedTuple

from minibill.api.openapi.operation import operation
from minibill.api.request import Request
from minibill.api.response import Response
from minibill.api.types import optional_raw
from minibill.audit.log import SQL
from minibill.audit.schemas import AuditQuery, AuditRow
from minibill.core import ids
from minibill.core.clock import MAX_TIME_US, MIN_TIME_US, format_time

# Rows are counted up to this number: a page of a filter with more rows is soon full.
COUNT_MAX = 1_000

# The query of each filter, by the index of that filter. In the order of `audit_counts`.
_PAGES = {
    "target_id": SQL.audit_page_of_target,
    "actor_id": SQL.audit_page_of_actor,
    "action": SQL.audit_page_of_action,
    "target_type": SQL.audit_page_of_target_type,
}


class _Row(NamedTuple):
    """A row of the queries in `_PAGES`."""

    seq: int
    key: int
    actor_id: str
    action: str
    target_type: str
    target_id: str
    details: str
    ip: str | None
    user_agent: str | None
    correlation_id: str | None
    token_id: str | None
    created_at_us: int
    hash: bytes


@operation(AuditRow, query=AuditQuery)
async def list_rows(request: Request) -> Response:
    """List the audit log, newest first."""
    query, position = request.page(AuditQuery)
    # `to` is exclusive, so no row of that time comes before (to, 0).
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
    page = list(map(_Row._make, rows))
    return request.respond_page(query, page, item=_audit_row, position=lambda row: [row.created_at_us, row.seq])


def _audit_row(row: _Row) -> AuditRow:
    return AuditRow(
        id=ids.encode(ids.AUDIT, row.key),
        seq=row.seq,
        actor_id=row.actor_id,
        action=row.action,
        target_type=row.target_type,
        target_id=row.target_id,
        details=optional_raw(row.details),
        ip=row.ip,
        user_agent=row.user_agent,
        correlation_id=row.correlation_id,
        token_id=row.token_id,
        created_at=format_time(row.created_at_us),
        hash=row.hash.hex(),
    )
