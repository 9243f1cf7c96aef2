"""Section 7: live once the process runs, ready when the book takes writes, else 503 with the reason."""

from minibill.core.problems import StorageFull
from tests.api_client import Api, problem_of


def ready(api: Api) -> int:
    return api.ask("GET", "/health/ready", headers=[]).status_code


def test_the_process_is_live_whatever_becomes_of_its_disk(api: Api) -> None:
    api.book.writer._last_error = StorageFull()
    response = api.ask("GET", "/health/live", headers=[])
    assert (response.status_code, response.json()) == (200, {"status": "live"})
    api.loop.run(api.book.probe_if_failing())


def test_a_sweep_that_finds_nothing_due_does_not_make_a_full_disk_look_ready(api: Api) -> None:
    api.book.writer._last_error = StorageFull()
    api.loop.run(api.book.sweep())
    problem = problem_of(api.ask("GET", "/health/ready", headers=[]), 503, "not_ready")
    assert "room" in problem["detail"]
    api.loop.run(api.book.probe_if_failing())
    assert ready(api) == 200


def test_what_is_tried_on_a_full_disk_is_written_to_the_disk(api: Api) -> None:
    log = api.book.path.with_name(api.book.path.name + "-wal")
    api.book.writer._last_error = StorageFull()
    before = log.stat().st_size
    api.loop.run(api.book.probe_if_failing())
    assert log.stat().st_size > before


def test_what_is_tried_on_a_full_disk_changes_nothing_in_the_book(api: Api) -> None:
    api.account(5)
    api.book.writer._last_error = StorageFull()
    tables = api.everything()
    api.loop.run(api.book.probe_if_failing())
    # But for how many commits there were.
    assert sum(before != after for before, after in zip(tables, api.everything(), strict=True)) == 1


def test_nothing_is_tried_while_writes_go_through(api: Api) -> None:
    before = api.book.writer.commit_seconds.counts.copy()
    api.loop.run(api.book.probe_if_failing())
    assert api.book.writer.commit_seconds.counts == before
