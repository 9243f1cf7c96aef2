"""Time: the only module that reads the clock, and how times are written.

The book's time is microseconds since 1970 in UTC. It never goes back: not when the machine's clock is set back, and not
across a restart, since it starts no earlier than the newest row of the book.
"""

import re
import threading
import time
from datetime import UTC, datetime, timedelta
from functools import lru_cache

US_PER_SECOND = 1_000_000
MIN_TIME_US = -62_135_596_800_000_000  # the beginning of the year 1
MAX_TIME_US = 253_402_300_799_999_999  # the end of the year 9999
# The test clock stops short of that, so that what is made then still has room to expire later.
ADVANCE_MAX_US = MAX_TIME_US - 200 * 365 * 86_400 * US_PER_SECOND

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_RFC3339 = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,9})[0-9]*)?"
    r"(?:([Zz])|([+-])([0-9]{2}):([0-9]{2}))",
    re.ASCII,
)


class Clock:
    """The book's clock; safe to read from any thread. It is `offset_us` ahead of the machine's; less than 0 is behind."""

    def __init__(self, not_before_us: int = 0, *, offset_us: int = 0) -> None:
        self._last_us = not_before_us
        self._offset_us = offset_us
        self._lock = threading.Lock()

    def now_us(self) -> int:
        """The book's time: never less than what was answered before."""
        with self._lock:
            self._last_us = max(self._last_us, real_now_us() + self._offset_us)
            return self._last_us

    def not_before(self, time_us: int) -> None:
        """From now on the time is at least this: the newest row of the book that was opened."""
        with self._lock:
            self._last_us = max(self._last_us, time_us)

    def advance(self, seconds: int) -> int:
        """Moves the book's time forward, for tests; answers the new time."""
        with self._lock:
            now_us = max(self._last_us, real_now_us() + self._offset_us)
            self._last_us = max(now_us, min(now_us + seconds * US_PER_SECOND, ADVANCE_MAX_US))
            self._offset_us = self._last_us - real_now_us()
            return self._last_us


class RunningTime:
    """For how long the book has been served, in microseconds: what must be kept for so long is kept by it.

    It goes on evenly, whatever the machine's clock does: one that is set to next year and back makes nothing be forgotten
    that a client still relies on. It begins at what the book has written last, so the time between two services does not
    count, and what must be kept is kept for longer.
    """

    def __init__(self, begin_us: int) -> None:
        self._begin_us = begin_us
        self._began_s = monotonic_s()

    def now_us(self) -> int:
        """The running time; it never decreases."""
        return self._begin_us + int((monotonic_s() - self._began_s) * US_PER_SECOND)


def real_now_us() -> int:
    """The machine's time, for tokens."""
    return time.time_ns() // 1000


# Seconds that never jump, for waits and windows.
monotonic_s = time.monotonic


def format_time(time_us: int) -> str:
    """RFC 3339 in UTC with `Z`, to the microsecond."""
    second, rest_us = divmod(time_us, US_PER_SECOND)
    return f"{_format_second(second)}.{rest_us:06}Z"


@lru_cache(maxsize=1_000)
def _format_second(second: int) -> str:
    # Most times that are written share their second with the last ones: a quarter of the cost of making each anew.
    return (_EPOCH + timedelta(seconds=second)).isoformat(timespec="seconds").removesuffix("+00:00")


def format_date(day: int) -> str:
    """The date in UTC of a number of days since 1970."""
    return (_EPOCH + timedelta(days=day)).date().isoformat()


def parse_time(text: str) -> int:
    """Microseconds of an RFC 3339 time with an offset; digits beyond the microsecond are cut off.

    Raises ValueError, with a message for the caller, for anything else.
    """
    found = _RFC3339.fullmatch(text)
    if not found:
        raise ValueError("expected an RFC 3339 time with an offset, such as 2027-01-31T12:00:00Z")
    year, month, day, hour, minute, second = (int(part) for part in found.groups()[:6])
    fraction_us = int((found[7] or "0").ljust(6, "0")[:6])
    try:
        moment = datetime(year, month, day, hour, minute, second, fraction_us, tzinfo=UTC)
    except ValueError:
        raise ValueError("expected a time that exists") from None
    offset_minutes = 0
    if found[9]:
        hours, minutes = int(found[10]), int(found[11])
        if hours > 23 or minutes > 59:
            raise ValueError("expected an offset of at most 23:59")
        offset_minutes = (hours * 60 + minutes) * (1 if found[9] == "+" else -1)
    time_us = (moment - _EPOCH) // timedelta(microseconds=1) - offset_minutes * 60 * US_PER_SECOND
    if not MIN_TIME_US <= time_us <= MAX_TIME_US:
        raise ValueError("expected a time between the years 1 and 9999 in UTC")
    return time_us
