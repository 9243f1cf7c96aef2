"""Endpoints: the routes of one path as an ASGI application, which the router finds by the path."""

import asyncio
import logging
import re
from collections.abc import Iterable
from typing import Any

from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp, Receive, Scope, Send

from minibill.api.access_log import log_fields, record_request
from minibill.api.context import CONTEXT, Context
from minibill.api.http_request import HttpRequest
from minibill.api.problem_response import method_not_allowed
from minibill.api.response import Response, problem_response, send_response
from minibill.api.routing import Route
from minibill.auth.callers import CallerKind
from minibill.core.problems import InsufficientScope, NotReady, Unauthorized

log = logging.getLogger("minibill.http")

_VARIABLE = re.compile(r"\{(\w+)\}")


class Endpoint:
    """The routes of one path by their methods; a GET route serves HEAD, too."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._routes = {route.method: route for route in routes}
        if "GET" in self._routes:
            self._routes["HEAD"] = self._routes["GET"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond with the route of the request's method, or with `method_not_allowed`."""
        route = self._routes.get(scope["method"])  # type: ignore[typeddict-item]
        if route is None:
            context: Context = scope[CONTEXT]  # type: ignore[literal-required]
            await send_unrouted(scope, problem_response(method_not_allowed(self._routes), context), context, send)
        else:
            await serve(route, scope, receive, send)

    def for_litestar(self) -> HTTPRouteHandler:
        """Return the endpoint as a handler of the router.

        The router would answer OPTIONS itself. It has no HEAD, and its ASGI handlers take no variable parts.
        """

        async def handle() -> ASGIApp:
            return self

        path = next(iter(self._routes.values())).path
        methods: Any = [*self._routes, "OPTIONS"]
        return HTTPRouteHandler(_VARIABLE.sub(r"{\1:str}", path), http_method=methods, status_code=200)(handle)


def endpoints(routes: Iterable[Route]) -> list[Endpoint]:
    """Return one endpoint for each path."""
    by_path: dict[str, list[Route]] = {}
    for route in routes:
        by_path.setdefault(route.path, []).append(route)
    return [Endpoint(of_path) for of_path in by_path.values()]


async def serve(route: Route, scope: Scope, receive: Receive, send: Send) -> None:
    """Respond to a request with its route. The caller's authority is checked before the body is read."""
    context: Context = scope[CONTEXT]  # type: ignore[literal-required]
    request: HttpRequest | None = None
    try:
        if route.kind is not None:
            _authorize(scope, context, route.kind, route.scope)
        request = HttpRequest(scope, receive)
        response = await route.handler(request)
    except asyncio.CancelledError:
        # The server cancels requests that are in flight when its time to stop is over.
        stopping = "the service is stopping; the request may have been applied: send it again with the same idempotency key"
        response = problem_response(NotReady(stopping), context)
    except Exception as error:
        response = problem_response(error, context)
    record_request(scope, context, context.state.metrics.routes[route.name], response.status, waited_s=response.waited_s)
    sequence = None if request is None else request.observed.sequence
    # The first entry of an epoch follows its base: before there is one, the base keeps the sequence from decreasing.
    if sequence is not None and sequence < (base_id := context.state.book.epoch.base_id):
        sequence = base_id
    await send_response(scope, response, context, send, sequence=sequence)


async def send_unrouted(scope: Scope, response: Response, context: Context, send: Send) -> None:
    """Send the response of a request that reached no route."""
    record_request(scope, context, context.state.metrics.unrouted, response.status)
    await send_response(scope, response, context, send)


def _authorize(scope: Scope, context: Context, kind: CallerKind, token_scope: str | None) -> None:
    """Raise `Unauthorized` without a caller of this kind, `InsufficientScope` if the token lacks the scope."""
    caller = context.caller
    if caller is None or caller.kind != kind:
        raise Unauthorized
    if token_scope is not None and not caller.may(token_scope):
        log.warning("insufficient scope", extra={**log_fields(scope, context), "scope": token_scope})
        raise InsufficientScope(token_scope)
