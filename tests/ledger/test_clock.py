"""The book's time never decreases, runs evenly while the wall clock is wrong, and follows a jump only on request."""

import logging
from collections.abc import Callable

import pytest

from minibill.app import create_app
from minibill.core.clock import START_AHEAD_MAX_US, US_PER_SECOND, Clock, format_time, parse_time
from tests.api_client import Api, Json, ok, problem_of

START_US = parse_time("2040-01-01T00:00:00Z")
MINUTE, HOUR, DAY = 60, 3_600, 86_400


class Machine:
    """The wall clock and the steady clock as the book reads them. They advance together unless the wall clock is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall_us, self.steady_us = START_US, 7
        monkeypatch.setattr("minibill.core.clock.real_now_us", lambda: self.wall_us)
        monkeypatch.setattr("minibill.core.clock.steady_now_us", lambda: self.steady_us)

    def jump(self, seconds: float) -> None:
        """Move the wall clock only."""
        self.wall_us += int(seconds * US_PER_SECOND)

    def wait(self, seconds: float) -> None:
        """Advance both clocks."""
        self.jump(seconds)
        self.steady_us += int(seconds * US_PER_SECOND)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Replace the clocks; a test requests this fixture before the API."""
    return Machine(monkeypatch)


def since_start(clock: Clock) -> float:
    return (clock.now_us() - START_US) / US_PER_SECOND


# --- the clock alone ---


def test_the_books_time_follows_the_wall_clock(machine: Machine) -> None:
    clock = Clock()
    machine.wait(5.25)
    assert since_start(clock) == 5.25


@pytest.mark.parametrize("drift_s", [0.000_001, 1, 59, 60])
def test_a_small_step_of_the_wall_clock_is_followed(machine: Machine, drift_s: float) -> None:
    clock = Clock()
    machine.jump(drift_s)
    assert since_start(clock) == drift_s
    assert (clock.state().is_held, clock.jumps) == (False, 0)


@pytest.mark.parametrize("jump_s", [60.000_001, HOUR, 10 * 365 * DAY])
def test_a_jump_of_the_wall_clock_is_not_followed(machine: Machine, jump_s: float) -> None:
    clock = Clock()
    machine.wait(1)
    machine.jump(jump_s)
    assert since_start(clock) == 1
    machine.wait(2.5)
    assert since_start(clock) == 3.5
    state = clock.state()
    assert (state.is_held, state.ahead_us, clock.jumps) == (True, int(jump_s * US_PER_SECOND), 1)


def test_the_limit_of_a_jump_can_be_set(machine: Machine) -> None:
    clock = Clock(jump_max_seconds=5)
    machine.jump(6)
    assert since_start(clock) == 0
    assert Clock(jump_max_seconds=7).state().is_held is False


def test_time_follows_again_once_a_jump_is_corrected(machine: Machine) -> None:
    clock = Clock()
    machine.jump(HOUR)
    machine.wait(6)
    assert since_start(clock) == 6
    machine.jump(-HOUR)
    assert (since_start(clock), clock.state().is_held) == (6, False)
    machine.wait(1)
    assert since_start(clock) == 7
    machine.jump(30)
    assert since_start(clock) == 37


def test_an_accepted_jump_is_followed_and_the_next_one_is_not(machine: Machine) -> None:
    clock = Clock()
    machine.jump(HOUR)
    assert since_start(clock) == 0
    clock.accept()
    assert (since_start(clock), clock.state().is_held) == (HOUR, False)
    machine.jump(DAY)
    assert (since_start(clock), clock.jumps) == (HOUR, 2)


def test_accepting_without_a_jump_changes_nothing(machine: Machine) -> None:
    clock = Clock()
    machine.jump(-HOUR)
    machine.wait(2)
    assert clock.accept() == START_US + 2 * US_PER_SECOND


