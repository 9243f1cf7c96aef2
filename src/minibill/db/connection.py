"""The connections of the writer and the readers to a database file."""

import errno
import logging
import os
from pathlib import Path
from typing import Any

from minibill.db.cache import OperationCache
from minibill.db.sqlite import FileConnection, decode_errors_as_database_errors, require_floor, sqlite3

log = logging.getLogger("minibill.connect")

# "mbil" in ASCII: it tells a book from the SQLite database of another program.
APPLICATION_ID = 0x6D62696C

# The longest wait of a statement for a lock that another program holds on the file.
BUSY_TIMEOUT_MS = 5_000

# The page cache of the writer, in KiB. With the default of 2 MiB large batches read their indexes again.
WRITER_CACHE_KIB = 32_768
READER_CACHE_KIB = 4_096

# The size to which SQLite truncates a write-ahead log that grew during a long read, once the log can restart.
WAL_BYTES_KEPT = 67_108_864

# The pages in the write-ahead log at which a COMMIT runs a checkpoint, 16 MiB. SQLite's default of 4 MiB costs 15 % of the
# reserves over many accounts (docs/internals/decisions/0012-checkpoint-pages.md).
CHECKPOINT_PAGES = 4_000

# Prepared statements that a connection keeps: more than there are in the project.
CACHED_STATEMENTS = 256


class NotABook(Exception):
    """The file exists, but it is not a minibill database."""


class WriterConnection(sqlite3.Connection):
    """Runs every statement on one cursor, so a statement ends the unread rows of the one before: `cursor()` keeps its own.

    A new cursor for each statement costs 5.8 % more instructions (docs/internals/decisions/0004-one-shared-cursor.md).

    `cache` is None until there is a `Writer`, which evicts it.
    """

    cache: OperationCache | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        cursor = self.cursor()
        self.execute = cursor.execute  # type: ignore[method-assign]
        self.executemany = cursor.executemany  # type: ignore[method-assign]


def open_writer(path: Path, *, checkpoint_pages: int = CHECKPOINT_PAGES) -> sqlite3.Connection:
    """Open the one connection that writes: WAL, full sync, foreign keys, explicit transactions.

    With 0 `checkpoint_pages` another program runs the checkpoints, such as Litestream.

    Raises `NotABook` when the file is no database or another program's. Raises `PermissionError` when the file or its folder
    is read-only: SQLite would open it all the same and reject each write.
    """
    require_floor()
    _refuse_read_only(path)
    conn = _connect(path, WriterConnection)
    try:
        with decode_errors_as_database_errors():
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
    """Open a connection that can't write and never runs a checkpoint."""
    conn = _connect(path, sqlite3.Connection)
    conn.execute("PRAGMA query_only = 1")
    conn.execute("PRAGMA wal_autocheckpoint = 0")
    conn.execute("PRAGMA trusted_schema = OFF")
    conn.execute(f"PRAGMA cache_size = -{READER_CACHE_KIB}")
    return conn


def open_scratch(path: Path, *, cache_kib: int) -> FileConnection:
    """Open a temporary file that no other process opens and that need not survive a crash."""
    conn = sqlite3.connect(path, isolation_level=None)
    conn.execute("PRAGMA journal_mode = OFF")
    conn.execute("PRAGMA synchronous = OFF")
    conn.execute("PRAGMA locking_mode = EXCLUSIVE")
    conn.execute(f"PRAGMA cache_size = -{cache_kib}")
    return conn


def _refuse_read_only(path: Path) -> None:
    real = Path(os.path.realpath(path))
    # SQLite creates and deletes the write-ahead log in the folder.
    for needed in (real, real.parent):
        if needed.exists() and not os.access(needed, os.W_OK):
            raise PermissionError(errno.EACCES, "may not be written", str(needed))


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
