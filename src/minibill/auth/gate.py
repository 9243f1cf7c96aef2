"""The gate: one plain ASGI function around the whole application.

It gives each request its ids, tells who calls, counts requests, and puts on every answer the headers that all have. Who is
not let in costs nothing more: neither routing nor a body.
"""

import logging
import os
import re
from functools import cache
from itertools import count
from typing import NamedTuple

from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Receive, Scope, Send

from minibill.auth.doors import PREFIXES, Kind
from minibill.auth.rate_limit import Allowance, RateLimit
from minibill.auth.tokens import Caller
from minibill.clock import monotonic_s
from minibill.incoming import Headers, SentHeaders
from minibill.problems import MethodNotAllowed, NotFound, Overloaded, Problem, RateLimited, Unauthorized
from minibill.web import CONTEXT, Context, Route, Service, about, answered, problem_reply, send_reply

log = logging.getLogger("minibill.auth")

_CORRELATION_ID = re.compile(rb"[\x21-\x7e]{1,128}")

# Requests without a valid token that one address may send a minute.
BAD_TOKENS_PER_MINUTE = 60

# What every answer says: nothing is to be guessed from it, and nothing kept of it.
ALWAYS = ((b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store"))

# In the scope of a request that came on a connection too many.
SURPLUS = "minibill.surplus"


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

    def is_one_part(self, raw_path: bytes) -> bool:
        """Whether the slashes of the variable part were sent as %2F, so that they are its own."""
        before, after = self.before.encode(), self.after.encode()
        part = raw_path.removeprefix(before).removesuffix(after)
        return len(before) + len(part) + len(after) == len(raw_path) and b"/" not in part


class Gate:
    """Wraps the application."""

    def __init__(self, app: ASGIApp, service: Service, *, direct: list[Route]) -> None:
        """`direct` are routes with at most one variable part that are answered without asking the framework."""
        self._app = app
        self._direct = {(route.method, route.path): route for route in direct if "{" not in route.path}
        self._direct_with_a_variable = [_Pattern.of(route) for route in direct if "{" in route.path]
        self._service = service
        settings = service.settings
        self._limits: dict[Kind, RateLimit | None] = {
            "admin": _limit(settings.admin_rate_per_minute),
            "service": _limit(settings.service_rate_per_minute),
        }
        # 0 turns the limit on admins off, and with it this one.
        self._bad_tokens = _limit(BAD_TOKENS_PER_MINUTE if settings.admin_rate_per_minute else 0)
        self._request_id_begins = f"req_{os.urandom(8).hex()}"
        self._request_numbers = count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        sent = SentHeaders(scope["headers"])
        request_id = f"{self._request_id_begins}{next(self._request_numbers):06x}"
        own_id = request_id.encode()
        correlation_id = _correlation_id(sent) or own_id
        client = scope.get("client")
        headers = [(b"x-request-id", own_id), (b"x-correlation-id", correlation_id), *ALWAYS]
        context = Context(
            self._service, request_id, correlation_id.decode(), client[0] if client else None, sent, headers, monotonic_s()
        )
        direct = self._direct.get((scope["method"], scope["path"]))
        try:
            context.caller = self._admit(scope, context, direct)
            if scope["method"] == "OPTIONS":
                # The framework would answer it by itself, for any path and whatever the scope.
                raise self._not_for_options(scope["path"])
        except Problem as problem:
            answered(scope, context, self._service.metrics.unrouted, problem.status)
            await send_reply(scope, problem_reply(problem, context), context, send)
            return
        scope[CONTEXT] = context  # type: ignore[literal-required]
        answer = direct.serve if direct is not None else self._variable(scope) or self._app
        await answer(scope, receive, send)

    def _not_for_options(self, path: str) -> Problem:
        methods = {route.method for route in self._service.routes if _template(route.path).fullmatch(path.rstrip("/"))}
        if not methods:
            return NotFound("nothing is at this path")
        return MethodNotAllowed("no path takes OPTIONS", headers={"Allow": ", ".join(sorted(methods))})

    def _variable(self, scope: HTTPScope) -> ASGIApp | None:
        path = scope["path"]
        for pattern in self._direct_with_a_variable:
            if scope["method"] == pattern.method and path.startswith(pattern.before) and path.endswith(pattern.after):
                value = path[len(pattern.before) : len(path) - len(pattern.after)]
                if value and ("/" not in value or pattern.is_one_part(scope["raw_path"])):
                    scope["path_params"] = {pattern.name: value}
                    return pattern.serve
        return None

    def _admit(self, scope: HTTPScope, context: Context, direct: Route | None) -> Caller | None:
        if SURPLUS in scope:
            raise Overloaded("too many connections are open; try again", headers={"Connection": "close"})
        kind = self._kind(scope) if direct is None else direct.kind
        if kind is None:
            return None
        try:
            caller = self._service.verifier.verify(kind, context.sent.only(b"authorization") or b"")
        except Unauthorized:
            if self._bad_tokens is not None:
                allowance = self._bad_tokens.count(context.ip or "")
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
        if scope["method"] != "GET" and self._service.book.writer.is_overloaded:
            # Before the body is read: decoding a large one costs a quarter of what doing it would.
            raise Overloaded
        return caller

    def _kind(self, scope: HTTPScope) -> Kind | None:
        path = scope["path"]
        if "//" in path and self._variable(scope) is None:
            # The router would fold it, and what is behind a prefix would be reached past its prefix.
            raise NotFound("nothing is at this path")
        for prefix, kind in PREFIXES.items():
            if path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in ("", "/"):
                return kind
        return None


@cache
def _template(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\{\w+:str\}", "[^/]+", path))


def _limit(per_minute: int) -> RateLimit | None:
    return RateLimit(per_minute) if per_minute else None


def _correlation_id(sent: SentHeaders) -> bytes | None:
    value = sent.get(b"x-correlation-id")
    return value if value is not None and _CORRELATION_ID.fullmatch(value) else None


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
