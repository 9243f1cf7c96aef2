"""Locks that keep a database file to one process: on the file beside it, and on the database file itself."""

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

# Far behind SQLite's own lock bytes, 512 bytes at 1 GiB, and behind any byte that a file may have.
_LOCKED_BYTE = 1 << 62

# struct flock: type, whence, start, length, and a process id that must be 0 for a lock of an open file.
_FLOCK = struct.Struct("hhqqi0q")

HAS_FILE_LOCKS = hasattr(fcntl, "F_OFD_SETLK")


def lock(descriptor: int) -> None:
    """Lock a file for this descriptor. Raises `BlockingIOError` when another one holds it, `OSError` when locks fail."""
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def lock_database(descriptor: int) -> bool:
    """Lock a database file for this descriptor, outside of SQLite's lock bytes; return false on a system without such locks.

    The lock belongs to the open file description, not to the process: closing another descriptor does not drop it. Raises
    `BlockingIOError` when another one holds it.
    """
    if not HAS_FILE_LOCKS:
        return False
    request = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _LOCKED_BYTE, 1, 0)
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, request)
    except OSError as error:
        # EAGAIN or EACCES: another process holds the lock. EINVAL: the system does not know this type of lock.
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise BlockingIOError(error.errno, error.strerror) from None
        if error.errno == errno.EINVAL:
            return False
        raise
    return True


# The maximum length of the process id in a lock file.
_PID_BYTES = 32


class DatabaseLocked(Exception):
    """Another process serves this file."""


def lock_file(path: Path) -> Path:
    """Return the path of the lock file of a database file, given by its real path."""
    return path.with_name(path.name + ".lock")


class FileIdentity:
    """The identities of the files of an open database, by device and inode.

    SQLite keeps writing to a file that was renamed or deleted. The next start would not find those commits under the file's
    name, and a second process could lock that name.
    """

    def __init__(self, path: Path) -> None:
        """Record the files of a database that is open, so that all of them exist."""
        real = Path(os.path.realpath(path))
        companions = [real.with_name(real.name + suffix) for suffix in ("-wal", "-shm")]
        self._files = {str(file): _identity(str(file)) for file in (real, *companions, lock_file(real))}

    def changed_file(self) -> str | None:
        """Return the name of a file that was moved, deleted or replaced, or None. Takes a few microseconds."""
        for file, identity in self._files.items():
            if _identity(file) != identity:
                return os.path.basename(file)  # noqa: PTH119 - a path is text here, since this runs after every COMMIT
        return None


def _identity(file: str) -> tuple[int, int] | None:
    try:
        found = os.stat(file)  # noqa: PTH116
    except OSError:
        return None
    return found.st_dev, found.st_ino


class FileLock:
    """The locks that keep a database file to one process: on `<file>.lock`, and on the file itself.

    The lock file names the process that holds it, and exists before the database. The lock on the database file also works
    under another name of the same file: through a mount, or after a rename. Links are resolved first.

    Closing any descriptor of the database drops SQLite's own locks. So the locked descriptor stays open until `release`,
    which the caller calls after closing the last connection of this process.
    """

    # The database files that this process has locked, by device and inode. Opening and closing such a file to find out would
    # drop SQLite's locks.
    _held: ClassVar[set[tuple[int, int]]] = set()

    def __init__(self, path: Path, *, create: bool = False, only_if_served: bool = False) -> None:
        """Lock a database. With `create` a missing database is created; with `only_if_served` a missing lock file is not.

        Raises `DatabaseLocked` when another process holds it or the file has a second name, `UnsafeFile` when other users
        may interfere with its files, and `OSError` when locking fails.
        """
        # Every later step uses the real path, so a link that changes from now on has no effect.
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
        """Release the locks. The lock file stays: without it two processes could lock different files of that name."""
        if self._identity is not None:
            self._held.discard(self._identity)
            self._identity = None
        self._open.close()

    def _require_one_name(self) -> None:
        """Reject a file with hard links: the write-ahead log has the file's name, so two names would mean two logs."""
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
            # No process holds it: locks do not work on this file system.
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
                log.warning("no lock on the database file: only its lock file keeps a second server away")
        except BlockingIOError:
            raise DatabaseLocked(in_use) from None
        found = os.fstat(descriptor)
        self._identity = found.st_dev, found.st_ino
        self._held.add(self._identity)
