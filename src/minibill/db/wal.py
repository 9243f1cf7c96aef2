"""The write-ahead log beside a database file: making lasting what it holds, and what a failed write has left in it."""

import errno
import os
import struct
import tempfile
from pathlib import Path

from minibill.db.constraint_errors import SQLITE_FULL, error_code
from minibill.db.files import open_own, open_to_read
from minibill.db.sqlite import sqlite3

# SQLite's code of a file that could not be read, written or synced. A limit on the size of files and a quota are among its
# reasons, like a disk that is broken; which it was it does not say.
SQLITE_IOERR = 10

# Of the header of the log: the size of a page, and the salts, which change when it begins anew. Of the header of a frame:
# what is not 0 in the last of a commit, and the salts. https://sqlite.org/fileformat2.html#the_write_ahead_log
_HEADER = struct.Struct(">8xI4x8s8x")
_FRAME = struct.Struct(">4xI8s8x")

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# What is written to see whether there is room: two pages. What failed was the write of one, or less.
TRIED_BYTES = 8_192

# Of the log, read and written anew at a time.
PIECE_BYTES = 1_048_576


def is_for_lack_of_room(error: sqlite3.Error, path: Path) -> bool:
    """Whether SQLite failed because its log may not grow: a full disk, a limit on the size of files, a quota.

    Where SQLite does not say, the same is tried with another file. When that goes well, or fails otherwise, the answer is
    no: a broken disk is not taken for a full one.
    """
    code = error_code(error)
    return code == SQLITE_FULL or (code == SQLITE_IOERR and not _may_grow(path))


def may_hold_a_failed_commit(conn: sqlite3.Connection, path: Path) -> bool:
    """Whether a COMMIT that failed may have happened all the same: whoever opens the file anew would find it in the log.

    `conn` is outside of a transaction, and nothing was committed since. COMMIT appends the changed pages to the log, each
    in a frame; the last frame says that it is the last, and only then the log is synced.
    """
    _, frames, _ = conn.execute("PRAGMA wal_checkpoint(NOOP)").fetchone()
    with os.fdopen(open_to_read(_log_of(path)), "rb") as log:
        size = os.fstat(log.fileno()).st_size
        if size < _HEADER.size:
            return False
        page_bytes, salts = _HEADER.unpack(log.read(_HEADER.size))
        frame_bytes = _FRAME.size + page_bytes
        # After the frames that SQLite counts there are those of the failed commit, then older ones with other salts.
        for begin in range(_HEADER.size + frames * frame_bytes, size - frame_bytes + 1, frame_bytes):
            log.seek(begin)
            is_last, own_salts = _FRAME.unpack(log.read(_FRAME.size))
            if own_salts != salts:
                return False
            if is_last:
                return True
    return False


def resync_wal(conn: sqlite3.Connection, path: Path) -> None:
    """Makes sure that what the log holds is on disk, before anything is answered from it or folded into the file.

    A process that was killed, or ended because a sync failed, may have left writes that everybody sees and the disk does not
    have. After a failed sync another one of the same bytes proves nothing, so they are written anew. Raises `OSError`, and
    what SQLite raises when another program writes the file.
    """
    log = _log_of(path)
    if not log.exists() or not log.stat().st_size:
        return
    # Nobody else adds to the log meanwhile, or begins it anew.
    conn.execute("BEGIN IMMEDIATE")
    try:
        _write_anew(log)
    finally:
        conn.execute("ROLLBACK")


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


def _write_anew(log: Path) -> None:
    with os.fdopen(open_own(log, os.O_RDWR), "r+b", buffering=0) as file:
        while piece := file.read(PIECE_BYTES):
            file.seek(-len(piece), os.SEEK_CUR)
            # What is written is never more than was read: nothing grows.
            left = memoryview(piece)
            while left:
                left = left[file.write(left) or 0 :]
        os.fsync(file.fileno())
