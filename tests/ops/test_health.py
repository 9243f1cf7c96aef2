"""Health: live while the process runs, ready while the book accepts writes."""

from minibill.core.problems import StorageFull
from tests.api_client import Api, problem_of


def ready(api: Api) -> int:
    return api.ask("GET", "/health/ready", headers=[]).status_code


def test_the_process_is_live_on_a_full_disk(api: Api) -> None:
    api.book.writer._last_error = StorageFull()
    response = api.ask("GET", "/health/live", headers=[])
    assert (response.status_code, response.json()) == (200, {"status": "live"})
    api.loop.run(api.book.probe_if_failing())


def test_an_empty_sweep_does_not_make_a_full_disk_look_ready(api: Api) -> None:
    api.book.writer._last_error = StorageFull()
    api.loop.run(api.book.sweep())
    problem = problem_of(api.ask("GET", "/health/ready", headers=[]), 503, "not_ready")
    assert "no space left" in problem["detail"]
    api.loop.run(api.book.probe_if_failing())
    assert ready(api) == 200


def test_the_probe_on_a_full_disk_writes_to_the_disk(api: Api) -> None:
    log = api.book.path.with_name(api.book.path.name + "-wal")
    api.book.writer._last_error = StorageFull()
    before = log.stat().st_size
    api.loop.run(api.book.probe_if_failing())
    assert log.stat().st_size > before


def test_the_probe_on_a_full_disk_changes_no_data(api: Api) -> None:
    api.account(5)
    api.book.writer._last_error = StorageFull()
    tables = api.everything()
    api.loop.run(api.book.probe_if_failing())
    # Only the count of commits differs.
    assert sum(before != after for before, after in zip(tables, api.everything(), strict=True)) == 1


def test_no_probe_is_made_while_writes_succeed(api: Api) -> None:
    before = api.book.writer.commit_seconds.counts.copy()
    api.loop.run(api.book.probe_if_failing())
    assert api.book.writer.commit_seconds.counts == before
