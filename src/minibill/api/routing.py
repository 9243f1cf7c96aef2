"""Routes: a method and path, the callers that may use it, and the handler that responds."""

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from minibill.api.request import Request
from minibill.api.response import Response
from minibill.auth.callers import CallerKind

Handler = Callable[[Request], Awaitable[Response]]


class Route(NamedTuple):
    """One operation of the API. `path` is a template such as `/accounts/{account_id}`.

    A route without a `kind` is public. `scope` is the scope that an admin's token needs.
    """

    method: str
    path: str
    handler: Handler
    kind: CallerKind | None
    scope: str | None
    # The method and path template, as metrics have them.
    name: str
