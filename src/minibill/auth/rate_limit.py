"""Rate limits per minute and name, in windows that begin with a name's first request."""

import math
from typing import NamedTuple

from minibill.core.clock import monotonic_s

WINDOW_SECONDS = 60

# Names with a window. Above this number, windows that are over are deleted.
_NAMES_MAX = 10_000


class Allowance(NamedTuple):
    """The rest of a window after this request."""

    allowed: bool
    limit: int
    remaining: int
    reset_seconds: int


class RateLimit:
    """At most `per_minute` requests a window for each name."""

    def __init__(self, per_minute: int) -> None:
        self._limit = per_minute
        self._windows: dict[str, tuple[float, int]] = {}

    def count(self, name: str) -> Allowance:
        """Count one request."""
        now_s = monotonic_s()
        began_s, count = self._windows.get(name, (now_s, 0))
        if now_s - began_s >= WINDOW_SECONDS:
            began_s, count = now_s, 0
        if name not in self._windows and len(self._windows) >= _NAMES_MAX:
            self._prune(now_s)
        self._windows[name] = (began_s, count + 1)
        reset_seconds = min(WINDOW_SECONDS, max(1, math.ceil(began_s + WINDOW_SECONDS - now_s)))
        return Allowance(count < self._limit, self._limit, max(0, self._limit - count - 1), reset_seconds)

    def _prune(self, now_s: float) -> None:
        self._windows = {n: w for n, w in self._windows.items() if now_s - w[0] < WINDOW_SECONDS}
        # After a flood of names within one window the oldest half goes, so that memory stays bounded.
        for name in list(self._windows)[: max(0, len(self._windows) - _NAMES_MAX // 2)]:
            del self._windows[name]
