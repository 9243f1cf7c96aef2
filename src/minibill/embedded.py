"""A book inside a program: the operations of the API without HTTP, tokens or sockets.

They go through the very handlers of the routes, so that whatever holds over HTTP holds here: validation, idempotency keys,
dry runs, audit. There is one way in.
"""

import asyncio
import contextlib
import os
import secrets
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlencode

from minibill.api.body import RequestHeaders
from minibill.api.context import CONTEXT, AppState, Context
from minibill.api.request import Request
from minibill.app import make_state
from minibill.auth.callers import PREFIX_OF, CallerKind
from minibill.auth.scopes import EVERYTHING
from minibill.auth.tokens import SUBJECT_CHARACTERS_MAX, Caller
from minibill.background import run_jobs
from minibill.book import Book
from minibill.client._async.methods import AsyncMethods
from minibill.client.operation import Operation
from minibill.config import MODES, read_settings
from minibill.core.clock import Clock, monotonic_s
from minibill.core.problems import NotReady


class EmbeddedClient(AsyncMethods):
    """The operations of a service in this process, in the name of an actor.

    Reservations are made as a service makes them, everything else as an admin does.
    """

    _spending: CallerKind = "service"

    def __init__(self, state: AppState, *, actor: str) -> None:
        self._state = state
        self._closed = False
        self._routes = {(route.method, route.path.replace(":str}", "}")): route for route in state.routes}
        self._callers: dict[CallerKind, Caller] = {
            "admin": Caller("admin", actor, None, frozenset({EVERYTHING})),
            "service": Caller("service", actor, None, frozenset()),
        }
        start = os.urandom(8).hex()
        self._request_ids = (f"req_{start}{number:06x}" for number in count(1))

    def _new_key(self) -> str | None:
        # Nothing is lost on the way here, so nothing has to be sent again.
        return None

    async def close(self) -> None:
        """Closes the book; every operation is refused from now on."""
        self._closed = True
        await self._state.book.close()

    async def send(self, ask: Operation) -> bytes:
        if self._closed:
            raise NotReady("the book is closed")
        prefix, request_id = PREFIX_OF[ask.kind], next(self._request_ids)
        headers = [(b"content-type", b"application/json")]
        if ask.key is not None:
            headers.append((b"idempotency-key", ask.key.encode()))
        scope: Any = {
            "type": "http",
            "method": ask.method,
            "path": prefix + ask.route.format(**ask.segments),
            "path_params": ask.segments,
            "query_string": urlencode(ask.query).encode(),
            CONTEXT: Context(
                self._state,
                request_id,
                request_id,
                None,
                RequestHeaders(headers),
                [],
                monotonic_s(),
                self._callers[ask.kind],
            ),
        }

        messages = iter([{"type": "http.request", "body": ask.body, "more_body": False}])

        async def receive() -> Any:
            # The caller never disconnects; it cancels.
            return next(messages, None) or await asyncio.get_running_loop().create_future()

        reply = await self._routes[ask.method, prefix + ask.route].handler(Request(scope, receive))
        return reply.body


async def open_state(
    path: Path, settings: Mapping[str, str], *, clock: Clock | None = None, has_test_clock: bool
) -> AppState:
    """What handlers work with, on a book that is opened for this program. The caller closes the book."""
    # Nobody signs tokens for a book inside a program; cursors are signed all the same.
    made = {name: secrets.token_urlsafe(48) for name in ("BILLING_ADMIN_JWT_SECRET", "BILLING_INTERNAL_JWT_SECRET")}
    # The program is its own operator and names any mode.
    made["MINIBILL_SERVICE_BILLING_MODES"] = ",".join(MODES)
    checked = read_settings({**made, **settings})
    # The program lives on when a commit's outcome is unknown; the book then takes nothing more until it is opened anew.
    clock = clock or Clock(jump_max_seconds=checked.clock_jump_seconds)
    book = await Book.open(
        path, clock=clock, checkpoint_pages=checked.checkpoint_pages, on_unknown_outcome=lambda error: None
    )
    return make_state(book, checked, has_test_clock=has_test_clock)


class EmbeddedBook:
    """A book that is opened by an `async with`, which gives the operations; made by `minibill.open`.

    Background jobs run while it is open.
    """

    def __init__(self, path: Path, *, actor: str, settings: Mapping[str, str], has_test_clock: bool) -> None:
        if not actor.strip() or len(actor) > SUBJECT_CHARACTERS_MAX:
            raise ValueError(f"an actor is a name of 1 to {SUBJECT_CHARACTERS_MAX} characters, not {actor!r}")
        self._path = path
        self._actor = actor
        self._settings = settings
        self._has_test_clock = has_test_clock
        self._inside: EmbeddedClient | None = None
        self._jobs: asyncio.Task[None] | None = None

    async def __aenter__(self) -> EmbeddedClient:
        state = await open_state(self._path, self._settings, has_test_clock=self._has_test_clock)
        self._jobs = asyncio.create_task(run_jobs(state))
        self._inside = EmbeddedClient(state, actor=self._actor)
        return self._inside

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._jobs is not None
        assert self._inside is not None
        self._jobs.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._jobs
        await self._inside.close()
