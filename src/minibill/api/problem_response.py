"""Refusals as they are answered: application/problem+json (RFC 9457)."""

from collections.abc import Iterable
from typing import Any

import msgspec
from litestar.exceptions import HTTPException, MethodNotAllowedException, NotFoundException

from minibill.core.problems import FieldError, InternalError, InvalidRequest, MethodNotAllowed, NotFound, Problem, camel


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
    for name, value in problem.extensions.items():
        members[camel(name)] = value
    return msgspec.json.encode(members)


def as_problem(error: Exception) -> Problem:
    """The refusal that an exception comes to."""
    match error:
        case Problem():
            return error
        case NotFoundException():
            return NotFound("nothing is at this path")
        case MethodNotAllowedException():
            # The framework's own OPTIONS is no method of the path.
            listed = (error.headers or {}).get("allow", "").split(", ")
            return method_not_allowed(method for method in listed if method and method != "OPTIONS")
        case HTTPException() if error.status_code == 400:
            return InvalidRequest(FieldError("", "the request could not be read"))
        case _:
            return InternalError()


def method_not_allowed(methods: Iterable[str]) -> MethodNotAllowed:
    """Return the problem of a path that takes these methods, and HEAD where it takes GET."""
    taken = set(methods)
    if "GET" in taken:
        taken.add("HEAD")
    return MethodNotAllowed("this path takes other methods", headers={"Allow": ", ".join(sorted(taken))})
