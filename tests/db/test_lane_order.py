"""The scheduler of the lanes: requests first, slices with pauses after them, and neither side starves."""

from typing import Any

import pytest

from minibill.db import lanes, slices
from minibill.db.lanes import PAUSE_SHARE, LaneScheduler, Queue
from minibill.db.slices import in_steps

# The scheduler does not look at tasks.
JOB: Any = object()


def wait(queue: Queue, jobs: int = 1) -> None:
    queue.tasks.extend([JOB] * jobs)


class Clock:
    """Runs the groups of a writer, each with a given duration in seconds."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.turns = LaneScheduler()
        self.seconds = {id(queue): 0.0 for queue in self.turns.queues}

    def run(self, seconds: float, jobs_max: int = 1) -> Queue | None:
        """Run the next group of at most so many tasks; None when nothing may run now."""
        queue = self.turns.next(self.now_s)
        if queue is None:
            return None
        jobs = min(jobs_max, len(queue.tasks))
        for _ in range(jobs):
            queue.tasks.popleft()
        self.now_s += seconds
        self.seconds[id(queue)] += seconds
        self.turns.ended(queue, jobs, seconds=seconds, now_s=self.now_s)
        return queue


def test_an_empty_scheduler_returns_no_queue() -> None:
    clock = Clock()
    assert clock.run(1) is None and not clock.turns


def test_without_requests_slices_run_without_pauses() -> None:
    clock = Clock()
    wait(clock.turns.background, 3)
    assert [clock.run(5) for _ in range(4)] == [*[clock.turns.background] * 3, None]


@pytest.mark.parametrize("kind", ["bulk", "background"])
def test_all_waiting_requests_run_before_the_next_slice(kind: str) -> None:
    clock = Clock()
    requests, own = clock.turns.requests, getattr(clock.turns, kind)
    wait(own, 4)
    wait(requests, 5)
    ran = [clock.run(0.001, jobs_max=2) for _ in range(4)]
    assert ran == [requests, requests, requests, own]
    wait(requests, 3)
    clock.now_s += 60
    assert [clock.run(0.001, jobs_max=2) for _ in range(3)] == [requests, requests, own]


def test_later_requests_do_not_delay_a_slice() -> None:
    clock = Clock()
    requests, background = clock.turns.requests, clock.turns.background
    wait(background)
    wait(requests, 2)
    assert clock.run(0.001) is requests
    wait(requests, 10)
    assert [clock.run(0.001), clock.run(0.001)] == [requests, background]


@pytest.mark.parametrize("kind", ["bulk", "background"])
@pytest.mark.parametrize(("slice_s", "group_s"), [(0.005, 0.001), (0.060, 0.002), (0.001, 0.010)])
def test_slices_continue_and_take_at_most_half_of_the_time(kind: str, slice_s: float, group_s: float) -> None:
    clock = Clock()
    own = getattr(clock.turns, kind)
    wait(own, 100)
    while own.tasks:
        wait(clock.turns.requests, 8 - len(clock.turns.requests.tasks))
        clock.run(slice_s if clock.turns.next(clock.now_s) is own else group_s, jobs_max=4)
    taken_s, left_s = clock.seconds[id(own)], clock.seconds[id(clock.turns.requests)]
    assert taken_s <= left_s
    # Requests get the time of two groups and the pause, so the slices continue.
    assert left_s <= 100 * (PAUSE_SHARE * slice_s + 3 * group_s)


def test_a_pause_holds_between_two_requests_of_a_client() -> None:
    clock = Clock()
    requests, background = clock.turns.requests, clock.turns.background
    wait(background, 3)
    wait(requests)
    assert [clock.run(0.001), clock.run(0.010)] == [requests, background]
    # The response is on its way to the client, whose next request has not arrived.
    assert clock.run(0.010) is None
    assert clock.turns.wait_s(clock.now_s) == pytest.approx(PAUSE_SHARE * 0.010)
    wait(requests)
    assert clock.run(0.001) is requests
    clock.now_s += PAUSE_SHARE * 0.010
    assert clock.turns.wait_s(clock.now_s) == 0
    assert [clock.run(0.010), clock.run(0.010)] == [background, None]
    clock.now_s += PAUSE_SHARE * 0.010
    # No request has arrived, so no pause follows.
    assert clock.run(0.010) is background
    wait(background, 2)
    assert [clock.run(0.010), clock.run(0.010)] == [background, background]


def test_bulk_and_background_take_turns() -> None:
    clock = Clock()
    bulk, background = clock.turns.bulk, clock.turns.background
    wait(bulk, 3)
    wait(background, 4)
    assert [clock.run(1) for _ in range(7)] == [bulk, background, bulk, background, bulk, background, background]


def test_in_a_hurry_there_are_no_pauses() -> None:
    clock = Clock()
    wait(clock.turns.background, 2)
    wait(clock.turns.requests)
    clock.run(1), clock.run(1)
    assert clock.turns.next(clock.now_s) is None
    assert clock.turns.next(clock.now_s, hurry=True) is clock.turns.background


def test_the_expected_wait_of_a_batch_includes_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "PAUSE_SHARE", 2.0)
    clock = Clock()
    bulk = clock.turns.bulk
    wait(bulk, 10)
    for _ in range(3):
        wait(clock.turns.requests)
        assert clock.run(0.0) is clock.turns.requests
        assert clock.run(1.0) is bulk
        clock.now_s += 2
    # Seven wait, each for 3 s.
    assert bulk.is_full(100, 1, 20.9) and not bulk.is_full(100, 1, 21.1)
    assert bulk.is_full(7, 1, 100) and not bulk.is_full(100, 8, 1)


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that tests advance."""
    now = [0.0]
    monkeypatch.setattr(slices, "monotonic_s", lambda: now[0])
    return now


def test_a_slice_ends_after_its_time_or_when_nothing_is_left(seconds: list[float]) -> None:
    left = [10, 10, 10, 10, 3]

    def step(_: object) -> int:
        seconds[0] += slices.SLICE_SECONDS / 2.5
        return left.pop(0) if left else 0

    operation, conn = in_steps(step), JOB
    assert [operation(conn), operation(conn), operation(conn)] == [30, 13, 0]
