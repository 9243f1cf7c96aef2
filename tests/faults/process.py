"""Figures of a process from /proc. On systems other than Linux they are constants, and the tests conclude nothing."""

import time
from collections.abc import Callable
from pathlib import Path

# Time for a process on a busy machine to release files and memory.
SETTLE_SECONDS_MAX = 15.0


def open_files(pid: int) -> int:
    """Return the number of open descriptors of a process."""
    folder = Path(f"/proc/{pid}/fd")
    return sum(1 for _ in folder.iterdir()) if folder.exists() else 0


def rss_bytes(pid: int) -> int:
    """Return the resident memory of a process; 1 if unknown, so that it can be a divisor."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        return 1
    [line] = [line for line in status.read_text().splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) * 1024


def settled(holds: Callable[[], bool]) -> bool:
    """Return true once a condition holds; false if it does not hold soon."""
    deadline_s = time.monotonic() + SETTLE_SECONDS_MAX
    while not holds():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.05)
    return True
