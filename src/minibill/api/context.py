"""HTTP conventions: what every request and answer has in common. The features' routes.py say what is particular.

A handler takes a `Call` and answers a `Reply`. Litestar routes to it; what services call thousands of times a second is
handed to it by the gate directly, since the framework's own share of such a request is more than the ledger's.
"""

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from minibill.api.body import Headers, SentHeaders
from minibill.api.cursors import Cursors
from minibill.auth.tokens import Caller, TokenVerifier
from minibill.config import Settings
from minibill.core.counters import Metrics

if TYPE_CHECKING:
    from minibill.api.routing import Route
    from minibill.book import Book

# Where the gate leaves what it found out about a request.
CONTEXT = "minibill"


class Service(NamedTuple):
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

    service: Service
    request_id: str
    correlation_id: str
    ip: str | None
    sent: SentHeaders
    headers: Headers
    began_s: float
    caller: Caller | None = None
