"""Replacements of the machine's clocks: the wall clock, which may jump, and the steady clock, which never does."""

from collections.abc import Callable

import pytest

from minibill.core import clock


def set_time(monkeypatch: pytest.MonkeyPatch, wall: Callable[[], int]) -> None:
    """Take the time from `wall`, in microseconds, as if it had passed: the steady clock advances as much.

    While `wall` goes back, the steady clock stands still.
    """
    began_us = clock.steady_now_us() - clock.real_now_us()
    latest_us = clock.steady_now_us()

    def steady() -> int:
        nonlocal latest_us
        latest_us = max(latest_us, began_us + wall())
        return latest_us

    monkeypatch.setattr("minibill.core.clock.real_now_us", wall)
    monkeypatch.setattr("minibill.core.clock.steady_now_us", steady)


def set_wall(monkeypatch: pytest.MonkeyPatch, time_us: int) -> None:
    """Let the wall clock jump; no time passes."""
    standing_us = clock.steady_now_us()
    monkeypatch.setattr("minibill.core.clock.real_now_us", lambda: time_us)
    monkeypatch.setattr("minibill.core.clock.steady_now_us", lambda: standing_us)
