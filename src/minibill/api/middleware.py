"""The gate: one plain ASGI function around the whole application.

It gives each request its ids, tells who calls, counts requests, and puts on every answer the headers that all have. Who is
not let in costs nothing more: neither routing nor a body.
"""

import logging
import os
import re
from collections.abc import Awaitable, Callable
from itertools import count
from typing import NamedTuple

from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Receive, Scope, Send

from minibill.api.access_log import about, answered
from minibill.api.body import Headers, RequestHeaders
from minibill.api.context import CONTEXT, AppState, Context
from minibill.api.cors import Cors
from minibill.api.fast_path import forget_server
from minibill.api.paths import Paths
from minibill.api.problem_response import method_not_allowed
from minibill.api.response import NO_CONTENT, Response, problem_response, send_response
from minibill.api.routing import Route
from minibill.auth.callers import PREFIXES, CallerKind
from minibill.auth.client_address import ClientAddresses, canonical, rate_key
from minibill.auth.rate_limit import Allowance, RateLimit
from minibill.auth.tokens import Caller
from minibill.core.clock import monotonic_s
from minibill.core.problems import NotFound, Overloaded, Problem, RateLimited, Unauthorized

log = logging.getLogger("minibill.auth")

_CORRELATION_ID = re.compile(rb"[\x21-\x7e]{1,128}")

# Requests without a valid token that one address may send a minute.
BAD_TOKENS_PER_MINUTE = 60

# What every answer says: nothing is to be guessed from it, and nothing kept of it.
ALWAYS = ((b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store"))

# The router would answer OPTIONS itself, for any path and whatever the scope, and knows no HEAD.
_ROUTED_HERE = ("HEAD", "OPTIONS")

# In the scope of a request that came on a connection too many.
OVER_LIMIT = "minibill.surplus"


class _Pattern(NamedTuple):
    """A direct route with one variable part."""

    method: str
    before: str
    name: str
    after: str
    serve: ASGIApp

    @classmethod
    def of(cls, route: Route) -> "_Pattern":
        before, _, rest = route.path.partition("{")
        variable, _, after = rest.partition("}")
        return cls(route.method, before, variable.removesuffix(":str"), after, route.serve)


class RequestMiddleware:
    """Wraps the application."""

    def __init__(
        self, app: ASGIApp, state: AppState, *, direct: list[Route], lifespan: Callable[[Receive, Send], Awaitable[None]]
    ) -> None:
        """Wrap `app`. `direct` routes have at most one variable segment and go around it; `lifespan` runs beside it."""
        self._lifespan = lifespan
        self._app = app
        self._direct = {(route.method, route.path): route for route in direct if "{" not in route.path}
        self._direct_with_a_variable = [_Pattern.of(route) for route in direct if "{" in route.path]
        self._paths = Paths(state.routes)
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
        self._request_id_begins = f"req_{os.urandom(8).hex()}"
        self._request_numbers = count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await self._lifespan(receive, send)
            return
        sent = RequestHeaders(scope["headers"])
        request_id = f"{self._request_id_begins}{next(self._request_numbers):06x}"
        id_bytes = request_id.encode()
        correlation_id, correlation_bytes = request_id, id_bytes
        if (given := sent.get(b"x-correlation-id")) is not None and _CORRELATION_ID.fullmatch(given):
            correlation_id, correlation_bytes = given.decode(), given
        headers = [(b"x-request-id", id_bytes), (b"x-correlation-id", correlation_bytes), *ALWAYS]
        client = scope.get("client")
        if client is None:
            ip = None
        elif not self._addresses.trusted:
            ip = canonical(client[0])
        else:
            ip = self._addresses.of(client[0], sent.all(b"x-forwarded-for"))
        context = Context(self._state, request_id, correlation_id, ip, sent, headers, monotonic_s())
        method = scope["method"]
        preflight = False
        if sent.get(b"origin") is not None:
            preflight = method == "OPTIONS" and sent.get(b"access-control-request-method") is not None
            headers += self._cors.headers(sent.only(b"origin"), preflight=preflight)
        if method == "HEAD":
            # The server leaves the body out, and a response that is written past the server would have one.
            forget_server(scope)
        try:
            if OVER_LIMIT in scope:
                raise Overloaded("too many connections are open; try again", headers={"Connection": "close"})
            if preflight:
                await self._answer(Response(NO_CONTENT, b""), scope, context, send)
                return
            direct = self._direct.get((method, scope["path"]))
            if b"%" in (scope.get("raw_path") or b"") or method in _ROUTED_HERE:
                serve = self._serve_as_sent(scope, context)
            elif direct is not None:
                context.caller = self._admit(scope, context, direct.kind)
                serve = direct.serve
            else:
                context.caller = self._admit(scope, context, self._kind(scope["path"]))
                serve = self._variable(scope) or self._app
        except Problem as problem:
            await self._answer(problem_response(problem, context), scope, context, send)
            return
        scope[CONTEXT] = context  # type: ignore[literal-required]
        await serve(scope, receive, send)

    async def _answer(self, reply: Response, scope: HTTPScope, context: Context, send: Send) -> None:
        """Send what a request is answered with here."""
        answered(scope, context, self._state.metrics.unrouted, reply.status)
        await send_response(scope, reply, context, send)

    def _serve_as_sent(self, scope: HTTPScope, context: Context) -> ASGIApp:
        """Return what serves a request that is routed by its path as sent. Raises `Problem` for one that is not let in."""
        raw_path = scope.get("raw_path") or scope["path"].encode()
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        kind = self._kind(raw_path.decode("latin-1"))
        context.caller = self._admit(scope, context, kind)
        found = self._paths.find(raw_path)
        if found is None:
            raise NotFound("nothing is at this path")
        if method not in found.routes:
            raise method_not_allowed(found.routes)
        scope["path_params"] = found.segments
        return found.routes[method].serve

    def _variable(self, scope: HTTPScope) -> ASGIApp | None:
        path = scope["path"]
        for pattern in self._direct_with_a_variable:
            if scope["method"] == pattern.method and path.startswith(pattern.before) and path.endswith(pattern.after):
                value = path[len(pattern.before) : len(path) - len(pattern.after)]
                if value and "/" not in value:
                    scope["path_params"] = {pattern.name: value}
                    return pattern.serve
        return None

    def _admit(self, scope: HTTPScope, context: Context, kind: CallerKind | None) -> Caller | None:
        if kind is None:
            return None
        try:
            caller = self._state.verifier.verify(kind, context.sent.only(b"authorization") or b"")
        except Unauthorized:
            if self._bad_tokens is not None:
                allowance = self._bad_tokens.count(rate_key(context.ip or ""))
                if not allowance.allowed:
                    # Not logged one by one: whoever floods the service must not flood its log.
                    context.headers += _rate_headers(allowance)
                    raise _rate_limited(allowance) from None
            log.warning("no valid token", extra=about(scope, context))
            raise
        limit = self._limits[kind]
        if limit is not None:
            allowance = limit.count(caller.name)
            context.headers += _rate_headers(allowance)
            if not allowance.allowed:
                raise _rate_limited(allowance)
        if scope["method"] not in ("GET", "HEAD") and self._state.book.writer.is_overloaded:
            # Before the body is read: decoding a large one costs a quarter of what doing it would.
            raise Overloaded
        return caller

    def _kind(self, path: str) -> CallerKind | None:
        if "//" in path:
            # The router would fold it, and what is behind a prefix would be reached past its prefix.
            raise NotFound("nothing is at this path")
        for prefix, kind in PREFIXES.items():
            if path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in ("", "/"):
                return kind
        return None


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
