"""Locks on descriptors: on the file beside a database, and on the database file itself."""

import errno
import fcntl
import logging
import os
import struct
from contextlib import ExitStack
from pathlib import Path
from typing import ClassVar

from minibill.db.files import companions_of, open_or_create, open_own, require_own, require_own_folder, resolve
from minibill.db.mounts import refuse_network

log = logging.getLogger("minibill.connect")

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


# A process id, as a lock file has it.
_PID_BYTES = 32


class DatabaseLocked(Exception):
    """Another process serves this file."""


def lock_file(path: Path) -> Path:
    """The file whose lock is that of a database file, which is named by its real path."""
    return path.with_name(path.name + ".lock")


class FileIdentity:
    """Where the files of an open database are: SQLite goes on writing to a file that was renamed or deleted meanwhile.

    What is written then is not found again by whoever opens the file by its name, and a second process may lock it.
    """

    def __init__(self, path: Path) -> None:
        """The database must be open, so that all of its files are there."""
        real = Path(os.path.realpath(path))
        companions = [real.with_name(real.name + suffix) for suffix in ("-wal", "-shm")]
        self._files = {str(file): _identity(str(file)) for file in (real, *companions, lock_file(real))}

    def moved(self) -> str | None:
        """The name of a file that is no longer where it was, or None. Takes a few microseconds."""
        for file, identity in self._files.items():
            if _identity(file) != identity:
                return os.path.basename(file)  # noqa: PTH119 - a path is text here, since this is asked of every group
        return None


def _identity(file: str) -> tuple[int, int] | None:
    try:
        found = os.stat(file)  # noqa: PTH116
    except OSError:
        return None
    return found.st_dev, found.st_ino


class FileLock:
    """The locks that keep a database file to one process: on `<file>.lock`, and on the file itself.

    The lock file says who holds it, and is there before the database. The lock on the file holds also when the file is
    reached by another name: through a mount of its own, or after it was renamed. Links are resolved first.

    Closing any descriptor of the database drops SQLite's own locks. So the one that is locked stays open until `release`,
    which comes after the last connection of this process is closed.
    """

    # What this process has locked, by device and inode: to open such a file only to find that out would drop SQLite's locks.
    _held: ClassVar[set[tuple[int, int]]] = set()

    def __init__(self, path: Path, *, create: bool = False, only_if_served: bool = False) -> None:
        """With `create` the database is made where there is none; with `only_if_served` no lock file is.

        Raises `DatabaseLocked` when another process holds it, or the file has a second name that could be served,
        `UnsafeFile` when others may interfere with its files, and `OSError` when there can be no lock.
        """
        # What every later step goes by: links that change from now on lead nowhere else.
        self.path = real = resolve(path)
        self._named = path
        require_own_folder(real.parent)
        refuse_network(real)
        self._require_one_name()
        for file in (real, *companions_of(real), lock_file(real)):
            require_own(file)
        self._identity: tuple[int, int] | None = None
        with ExitStack() as stack:
            if not only_if_served or lock_file(real).exists():
                self._lock_beside(stack)
            if create or real.exists():
                self._lock_database(stack, create=create)
            self._open = stack.pop_all()

    def release(self) -> None:
        """Lets go; the lock file itself stays, since removing it would let two processes lock different files."""
        if self._identity is not None:
            self._held.discard(self._identity)
            self._identity = None
        self._open.close()

    def _require_one_name(self) -> None:
        """The write-ahead log goes by the file's name: under two names there would be two, and the book torn apart."""
        if self.path.exists() and self.path.stat().st_nlink > 1:
            raise DatabaseLocked(f"{self._named} has more than one name (hard links); remove the others, or copy it with cp")

    def _lock_beside(self, stack: ExitStack) -> None:
        file = lock_file(self.path)
        descriptor = open_or_create(file)
        stack.callback(os.close, descriptor)
        try:
            lock(descriptor)
        except BlockingIOError:
            holder = os.pread(descriptor, _PID_BYTES, 0).decode(errors="replace").strip() or "unknown"
            raise DatabaseLocked(
                f"{self._named} is already served by process {holder}; stop it first, or name another file with --db"
            ) from None
        except OSError as error:
            # Nobody has it: locks do not work there.
            raise OSError(error.errno, f"the lock on {file} failed: {error.strerror}") from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)

    def _lock_database(self, stack: ExitStack, *, create: bool) -> None:
        in_use = f"{self._named} is already served under another name or mount of the same file; stop that process first"
        if self.path.exists() and _identity(str(self.path)) in self._held:
            raise DatabaseLocked(in_use)
        try:
            descriptor = open_or_create(self.path) if create else open_own(self.path, os.O_RDWR)
        except PermissionError:
            raise PermissionError(errno.EACCES, "may not be written", str(self.path)) from None
        stack.callback(os.close, descriptor)
        try:
            if not lock_database(descriptor):
                log.warning("this system can't lock a database file itself; its lock file alone keeps a second server away")
        except BlockingIOError:
            raise DatabaseLocked(in_use) from None
        found = os.fstat(descriptor)
        self._identity = found.st_dev, found.st_ino
        self._held.add(self._identity)
