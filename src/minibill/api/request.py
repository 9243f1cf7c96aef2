"""One HTTP request: reading its parameters and body, and running the write that it asks for."""

import asyncio
import logging
import re
from collections.abc import Callable, Coroutine, Sequence
from functools import cache
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import msgspec
from litestar.types import Receive, Scope

from minibill.api import idempotency
from minibill.api.access_log import about
from minibill.api.body import checked_body, receive_body
from minibill.api.context import CONTEXT, AppState, Context
from minibill.api.decoding import Decoder, convert, invalid
from minibill.api.fast_path import whole_body
from minibill.api.response import NO_CONTENT, Response
from minibill.api.types import Page, PageQuery, Query, ResponseBody, WriteQuery, encode
from minibill.api.unique_members import require_unique_members
from minibill.auth.callers import CallerKind
from minibill.core.problems import (
    FieldError,
    InsufficientScope,
    InvalidCursor,
    InvalidIdempotencyKey,
    InvalidRequest,
    Overloaded,
    Unauthorized,
)
from minibill.core.write_result import NOWHERE, Origin
from minibill.db.ledger_sequence import SequenceTracker
from minibill.db.readers import RequestReader
from minibill.db.write_operation import WriteOperation

log = logging.getLogger("minibill.http")

T = TypeVar("T")
R = TypeVar("R")
Q = TypeVar("Q", bound=Query)
P = TypeVar("P", bound=PageQuery)
KEY_CHARACTERS_MAX = 255
_KEY = re.compile(rb"[\x21-\x7e]{1,255}")
USER_AGENT_CHARACTERS_MAX = 500


