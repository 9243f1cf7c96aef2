"""`GET /metrics`: Prometheus text, without a token."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from prometheus_client.parser import text_string_to_metric_families

from minibill.core.counters import Histogram
from minibill.core.problems import StorageFull
from minibill.db.readers import Readers
from minibill.db.sqlite import sqlite3
from minibill.metrics import totals
from tests.api_client import Api, Loop, ok, problem_of

REFERENCE = (Path(__file__).parents[2] / "docs" / "reference" / "metrics.md").read_text("utf-8")


class Scrape(NamedTuple):
    """The samples of a response, by name and labels."""

    samples: dict[tuple[str, frozenset[tuple[str, str]]], float]
    kinds: dict[str, str]

    def value(self, name: str, **labels: str) -> float:
        return self.samples.get((name, frozenset(labels.items())), 0)


def scrape(api: Api) -> Scrape:
    response = api.ask("GET", "/metrics", headers=[])
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = list(text_string_to_metric_families(response.text))
    samples = {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}
    return Scrape(samples, {family.name: family.type for family in families})


def test_requests_are_counted_by_route_method_and_status(api: Api) -> None:
    account = api.account(5)
    api.get(f"/accounts/{account}/balance")
    problem_of(api.call("GET", "/accounts/acct_none/balance"), 404, "account_not_found")
    problem_of(api.call("GET", "/nothing"), 404, "not_found")
    problem_of(api.call("GET", "/accounts", token="nonsense"), 401, "unauthorized")
    seen = scrape(api)
    balance = {"method": "GET", "route": "/admin/billing/accounts/{account_id}/balance"}
    assert seen.value("minibill_http_requests_total", **balance, status="200") == 1
    assert seen.value("minibill_http_requests_total", **balance, status="404") == 1
    assert seen.value("minibill_http_request_duration_seconds_count", **balance) == 2
    assert seen.value("minibill_http_request_duration_seconds_bucket", **balance, le="+Inf") == 2
    assert seen.value("minibill_http_requests_total", method="any", route="none", status="404") == 1
    assert seen.value("minibill_http_requests_total", method="any", route="none", status="401") == 1
    assert seen.value("minibill_problems_total", code="account_not_found") == 1
    assert seen.value("minibill_problems_total", code="unauthorized") == 1


def test_histogram_buckets_are_cumulative(api: Api) -> None:
    for _ in range(5):
        api.account()
    seen = scrape(api)
    route = {"method": "POST", "route": "/admin/billing/accounts"}
    buckets = {
        float(dict(labels)["le"]): value
        for (name, labels), value in seen.samples.items()
        if name == "minibill_http_request_duration_seconds_bucket" and labels >= frozenset(route.items())
    }
    ordered = [buckets[bound] for bound in sorted(buckets)]
    assert ordered == sorted(ordered) and ordered[-1] == 5 == seen.value(
        "minibill_http_request_duration_seconds_count", **route
    )
    assert seen.value("minibill_http_request_duration_seconds_sum", **route) > 0


@pytest.mark.parametrize(
    ("value", "counts"), [(0, [1, 0, 0]), (1, [1, 0, 0]), (1.5, [0, 1, 0]), (2, [0, 1, 0]), (3, [0, 0, 1])]
)
def test_a_value_on_a_bound_belongs_to_its_bucket(value: float, counts: list[int]) -> None:
    histogram = Histogram((1, 2))
    histogram.observe(value)
    assert (histogram.counts, histogram.total) == (counts, value)


def test_rate_limited_requests_are_counted(start: Callable[..., Api]) -> None:
    api = start(MINIBILL_ADMIN_RATE_PER_MINUTE="1")
    api.call("GET", "/accounts")
    problem_of(api.call("GET", "/accounts"), 429, "rate_limited")
    assert scrape(api).value("minibill_problems_total", code="rate_limited") == 1


def test_replayed_responses_are_counted(api: Api) -> None:
    for _ in range(3):
        ok(api.post("/accounts", {"entityType": "mod", "entityId": "x"}, key="k"))
    assert scrape(api).value("minibill_replays_total") == 2


def test_totals_over_64_bits_are_exact(tmp_path: Path, migrated_file: Path, loop: Loop) -> None:
    path = tmp_path / "rich.db"
    shutil.copyfile(migrated_file, path)
    largest = 2**63 - 1
    conn = sqlite3.connect(path, isolation_level=None)
    conn.execute("DROP TRIGGER balances_start_with_first_entry")
    conn.executemany("INSERT INTO credit_balances VALUES (?, 'general', ?, 5, 1)", [(n, largest - 5) for n in range(3)])
    conn.close()

    async def sums() -> totals.LedgerTotals:
        readers = await Readers.open(path)
        try:
            return await totals.Totals(readers).current()
        finally:
            await readers.close()

    found = loop.run(sums())
    assert (found.available_micro, found.reserved_micro, found.debt_micro) == (3 * (largest - 5), 15, 0)


def test_balances_debts_and_rows_are_reported(api: Api) -> None:
    account = api.account(100)
    api.reserve(account, 30)
    owing = api.account(10)
    api.finalize(api.reserve(owing, 10, billingMode="soft"), 17)
    seen = scrape(api)
    figures = [seen.value(f"minibill_{name}_micro") for name in ("available", "reserved", "debt")]
    assert figures == [70, 30, 7]
    assert seen.value("minibill_rows", table="accounts") == 2
    assert seen.value("minibill_rows", table="reservations") == 2
    # Two accounts opened and two mints; services are not audited.
    assert seen.value("minibill_rows", table="audit") == 4


def test_totals_are_cached(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    api.account(5)
    assert scrape(api).value("minibill_available_micro") == 5
    api.account(6)
    assert scrape(api).value("minibill_available_micro") == 5
    monkeypatch.setattr(totals, "CACHE_SECONDS_MIN", 0)
    monkeypatch.setattr(totals, "CACHE_TO_COST", 0)
    assert scrape(api).value("minibill_available_micro") == 11


def test_batch_sizes_and_commit_times_are_reported(api: Api) -> None:
    api.account(5)
    seen = scrape(api)
    assert seen.value("minibill_commit_batch_size_count") == seen.value("minibill_commit_seconds_count") == 2
    assert seen.value("minibill_commit_batch_size_sum") == 2
    for lane in ("request", "bulk", "background"):
        assert seen.samples["minibill_write_queue_length", frozenset({("lane", lane)})] == 0
    assert seen.value("minibill_wal_bytes") > 0 and seen.value("minibill_database_bytes") > 0


def test_sweeps_and_expirations_are_counted(api: Api) -> None:
    api.account(5, expiresAt=api.after(10))
    before = scrape(api)
    api.advance(20)
    seen = scrape(api)
    assert seen.value("minibill_sweeps_total") == before.value("minibill_sweeps_total") + 1
    assert seen.value("minibill_expirations_total") == before.value("minibill_expirations_total") + 1
    assert seen.value("minibill_sweep_seconds_total") > before.value("minibill_sweep_seconds_total")


def test_the_last_reconciliation_is_reported_by_check(api: Api) -> None:
    names = {name for name, _ in scrape(api).samples}
    assert not any(name.startswith("minibill_reconciliation") for name in names)
    ok(api.post("/reconciliation"))
    seen = scrape(api)
    assert seen.value("minibill_reconciliation_violations", check="entry_chain") == 0
    assert seen.value("minibill_reconciliation_timestamp_seconds") > 1.7e9


def test_readiness_and_versions_are_reported(api: Api) -> None:
    seen = scrape(api)
    assert seen.value("minibill_ready") == 1
    assert [dict(labels).keys() for name, labels in seen.samples if name == "minibill_build_info"] == [
        {"version", "sqlite", "python"}
    ]
    api.book.writer._last_error = StorageFull()
    assert scrape(api).value("minibill_ready") == 0
    api.loop.run(api.book.probe_if_failing())


def test_the_documented_metrics_are_those_that_exist(api: Api) -> None:
    api.account(5)
    problem_of(api.call("GET", "/nothing"), 404, "not_found")
    kinds = scrape(api).kinds
    rows = re.findall(r"^\| `(\w+)` \| (counter|gauge|histogram) \|", REFERENCE, re.MULTILINE)
    assert kinds == {name.removesuffix("_total"): kind for name, kind in rows}


def test_metrics_are_read_only_with_get(api: Api) -> None:
    problem_of(api.ask("POST", "/metrics", headers=[]), 405, "method_not_allowed")
