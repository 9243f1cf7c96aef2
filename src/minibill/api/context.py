"""The application state that handlers work with, and the context of one HTTP request."""

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from minibill.api.body import Headers, RequestHeaders
from minibill.api.cursors import Cursors
from minibill.auth.tokens import Caller, TokenVerifier
from minibill.config import Settings
from minibill.core.counters import Metrics

if TYPE_CHECKING:
    from minibill.api.routing import Route
    from minibill.book import Book

# The key of the ASGI scope under which the middleware leaves a request's context.
CONTEXT = "minibill"


class AppState(NamedTuple):
    """The state that all requests of a process share."""

    book: "Book"
    settings: Settings
    verifier: TokenVerifier
    cursors: Cursors
    has_test_clock: bool
    metrics: Metrics
    routes: "tuple[Route, ...]"


class Context(msgspec.Struct):
    """The middleware's findings about a request. `began_s` is monotonic.

    `response_headers` are part of every response to it, whatever its status.
    """

    state: AppState
    request_id: str
    correlation_id: str
    ip: str | None
    headers: RequestHeaders
    response_headers: Headers
    began_s: float
    caller: Caller | None = None
