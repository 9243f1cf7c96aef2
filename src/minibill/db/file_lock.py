"""Locks on descriptors: on the file beside a database, and on the database file itself."""

import errno
import fcntl
import os
import struct

# Far behind SQLite's own lock bytes, which are 512 from 1 GiB on, and behind any byte that a file may have.
_LOCKED_BYTE = 1 << 62

# struct flock: kind, whence, first byte, length, and a process that must be 0 for a lock of an open file.
_FLOCK = struct.Struct("hhqqi0q")

HAS_FILE_LOCKS = hasattr(fcntl, "F_OFD_SETLK")


def lock(descriptor: int) -> None:
    """Lock a file for this descriptor. Raises `BlockingIOError` when another has it, `OSError` when there are no locks."""
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def lock_database(descriptor: int) -> bool:
    """Lock a database file for this descriptor, outside of the bytes that SQLite locks; false where the system can't.

    The lock belongs to the open file (OFD), not to the process: closing another descriptor of the file does not drop it.
    Raises `BlockingIOError` when another one has it.
    """
    if not HAS_FILE_LOCKS:
        return False
    request = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _LOCKED_BYTE, 1, 0)
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, request)
    except OSError as error:
        # Linux reports a lock that is held as either of the first two, and a kind of lock that it does not know as the last.
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise BlockingIOError(error.errno, error.strerror) from None
        if error.errno == errno.EINVAL:
            return False
        raise
    return True
