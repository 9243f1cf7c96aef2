"""Connections: how many there may be, and how long a client may leave one waiting.

The server itself ends a connection that is idle after a response, and a body has a limit of its own. The server would wait
without end for a head that does not become complete, for a first request, and for a client that does not read.
"""

import contextlib
import resource
from collections.abc import Iterable
from typing import Any

from litestar.types import ASGIApp, Receive, Scope, Send

from minibill.api.fast_path import CYCLE
from minibill.api.middleware import OVER_LIMIT
from minibill.server.http_protocol import Protocol

# A head that has begun is complete by then.
HEAD_SECONDS_MAX = 5.0

# An answer is taken by then: the largest is about 1 MiB.
ANSWER_SECONDS_MAX = 30.0

# Connections that are served; what is over is told to come again. An open one takes 11 KiB.
CONNECTIONS_MAX = 10_000

# Of the files that a process may have open, what is left for the database and for those who are turned away.
FILES_KEPT_BACK = 200


def connections_max() -> int:
    """How many connections to serve; asks the system for as many open files as it takes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS_MAX + FILES_KEPT_BACK
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft == resource.RLIM_INFINITY:
        return CONNECTIONS_MAX
    return min(CONNECTIONS_MAX, max(soft - FILES_KEPT_BACK, soft // 2))


def protocol_with_limit(number: int) -> type[Any]:
    """The server's protocol, which turns away what is over this many connections."""

    class Limited(Protocol):
        app: ASGIApp
        _under_way: Any = None

        def connection_made(self, transport: Any) -> None:
            if len(self.connections) >= number:
                self.app = _reject_connection(self.app)
            super().connection_made(transport)

        def _start_asgi_task(self, cycle: Any, app: ASGIApp) -> None:
            self._under_way = cycle
            cycle.scope[CYCLE] = cycle
            # As uvicorn does, unless it is told to reset context variables.
            task = self.loop.create_task(cycle.run_asgi(app))
            task.add_done_callback(self.tasks.discard)
            self.tasks.add(task)

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            # Of requests that were sent without waiting the server tells the last that the client is gone. The one that is
            # under way would write to a closed connection, which is an error with a traceback in the log.
            if self._under_way is not None:
                self._under_way.disconnected = True

    return Limited


def _reject_connection(app: ASGIApp) -> ASGIApp:
    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        scope[OVER_LIMIT] = True  # type: ignore[literal-required]
        await app(scope, receive, send)

    return refuse


class StalledConnectionReaper:
    """Ends the connections that have waited too long for their clients; looks at all of them, now and then."""

    def __init__(self, idle_seconds_max: float) -> None:
        """`idle_seconds_max` is for connections without a request and without the beginning of one."""
        self._idle_seconds_max = idle_seconds_max
        # By connection: what it was last seen waiting for, and since when.
        self._waiting: dict[Any, tuple[Any, float]] = {}

    def look(self, connections: Iterable[Any], *, now_s: float) -> None:
        """Ends what has waited for its client for too long; `now_s` is monotonic."""
        waiting = {}
        for connection in connections:
            cycle, head = connection.cycle, connection.scope
            if connection.transport.get_write_buffer_size() > 0:
                reason, seconds_max = (cycle, "response"), ANSWER_SECONDS_MAX
            elif cycle is not None and not cycle.response_complete:
                continue
            elif head is None or (cycle is not None and cycle.scope is head):
                # The server has a timer for this, but one that any byte stops, such as a line end before a request.
                reason, seconds_max = (cycle, "request"), self._idle_seconds_max
            else:
                reason, seconds_max = (head, "head"), HEAD_SECONDS_MAX
            before, since_s = self._waiting.get(connection, (None, now_s))
            if before is None or before[0] is not reason[0] or before[1] != reason[1]:
                since_s = now_s
            if now_s - since_s >= seconds_max:
                connection.transport.abort()
            else:
                waiting[connection] = (reason, since_s)
        self._waiting = waiting
