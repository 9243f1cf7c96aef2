"""Recognition of a full disk, which rejects writes for a while, and not of a broken one, which ends the process.

A limit on the size of files and a quota count as a full disk. docs/internals/decisions/0005-full-disk.md has the reasons.
"""

import errno
import os
import struct
import tempfile
from pathlib import Path

from minibill.db.constraint_errors import SQLITE_FULL, error_code
from minibill.db.files import open_to_read
from minibill.db.sqlite import sqlite3
from minibill.db.wal import wal_of

SQLITE_IOERR = 10

# Of the header of the log: the size of a page, and the salts, which change when the log restarts. Of the header of a frame:
# the mark of a commit's last frame, and the salts. https://sqlite.org/fileformat2.html#the_write_ahead_log
_HEADER = struct.Struct(">8xI4x8s8x")
_FRAME = struct.Struct(">4xI8s8x")

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# The size of a trial write: two pages. SQLite failed to write one page or less.
TRIAL_BYTES = 8_192


def is_storage_full(error: sqlite3.Error, path: Path) -> bool:
    """Return true if a statement failed because the files of a database may not grow.

    SQLite reports a quota and a limit on the size of files as an I/O error. A trial write to another file in the same folder
    then tells: it fails for lack of room too. A broken disk is not taken for a full one.
    """
    code = error_code(error)
    return code == SQLITE_FULL or (code == SQLITE_IOERR and not _may_grow(path))


def may_hold_failed_commit(conn: sqlite3.Connection, path: Path) -> bool:
    """Return true if a restart may find the commit that just failed in the write-ahead log.

    `conn` is outside of a transaction. A COMMIT appends each changed page to the log as a frame, marks the last frame, and
    then syncs. SQLite's error does not tell a failed write from a failed sync, so this looks for the mark.
    """
    _, frames, _ = conn.execute("PRAGMA wal_checkpoint(NOOP)").fetchone()
    with os.fdopen(open_to_read(wal_of(path)), "rb") as log:
        size = os.fstat(log.fileno()).st_size
        if size < _HEADER.size:
            return False
        page_bytes, salts = _HEADER.unpack(log.read(_HEADER.size))
        frame_bytes = _FRAME.size + page_bytes
        # Behind the frames that SQLite counts are those of the failed commit, then older ones with other salts.
        for begin in range(_HEADER.size + frames * frame_bytes, size - frame_bytes + 1, frame_bytes):
            log.seek(begin)
            is_last, own_salts = _FRAME.unpack(log.read(_FRAME.size))
            if own_salts != salts:
                return False
            if is_last:
                return True
    return False


def _may_grow(path: Path) -> bool:
    """Return true if a file in the same folder can be written where the write-ahead log ends."""
    try:
        begin = wal_of(path).stat().st_size
        end = begin + TRIAL_BYTES
        with tempfile.TemporaryFile(dir=path.parent) as scratch:
            while begin < end:
                begin += os.pwrite(scratch.fileno(), bytes(end - begin), begin)
    except OSError as error:
        return error.errno not in _NO_ROOM
    return True
