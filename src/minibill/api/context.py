"""The application state that handlers work with, and the context of one request."""

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

# Where the gate leaves what it found out about a request.
CONTEXT = "minibill"


class AppState(NamedTuple):
    """What handlers work with; one a process."""

    book: "Book"
    settings: Settings
    verifier: TokenVerifier
    cursors: Cursors
    has_test_clock: bool
    metrics: Metrics
    routes: "tuple[Route, ...]"


class Context(msgspec.Struct):
    """What the gate found out about a request before it was routed, and the headers that its answer has whatever it is.

    `began_s` is monotonic.
    """

    state: AppState
    request_id: str
    correlation_id: str
    ip: str | None
    sent: RequestHeaders
    headers: Headers
    began_s: float
    caller: Caller | None = None
