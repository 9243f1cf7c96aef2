"""A limit on log lines that clients without a token can cause."""

from minibill.core.clock import monotonic_s

WINDOW_SECONDS = 60


class LogLimit:
    """At most `per_minute` lines a minute. The first line after a flood carries the number of suppressed ones."""

    def __init__(self, per_minute: int) -> None:
        self._limit = per_minute
        self._began_s = monotonic_s()
        self._count = 0
        self._suppressed = 0

    def take(self) -> int | None:
        """Return the number of lines suppressed since the last logged one; None if this line is suppressed as well."""
        now_s = monotonic_s()
        if now_s - self._began_s >= WINDOW_SECONDS:
            self._began_s, self._count = now_s, 0
        if self._count >= self._limit:
            self._suppressed += 1
            return None
        self._count += 1
        suppressed, self._suppressed = self._suppressed, 0
        return suppressed
