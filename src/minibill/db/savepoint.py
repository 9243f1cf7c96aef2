"""A savepoint: a part of a transaction that can be rolled back without the rest."""

from collections.abc import Callable
from typing import TypeVar

from minibill.db.cache import cache_of
from minibill.db.constraint_errors import problem_from_sqlite_error
from minibill.db.sqlite import Connection, sqlite3

T = TypeVar("T")


def in_savepoint(
    conn: Connection,
    operation: Callable[[Connection], T],
    *,
    keep: bool,
    rejections: tuple[type[Exception], ...],
) -> T | Exception:
    """Run an operation; return its result, or its rejection once what it wrote is rolled back.

    With `keep=False` the writes of a successful operation are rolled back too. A violated constraint is a rejection. Any
    other error is raised and fails the whole transaction.
    """
    conn.execute("SAVEPOINT operation")
    result: T | Exception
    try:
        result = operation(conn)
        is_kept = keep
    except rejections as rejection:
        result, is_kept = rejection.with_traceback(None), False
    except sqlite3.IntegrityError as error:
        result, is_kept = problem_from_sqlite_error(error), False
    if not is_kept:
        conn.execute("ROLLBACK TO operation")
        if (cache := cache_of(conn)) is not None:
            cache.clear()
    conn.execute("RELEASE operation")
    return result
