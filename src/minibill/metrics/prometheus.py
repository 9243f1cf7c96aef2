"""Metrics of the process as Prometheus text, for `GET /metrics`. Imported on the first request.

A source yields metric families. To add a metric, yield it from a source in `SOURCES` and run `make reference`.
"""

import platform
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate

from prometheus_client import ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

import minibill
from minibill.api.context import AppState
from minibill.core.clock import US_PER_SECOND, monotonic_s
from minibill.core.counters import Histogram
from minibill.db.lanes import Lane
from minibill.db.sqlite import VERSION as SQLITE_VERSION
from minibill.metrics.totals import LedgerTotals

# The route label of rejected requests and of unknown paths, whose number is unbounded.
UNROUTED = "none"

Source = Callable[[AppState, LedgerTotals], Iterable[Metric]]


def exposition(state: AppState, totals: LedgerTotals) -> bytes:
    """Return all metrics as Prometheus text. Run it on a thread: it takes some milliseconds."""
    registry = CollectorRegistry()
    registry.register(_Collector(state, totals))
    ProcessCollector(registry=registry)
    return generate_latest(registry)


def _requests(state: AppState, _: LedgerTotals) -> Iterator[Metric]:
    metrics = state.metrics
    labels = ["method", "route"]
    requests = CounterMetricFamily("minibill_http_requests", "Responses by route and status.", labels=[*labels, "status"])
    seconds = HistogramMetricFamily(
        "minibill_http_request_duration_seconds", "Time from the request's headers to the response.", labels=labels
    )
    for name, of_route in {**metrics.routes, f"any {UNROUTED}": metrics.unrouted}.items():
        key = name.split(" ")
        for status, number in sorted(dict(of_route.statuses).items()):
            requests.add_metric([*key, str(status)], number)
        if of_route.statuses:
            _add(seconds, of_route.seconds, key)
    yield requests
    yield seconds
    problems = CounterMetricFamily("minibill_problems", "Error responses by code.", labels=["code"])
    for code, number in sorted(dict(metrics.problems).items()):
        problems.add_metric([code], number)
    yield problems
    yield CounterMetricFamily("minibill_replays", "Responses replayed for an idempotency key.", value=metrics.replays)


def _writer(state: AppState, _: LedgerTotals) -> Iterator[Metric]:
    writer = state.book.writer
    waiting = GaugeMetricFamily("minibill_write_queue_length", "Writes that are queued, by lane.", labels=["lane"])
    for lane in Lane:
        waiting.add_metric([lane.name.lower()], writer.waiting(lane))
    yield waiting
    group = HistogramMetricFamily("minibill_commit_batch_size", "Writes in one transaction.")
    _add(group, writer.group_writes)
    yield group
    commit = HistogramMetricFamily("minibill_commit_seconds", "Duration of a COMMIT.")
    _add(commit, writer.commit_seconds)
    yield commit
    ready = GaugeMetricFamily(
        "minibill_ready", "1 if the service accepts writes, otherwise 0.", value=writer.last_error is None
    )
    yield ready


def _files(state: AppState, _: LedgerTotals) -> Iterator[Metric]:
    path = state.book.path
    for name, file, what in (
        ("minibill_database_bytes", path, "Size of the database file."),
        ("minibill_wal_bytes", path.with_name(path.name + "-wal"), "Size of the write-ahead log."),
    ):
        yield GaugeMetricFamily(name, what, value=file.stat().st_size if file.exists() else 0)


def _sweeps(state: AppState, _: LedgerTotals) -> Iterator[Metric]:
    sweeps = state.book.sweeps
    yield CounterMetricFamily(
        "minibill_sweeps", "Sweeps that recorded expired lots, reservations and campaigns.", value=sweeps.count
    )
    yield CounterMetricFamily(
        "minibill_expirations", "Lots, reservations and campaigns that sweeps expired.", value=sweeps.rows
    )
    yield CounterMetricFamily("minibill_sweep_seconds", "Total duration of the sweeps.", value=sweeps.seconds)


