"""One request to the API: its parameters and body, and the write that it asks for.

Handlers see a `Request`. `HttpRequest` makes one from an ASGI scope, `EmbeddedRequest` from an operation of a client in this
process. So validation, idempotency, dry runs and the audit log are the same for both.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

import msgspec

from minibill.api import idempotency
from minibill.api.context import AppState
from minibill.api.decoding import Decoder, convert, invalid
from minibill.api.response import NO_CONTENT, Response
from minibill.api.types import Page, PageQuery, Query, ResponseBody, WriteQuery, encode
from minibill.api.unique_members import require_unique_members
from minibill.auth.tokens import Caller
from minibill.core.problems import FieldError, InvalidCursor, InvalidRequest, Overloaded
from minibill.core.write_result import NOWHERE, Origin
from minibill.db.ledger_sequence import SequenceTracker
from minibill.db.readers import RequestReader
from minibill.db.write_operation import WriteOperation

T = TypeVar("T")
R = TypeVar("R")
Q = TypeVar("Q", bound=Query)
P = TypeVar("P", bound=PageQuery)


class Request(ABC):
    """A request and its caller, and what handlers do with it.

    A subclass says how the query, the body, the idempotency key and the origin of the request are read.
    """

    __slots__ = ("caller", "method", "observed", "path", "segments", "state")

    def __init__(self, state: AppState, method: str, path: str, segments: Mapping[str, str], caller: Caller | None) -> None:
        """`path` and `segments`, the variable parts of the path, are decoded. `caller` is None on public routes."""
        self.state = state
        self.method = method
        self.path = path
        self.segments = segments
        self.caller = caller
        self.observed = SequenceTracker()

    # --- how a request arrives ---

    @abstractmethod
    def query_members(self) -> dict[str, str]:
        """Return the decoded query. Raises `InvalidRequest` if it can't be decoded or repeats a parameter."""

    @abstractmethod
    async def body(self) -> bytes:
        """Return the body, which is empty if none was sent. Raises the `Problem` of a body that can't be accepted."""

    @abstractmethod
    def idempotency_key(self, body: bytes) -> idempotency.Key | None:
        """Return the idempotency key, if one was sent, with the fingerprint of the request.

        Raises `InvalidIdempotencyKey`.
        """

    @abstractmethod
    def origin(self) -> Origin:
        """Return the origin of the request for the audit log."""

    @abstractmethod
    async def wait_for_disconnect(self) -> None:
        """Wait until the client has disconnected."""

    # --- reading ---

    @property
    def caller_name(self) -> str:
        """The name of the caller in the ledger: `service:SUB` or `admin:SUB`."""
        assert self.caller is not None
        return self.caller.name

    @property
    def reader(self) -> RequestReader:
        """The database reader of this request; it notes the ledger sequence that the response reflects."""
        return RequestReader(self.state.book.readers, self.observed)

    def segment(self, name: str) -> str:
        """Return a variable part of the path."""
        return self.segments[name]

    async def read(self, decoder: Decoder[T]) -> T:
        """Return the decoded body; an empty body counts as `{}`. Raises `MalformedJson` and `InvalidRequest`."""
        body = await self.body() or b"{}"
        decoded = decoder.decode(body)
        require_unique_members(body)
        return decoded

    def parameters(self, expected: type[Q]) -> Q:
        """Return the decoded query. Raises `InvalidRequest`, also for an unknown or repeated parameter."""
        members = self.query_members()
        if not members:
            defaults: Q = without_parameters(expected)
            return defaults
        if "dryRun" in members and self.caller is not None and self.caller.kind == "service":
            raise InvalidRequest(FieldError("dryRun", "is not known here: services have no dry run"))
        return convert(members, expected)

    def page(self, expected: type[P]) -> tuple[P, list[int] | None]:
        """Return the query of a list, and the position after which the page begins; None for the first page.

        A cursor carries the filters of its list; a client may repeat them unchanged. Raises `InvalidCursor`.
        """
        query = self.parameters(expected)
        if query.cursor is None:
            return query, None
        filters, position = self.state.cursors.read(query.cursor, self.path, epoch=self.state.book.epoch)
        given = _filters(query)
        if any(value != filters.get(name) for name, value in given.items()):
            raise InvalidCursor("the cursor was made with other filters")
        try:
            with_filters = msgspec.convert(
                filters | {"limit": query.limit}, expected, strict=True, dec_hook=lambda t, v: t(v)
            )
        except msgspec.ValidationError as error:
            raise invalid(str(error)) from None
        return with_filters, position

    async def unless_disconnected(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Return the result of `work`; None if the client disconnects first, which cancels `work`."""
        working = asyncio.ensure_future(work)
        leaving = asyncio.ensure_future(self.wait_for_disconnect())
        try:
            await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
            return working.result() if working.done() else None
        finally:
            working.cancel()
            leaving.cancel()

    # --- responding ---

    def answer(self, body: ResponseBody, status: int = 200) -> Response:
        """Return a response with this body as JSON."""
        return Response(status, encode(body))

    def respond_page(
        self,
        query: PageQuery,
        rows: Sequence[R],
        *,
        item: Callable[[R], ResponseBody],
        position: Callable[[R], list[int]],
    ) -> Response:
        """Return a page of a list. `rows` has one row more than the page if the list goes on."""
        shown = rows[: query.limit]
        cursor = None
        if len(rows) > query.limit:
            cursor = self.state.cursors.make(self.path, _filters(query), position(shown[-1]), epoch=self.state.book.epoch)
        return self.answer(Page([item(row) for row in shown], cursor))

    @property
    def is_dry_run(self) -> bool:
        """True if the write is to be rolled back."""
        return bool(self.parameters(WriteQuery).dry_run)

    async def write(
        self,
        operation: WriteOperation,
        *,
        query: WriteQuery | None = None,
        bulk: bool = False,
    ) -> Response:
        """Run a write with this request's caller, idempotency key and `dryRun`; return its response once it is on disk.

        `query` holds the parameters of a write that takes more than `dryRun`. A `bulk` write gives way to others.
        """
        state, caller = self.state, self.caller
        assert caller is not None
        # The body is part of the fingerprint of the key, and must be JSON even if the operation takes none.
        key = self.idempotency_key(await self.body())
        stored = await state.book.write(
            operation,
            caller=caller,
            origin=self.origin() if caller.kind == "admin" else NOWHERE,
            key=key,
            dry_run=self.is_dry_run if query is None else bool(query.dry_run),
            observed=self.observed,
            bulk=bulk,
        )
        headers = None
        if stored.replayed:
            state.metrics.replays += 1
            headers = {"Idempotency-Replayed": "true"}
        if stored.status == NO_CONTENT:
            # A 204 has no body for the `dryRun` member.
            return Response(200, stored.body, headers) if self.is_dry_run else Response(NO_CONTENT, b"", headers)
        return Response(stored.status, stored.body, headers)

    def require_room_for_bulk(self) -> None:
        """Raise `Overloaded` if too many bulk writes are queued. Called before the body is decoded, which takes time."""
        if self.state.book.writer.is_overloaded_with_bulk:
            raise Overloaded("too many batches are waiting; try again")

    async def was_answered_before(self) -> bool:
        """Return True if `write` will replay a stored response. Raises `IdempotencyKeyReused` like `write`."""
        key = self.idempotency_key(await self.body())
        return key is not None and self.state.book.stored_response(key) is not None


@cache
def without_parameters(expected: type[Q]) -> Q:
    """Return an empty query. Raises `InvalidRequest` if a parameter is required."""
    return convert({}, expected)


def _filters(query: PageQuery) -> dict[str, Any]:
    return {
        encoded: int(value) if isinstance(value, int) else str(value)
        for name, encoded in _filter_names(type(query))
        if (value := getattr(query, name)) is not None
    }


@cache
def _filter_names(expected: type[PageQuery]) -> list[tuple[str, str]]:
    """Return the filters of a list by their names in Python and in JSON. msgspec takes 50 µs to find them."""
    fields = msgspec.structs.fields(expected)
    return [(field.name, field.encode_name) for field in fields if field.name not in ("limit", "cursor")]
