"""The request middleware: a plain ASGI function around the application.

It gives each request its ids, verifies its token, applies rate limits, and adds the headers that every response has. A
request that it rejects is not routed, and its body is not read.
"""

import logging
import os
import re
from collections.abc import Awaitable, Callable
from itertools import count
from urllib.parse import quote

from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Receive, Scope, Send

from minibill.api.access_log import log_fields
from minibill.api.body import Headers, RequestHeaders
from minibill.api.context import CONTEXT, AppState, Context
from minibill.api.cors import Cors
from minibill.api.direct_io import OVER_LIMIT, detach
from minibill.api.endpoint import send_unrouted, serve
from minibill.api.response import NO_CONTENT, Response, problem_response
from minibill.api.routing import Route
from minibill.auth.callers import PREFIXES, CallerKind
from minibill.auth.client_address import ClientAddresses, canonical, rate_key
from minibill.auth.rate_limit import Allowance, RateLimit
from minibill.auth.tokens import Caller
from minibill.core.clock import monotonic_s
from minibill.core.problems import NotFound, Overloaded, Problem, RateLimited, Unauthorized

log = logging.getLogger("minibill.auth")

_VARIABLE = re.compile(r"\{(\w+)\}")
_CORRELATION_ID = re.compile(rb"[\x21-\x7e]{1,128}")

# Requests without a valid token that one address may send a minute.
BAD_TOKENS_PER_MINUTE = 60

