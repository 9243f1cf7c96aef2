"""The metrics and the log line of each request."""

import logging
from typing import Any
from urllib.parse import unquote

from litestar.types import Scope

from minibill.api.context import Context
from minibill.core.clock import US_PER_SECOND, monotonic_s
from minibill.core.counters import RouteMetrics

log = logging.getLogger("minibill.http")

_WRITES = ("POST", "PUT", "PATCH", "DELETE")

# A request that takes longer is logged as a warning; most take a thousandth of it.
SLOW_SECONDS = 1.0


def record_request(scope: Scope, context: Context, metrics: RouteMetrics, status: int, *, waited_s: float = 0) -> None:
    """Count a request whose response is known, and log it if its kind or outcome calls for it.

    Failures, slow requests and writes of admins are always logged; `MINIBILL_ACCESS_LOG` adds all others. `waited_s` is the
    time that the client asked to wait, and does not count as slow.
    """
    elapsed_s = monotonic_s() - context.began_s - waited_s
    metrics.count(status, elapsed_s)
    if elapsed_s >= SLOW_SECONDS or status >= 500:
        level = logging.WARNING
    elif context.state.settings.access_log or _is_write_of_admin(scope, context):
        level = logging.INFO
    else:
        return
    outcome = {"status": status, "elapsed_us": round(elapsed_s * US_PER_SECOND)}
    log.log(level, "request", extra=log_fields(scope, context) | outcome)


def _is_write_of_admin(scope: Scope, context: Context) -> bool:
    caller = context.caller
    return caller is not None and caller.kind == "admin" and scope["method"] in _WRITES  # type: ignore[typeddict-item]


def log_fields(scope: Scope, context: Context) -> dict[str, object]:
    """Return the fields of a request's log lines: never its headers, its query or its body."""
    request: Any = scope
    return {
        "request_id": context.request_id,
        "correlation_id": context.correlation_id,
        "method": request["method"],
        "path": unquote(request["path"]),
        "ip": context.ip,
        "actor": None if context.caller is None else context.caller.name,
    }
