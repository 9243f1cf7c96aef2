"""The embedded client: the operations of the API in this process, without HTTP and tokens.

An operation calls the handler of its route. Validation, idempotency keys, dry runs and the audit log work as over HTTP.
"""

import asyncio
import contextlib
import os
import secrets
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from types import TracebackType
from urllib.parse import urlencode

from minibill.api import idempotency
from minibill.api.body import require_size
from minibill.api.context import AppState
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
from minibill.core.clock import Clock
from minibill.core.problems import NotReady
from minibill.core.write_result import Origin


class EmbeddedRequest(Request):
    """An operation of this process as a request to a handler.

    Bodies stay JSON: docs/internals/decisions/0031-embedded-requests.md has the figures.
    """

    __slots__ = ("_id", "_operation")

    def __init__(self, state: AppState, operation: Operation, caller: Caller, request_id: str) -> None:
        path = PREFIX_OF[operation.kind] + operation.route.format(**operation.segments)
        super().__init__(state, operation.method, path, operation.segments, caller)
        self._operation = operation
        self._id = request_id

    def query_members(self) -> dict[str, str]:
        return self._operation.query

    async def body(self) -> bytes:
        require_size(self._operation.body, self.state.settings.max_body_bytes)
        return self._operation.body

    def idempotency_key(self, body: bytes) -> idempotency.Key | None:
        key = self._operation.key
        if key is None:
            return None
        query = urlencode(self._operation.query).encode()
        fingerprint = idempotency.fingerprint(self.method, self.path.encode(), query, body)
        return idempotency.Key(self.caller_name, idempotency.checked_key(key.encode()), fingerprint)

    def origin(self) -> Origin:
        return Origin(None, None, self._id, None)

    async def wait_for_disconnect(self) -> None:
        # The program cancels the operation instead.
        await asyncio.get_running_loop().create_future()


class EmbeddedClient(AsyncMethods):
    """The operations of a service in this process, in the name of an actor.

    Reservations are made as a service makes them, everything else as an admin does.
    """

    _spending: CallerKind = "service"

    def __init__(self, state: AppState, *, actor: str) -> None:
        self._state = state
        self._closed = False
        self._handlers = {(route.method, route.path): route.handler for route in state.routes}
        self._callers: dict[CallerKind, Caller] = {
            "admin": Caller("admin", actor, None, frozenset({EVERYTHING})),
            "service": Caller("service", actor, None, frozenset()),
        }
        start = os.urandom(8).hex()
        self._request_ids = (f"req_{start}{number:06x}" for number in count(1))

    def _new_key(self) -> str | None:
        # No response gets lost within a process, so no operation needs a key to be sent again.
        return None

    async def close(self) -> None:
        """Close the book. Later operations raise `NotReady`."""
        self._closed = True
        await self._state.book.close()

    async def send(self, ask: Operation) -> bytes:
        """Run an operation and return the JSON of its response. Raises the `Problem` of a failure."""
        if self._closed:
            raise NotReady("the book is closed")
        handler = self._handlers[ask.method, PREFIX_OF[ask.kind] + ask.route]
        response = await handler(EmbeddedRequest(self._state, ask, self._callers[ask.kind], next(self._request_ids)))
        return response.body


async def open_state(
    path: Path, settings: Mapping[str, str], *, clock: Clock | None = None, has_test_clock: bool
) -> AppState:
    """Open a book for use in this process, and return the state of a service on it. The caller closes the book."""
    # Cursors are signed with the admin secret; tokens are not used.
    defaults = {name: secrets.token_urlsafe(48) for name in ("BILLING_ADMIN_JWT_SECRET", "BILLING_INTERNAL_JWT_SECRET")}
    # The program is the operator of its book and may use any billing mode.
    defaults["MINIBILL_SERVICE_BILLING_MODES"] = ",".join(MODES)
    checked = read_settings({**defaults, **settings})
    clock = clock or Clock(jump_max_seconds=checked.clock_jump_seconds)
    # After a commit of unknown outcome the program goes on, and the book rejects writes until it is opened again.
    book = await Book.open(
        path, clock=clock, checkpoint_pages=checked.checkpoint_pages, on_unknown_outcome=lambda error: None
    )
    return make_state(book, checked, has_test_clock=has_test_clock)


class EmbeddedBook:
    """A book for `async with`, which returns its `EmbeddedClient`; made by `minibill.open`.

    Background jobs run while it is open.
    """

    def __init__(self, path: Path, *, actor: str, settings: Mapping[str, str], has_test_clock: bool) -> None:
        if not actor.strip() or len(actor) > SUBJECT_CHARACTERS_MAX:
            raise ValueError(f"an actor is a name of 1 to {SUBJECT_CHARACTERS_MAX} characters, not {actor!r}")
        self._path = path
        self._actor = actor
        self._settings = settings
        self._has_test_clock = has_test_clock
        self._client: EmbeddedClient | None = None
        self._jobs: asyncio.Task[None] | None = None

    async def __aenter__(self) -> EmbeddedClient:
        state = await open_state(self._path, self._settings, has_test_clock=self._has_test_clock)
        self._jobs = asyncio.create_task(run_jobs(state))
        self._client = EmbeddedClient(state, actor=self._actor)
        return self._client

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._jobs is not None
        assert self._client is not None
        self._jobs.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._jobs
        await self._client.close()