def test_time_runs_evenly_while_the_wall_clock_is_behind(machine: Machine) -> None:
    clock = Clock()
    seen = []
    for jump_s in (0, -3, -DAY, -100 * 365 * DAY, 5, 7):
        machine.jump(jump_s)
        machine.wait(1)
        seen.append(since_start(clock))
    assert seen == [1, 2, 3, 4, 5, 6]


def test_a_wall_clock_that_catches_up_has_not_jumped(machine: Machine) -> None:
    clock = Clock()
    machine.jump(-HOUR)
    machine.wait(2)
    assert since_start(clock) == 2
    machine.jump(HOUR)
    assert (since_start(clock), clock.jumps) == (2, 0)


def test_a_swinging_wall_clock_moves_the_time_once(machine: Machine) -> None:
    clock = Clock()
    for _ in range(20):
        machine.jump(50)
        assert since_start(clock) == 50
        machine.jump(-50)
        assert since_start(clock) == 50


def test_time_follows_the_wall_clock_after_a_suspend(machine: Machine) -> None:
    # The steady clock runs on during a suspend.
    clock = Clock()
    machine.wait(3 * DAY)
    assert (since_start(clock), clock.jumps) == (3 * DAY, 0)


def test_the_books_time_never_decreases(machine: Machine) -> None:
    clock = Clock()
    seen = []
    for jump_us in (0, 5, -2, -(10**12), 10**12 + 1, 2, 10**9):
        machine.wall_us += jump_us
        seen.append(clock.now_us() - START_US)
    assert seen == sorted(seen) == [0, 5, 5, 5, 5, 6, 6]


def test_advanced_time_is_added_to_the_machine_time(machine: Machine) -> None:
    clock = Clock()
    assert clock.advance(100) == START_US + 100 * US_PER_SECOND
    machine.wait(7)
    assert since_start(clock) == 107
    machine.jump(HOUR)
    assert (since_start(clock), clock.state().ahead_us) == (107, HOUR * US_PER_SECOND)


# --- the start of the clock ---


@pytest.mark.parametrize(("newest_us", "expected_us"), [
    (0, START_US),
    (START_US - START_AHEAD_MAX_US, START_US),
    (START_US - START_AHEAD_MAX_US - 1, START_US - START_AHEAD_MAX_US - 1),
    (START_US + 5, START_US + 5),
])  # fmt: skip
def test_a_clock_starts_at_the_wall_clock_unless_that_is_far_ahead(
    machine: Machine, newest_us: int, expected_us: int
) -> None:
    clock = Clock()
    clock.not_before(newest_us)
    assert clock.now_us() == expected_us
    assert clock.state().is_held is (expected_us < START_US)
    machine.wait(1)
    assert clock.now_us() == expected_us + US_PER_SECOND


# --- the service ---


def ready(api: Api) -> Json:
    return ok(api.call("GET", "/health/ready", root=""))


def metric(api: Api, name: str) -> float:
    text = api.call("GET", "/metrics", root="").text
    return float(next(line.split()[1] for line in text.splitlines() if line.startswith(f"{name} ")))


def test_a_clock_that_is_ahead_for_6_s_expires_nothing(machine: Machine, start: Callable[..., Api]) -> None:
    api = start()
    account = api.account()
    api.mint(account, 5, expiresAt=api.after(MINUTE * 30))
    reservation = api.reserve(account, 2, ttlSeconds=MINUTE * 20)
    machine.jump(HOUR)
    api.mint(account, 1)
    api.loop.run(api.book.sweep())
    machine.wait(6)
    assert api.available(account) == 4
    api.loop.run(api.book.sweep())
    machine.jump(-HOUR)
    api.loop.run(api.book.sweep())
    assert api.available(account) == 4
    assert api.get(f"/reservations/{reservation}")["status"] == "pending"
    api.mint(account, 1)
    times = [entry["createdAt"] for entry in api.get(f"/accounts/{account}/history")["items"]]
    assert times[0] == format_time(START_US + 6 * US_PER_SECOND)
    assert not [e for e in api.get(f"/accounts/{account}/history")["items"] if e["entryType"] == "expire"]


