"""A clock that moves only when a test moves it."""

import threading
from datetime import UTC, datetime

from minibill.core.clock import ADVANCE_MAX_US, US_PER_SECOND, Clock, ClockState, parse_time

# A Monday at noon: a plain default for tests that set no time.
START = datetime(2027, 1, 4, 12, tzinfo=UTC)


def us_of(moment: datetime) -> int:
    """Return the microseconds of a datetime with an offset."""
    return parse_time(moment.isoformat())


class FrozenClock(Clock):
    """The book's clock in a test: `advance` moves it, and restoring a snapshot sets it back."""

    def __init__(self, now_us: int) -> None:
        super().__init__()
        self._now_us = now_us
        self._moving = threading.Lock()

    def now_us(self) -> int:
        """Return the book's time."""
        return self._now_us

    def not_before(self, time_us: int) -> None:
        """Move to the newest row of the opened book, if that is later."""
        with self._moving:
            self._now_us = max(self._now_us, time_us)

    def state(self) -> ClockState:
        """Return the book's time, for the wall clock as well."""
        return ClockState(self._now_us, self._now_us, is_held=False)

    def accept(self) -> int:
        """Return the book's time, because there is no wall clock to follow."""
        return self._now_us

    def advance(self, seconds: int) -> int:
        """Move the time forward; return the new time."""
        with self._moving:
            self._now_us = max(self._now_us, min(self._now_us + seconds * US_PER_SECOND, ADVANCE_MAX_US))
            return self._now_us

    def go_to(self, time_us: int) -> None:
        """Set the time of a snapshot, also to an earlier time."""
        with self._moving:
            self._now_us = time_us
