"""Counters of the process: plain integers, each incremented by one thread, so there are no locks.

`metrics/prometheus.py` reads them for `GET /metrics`. The counters of `prometheus_client` take four times the instructions
(docs/internals/decisions/0009-own-counters.md).
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable

# Seconds. A quiet request takes less than a millisecond, a large batch some tens.
REQUEST_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
COMMIT_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
GROUP_WRITES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Histogram:
    """The number of values up to each bound; the last count is of values above all bounds."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total: float = 0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class RouteMetrics:
    """The requests of one route: their number by status, and their durations."""

    __slots__ = ("seconds", "statuses")

    def __init__(self) -> None:
        self.statuses: defaultdict[int, int] = defaultdict(int)
        self.seconds = Histogram(REQUEST_SECONDS)

    def count(self, status: int, elapsed_s: float) -> None:
        """Count one response."""
        self.statuses[status] += 1
        self.seconds.observe(elapsed_s)


class Sweeps:
    """The number of expiry sweeps, the rows that they expired, and their total duration."""

    __slots__ = ("count", "rows", "seconds")

    def __init__(self) -> None:
        self.count = 0
        self.rows = 0
        self.seconds: float = 0

    def add(self, rows: int, elapsed_s: float) -> None:
        """Count one sweep of the whole book."""
        self.count += 1
        self.rows += rows
        self.seconds += elapsed_s


class Deliveries:
    """Attempts to deliver events to webhooks, by outcome."""

    __slots__ = ("counts",)

    def __init__(self) -> None:
        self.counts: defaultdict[str, int] = defaultdict(int)


class Metrics:
    """The counters of the HTTP side; the writer and the book keep their own."""

    __slots__ = ("deliveries", "problems", "replays", "routes", "unrouted")

    def __init__(self, routes: Iterable[str] = ()) -> None:
        self.deliveries = Deliveries()
        # By method and path template, such as `GET /health/live`.
        self.routes = {route: RouteMetrics() for route in routes}
        # Requests without a route: unknown paths, and requests that the middleware rejects.
        self.unrouted = RouteMetrics()
        # Problem responses by code.
        self.problems: defaultdict[str, int] = defaultdict(int)
        # Replayed responses.
        self.replays = 0