def test_readiness_and_metrics_report_a_clock_jump(
    machine: Machine, start: Callable[..., Api], caplog: pytest.LogCaptureFixture
) -> None:
    api = start(MINIBILL_CLOCK_JUMP_SECONDS="600")
    assert ready(api) == {"status": "ready"}
    assert (metric(api, "minibill_clock_held"), metric(api, "minibill_clock_ahead_seconds")) == (0, 0)
    machine.jump(601)
    found = ready(api)
    assert found["status"] == "ready"
    assert found["clock"] == {
        "reason": "the wall clock is 601 s ahead of the book's time, which follows 600 s at most: "
        "set the wall clock right, or run `minibill clock accept` if it is",
        "bookTime": format_time(START_US),
        "wallTime": format_time(START_US + 601 * US_PER_SECOND),
        "aheadSeconds": 601,
    }
    assert (metric(api, "minibill_clock_held"), metric(api, "minibill_clock_ahead_seconds")) == (1, 601)
    assert metric(api, "minibill_clock_jumps_total") == 1
    machine.jump(-601)
    assert ready(api) == {"status": "ready"}
    assert (metric(api, "minibill_clock_held"), metric(api, "minibill_clock_jumps_total")) == (0, 1)
    said = [(r.levelno, r.getMessage()) for r in caplog.records if r.name == "minibill.clock"]
    assert said == [
        (logging.ERROR, "the wall clock jumped ahead: the book's time does not follow"),
        (logging.WARNING, "the book's time follows the wall clock again"),
    ]


def test_an_admin_accepts_a_jump_and_time_continues_from_it(machine: Machine, start: Callable[..., Api]) -> None:
    api = start()
    account = api.account()
    api.mint(account, 5, expiresAt=api.after(MINUTE * 30))
    machine.jump(HOUR)
    assert api.available(account) == 5
    answer = ok(api.post("/clock/accept", token=api.sign(sub="ada")))
    assert answer == {"before": format_time(START_US), "now": format_time(START_US + HOUR * US_PER_SECOND)}
    assert (ready(api), api.available(account)) == ({"status": "ready"}, 0)
    row = api.get("/audit", limit=1)["items"][0]
    assert (row["actorId"], row["action"], row["targetType"], row["targetId"]) == ("ada", "clock.accept", "clock", "book")
    assert (row["details"], row["createdAt"]) == ({"before": answer["before"], "after": answer["now"]}, answer["now"])


def test_an_accepted_jump_stays_accepted_across_a_restart(machine: Machine, start: Callable[..., Api]) -> None:
    start().account()
    machine.jump(100 * DAY)
    api = start()
    assert "clock" in ready(api)
    ok(api.post("/clock/accept"))
    machine.wait(1)
    api = start()
    assert ready(api) == {"status": "ready"}
    assert parse_time(api.get("/clock")["now"]) == machine.wall_us


def test_a_dry_run_accepts_nothing(machine: Machine, start: Callable[..., Api]) -> None:
    api = start()
    machine.jump(HOUR)
    answer = ok(api.post("/clock/accept", dryRun="true"))
    assert answer == {
        "before": format_time(START_US), "now": format_time(START_US + HOUR * US_PER_SECOND), "dryRun": True,
    }  # fmt: skip
    assert ready(api)["clock"]["aheadSeconds"] == HOUR
    assert api.get("/audit")["items"] == []


def test_accepting_without_a_jump_returns_the_same_time_twice(machine: Machine, start: Callable[..., Api]) -> None:
    api = start()
    machine.jump(-HOUR)
    answer = ok(api.post("/clock/accept"))
    assert answer == {"before": format_time(START_US), "now": format_time(START_US)}


