"""Errors of the client, and error responses as the exceptions of `minibill.core.problems`."""

import re
from typing import Any

from minibill.core.problems import FieldError, Problem

_STANDARD_MEMBERS = frozenset({"type", "title", "status", "detail", "instance", "code", "requestId", "errors"})
_CAPITAL = re.compile(r"(?<=[a-z0-9])([A-Z])")


class ServiceError(Exception):
    """A request failed; the message is one line for the user.

    If `may_have_arrived` is true, a response was lost, so the service may have applied the request.
    """

    def __init__(self, message: str, *, may_have_arrived: bool = False) -> None:
        super().__init__(message)
        self.may_have_arrived = may_have_arrived


class Unreachable(ServiceError):
    """The service did not respond, or not like minibill."""


def not_like_minibill(why: str) -> Unreachable:
    """Return the error for a success response that minibill would not send."""
    return Unreachable(f"the service does not respond like minibill: {why}", may_have_arrived=True)


class WrongAccess(ServiceError):
    """The URL, the token or the secret is malformed. Nothing was sent."""


def _subclasses(kind: type[Problem]) -> list[type[Problem]]:
    return [kind, *(found for child in kind.__subclasses__() for found in _subclasses(child))]


_BY_CODE = {kind.code: kind for kind in _subclasses(Problem)}


def problem_of(members: dict[str, Any], status: int) -> Problem:
    """Return the exception of a problem+json response: the class of its code, with its extension members in snake_case.

    An unknown code of a later version gives a plain `Problem` with that code.
    """
    kind = _BY_CODE.get(members["code"], Problem)
    problem = kind.__new__(kind)
    extensions = {_snake(name): value for name, value in members.items() if name not in _STANDARD_MEMBERS}
    detail = str(members.get("detail") or members.get("title") or "no reason given")
    Problem.__init__(problem, detail)
    problem.extensions = extensions
    errors = members.get("errors")
    if isinstance(errors, list):
        problem.extensions["errors"] = [
            FieldError(str(error.get("path", "")), str(error.get("message", "")))
            for error in errors
            if isinstance(error, dict)
        ]
    problem.request_id = str(members.get("requestId") or "")
    if kind.code != members["code"]:
        vars(problem).update(code=str(members["code"]), status=status)
    return problem


def _snake(name: str) -> str:
    return _CAPITAL.sub(lambda found: f"_{found[1].lower()}", name)
