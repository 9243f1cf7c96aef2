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
from typing import Any, Self
from urllib.parse import urlencode

from minibill.app import make_service
from minibill.auth.doors import PREFIXES, Kind
from minibill.auth.scopes import EVERYTHING
from minibill.auth.tokens import SUBJECT_CHARACTERS_MAX, Caller
from minibill.book import Book
from minibill.client._async.methods import AsyncMethods
from minibill.client.ask import Ask
from minibill.clock import Clock, monotonic_s
from minibill.config import read_settings
from minibill.jobs import run_jobs
from minibill.problems import NotReady
from minibill.web import CONTEXT, Call, Context, Route, Service

_PREFIX_OF: dict[Kind, str] = {kind: prefix for prefix, kind in PREFIXES.items()}


class EmbeddedBook(AsyncMethods):
    """An open book, to be used in an `async with`; made by `minibill.open`.

    Reservations are made as a service makes them, everything else as an admin does, both in the name of the actor; admin
    operations are in the audit log. Background jobs run while it is open.
    """

    _spending: Kind = "service"

    def __init__(
        self, path: Path, *, actor: str, settings: Mapping[str, str], clock: Clock | None, has_test_clock: bool
    ) -> None:
        if not actor.strip() or len(actor) > SUBJECT_CHARACTERS_MAX:
            raise ValueError(f"an actor is a name of 1 to {SUBJECT_CHARACTERS_MAX} characters, not {actor!r}")
        # Nobody signs tokens here; cursors are signed all the same.
        made = {name: secrets.token_urlsafe(48) for name in ("BILLING_ADMIN_JWT_SECRET", "BILLING_INTERNAL_JWT_SECRET")}
        self._settings = read_settings({**made, **settings})
        self._path = path
        self._clock = clock
        self._has_test_clock = has_test_clock
        self._callers: dict[Kind, Caller] = {
            "admin": Caller("admin", actor, None, frozenset({EVERYTHING})),
            "service": Caller("service", actor, None, frozenset()),
        }
        start = os.urandom(8).hex()
        self._request_ids = (f"req_{start}{number:06x}" for number in count(1))
        self._service: Service | None = None
        self._routes: dict[tuple[str, str], Route] = {}
        self._jobs: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        # The program lives on when a commit's outcome is unknown; the book then takes nothing more until it is opened anew.
        book = await Book.open(self._path, clock=self._clock, on_unknown_outcome=lambda error: None)
        self._service = make_service(book, self._settings, has_test_clock=self._has_test_clock)
        self._routes = {(route.method, route.path.replace(":str}", "}")): route for route in self._service.routes}
        self._jobs = asyncio.create_task(run_jobs(self._service))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        service, jobs = self._service, self._jobs
        self._service = self._jobs = None
        if jobs is not None:
            jobs.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await jobs
        if service is not None:
            await service.book.close()

    def _new_key(self) -> str | None:
        # Nothing is lost on the way here, so nothing has to be sent again.
        return None

    async def _send(self, ask: Ask) -> bytes:
        service = self._service
        if service is None:
            raise NotReady("the book is not open: use it inside `async with`")
        prefix, request_id = _PREFIX_OF[ask.door], next(self._request_ids)
        headers = [(b"content-type", b"application/json")]
        if ask.key is not None:
            headers.append((b"idempotency-key", ask.key.encode()))
        scope: Any = {
            "type": "http",
            "method": ask.method,
            "path": prefix + ask.route.format(**ask.segments),
            "path_params": ask.segments,
            "query_string": b"",
            "headers": headers,
            CONTEXT: Context(service, request_id, request_id, None, self._callers[ask.door], monotonic_s()),
        }
        if ask.query:
            scope["query_string"] = urlencode(ask.query).encode()

        async def receive() -> Any:
            return {"type": "http.request", "body": ask.body, "more_body": False}

        reply = await self._routes[ask.method, prefix + ask.route].handler(Call(scope, receive))
        return reply.body