def test_a_replayed_acceptance_does_not_accept_the_next_jump(machine: Machine, start: Callable[..., Api]) -> None:
    api = start()
    machine.jump(HOUR)
    first = api.post("/clock/accept", key="once")
    machine.jump(HOUR)
    again = api.post("/clock/accept", key="once")
    assert (again.content, again.headers["idempotency-replayed"]) == (first.content, "true")
    assert ready(api)["clock"]["aheadSeconds"] == HOUR


def test_accepting_needs_its_scope(machine: Machine, start: Callable[..., Api]) -> None:
    api = start()
    machine.jump(HOUR)
    token = api.sign(scopes=("admin:billing:read",))
    problem_of(api.post("/clock/accept", token=token), 403, "insufficient_scope")
    assert "clock" in ready(api)


def test_accepting_works_without_a_test_clock(machine: Machine, start: Callable[..., Api]) -> None:
    api = start()
    api.app = create_app(api.book, api.settings)
    machine.jump(HOUR)
    problem_of(api.ask("GET", "/admin/billing/clock"), 404, "not_found")
    answer = ok(api.ask("POST", "/admin/billing/clock/accept"))
    assert answer["now"] == format_time(START_US + HOUR * US_PER_SECOND)


# --- restarts ---


@pytest.mark.parametrize("last_write", ["account", "mint", "campaign"])
def test_after_a_restart_the_books_time_continues(start: Callable[..., Api], machine: Machine, last_write: str) -> None:
    api = start()
    account = api.account()
    api.mint(account, 1)
    machine.wait(0.000_050)
    match last_write:
        case "account":
            api.account()
        case "mint":
            api.mint(account, 2)
        case _:
            api.draft()
    machine.jump(-HOUR)
    api = start()
    assert parse_time(api.get("/clock")["now"]) == START_US + 50
    machine.wait(1)
    api.mint(account, 3)
    times = [parse_time(entry["createdAt"]) for entry in api.get(f"/accounts/{account}/history")["items"]]
    assert times[0] == START_US + 50 + US_PER_SECOND
    assert times == sorted(times, reverse=True)


def test_a_service_that_was_down_for_a_weekend_expires_lots(machine: Machine, start: Callable[..., Api]) -> None:
    api = start()
    account = api.account()
    api.mint(account, 5, expiresAt=api.after(DAY))
    machine.wait(3 * DAY)
    api = start()
    assert (ready(api), api.available(account)) == ({"status": "ready"}, 0)


def test_a_start_far_ahead_of_the_book_expires_nothing_until_accepted(machine: Machine, start: Callable[..., Api]) -> None:
    api = start()
    account = api.account()
    api.mint(account, 5, expiresAt=api.after(DAY))
    machine.wait(31 * DAY)
    api = start()
    assert ready(api)["clock"]["aheadSeconds"] == 31 * DAY
    api.loop.run(api.book.sweep())
    machine.wait(1)
    assert api.available(account) == 5
    assert parse_time(api.get("/clock")["now"]) == START_US + US_PER_SECOND
    ok(api.post("/clock/accept"))
    assert api.available(account) == 0


def test_a_reconciliation_counts_as_a_sign_of_service(machine: Machine, start: Callable[..., Api]) -> None:
    api = start()
    api.account()
    machine.wait(25 * DAY)
    api.loop.run(api.book.reconcile())
    machine.wait(25 * DAY)
    assert ready(start()) == {"status": "ready"}


# --- the test clock ---


def test_advancing_the_clock_sweeps_before_it_responds(api: Api) -> None:
    account = api.account()
    api.mint(account, 5, expiresAt=api.after(60))
    campaign = api.campaign(expiresAt=api.after(60))
    before = parse_time(api.get("/clock")["now"])
    answer = ok(api.post("/clock/advance", {"seconds": 60}))
    assert parse_time(answer["now"]) >= before + 60 * US_PER_SECOND
    entry = api.get(f"/accounts/{account}/history")["items"][0]
    assert (entry["entryType"], entry["amountMicro"]) == ("expire", "-5")
    assert api.get(f"/campaigns/{campaign}")["status"] == "expired"
