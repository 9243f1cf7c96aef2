"""HTTP conventions: what every request and answer has in common. The features' routes.py say what is particular.

A handler takes a `Call` and answers a `Response`; `route` makes it one of Litestar's and puts authority before it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qsl

import msgspec
from litestar import Request, Response
from litestar.datastructures import State
from litestar.exceptions import HTTPException, MethodNotAllowedException, NotFoundException
from litestar.handlers import HTTPRouteHandler

from minibill import idempotency
from minibill.audit import Origin
from minibill.auth.tokens import Caller, Kind, TokenVerifier
from minibill.book import Book
from minibill.config import Settings
from minibill.cursors import Cursors
from minibill.db.queries import Row
from minibill.outcome import Outcome
from minibill.problems import (
    FieldError,
    InsufficientScope,
    InternalError,
    InvalidCursor,
    InvalidIdempotencyKey,
    InvalidRequest,
    MalformedJson,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    Problem,
    Unauthorized,
    UnsupportedMediaType,
)
from minibill.wire import Answer, Decoder, Flag, Page, PageQuery, Query, convert, encode, invalid

log = logging.getLogger("minibill.http")

T = TypeVar("T")
Q = TypeVar("Q", bound=Query)
P = TypeVar("P", bound=PageQuery)

# A body that has not arrived by then is given up: a client that crawls must not hold a stop or a connection for long.
BODY_SECONDS_MAX = 10

KEY_CHARACTERS_MAX = 255
USER_AGENT_CHARACTERS_MAX = 500

# Where the gate leaves what it found out about a request.
CONTEXT = "minibill"


class Service(NamedTuple):
    """What handlers work with; one a process."""

    book: Book
    settings: Settings
    verifier: TokenVerifier
    cursors: Cursors
    has_test_clock: bool


class Context(NamedTuple):
    """What the gate found out about a request before it was routed."""

    service: Service
    request_id: str
    correlation_id: str
    ip: str | None
    caller: Caller | None


class WriteQuery(Query, frozen=True):
    """The parameters of a write."""

    dry_run: Flag | None = None


class Call(Request[None, None, State]):
    """One request, with the ways in which handlers read it and answer it."""

    @property
    def context(self) -> Context:
        context: Context = self.scope[CONTEXT]  # type: ignore[literal-required]
        return context

    @property
    def service(self) -> Service:
        return self.context.service

    def authorize(self, kind: Kind, scope: str | None) -> None:
        """Raises `Unauthorized` without a caller of this kind, `InsufficientScope` when the token lacks the scope."""
        caller = self.context.caller
        if caller is None or caller.kind != kind:
            raise Unauthorized
        if scope is not None and not caller.may(scope):
            log.warning("refused %s %s to %r: lacks %s", self.method, self.url.path, caller.sub, scope)
            raise InsufficientScope(scope)

    # --- reading ---

    def segment(self, name: str) -> str:
        """A variable part of the path."""
        value: str = self.path_params[name]
        return value

    async def read(self, decoder: Decoder[T]) -> T:
        """The body, decoded; none counts as `{}`."""
        body = await self._read_body()
        return decoder.decode(body or b"{}")

    def parameters(self, expected: type[Q]) -> Q:
        """The query; an unknown or repeated parameter is refused."""
        text: bytes = self.scope["query_string"]
        if not text:
            return expected()
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
        filters, position = self.service.cursors.read(query.cursor, self.url.path)
        given = _filters(query)
        if any(value is not None and value != filters.get(name) for name, value in given.items()):
            raise InvalidCursor("the cursor was made with other filters")
        try:
            kept = msgspec.convert(filters | {"limit": query.limit}, expected, strict=True, dec_hook=lambda t, v: t(v))
        except msgspec.ValidationError as error:
            raise invalid(str(error)) from None
        return kept, position

    # --- answering ---

    def answer(self, answer: Answer, status: int = 200) -> Response[bytes]:
        """An answer as JSON."""
        return Response(encode(answer), status_code=status, media_type="application/json")

    def page_answer(
        self,
        query: PageQuery,
        rows: Sequence[Row],
        *,
        item: Callable[[Row], Answer],
        position: Callable[[Row], list[int]],
    ) -> Response[bytes]:
        """A page from one row more than it holds, where there are more."""
        shown = rows[: query.limit]
        cursor = None
        if len(rows) > query.limit:
            cursor = self.service.cursors.make(self.url.path, _filters(query), position(shown[-1]))
        return self.answer(Page([item(row) for row in shown], cursor))

    async def write(self, operation: Callable[..., Outcome], **arguments: object) -> Response[bytes]:
        """Runs an operation that writes, with this request's caller, key and `dryRun`, and answers what it came to."""
        context = self.context
        assert context.caller is not None
        # The body counts for the key, and must be JSON even where nothing in it is needed.
        key = self._idempotency_key(context.caller, await self._read_body())
        written = await context.service.book.write(
            operation,
            caller=context.caller,
            origin=self._origin(),
            key=key,
            dry_run=bool(self.parameters(WriteQuery).dry_run),
            **arguments,
        )
        headers = {"Idempotency-Replayed": "true"} if written.replayed else None
        return Response(written.body, status_code=written.status, media_type="application/json", headers=headers)

    # --- inside ---

    def _origin(self) -> Origin:
        agent = self.headers.get("user-agent")
        context = self.context
        caller = context.caller
        return Origin(
            context.ip,
            None if agent is None else agent.replace("\x00", "")[:USER_AGENT_CHARACTERS_MAX],
            context.correlation_id,
            None if caller is None else caller.token_id,
        )

    def _idempotency_key(self, caller: Caller, body: bytes) -> idempotency.Key | None:
        keys = [value for name, value in self.scope["headers"] if name == b"idempotency-key"]
        if not keys:
            return None
        [text, *others] = keys
        if others or not 1 <= len(text) <= KEY_CHARACTERS_MAX or not all(0x21 <= byte <= 0x7E for byte in text):
            raise InvalidIdempotencyKey(f"expected one key of 1 to {KEY_CHARACTERS_MAX} visible ASCII characters")
        return idempotency.Key(caller.name, text.decode(), idempotency.fingerprint(self.method, self.url.path, body))

    async def _read_body(self) -> bytes:
        read: bytes | None = self.scope.get("minibill_body")  # type: ignore[assignment]
        if read is None:
            read = await self._receive_body()
            if read:
                _require_json_type(self.headers.get("content-type"))
            self.scope["minibill_body"] = read  # type: ignore[typeddict-unknown-key]
        return read

    async def _receive_body(self) -> bytes:
        limit = self.service.settings.max_body_bytes
        length = self.headers.get("content-length", "0")
        if length.isdigit() and int(length[:20]) > limit:
            raise _too_large(limit)
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(BODY_SECONDS_MAX):
                while True:
                    message = await self.receive()
                    if message["type"] == "http.disconnect":
                        raise MalformedJson("the body did not arrive whole")
                    if part := message.get("body", b""):
                        size += len(part)  # type: ignore[arg-type]
                        if size > limit:
                            raise _too_large(limit)
                        parts.append(part)  # type: ignore[arg-type]
                    if not message.get("more_body"):
                        return b"".join(parts)
        except TimeoutError:
            raise MalformedJson(
                f"the body did not arrive within {BODY_SECONDS_MAX} s", headers={"Connection": "close"}
            ) from None


