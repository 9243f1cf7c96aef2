"""The write-ahead log (WAL) beside a database file."""

import os
from pathlib import Path

from minibill.db.files import open_own
from minibill.db.sqlite import sqlite3

# The part of the log that is rewritten at a time.
CHUNK_BYTES = 1_048_576


def wal_of(path: Path) -> Path:
    """Return the path of the log of a database file, behind links."""
    real = Path(os.path.realpath(path))
    return real.with_name(f"{real.name}-wal")


def resync_wal(conn: sqlite3.Connection, path: Path) -> None:
    """Make sure that the content of the log is on disk, before anything is read from it or checkpointed.

    A process that was killed, or ended because a sync failed, may have left commits that readers see and the disk lacks.
    After a failed sync another sync of the same bytes proves nothing, so this writes them again. Raises `OSError`, and
    SQLite's error when another program writes to the file.
    """
    log = wal_of(path)
    if not log.exists() or not log.stat().st_size:
        return
    # Keeps other programs from appending to the log or restarting it.
    conn.execute("BEGIN IMMEDIATE")
    try:
        _rewrite(log)
    finally:
        conn.execute("ROLLBACK")


def _rewrite(log: Path) -> None:
    with os.fdopen(open_own(log, os.O_RDWR), "r+b", buffering=0) as file:
        while chunk := file.read(CHUNK_BYTES):
            file.seek(-len(chunk), os.SEEK_CUR)
            # It writes no more than it has read, so the log does not grow.
            left = memoryview(chunk)
            while left:
                left = left[file.write(left) or 0 :]
        os.fsync(file.fileno())
