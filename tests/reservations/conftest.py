"""A frozen clock that tests set to the microsecond."""

import pytest

from minibill.core.clock import US_PER_SECOND, format_time, parse_time
from tests.fake_clocks import set_time

START_US = parse_time("2040-01-01T00:00:00Z")


class Moment:
    """The time that the book reads from the machine."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._us = START_US
        # The time advances by this much at each read.
        self.step_us = 0
        set_time(monkeypatch, self._read)

    def _read(self) -> int:
        self._us += self.step_us
        return self._us

    def at(self, seconds: int, us: int = 0) -> None:
        """Set the time, counted from the start of the test."""
        self._us = START_US + seconds * US_PER_SECOND + us

    @staticmethod
    def text(seconds: int, us: int = 0) -> str:
        """Return a time, counted from the start of the test, as the API writes it."""
        return format_time(START_US + seconds * US_PER_SECOND + us)


@pytest.fixture
def moment(monkeypatch: pytest.MonkeyPatch) -> Moment:
    """Replace the time of the book; a test requests this fixture before the API."""
    return Moment(monkeypatch)
