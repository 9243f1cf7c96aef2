"""Responses: JSON, problem+json, and the headers that every response has."""

import logging

import msgspec
from litestar.types import Scope, Send

from minibill.api.context import Context
from minibill.api.fast_path import forget_server, write_response_directly
from minibill.api.problem_response import as_problem, problem_body
from minibill.core.problems import InternalError

log = logging.getLogger("minibill.http")

NO_CONTENT = 204


class Response(msgspec.Struct, frozen=True):
    """What a request is answered with: bytes of JSON. `waited_s` is the time that it was asked to wait for something."""

    status: int
    body: bytes
    headers: dict[str, str] | None = None
    media_type: bytes = b"application/json"
    waited_s: float = 0


async def send_response(scope: Scope, reply: Response, context: Context, send: Send, *, sequence: int | None = None) -> None:
    """Sends an answer, with the newest entry of the ledger that it can have seen, if it looked there."""
    headers = [(b"content-type", reply.media_type), (b"content-length", b"%d" % len(reply.body))]
    if reply.status == NO_CONTENT:
        headers = []
    if sequence is not None:
        headers.append((b"ledger-sequence", b"%d" % sequence))
    headers += context.headers
    if reply.headers:
        headers += [(name.lower().encode(), value.encode()) for name, value in reply.headers.items()]
    elif write_response_directly(scope, reply.status, headers, reply.body):
        return
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body, "more_body": False})
    forget_server(scope)


def problem_response(error: Exception, context: Context) -> Response:
    """Any exception as the problem that it comes to. What is not a refusal is logged and answered without a hint."""
    problem = as_problem(error)
    context.state.metrics.problems[problem.code] += 1
    if isinstance(problem, InternalError):
        ids = {"request_id": context.request_id, "correlation_id": context.correlation_id}
        log.error("a request failed", exc_info=error, extra=ids)
    return Response(problem.status, problem_body(problem, context.request_id), problem.headers, b"application/problem+json")
