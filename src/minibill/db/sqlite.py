"""Which SQLite: the one module that chooses it. Everything else says `from minibill.db.sqlite import sqlite3`.

Versions before 3.51.3 can corrupt a database when the WAL is reset, and before 3.51.0 a stray open and close of the file
by the same process drops its locks. Python's own library is taken when it is new enough, else the one in `pysqlite3`.
"""

import sqlite3 as _standard
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

FLOOR = (3, 51, 3)

if TYPE_CHECKING:
    import sqlite3 as sqlite3
elif _standard.sqlite_version_info >= FLOOR:
    sqlite3 = _standard
else:
    import pysqlite3.dbapi2 as sqlite3

VERSION = sqlite3.sqlite_version

# Values that are bound as they are. For a type without an adapter the driver searches each value for methods that it never
# has, and makes and drops an error for each: 0.5 µs a NULL, a tenth of a reservation's time.
sqlite3.register_adapter(type(None), lambda null: null)
sqlite3.register_adapter(bytes, bytes)


@contextmanager
def damaged_schemas_told() -> Iterator[None]:
    """Raises `sqlite3.DatabaseError` where SQLite quotes a damaged schema, which the driver then can't decode."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise sqlite3.DatabaseError(f"the schema can't be read: {error}") from error


class SqliteTooOld(Exception):
    """No SQLite at or above the floor is installed."""


def require_floor() -> None:
    """Raises `SqliteTooOld` when the chosen library is below the floor; called before any file is opened."""
    if sqlite3.sqlite_version_info < FLOOR:
        floor = ".".join(map(str, FLOOR))
        raise SqliteTooOld(
            f"SQLite {VERSION} is below {floor}, which does not lose committed data; "
            "install a newer pysqlite3 (pip install -U pysqlite3)"
        )
