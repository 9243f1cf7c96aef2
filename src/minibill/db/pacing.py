"""Pacing of long reads: work for less than a millisecond, then leave the core to others."""

import time

from minibill.db.sqlite import FileConnection

# Steps of SQLite's virtual machine between two pauses: less than a millisecond. Where there is one core for all, the system
# would let a long read work for several milliseconds while a request waits, whatever its niceness (measured: the median of 8
# connections was 16 ms without pauses, 3 ms with them, and 2 ms without a run).
STEPS_BETWEEN_PAUSES = 100_000
PAUSE_SECONDS = 0.001


def pause() -> None:
    """Leave the core to others for a moment."""
    time.sleep(PAUSE_SECONDS)


def pace(conn: FileConnection) -> None:
    """Make the statements of a connection pause."""
    conn.set_progress_handler(pause, STEPS_BETWEEN_PAUSES)
