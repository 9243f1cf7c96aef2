"""Pacing of long reads: work for less than a millisecond, then leave the core to others."""

import time

from minibill.db.sqlite import FileConnection

# Steps of SQLite's virtual machine between two pauses: less than a millisecond. On one core the system lets a long read run
# for several milliseconds while a request waits, even at a low priority. Median latency of 8 connections on one core: 16 ms
# without pauses, 3 ms with them, 2 ms without a long read.
STEPS_BETWEEN_PAUSES = 100_000
PAUSE_SECONDS = 0.001


def pause() -> None:
    """Leave the core to others for a moment."""
    time.sleep(PAUSE_SECONDS)


def pace(conn: FileConnection) -> None:
    """Make the statements of a connection pause."""
    conn.set_progress_handler(pause, STEPS_BETWEEN_PAUSES)
