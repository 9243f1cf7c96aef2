"""Problems as responses: application/problem+json (RFC 9457)."""

from collections.abc import Iterable
from typing import Any

import msgspec
from litestar.exceptions import HTTPException, MethodNotAllowedException, NotFoundException

from minibill.core.problems import FieldError, InternalError, InvalidRequest, MethodNotAllowed, NotFound, Problem, camel


def problem_body(problem: Problem, request_id: str) -> bytes:
    """Return a problem as JSON."""
    members: dict[str, Any] = {
        "type": f"urn:minibill:problem:{problem.code}",
        "title": problem.title,
        "status": problem.status,
        "detail": problem.detail,
        "code": problem.code,
        "requestId": request_id,
    }
    for name, value in problem.extensions.items():
        members[camel(name)] = value
    return msgspec.json.encode(members)


def as_problem(error: Exception) -> Problem:
    """Return the problem that a client is shown for an exception."""
    match error:
        case Problem():
            return error
        case NotFoundException():
            return NotFound("nothing is at this path")
        case MethodNotAllowedException():
            listed = (error.headers or {}).get("allow", "").split(", ")
            # Each endpoint takes OPTIONS from the router, and rejects it.
            return method_not_allowed(method for method in listed if method != "OPTIONS")
        case HTTPException() if error.status_code == 400:
            return InvalidRequest(FieldError("", "the request could not be read"))
        case _:
            return InternalError()


def method_not_allowed(methods: Iterable[str]) -> MethodNotAllowed:
    """Return the problem of a path that takes these methods."""
    return MethodNotAllowed("this path takes other methods", headers={"Allow": ", ".join(sorted(methods))})
