"""A clock that stands still until a test moves it."""

import threading
from datetime import UTC, datetime

from minibill.core.clock import ADVANCE_MAX_US, US_PER_SECOND, Clock, ClockState, parse_time

# A Monday at noon, so that a test that says nothing about time reads well.
START = datetime(2027, 1, 4, 12, tzinfo=UTC)


def us_of(moment: datetime) -> int:
    """Microseconds of a moment with an offset."""
    return parse_time(moment.isoformat())


class FrozenClock(Clock):
    """The book's clock in a test: it moves when it is told to, and goes back with a snapshot."""

    def __init__(self, now_us: int) -> None:
        super().__init__()
        self._now_us = now_us
        self._moving = threading.Lock()

    def now_us(self) -> int:
        """The book's time."""
        return self._now_us

    def not_before(self, time_us: int) -> None:
        """Moves on to the newest row of the book that was opened, if that is later."""
        with self._moving:
            self._now_us = max(self._now_us, time_us)

    def state(self) -> ClockState:
        """Return the book's time as that of the wall clock too."""
        return ClockState(self._now_us, self._now_us, is_held=False)

    def accept(self) -> int:
        """Return the book's time: there is no other clock to follow."""
        return self._now_us

    def advance(self, seconds: int) -> int:
        """Moves the time forward; answers the new time."""
        with self._moving:
            self._now_us = max(self._now_us, min(self._now_us + seconds * US_PER_SECOND, ADVANCE_MAX_US))
            return self._now_us

    def go_to(self, time_us: int) -> None:
        """Takes a time over from a snapshot, also an earlier one."""
        with self._moving:
            self._now_us = time_us