class Request:
    """One request, with the ways in which handlers read it and answer it."""

    __slots__ = ("_body", "_receive", "context", "method", "observed", "path", "scope")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        request: Any = scope
        self.scope = request
        self.context: Context = request[CONTEXT]
        self.method: str = request["method"]
        self.path: str = request["path"]
        self.observed = SequenceTracker()
        self._receive = receive
        self._body: bytes | None = None

    @property
    def state(self) -> AppState:
        return self.context.state

    @property
    def caller_name(self) -> str:
        """The caller as the book records it: `service:SUB` or `admin:SUB`."""
        caller = self.context.caller
        assert caller is not None
        return caller.name

    def authorize(self, kind: CallerKind, scope: str | None) -> None:
        """Raises `Unauthorized` without a caller of this kind, `InsufficientScope` when the token lacks the scope."""
        caller = self.context.caller
        if caller is None or caller.kind != kind:
            raise Unauthorized
        if scope is not None and not caller.may(scope):
            log.warning("lacks a scope", extra={**about(self.scope, self.context), "scope": scope})
            raise InsufficientScope(scope)

    # --- reading ---

    @property
    def reader(self) -> RequestReader:
        """What its answer is read with."""
        return RequestReader(self.context.state.book.readers, self.observed)

    def segment(self, name: str) -> str:
        """A variable part of the path."""
        value: str = self.scope["path_params"][name]
        return value

    async def read(self, decoder: Decoder[T]) -> T:
        """The body, decoded; none counts as `{}`."""
        body = await self._read_body() or b"{}"
        decoded = decoder.decode(body)
        require_unique_members(body)
        return decoded

    def parameters(self, expected: type[Q]) -> Q:
        """The query; an unknown or repeated parameter is refused."""
        text: bytes = self.scope["query_string"]
        if not text:
            defaults: Q = without_parameters(expected)
            return defaults
        try:
            pairs = parse_qsl(text.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=50)
        except ValueError:
            raise InvalidRequest(FieldError("", "the query is not URL-encoded UTF-8")) from None
        values = dict(pairs)
        if len(values) != len(pairs):
            names = [name for name, _ in pairs]
            raise InvalidRequest(*[FieldError(n, "expected once") for n in values if names.count(n) > 1])
        return convert(values, expected)

    def page(self, expected: type[P]) -> tuple[P, list[int] | None]:
        """The query of a list, and where the page before ended; None on the first page.

        A cursor brings its filters; naming one again is allowed when it is the same.
        """
        query = self.parameters(expected)
        if query.cursor is None:
            return query, None
        filters, position = self.state.cursors.read(query.cursor, self.path, epoch=self.state.book.epoch)
        given = _filters(query)
        if any(value != filters.get(name) for name, value in given.items()):
            raise InvalidCursor("the cursor was made with other filters")
        try:
            kept = msgspec.convert(filters | {"limit": query.limit}, expected, strict=True, dec_hook=lambda t, v: t(v))
        except msgspec.ValidationError as error:
            raise invalid(str(error)) from None
        return kept, position

    async def unless_disconnected(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Return what `work` returns; None once the client has disconnected, and `work` is cancelled."""
        working = asyncio.ensure_future(work)
        leaving = asyncio.ensure_future(self._disconnect())
        try:
            await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
            return working.result() if working.done() else None
        finally:
            working.cancel()
            leaving.cancel()

    async def _disconnect(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    # --- answering ---

    def answer(self, answer: ResponseBody, status: int = 200) -> Response:
        """An answer as JSON."""
        return Response(status, encode(answer))

    def respond_page(
        self,
        query: PageQuery,
        rows: Sequence[R],
        *,
        item: Callable[[R], ResponseBody],
        position: Callable[[R], list[int]],
    ) -> Response:
        """A page from one row more than it holds, where there are more."""
        shown = rows[: query.limit]
        cursor = None
        if len(rows) > query.limit:
            cursor = self.state.cursors.make(self.path, _filters(query), position(shown[-1]), epoch=self.state.book.epoch)
        return self.answer(Page([item(row) for row in shown], cursor))

    @property
    def is_dry_run(self) -> bool:
        """Whether a write is to be taken back."""
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
        context = self.context
        assert context.caller is not None
        # The body counts for the key, and must be JSON even where nothing in it is needed.
        key = self._idempotency_key(await self._read_body())
        stored = await context.state.book.write(
            operation,
            caller=context.caller,
            origin=self._origin() if context.caller.kind == "admin" else NOWHERE,
            key=key,
            dry_run=self.is_dry_run if query is None else bool(query.dry_run),
            observed=self.observed,
            bulk=bulk,
        )
        headers = None
        if stored.replayed:
            context.state.metrics.replays += 1
            headers = {"Idempotency-Replayed": "true"}
        if stored.status == NO_CONTENT:
            # No content has no place to say that it was a dry run.
            return Response(200, stored.body, headers) if self.is_dry_run else Response(NO_CONTENT, b"", headers)
        return Response(stored.status, stored.body, headers)

    def require_room_for_bulk(self) -> None:
        """Raise `Overloaded` when too many bulk writes wait: before the body is read, since reading it has a price."""
        if self.state.book.writer.is_overloaded_with_bulk:
            raise Overloaded("too many batches are waiting; try again")

    async def was_answered_before(self) -> bool:
        """Whether `write` will answer what was answered before; raises `IdempotencyKeyReused` as it would."""
        key = self._idempotency_key(await self._read_body())
        return key is not None and self.state.book.stored_response(key) is not None

    # --- inside ---

    def _origin(self) -> Origin:
        context = self.context
        agent = context.sent.get(b"user-agent")
        caller = context.caller
        return Origin(
            context.ip,
            None if agent is None else agent.decode("latin-1").replace("\x00", "")[:USER_AGENT_CHARACTERS_MAX],
            context.correlation_id,
            None if caller is None else caller.token_id,
        )

    def _idempotency_key(self, body: bytes) -> idempotency.Key | None:
        caller, sent = self.context.caller, self.context.sent
        if caller is None or sent.get(b"idempotency-key") is None:
            return None
        key = sent.only(b"idempotency-key")
        if key is None or not _KEY.fullmatch(key):
            raise InvalidIdempotencyKey(f"expected one key of 1 to {KEY_CHARACTERS_MAX} visible ASCII characters")
        # A request inside a program has no path that was sent.
        path = self.scope.get("raw_path") or self.path.encode()
        fingerprint = idempotency.fingerprint(self.method, path, self.scope["query_string"], body)
        return idempotency.Key(caller.name, key.decode(), fingerprint)

    async def _read_body(self) -> bytes:
        if self._body is None:
            sent, bytes_max = self.context.sent, self.context.state.settings.max_body_bytes
            body = whole_body(self.scope)
            if body is None:
                self._body = await receive_body(self._receive, sent, bytes_max)
            else:
                self._body = checked_body(body, sent, bytes_max)
        return self._body


@cache
def without_parameters(expected: type[Q]) -> Q:
    """An empty query. Raises `InvalidRequest` when a parameter is required."""
    return convert({}, expected)


def _filters(query: PageQuery) -> dict[str, Any]:
    return {
        field.encode_name: int(value) if isinstance(value, int) else str(value)
        for field in msgspec.structs.fields(query)
        if field.name not in ("limit", "cursor") and (value := getattr(query, field.name)) is not None
    }
