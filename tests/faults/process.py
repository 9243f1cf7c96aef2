"""What the system knows of a process, where the system tells: on Linux. Elsewhere these are 0, and nothing is concluded."""

import time
from collections.abc import Callable
from pathlib import Path

# Until a process has let go of what it is done with, on a busy machine.
SETTLE_SECONDS_MAX = 15.0


def open_files(pid: int) -> int:
    """How many descriptors the process has open."""
    folder = Path(f"/proc/{pid}/fd")
    return sum(1 for _ in folder.iterdir()) if folder.exists() else 0


def rss_bytes(pid: int) -> int:
    """The memory that the process has at the moment; 1 where nobody tells, so that it can be divided by."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        return 1
    [line] = [line for line in status.read_text().splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) * 1024


def settled(holds: Callable[[], bool]) -> bool:
    """Whether something comes to hold soon."""
    deadline_s = time.monotonic() + SETTLE_SECONDS_MAX
    while not holds():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.05)
    return True
