"""Opening the file: the connections of the writer and the readers, and the locks that keep it to one process."""

import errno
import logging
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

from minibill.db.file_lock import lock, lock_database
from minibill.db.files import companions_of, open_or_create, open_own, require_own, require_own_folder, resolve
from minibill.db.mounts import refuse_network
from minibill.db.sqlite import damaged_schemas_told, require_floor, sqlite3

log = logging.getLogger("minibill.connect")

# "mbil": a file that is some other program's SQLite database is not opened.
APPLICATION_ID = 0x6D62696C

# How long a statement waits for a lock that another program holds on the file.
BUSY_TIMEOUT_MS = 5_000

# Pages that the writer keeps in memory, in KiB; the default of 2 MiB makes large batches read their indexes again.
WRITER_CACHE_KIB = 32_768
READER_CACHE_KIB = 4_096

# What a write-ahead log that has grown, while a long read held its snapshot, is cut back to once it can begin anew.
WAL_BYTES_KEPT = 67_108_864

# Pages of the write-ahead log from which on a COMMIT folds them into the file: SQLite's own default, 4 MiB.
CHECKPOINT_PAGES = 1_000

# A process id, as a lock file has it.
_PID_BYTES = 32

# Statements kept prepared per connection: more than the project has.
CACHED_STATEMENTS = 256


class NotABook(Exception):
    """The file is there, but it is not a minibill database."""


class DatabaseLocked(Exception):
    """Another process serves this file."""


class WriterConnection(sqlite3.Connection):
    """Runs every statement on one cursor: making a cursor costs 0.6 µs a statement, a tenth of a reservation's time.

    The rows of a statement are therefore read before the next one runs.

    `remembered` is what operations remember of the book from one to the next, each feature under its own name. It is None
    until somebody has taken on to clear it whenever the book may be another than the operations left it: the writer.
    """

    remembered: dict[str, Any] | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        cursor = self.cursor()
        self.execute = cursor.execute  # type: ignore[method-assign]
        self.executemany = cursor.executemany  # type: ignore[method-assign]


def open_writer(path: Path, *, checkpoint_pages: int = CHECKPOINT_PAGES) -> sqlite3.Connection:
    """The one connection that writes: WAL, full sync, foreign keys, explicit transactions.

    With 0 `checkpoint_pages` it never folds the log into the file: another program does.
    Raises `NotABook` when the file is no database or another program's, `PermissionError` when it or its folder may not be
    written: SQLite would open it all the same, and refuse each write.
    """
    require_floor()
    _refuse_read_only(path)
    conn = _connect(path, WriterConnection)
    try:
        with damaged_schemas_told():
            _refuse_other_files(conn, path)
            conn.execute("PRAGMA journal_mode = WAL")
        conn.execute("PRAGMA synchronous = FULL")
        conn.execute("PRAGMA foreign_keys = ON")
        conn.execute("PRAGMA recursive_triggers = ON")
        conn.execute("PRAGMA trusted_schema = OFF")
        conn.execute(f"PRAGMA cache_size = -{WRITER_CACHE_KIB}")
        conn.execute(f"PRAGMA journal_size_limit = {WAL_BYTES_KEPT}")
        conn.execute(f"PRAGMA wal_autocheckpoint = {checkpoint_pages}")
    except sqlite3.DatabaseError as error:
        conn.close()
        if "not a database" in str(error):
            raise NotABook(f"{path} is not an SQLite database") from error
        raise
    except BaseException:
        conn.close()
        raise
    return conn


def open_reader(path: Path) -> sqlite3.Connection:
    """A connection that can't write and never checkpoints."""
    conn = _connect(path, sqlite3.Connection)
    conn.execute("PRAGMA query_only = 1")
    conn.execute("PRAGMA wal_autocheckpoint = 0")
    conn.execute("PRAGMA trusted_schema = OFF")
    conn.execute(f"PRAGMA cache_size = -{READER_CACHE_KIB}")
    return conn


def _refuse_read_only(path: Path) -> None:
    real = Path(os.path.realpath(path))
    # The folder is where the log comes and goes.
    for place in (real, real.parent):
        if place.exists() and not os.access(place, os.W_OK):
            raise PermissionError(errno.EACCES, "may not be written", str(place))


def _connect(path: Path, kind: type[sqlite3.Connection]) -> sqlite3.Connection:
    return sqlite3.connect(
        path,
        factory=kind,
        isolation_level=None,
        check_same_thread=False,
        timeout=BUSY_TIMEOUT_MS / 1000,
        cached_statements=CACHED_STATEMENTS,
    )


def _refuse_other_files(conn: sqlite3.Connection, path: Path) -> None:
    application_id = conn.execute("PRAGMA application_id").fetchone()[0]
    if application_id == APPLICATION_ID:
        return
    tables = conn.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if application_id != 0 or tables:
        raise NotABook(f"{path} is an SQLite database of another program; name another file with --db")


def lock_file(path: Path) -> Path:
    """The file whose lock is that of a database file, which is named by its real path."""
    return path.with_name(path.name + ".lock")


class Places:
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
