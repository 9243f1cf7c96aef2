"""Routes: a method and path, who may call it, and the handler that responds."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp, Receive, Scope, Send

from minibill.api.access_log import answered
from minibill.api.context import CONTEXT, Context
from minibill.api.request import Request
from minibill.api.response import Response, problem_response, send_response
from minibill.auth.callers import CallerKind
from minibill.core.problems import NotReady

Handler = Callable[[Request], Awaitable[Response]]


class Route(NamedTuple):
    """A method and path, who may call it (`kind` None: anybody), and what answers."""

    method: str
    path: str
    handler: Handler
    kind: CallerKind | None
    scope: str | None
    # The method and path template, as metrics have them.
    name: str

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request that was routed here. Authority is checked before anything of the request is read."""
        context: Context = scope[CONTEXT]  # type: ignore[literal-required]
        request = Request(scope, receive)
        try:
            if self.kind is not None:
                request.authorize(self.kind, self.scope)
            reply = await self.handler(request)
        except asyncio.CancelledError:
            # The server cancels what is under way when its time to stop is over.
            stopping = (
                "the service is stopping; what was asked may have been done: send it again with the same idempotency key"
            )
            reply = problem_response(NotReady(stopping), context)
        except Exception as error:
            reply = problem_response(error, context)
        answered(scope, context, context.state.metrics.routes[self.name], reply.status, waited_s=reply.waited_s)
        sequence = request.observed.sequence
        # Until the epoch has an entry its base stands for one, so that the sequence does not decrease across a restore.
        if sequence is not None and sequence < (base_id := context.state.book.epoch.base_id):
            sequence = base_id
        await send_response(scope, reply, context, send, sequence=sequence)

    def for_litestar(self) -> HTTPRouteHandler:
        """The same as one of Litestar's handlers."""

        async def handle() -> ASGIApp:
            return self.serve

        return HTTPRouteHandler(self.path, http_method=self.method, status_code=200)(handle)  # type: ignore[arg-type]
