"""Slices of background work: small steps in one transaction until a few milliseconds have passed."""

from collections.abc import Callable

from minibill.core.clock import monotonic_s
from minibill.db.sqlite import Connection
from minibill.db.write_task import Operation

# The time of a slice before its COMMIT. On a large book the COMMIT takes about as long again.
SLICE_SECONDS = 0.002


class Slice:
    """The time of one slice, which begins when the object is created."""

    __slots__ = ("_end_s",)

    def __init__(self) -> None:
        self._end_s = monotonic_s() + SLICE_SECONDS

    @property
    def is_over(self) -> bool:
        """True once the time has passed."""
        return monotonic_s() >= self._end_s


def in_steps(step: Callable[[Connection], int]) -> Operation[int]:
    """Return an operation that repeats a small step until its slice is over; it returns their sum, 0 when nothing is left.

    `step` returns the number of rows that it handled, 0 when nothing is left.
    """

    def run(conn: Connection) -> int:
        own, done = Slice(), 0
        while count := step(conn):
            done += count
            if own.is_over:
                break
        return done

    return run