def _clock(state: AppState, _: LedgerTotals) -> Iterator[Metric]:
    clock = state.book.clock
    clock_state = clock.state()
    yield GaugeMetricFamily(
        "minibill_clock_held",
        "1 while the ledger's time does not follow a wall clock that jumped ahead, otherwise 0.",
        value=clock_state.is_held,
    )
    ahead_s = clock_state.ahead_us / US_PER_SECOND
    yield GaugeMetricFamily(
        "minibill_clock_ahead_seconds",
        "Wall clock minus ledger time; negative while the wall clock is behind.",
        value=ahead_s,
    )
    yield CounterMetricFamily(
        "minibill_clock_jumps", "Jumps of the wall clock that the ledger's time did not follow.", value=clock.jumps
    )


def _feed(state: AppState, _: LedgerTotals) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "minibill_feed_waiters", "Long polls that are waiting for events.", value=state.book.feed.waiters
    )


def _webhooks(state: AppState, sums: LedgerTotals) -> Iterator[Metric]:
    attempts = CounterMetricFamily("minibill_webhook_attempts", "Deliveries to webhooks by outcome.", labels=["outcome"])
    for outcome, number in sorted(dict(state.metrics.deliveries.counts).items()):
        attempts.add_metric([outcome], number)
    yield attempts
    yield GaugeMetricFamily(
        "minibill_webhook_lag_events",
        "Events that the webhook furthest behind has yet to accept, of all types.",
        value=sums.webhook_lag_events,
    )
    yield GaugeMetricFamily(
        "minibill_webhooks_failing", "Enabled webhooks whose deliveries are failing.", value=sums.webhooks_failing
    )


def _reconciliation(state: AppState, _: LedgerTotals) -> Iterator[Metric]:
    last = state.book.reconciler.last
    time = GaugeMetricFamily(
        "minibill_reconciliation_timestamp_seconds", "Unix time of the last reconciliation; no value before the first."
    )
    wrong = GaugeMetricFamily(
        "minibill_reconciliation_violations", "Violations found by the last reconciliation, by check.", labels=["check"]
    )
    if last is not None:
        time.add_metric([], last.at_us / US_PER_SECOND)
        for name, check in last.report.checks.items():
            wrong.add_metric([name], check.violations)
    yield time
    yield wrong


def _book(_: AppState, sums: LedgerTotals) -> Iterator[Metric]:
    yield GaugeMetricFamily("minibill_available_micro", "Available credits of all accounts.", value=sums.available_micro)
    yield GaugeMetricFamily("minibill_reserved_micro", "Reserved credits of all accounts.", value=sums.reserved_micro)
    yield GaugeMetricFamily("minibill_debt_micro", "Open debts of all accounts.", value=sums.debt_micro)
    age_s = monotonic_s() - sums.computed_s
    yield GaugeMetricFamily(
        "minibill_totals_age_seconds",
        "Age of the three totals above: at most 15 s, or 100 times their computing time if that is longer.",
        value=age_s,
    )
    rows = GaugeMetricFamily("minibill_rows", "Rows by table.", labels=["table"])
    for table, number in sums.rows.items():
        rows.add_metric([table], number)
    yield rows


def _build(_: AppState, __: LedgerTotals) -> Iterator[Metric]:
    versions = {"version": minibill.__version__, "sqlite": SQLITE_VERSION, "python": platform.python_version()}
    info = GaugeMetricFamily("minibill_build_info", "Always 1; the labels have the versions.", labels=list(versions))
    info.add_metric(list(versions.values()), 1)
    yield info


SOURCES: tuple[Source, ...] = (_requests, _writer, _files, _sweeps, _clock, _feed, _webhooks, _reconciliation, _book, _build)


class _Collector(Collector):
    def __init__(self, state: AppState, totals: LedgerTotals) -> None:
        self._state = state
        self._totals = totals

    def collect(self) -> Iterator[Metric]:
        for source in SOURCES:
            yield from source(self._state, self._totals)


def _add(family: HistogramMetricFamily, histogram: Histogram, labels: Iterable[str] = ()) -> None:
    # A copy, because the event loop counts while this thread reads.
    *counts, total = accumulate(list(histogram.counts))
    buckets = [(str(bound), count) for bound, count in zip(histogram.bounds, counts, strict=True)]
    family.add_metric(list(labels), [*buckets, ("+Inf", total)], histogram.total)