# Headers on every response: no content sniffing, no caching.
ALWAYS = ((b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store"))


class RequestMiddleware:
    """The outermost ASGI application, which calls the router for requests that it admits."""

    def __init__(
        self, app: ASGIApp, state: AppState, *, direct: list[Route], lifespan: Callable[[Receive, Send], Awaitable[None]]
    ) -> None:
        """Wrap `app`, the router. `direct` routes are served past it: docs/internals/decisions/0030-one-router.md."""
        self._app = app
        self._lifespan = lifespan
        self._direct = {(route.method, route.path): route for route in direct if "{" not in route.path}
        self._direct_patterns = [
            (route, re.compile(_VARIABLE.sub(r"(?P<\1>[^/]+)", route.path))) for route in direct if "{" in route.path
        ]
        self._state = state
        settings = state.settings
        self._limits: dict[CallerKind, RateLimit | None] = {
            "admin": _limit(settings.admin_rate_per_minute),
            "service": _limit(settings.service_rate_per_minute),
        }
        # 0 turns the limit on admins off, and with it this one.
        self._bad_tokens = _limit(BAD_TOKENS_PER_MINUTE if settings.admin_rate_per_minute else 0)
        self._addresses = ClientAddresses(settings.trusted_proxies)
        self._cors = Cors(settings.cors_origins or (), loopback=settings.cors_loopback)
        self._request_id_prefix = f"req_{os.urandom(8).hex()}"
        self._request_numbers = count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await self._lifespan(receive, send)
            return
        context = self._context(scope)
        scope[CONTEXT] = context  # type: ignore[literal-required]
        method, path = scope["method"], scope["path"]
        if method == "HEAD":
            # The server leaves the body out of ASGI messages only.
            detach(scope)
        try:
            if OVER_LIMIT in scope:
                raise Overloaded("too many connections are open; try again", headers={"Connection": "close"})
            if context.headers.get(b"origin") is not None and self._add_cors_headers(context, method):
                await send_unrouted(scope, Response(NO_CONTENT, b""), context, send)
                return
            if b"%" in (scope.get("raw_path") or b"%"):
                path = _use_path_as_sent(scope)
            direct = self._direct.get((method, path)) or self._direct_by_pattern(scope, method, path)
            context.caller = self._admit(scope, context, self._kind(path) if direct is None else direct.kind)
        except Problem as problem:
            await send_unrouted(scope, problem_response(problem, context), context, send)
            return
        if direct is None:
            await self._app(scope, receive, send)
        else:
            await serve(direct, scope, receive, send)

    def _direct_by_pattern(self, scope: HTTPScope, method: str, path: str) -> Route | None:
        for route, pattern in self._direct_patterns:
            if method == route.method and (found := pattern.fullmatch(path)):
                scope["path_params"] = found.groupdict()
                return route
        return None

    def _context(self, scope: HTTPScope) -> Context:
        headers = RequestHeaders(scope["headers"])
        request_id = f"{self._request_id_prefix}{next(self._request_numbers):06x}"
        id_bytes = request_id.encode()
        correlation_id, correlation_bytes = request_id, id_bytes
        if (sent := headers.get(b"x-correlation-id")) is not None and _CORRELATION_ID.fullmatch(sent):
            correlation_id, correlation_bytes = sent.decode(), sent
        client = scope.get("client")
        if client is None:
            ip = None
        elif not self._addresses.trusted:
            ip = canonical(client[0])
        else:
            ip = self._addresses.of(client[0], headers.all(b"x-forwarded-for"))
        response_headers = [(b"x-request-id", id_bytes), (b"x-correlation-id", correlation_bytes), *ALWAYS]
        return Context(self._state, request_id, correlation_id, ip, headers, response_headers, monotonic_s())

    def _add_cors_headers(self, context: Context, method: str) -> bool:
        """Add the headers for the origin of a request; return True for a preflight, which they answer."""
        is_preflight = method == "OPTIONS" and context.headers.get(b"access-control-request-method") is not None
        context.response_headers += self._cors.headers(context.headers.only(b"origin"), preflight=is_preflight)
        return is_preflight

    def _admit(self, scope: HTTPScope, context: Context, kind: CallerKind | None) -> Caller | None:
        if kind is None:
            return None
        try:
            caller = self._state.verifier.verify(kind, context.headers.only(b"authorization") or b"")
        except Unauthorized:
            if self._bad_tokens is not None:
                allowance = self._bad_tokens.count(rate_key(context.ip or ""))
                if not allowance.allowed:
                    # A flood of requests must not flood the log.
                    context.response_headers += _rate_headers(allowance)
                    raise _rate_limited(allowance) from None
            log.warning("no valid token", extra=log_fields(scope, context))
            raise
        limit = self._limits[kind]
        if limit is not None:
            allowance = limit.count(caller.name)
            context.response_headers += _rate_headers(allowance)
            if not allowance.allowed:
                raise _rate_limited(allowance)
        if scope["method"] not in ("GET", "HEAD") and self._state.book.writer.is_overloaded:
            # Before the body is read: decoding a large batch takes a quarter of the time of paying it.
            raise Overloaded
        return caller

    def _kind(self, path: str) -> CallerKind | None:
        if "//" in path:
            # The router would fold it, and a path would reach its route without the prefix that needs a token.
            raise NotFound("nothing is at this path")
        for prefix, kind in PREFIXES.items():
            if path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in ("", "/"):
                return kind
        return None


def _use_path_as_sent(scope: HTTPScope) -> str:
    """Let the router see a path with escapes as it was sent; return that path.

    A proxy matches `/%6detrics` and `/accounts/x%2Fbalance` as they are sent, so the router has to do the same.
    `HttpRequest` decodes the variable parts afterwards.
    """
    raw_path = scope.get("raw_path")
    # ASGI servers may leave `raw_path` out.
    path = raw_path.decode("latin-1") if raw_path else quote(scope["path"])
    scope["path"] = path
    return path


def _limit(per_minute: int) -> RateLimit | None:
    return RateLimit(per_minute) if per_minute else None


def _rate_headers(allowance: Allowance) -> Headers:
    return [
        (b"ratelimit-limit", b"%d" % allowance.limit),
        (b"ratelimit-remaining", b"%d" % allowance.remaining),
        (b"ratelimit-reset", b"%d" % allowance.reset_seconds),
    ]


def _rate_limited(allowance: Allowance) -> RateLimited:
    return RateLimited(
        f"at most {allowance.limit} requests a minute; try again in {allowance.reset_seconds} s",
        headers={"Retry-After": str(allowance.reset_seconds)},
    )