Handler = Callable[[Call], Awaitable[Response[bytes]]]


def route(method: str, path: str, handler: Handler, kind: Kind, scope: str | None) -> HTTPRouteHandler:
    """A handler behind its authority: who may call it is checked before anything of the request is read."""

    async def handle(request: Call) -> Response[bytes]:
        request.authorize(kind, scope)
        return await handler(request)

    handle.__name__ = handler.__name__
    handle.__doc__ = handler.__doc__
    return HTTPRouteHandler(path, http_method=method, status_code=200, opt={"scope": scope, "kind": kind})(handle)  # type: ignore[arg-type]


def public_route(path: str, handler: Handler) -> HTTPRouteHandler:
    """A GET that needs no token."""

    async def handle(request: Call) -> Response[bytes]:
        return await handler(request)

    handle.__name__ = handler.__name__
    return HTTPRouteHandler(path, http_method="GET", status_code=200)(handle)


# --- problems ---


def problem_body(problem: Problem, request_id: str) -> bytes:
    """A refusal as application/problem+json (RFC 9457)."""
    members: dict[str, Any] = {
        "type": f"urn:minibill:problem:{problem.code}",
        "title": problem.title,
        "status": problem.status,
        "detail": problem.detail,
        "code": problem.code,
        "requestId": request_id,
    }
    for name, value in problem.facts.items():
        members[_camel(name)] = value
    return msgspec.json.encode(members)


def render(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Any exception as the problem that it comes to. What is not a refusal is logged and answered without a hint."""
    context: Context = request.scope[CONTEXT]  # type: ignore[literal-required]
    problem = as_problem(error)
    if isinstance(problem, InternalError):
        log.error("request %s failed", context.request_id, exc_info=error)
    return Response(
        problem_body(problem, context.request_id),
        status_code=problem.status,
        media_type="application/problem+json",
        headers=problem.headers,
    )


def as_problem(error: Exception) -> Problem:
    """The refusal that an exception comes to."""
    match error:
        case Problem():
            return error
        case NotFoundException():
            return NotFound("nothing is at this path")
        case MethodNotAllowedException():
            return MethodNotAllowed("this path takes other methods", headers=dict(error.headers or {}))
        case HTTPException() if error.status_code == 400:
            return InvalidRequest(FieldError("", "the request could not be read"))
        case _:
            return InternalError("an internal error; nothing was changed")


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def _filters(query: PageQuery) -> dict[str, Any]:
    return {
        field.encode_name: value
        for field in msgspec.structs.fields(query)
        if field.name not in ("limit", "cursor") and (value := getattr(query, field.name)) is not None
    }


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"a body has at most {limit} bytes", headers={"Connection": "close"}, limit_bytes=limit)


def _require_json_type(content_type: str | None) -> None:
    media_type, _, parameters = (content_type or "").partition(";")
    charset = parameters.strip().lower().replace('"', "")
    if media_type.strip().lower() != "application/json" or charset not in ("", "charset=utf-8", "charset=utf8"):
        raise UnsupportedMediaType("send the body as Content-Type: application/json in UTF-8")
