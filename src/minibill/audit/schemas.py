"""JSON schemas of the audit log."""

from typing import Annotated

import msgspec

from minibill.api.types import KeptObject, PageQuery, ResponseBody, TimeUs, one_of
from minibill.core.write_result import Action, TargetType


class AuditQuery(PageQuery, frozen=True):
    """Filters of the audit log. An unknown actor or target matches no row; an unknown action or target type is an error."""

    actor_id: str | None = None
    action: Action | None = None
    target_type: TargetType | None = None
    target_id: str | None = None
    from_: TimeUs | None = msgspec.field(default=None, name="from")
    to: TimeUs | None = None


class AuditRow(ResponseBody):
    """One write of an admin; `hash` is hexadecimal."""

    id: str
    seq: int
    actor_id: str
    action: Annotated[str, one_of(Action)]
    target_type: Annotated[str, one_of(TargetType)]
    target_id: str
    details: KeptObject
    ip: str | None
    user_agent: str | None
    correlation_id: str | None
    token_id: str | None
    created_at: str
    hash: str
