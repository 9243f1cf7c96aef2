"""The metrics and the log line of each request."""

import logging
from typing import Any

from litestar.types import Scope

from minibill.api.context import Context
from minibill.core.clock import US_PER_SECOND, monotonic_s
from minibill.core.counters import RouteMetrics

log = logging.getLogger("minibill.http")

_WRITES = ("POST", "PUT", "PATCH", "DELETE")

# A request that takes longer is logged: a thousand times what it should take.
SLOW_SECONDS = 1.0


def answered(scope: Scope, context: Context, tally: RouteMetrics, status: int, *, waited_s: float = 0) -> None:
    """Counts a request whose answer is known; logs it if it failed, was slow beyond its wait, is a write of an admin, or all
    are to be logged. Services call thousands of times a second.
    """
    elapsed_s = monotonic_s() - context.began_s - waited_s
    tally.count(status, elapsed_s)
    if elapsed_s >= SLOW_SECONDS or status >= 500:
        level = logging.WARNING
    elif context.state.settings.access_log or _is_write_of_admin(scope, context):
        level = logging.INFO
    else:
        return
    facts = {"status": status, "elapsed_us": round(elapsed_s * US_PER_SECOND)}
    log.log(level, "request", extra=about(scope, context) | facts)


def _is_write_of_admin(scope: Scope, context: Context) -> bool:
    caller = context.caller
    return caller is not None and caller.kind == "admin" and scope["method"] in _WRITES  # type: ignore[typeddict-item]


def about(scope: Scope, context: Context) -> dict[str, object]:
    """What a line of the log says of a request: never its headers, its query or its body."""
    request: Any = scope
    return {
        "request_id": context.request_id,
        "correlation_id": context.correlation_id,
        "method": request["method"],
        "path": request["path"],
        "ip": context.ip,
        "actor": None if context.caller is None else context.caller.name,
    }
