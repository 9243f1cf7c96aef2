"""Limits on the number of connections, and on the time that a client may stall one.

uvicorn ends a connection that is idle after a response, and `api/body.py` limits the time of a body. uvicorn itself would
wait without end for the rest of a header section, for a first request, and for a client that does not read.
"""

import contextlib
import resource
from collections.abc import Iterable
from typing import Any

# The time from the first byte of a header section to its end.
HEADER_TIMEOUT_SECONDS = 5.0

# The time in which a client reads a response; the largest has about 1 MiB.
WRITE_TIMEOUT_SECONDS = 30.0

# Connections that are served; others get an `overloaded` problem. An open one takes 11 KiB.
CONNECTIONS_MAX = 10_000

# Open files that are reserved for the database and for rejected connections.
FILES_RESERVED = 200


def connections_max() -> int:
    """Return the number of connections to serve. Raises the process's limit of open files if it is too low for them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS_MAX + FILES_RESERVED
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft == resource.RLIM_INFINITY:
        return CONNECTIONS_MAX
    return min(CONNECTIONS_MAX, max(soft - FILES_RESERVED, soft // 2))


class StalledConnectionReaper:
    """Ends connections whose client stalls them. The server calls `sweep` once a second."""

    def __init__(self, idle_seconds_max: float) -> None:
        """`idle_seconds_max` is the time that a connection may have no request."""
        self._idle_seconds_max = idle_seconds_max
        # By connection: the reason for which it waited at the last sweep, and since when.
        self._waiting: dict[Any, tuple[Any, float]] = {}

    def sweep(self, connections: Iterable[Any], *, now_s: float) -> None:
        """End the connections that have waited for their client for too long; `now_s` is monotonic."""
        waiting = {}
        for connection in connections:
            cycle, head = connection.cycle, connection.scope
            if connection.transport.get_write_buffer_size() > 0:
                reason, seconds_max = (cycle, "response"), WRITE_TIMEOUT_SECONDS
            elif cycle is not None and not cycle.response_complete:
                continue
            elif head is None or (cycle is not None and cycle.scope is head):
                # uvicorn has a timer for this, but any byte stops it, such as a line end before a request.
                reason, seconds_max = (cycle, "request"), self._idle_seconds_max
            else:
                reason, seconds_max = (head, "header"), HEADER_TIMEOUT_SECONDS
            before, since_s = self._waiting.get(connection, (None, now_s))
            if before is None or before[0] is not reason[0] or before[1] != reason[1]:
                since_s = now_s
            if now_s - since_s >= seconds_max:
                connection.transport.abort()
            else:
                waiting[connection] = (reason, since_s)
        self._waiting = waiting
