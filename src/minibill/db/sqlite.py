"""The choice of the SQLite library, and the types that code outside of `db/` uses instead of the driver's.

Versions before 3.51.3 can corrupt a database when the write-ahead log restarts. Before 3.51.0 an open and close of the file
by the same process drops its locks. Python's own library is used if it is new enough, otherwise that of `pysqlite3`.
"""

import ctypes
import sqlite3 as _standard
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

FLOOR = (3, 51, 3)

if TYPE_CHECKING:
    import sqlite3 as sqlite3
elif _standard.sqlite_version_info >= FLOOR:
    sqlite3 = _standard
else:
    import pysqlite3.dbapi2 as sqlite3

VERSION = sqlite3.sqlite_version


# Names for code outside `db/`, which does not name the driver.
DatabaseError = sqlite3.DatabaseError
OperationalError = sqlite3.OperationalError
ProgrammingError = sqlite3.ProgrammingError

Parameters = Sequence[Any] | Mapping[str, Any]


class Cursor(Protocol):
    """The rows of a statement, or the effect of one that returns none."""

    @property
    def rowcount(self) -> int: ...
    @property
    def lastrowid(self) -> int | None: ...
    def execute(self, sql: str, parameters: Parameters = ..., /) -> "Cursor": ...
    def fetchone(self) -> Any: ...
    def fetchmany(self, size: int, /) -> list[Any]: ...
    def fetchall(self) -> list[Any]: ...
    def __iter__(self) -> Iterator[Any]: ...
    def close(self) -> None: ...


class Connection(Protocol):
    """A connection as operations use it."""

    @property
    def in_transaction(self) -> bool: ...
    @property
    def total_changes(self) -> int: ...
    def execute(self, sql: str, parameters: Parameters = ..., /) -> Cursor: ...
    def executemany(self, sql: str, rows: Iterable[Parameters], /) -> Cursor: ...
    def cursor(self) -> Cursor: ...
    def create_function(
        self, name: str, narg: int, func: Callable[..., Any] | None, /, *, deterministic: bool = ...
    ) -> None: ...


class FileConnection(Connection, Protocol):
    """A connection to a file of one's own, or to a snapshot of the book."""

    def executescript(self, sql: str, /) -> Cursor: ...
    def set_progress_handler(self, handler: Callable[[], int | None] | None, n: int) -> None: ...
    def close(self) -> None: ...


# Values that are bound as they are. For a type without an adapter the driver looks for methods on each value, and creates
# and drops an exception: 5.3 % of a reserve and finalize (docs/internals/decisions/0006-adapters.md).
sqlite3.register_adapter(type(None), lambda null: null)
sqlite3.register_adapter(bytes, bytes)


# Options of sqlite3_config, and the lookaside memory of each connection: 200 slots of 1,200 bytes.
_MULTITHREAD, _MEMSTATUS, _LOOKASIDE = 2, 9, 13
_LOOKASIDE_BYTES, _LOOKASIDE_PIECES = 1_200, 200


def configure_sqlite() -> bool:
    """Turn off SQLite's mutexes and memory statistics, and give it more lookaside memory; return false if it can't.

    Saves 11.6 % of a reserve and finalize (docs/internals/decisions/0007-configure-sqlite.md). It applies to the whole
    process. So the process must use each connection from one thread at a time, and must not have opened a database yet.
    """
    # ctypes calls a variadic function like any other, which is right on Linux and not everywhere.
    if sys.platform != "linux":
        return False
    try:
        library = ctypes.CDLL(sys.modules[sqlite3.connect.__module__].__file__)
        if library.sqlite3_shutdown() != 0:
            return False
        done = [
            library.sqlite3_config(_MULTITHREAD),
            library.sqlite3_config(_MEMSTATUS, 0),
            library.sqlite3_config(_LOOKASIDE, _LOOKASIDE_BYTES, _LOOKASIDE_PIECES),
        ]
        return library.sqlite3_initialize() == 0 and not any(done)
    except (AttributeError, KeyError, OSError):
        # The driver is built into the program, or does not export the functions of SQLite.
        return False


@contextmanager
def decode_errors_as_database_errors() -> Iterator[None]:
    """Raise `DatabaseError` instead of the `UnicodeDecodeError` of an SQLite message that quotes a damaged schema."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise sqlite3.DatabaseError(f"the schema can't be read: {error}") from error


class SqliteTooOld(Exception):
    """The installed SQLite is older than the minimum version."""


def require_floor() -> None:
    """Raise `SqliteTooOld` when the SQLite library is older than `FLOOR`; called before any file is opened."""
    if sqlite3.sqlite_version_info < FLOOR:
        floor = ".".join(map(str, FLOOR))
        raise SqliteTooOld(
            f"SQLite {VERSION} is below {floor}, which does not lose committed data; "
            "install a newer pysqlite3 (pip install -U pysqlite3)"
        )
