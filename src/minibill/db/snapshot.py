"""Snapshots: read-only connections that see a database file as it was at one moment.

Another process may serve the file. It does not wait for a snapshot, but its write-ahead log grows as long as one is open.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from minibill.db.anchor import anchor_file
from minibill.db.connection import APPLICATION_ID, BUSY_TIMEOUT_MS, NotABook
from minibill.db.files import open_to_read, require_regular
from minibill.db.migrations import require_current
from minibill.db.sqlite import decode_errors_as_database_errors, require_floor, sqlite3

# The page cache of a snapshot, in KiB. A larger one made a reconciliation no faster, since the system caches pages too.
CACHE_KIB = 8_192

# The part of a file in which the schema of a book is, since the schema was written first.
_BEGINNING_BYTES = 262_144


class SnapshotInvalidated(Exception):
    """Another process opened the file while it was read as a file that no process has open; read it again."""


class _State(NamedTuple):
    """The state of a file that changes whenever it is written."""

    inode: int
    bytes: int
    changed_ns: int
    has_log: bool


@contextmanager
def open_snapshot(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a read-only connection inside a transaction, so that all its reads see the same moment.

    Raises `FileNotFoundError`, `NotABook`, and `MigrationRefused` when the schema is not that of this version. Raises
    `SnapshotInvalidated` at the end when the reads may not have seen one moment.
    """
    require_floor()
    real = Path(os.path.realpath(path))
    # SQLite would block on a pipe. An open and close here would drop the locks of a book that this process serves.
    require_regular(real)
    before = _state_of(real)
    # Even a read-only connection creates a log and its index, and leaves them behind. A file without a log is not open in
    # any process, so it can be read as immutable.
    options = "mode=ro" if before.has_log else "mode=ro&immutable=1"
    conn = sqlite3.connect(
        f"{real.as_uri()}?{options}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=BUSY_TIMEOUT_MS / 1000,
    )
    try:
        with decode_errors_as_database_errors():
            _require_book(conn, path)
            conn.execute("PRAGMA trusted_schema = OFF")
            conn.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
            conn.execute("BEGIN")
            require_current(conn)
        yield conn
    finally:
        conn.close()
    if not before.has_log and _state_of(real) != before:
        raise SnapshotInvalidated(f"{path} was opened by another process")


def was_a_book(path: Path) -> bool:
    """Return true if a file that can't be opened as a book seems to be a damaged book."""
    if anchor_file(path).exists():
        return True
    with os.fdopen(open_to_read(Path(os.path.realpath(path))), "rb") as file:
        beginning = file.read(_BEGINNING_BYTES)
    return beginning[68:72] == APPLICATION_ID.to_bytes(4, "big") or b"credit_ledger" in beginning


def _state_of(path: Path) -> _State:
    stat = path.stat()
    has_log = any(path.with_name(path.name + suffix).exists() for suffix in ("-wal", "-shm", "-journal"))
    return _State(stat.st_ino, stat.st_size, stat.st_mtime_ns, has_log)


def _require_book(conn: sqlite3.Connection, path: Path) -> None:
    try:
        application_id = conn.execute("PRAGMA application_id").fetchone()[0]
        conn.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    except sqlite3.DatabaseError as error:
        if "not a database" in str(error):
            raise NotABook(f"{path} is not an SQLite database") from error
        raise
    if application_id != APPLICATION_ID:
        raise NotABook(f"{path} is not a minibill database; `minibill migrate` makes one")
