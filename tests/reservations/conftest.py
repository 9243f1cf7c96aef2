"""Time that stands still, to be set to the microsecond."""

import pytest

from minibill.core.clock import US_PER_SECOND, format_time, parse_time
from tests.fake_clocks import set_time

START_US = parse_time("2040-01-01T00:00:00Z")


class Moment:
    """The machine's time as the book sees it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._us = START_US
        # How far time goes on each time that somebody looks at it.
        self.step_us = 0
        set_time(monkeypatch, self._look)

    def _look(self) -> int:
        self._us += self.step_us
        return self._us

    def at(self, seconds: int, us: int = 0) -> None:
        """It is that long after the start of the test."""
        self._us = START_US + seconds * US_PER_SECOND + us

    @staticmethod
    def text(seconds: int, us: int = 0) -> str:
        """That moment as it is written."""
        return format_time(START_US + seconds * US_PER_SECOND + us)


@pytest.fixture
def moment(monkeypatch: pytest.MonkeyPatch) -> Moment:
    """The time of the book; ask for it before the API."""
    return Moment(monkeypatch)
