"""Responses: their status, bytes and headers, and how they are sent."""

import logging

import msgspec
from litestar.types import Scope, Send

from minibill.api.context import Context
from minibill.api.direct_io import DIRECT, DirectExchange, detach
from minibill.api.problem_response import as_problem, problem_body
from minibill.core.problems import InternalError

log = logging.getLogger("minibill.http")

NO_CONTENT = 204


class Response(msgspec.Struct, frozen=True):
    """A response of a handler, in bytes. `waited_s` is the time that the client asked to wait for events."""

    status: int
    body: bytes
    headers: dict[str, str] | None = None
    media_type: bytes = b"application/json"
    waited_s: float = 0


async def send_response(
    scope: Scope, response: Response, context: Context, send: Send, *, sequence: int | None = None
) -> None:
    """Send a response. `sequence` is the newest ledger entry that it can reflect; None if it did not read the ledger."""
    headers = [(b"content-type", response.media_type), (b"content-length", b"%d" % len(response.body))]
    if response.status == NO_CONTENT:
        headers = []
    if sequence is not None:
        headers.append((b"ledger-sequence", b"%d" % sequence))
    headers += context.response_headers
    exchange: DirectExchange | None = scope.get(DIRECT)  # type: ignore[assignment]
    if response.headers:
        # The server has to look for headers that it acts on, such as `Connection`.
        exchange = None
        headers += [(name.lower().encode(), value.encode()) for name, value in response.headers.items()]
    if exchange is None or not exchange.write_response(response.status, headers, response.body):
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        await send({"type": "http.response.body", "body": response.body, "more_body": False})
    detach(scope)


def problem_response(error: Exception, context: Context) -> Response:
    """Return the response to any exception. An unexpected one is logged, and the client gets no detail of it."""
    problem = as_problem(error)
    context.state.metrics.problems[problem.code] += 1
    if isinstance(problem, InternalError):
        ids = {"request_id": context.request_id, "correlation_id": context.correlation_id}
        log.error("request failed", exc_info=error, extra=ids)
    return Response(problem.status, problem_body(problem, context.request_id), problem.headers, b"application/problem+json")
