"""The write-ahead log beside a database file: making lasting what it holds, and whether there is room for more."""

import errno
import logging
import os
import tempfile
from pathlib import Path

from minibill.db.constraints import SQLITE_FULL, error_code
from minibill.db.sqlite import sqlite3

log = logging.getLogger("minibill.wal")

# SQLite's extended result code of a write that failed for any reason but a full disk: a limit on the size of files and a
# quota look the same as a disk that is broken.
SQLITE_IOERR_WRITE = 778

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# What is written to see whether there is room: two pages. What failed was the write of one, or less.
TRIED_BYTES = 8_192


def is_for_lack_of_room(error: sqlite3.Error, path: Path) -> bool:
    """Whether a write to the log of a file failed because it may not grow: a full disk, a limit on file sizes, a quota.

    SQLite does not say why a write failed, so the same is tried with another file. When that goes well, or fails otherwise,
    the answer is no: a broken disk is never taken for a full one.
    """
    if error_code(error) == SQLITE_FULL:
        return True
    return getattr(error, "sqlite_errorcode", 0) == SQLITE_IOERR_WRITE and not _may_grow(path)


def make_lasting(conn: sqlite3.Connection, path: Path) -> None:
    """Makes sure that what the log holds is on disk, before anything is answered from it.

    A process that was killed, or ended because a sync failed, may have left writes that everybody sees and the disk does not
    have. They are folded into the file, which writes them anew: after a failed sync another one of the same pages proves
    nothing. When there is no room for that the file stays as it is. Raises what SQLite raises otherwise, and `OSError`.
    """
    try:
        _, pages, folded = conn.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    except sqlite3.Error as error:
        if not is_for_lack_of_room(error, path):
            raise
        # SQLite has synced the log before it began to fold it.
        log.warning("no room to fold the write-ahead log into the file")
        return
    if folded < pages:
        # Another process reads an older state, which must stay readable.
        _sync(_log_of(path))


def _may_grow(path: Path) -> bool:
    """Whether a file in the same folder can be written where the log ends."""
    try:
        begin = _log_of(path).stat().st_size
        end = begin + TRIED_BYTES
        with tempfile.TemporaryFile(dir=path.parent) as scratch:
            while begin < end:
                begin += os.pwrite(scratch.fileno(), bytes(end - begin), begin)
    except OSError as error:
        return error.errno not in _NO_ROOM
    return True


def _log_of(path: Path) -> Path:
    real = Path(os.path.realpath(path))
    return real.with_name(f"{real.name}-wal")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
