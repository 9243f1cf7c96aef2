"""Section 8: a clock that jumps back never makes the book's time go back, nor across a restart."""

from collections.abc import Callable

import pytest

from minibill.clock import US_PER_SECOND, Clock, parse_time
from tests.api import Api, done

START_US = parse_time("2040-01-01T00:00:00Z")


def set_clock(monkeypatch: pytest.MonkeyPatch, time_us: int) -> None:
    monkeypatch.setattr("minibill.clock.real_now_us", lambda: time_us)


def test_the_books_time_never_decreases(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    seen = []
    for offset_us in (0, 5, 3, -(10**12), 4, 6, 6):
        set_clock(monkeypatch, START_US + offset_us)
        seen.append(clock.now_us() - START_US)
    assert seen == [0, 5, 5, 5, 5, 6, 6]


def test_time_that_was_passed_is_added_to_the_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    set_clock(monkeypatch, START_US)
    clock = Clock()
    assert clock.advance(100) == START_US + 100 * US_PER_SECOND
    set_clock(monkeypatch, START_US + 7)
    assert clock.now_us() == START_US + 100 * US_PER_SECOND + 7


@pytest.mark.parametrize("last_write", ["account", "mint", "campaign"])
def test_after_a_restart_the_books_time_goes_on_where_it_was(
    start: Callable[..., Api], monkeypatch: pytest.MonkeyPatch, last_write: str
) -> None:
    set_clock(monkeypatch, START_US)
    api = start()
    account = api.account()
    api.mint(account, 1)
    set_clock(monkeypatch, START_US + 50)
    match last_write:
        case "account":
            api.account()
        case "mint":
            api.mint(account, 2)
        case _:
            api.draft()
    set_clock(monkeypatch, START_US - 3_600 * US_PER_SECOND)
    api = start()
    assert parse_time(api.get("/clock")["now"]) == START_US + 50
    api.mint(account, 3)
    times = [parse_time(entry["createdAt"]) for entry in api.get(f"/accounts/{account}/history")["items"]]
    assert times[0] == START_US + 50
    assert times == sorted(times, reverse=True)


def test_advancing_settles_what_falls_due_before_it_answers(api: Api) -> None:
    account = api.account()
    api.mint(account, 5, expiresAt=api.after(60))
    campaign = api.campaign(expiresAt=api.after(60))
    before = parse_time(api.get("/clock")["now"])
    answer = done(api.post("/clock/advance", {"seconds": 60}))
    assert parse_time(answer["now"]) >= before + 60 * US_PER_SECOND
    entry = api.get(f"/accounts/{account}/history")["items"][0]
    assert (entry["entryType"], entry["amountMicro"]) == ("expire", "-5")
    assert api.get(f"/campaigns/{campaign}")["status"] == "expired"
