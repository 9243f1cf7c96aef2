"""Clocks, and times as text. No other module reads the machine's clock.

The book's time is in microseconds since 1970, UTC. It never decreases: not when the wall clock is set back, and not across a
restart, because it starts no earlier than the newest row of the book. It does not follow a wall clock that jumps ahead: a
credit that expired by mistake stays expired.
"""

import logging
import re
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import NamedTuple

log = logging.getLogger("minibill.clock")

US_PER_SECOND = 1_000_000
MIN_TIME_US = -62_135_596_800_000_000  # the beginning of the year 1
MAX_TIME_US = 253_402_300_799_999_999  # the end of the year 9999
# The test clock stops short of the maximum, so that a lot minted there can still get a later expiry.
ADVANCE_MAX_US = MAX_TIME_US - 200 * 365 * 86_400 * US_PER_SECOND

# The wall clock may gain this much on the steady clock between two reads: it was corrected, or the machine slept.
JUMP_MAX_SECONDS_DEFAULT = 60
# A service that was stopped for longer than this is rare; a machine that starts with a wrong clock is not.
START_AHEAD_MAX_US = 30 * 86_400 * US_PER_SECOND

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_RFC3339 = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,9})[0-9]*)?"
    r"(?:([Zz])|([+-])([0-9]{2}):([0-9]{2}))",
    re.ASCII,
)


class ClockState(NamedTuple):
    """The book's time and the wall clock; `is_held` while the book's time does not follow the wall clock."""

    time_us: int
    wall_us: int
    is_held: bool

    @property
    def ahead_us(self) -> int:
        """The lead of the wall clock over the book's time; negative while the wall clock is behind."""
        return self.wall_us - self.time_us


class Clock:
    """The book's clock; safe to read from any thread.

    Each read compares the wall clock with the time that has passed by the steady clock. The book's time follows a wall clock
    that is ahead by up to `jump_max_seconds`. A wall clock further ahead has jumped: the book's time goes on by the steady
    clock until the wall clock comes back or somebody calls `accept`. A wall clock that is behind is not followed either.
    `offset_us` is added to the wall clock.
    """

    def __init__(self, *, jump_max_seconds: int = JUMP_MAX_SECONDS_DEFAULT, offset_us: int = 0) -> None:
        self.jump_max_seconds = jump_max_seconds
        self._jump_max_us = jump_max_seconds * US_PER_SECOND
        # Jumps of the wall clock that the book's time did not follow.
        self.jumps = 0
        self._offset_us = offset_us
        self._time_us = real_now_us() + offset_us
        self._steady_us = steady_now_us()
        self._is_held = False
        self._lock = threading.Lock()

    def now_us(self) -> int:
        """Return the book's time; it never decreases."""
        with self._lock:
            self._read()
            return self._time_us

    def state(self) -> ClockState:
        """Return the book's time together with the wall clock."""
        with self._lock:
            wall_us = self._read()
            return ClockState(self._time_us, wall_us, self._is_held)

    def not_before(self, time_us: int) -> None:
        """Start at the wall clock, or at the newest row of the book that was opened if that is later; 0 for an empty book.

        A wall clock more than `START_AHEAD_MAX_US` later than the newest row is not followed.
        """
        with self._lock:
            wall_us = real_now_us() + self._offset_us
            is_far_ahead = time_us > 0 and wall_us - time_us > START_AHEAD_MAX_US
            self._time_us = time_us if is_far_ahead else max(time_us, wall_us)
            self._steady_us = steady_now_us()
            self._read()

    def advance(self, seconds: int) -> int:
        """Move the book's time forward, for tests; return the new time."""
        with self._lock:
            self._read()
            now_us = self._time_us
            self._time_us = max(now_us, min(now_us + seconds * US_PER_SECOND, ADVANCE_MAX_US))
            self._offset_us += self._time_us - now_us
            return self._time_us

    def accept(self) -> int:
        """Follow the wall clock from here on, however far ahead it is; return the new time."""
        with self._lock:
            wall_us = self._read()
            self._time_us = max(self._time_us, wall_us)
            self._read()
            return self._time_us

    def _read(self) -> int:
        """Bring the book's time up to now; return the wall clock."""
        # The wall clock comes first: time between the two reads then counts once, and never puts the book's time ahead.
        wall_us = real_now_us() + self._offset_us
        steady_us = steady_now_us()
        time_us = self._time_us + steady_us - self._steady_us
        is_held = wall_us - time_us > self._jump_max_us
        if not is_held and wall_us > time_us:
            time_us = wall_us
        self._time_us, self._steady_us = time_us, steady_us
        if is_held is not self._is_held:
            self._is_held = is_held
            self._note(wall_us)
        return wall_us

    def _note(self, wall_us: int) -> None:
        extensions = {"book_time": format_time(self._time_us), "wall_time": format_time(wall_us)}
        if self._is_held:
            self.jumps += 1
            log.error("the wall clock jumped ahead: the book's time does not follow", extra=extensions)
        else:
            log.warning("the book's time follows the wall clock again", extra=extensions)


class ServiceUptime:
    """The time for which the book has been served, in microseconds, summed over all runs of the service.

    Retention periods are measured by it: it advances evenly even when the wall clock is set to next year and back. Each run
    starts at the latest uptime that the database has recorded. Time between two runs does not count.
    """

    def __init__(self, begin_us: int) -> None:
        self._begin_us = begin_us
        self._began_s = monotonic_s()

    def now_us(self) -> int:
        """Return the uptime; it never decreases."""
        return self._begin_us + int((monotonic_s() - self._began_s) * US_PER_SECOND)


def real_now_us() -> int:
    """Return the machine's time in microseconds, for tokens."""
    return time.time_ns() // 1000


def steady_now_us() -> int:
    """Return microseconds of a clock that never jumps. On Linux it also counts while the machine sleeps."""
    return time.clock_gettime_ns(_STEADY) // 1000


def _steady() -> int:
    # Linux stops CLOCK_MONOTONIC during a suspend, which would make each resume a jump. Other systems keep counting.
    boottime: int | None = getattr(time, "CLOCK_BOOTTIME", None)
    if boottime is not None:
        with suppress(OSError):
            time.clock_gettime_ns(boottime)
            return boottime
    return time.CLOCK_MONOTONIC


_STEADY = _steady()


# Seconds that never jump, for timeouts and time windows.
monotonic_s = time.monotonic


def format_time(time_us: int) -> str:
    """Return a time as RFC 3339 in UTC with `Z`, to the microsecond."""
    second, rest_us = divmod(time_us, US_PER_SECOND)
    return f"{_format_second(second)}.{rest_us:06}Z"


@lru_cache(maxsize=1_000)
def _format_second(second: int) -> str:
    # Consecutive times mostly share their second: with the cache a time costs a quarter.
    return (_EPOCH + timedelta(seconds=second)).isoformat(timespec="seconds").removesuffix("+00:00")


def format_date(day: int) -> str:
    """Return the UTC date of a number of days since 1970."""
    return (_EPOCH + timedelta(days=day)).date().isoformat()


def parse_time(text: str) -> int:
    """Return the microseconds of an RFC 3339 time with an offset; further digits are cut off.

    Raises `ValueError`, with a message for the client, for any other text.
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
