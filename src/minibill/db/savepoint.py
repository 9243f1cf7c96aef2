"""A part of a transaction that is rolled back by itself, so that the rest of the transaction is kept."""

from collections.abc import Callable
from typing import TypeVar

from minibill.db.constraints import explain
from minibill.db.sqlite import sqlite3
from minibill.problems import Problem

T = TypeVar("T")


def in_savepoint(conn: sqlite3.Connection, operation: Callable[[sqlite3.Connection], T], *, keep: bool) -> T | Exception:
    """Run an operation; return its result, or the error with which it rejected the request, once that is rolled back.

    With `keep=False` the result is rolled back too. Any other error is raised, and is the whole transaction's.
    """
    conn.execute("SAVEPOINT operation")
    result: T | Exception
    try:
        result = operation(conn)
        is_kept = keep
    except Problem as problem:
        result, is_kept = problem.with_traceback(None), False
    except sqlite3.IntegrityError as error:
        result, is_kept = explain(error), False
    if not is_kept:
        conn.execute("ROLLBACK TO operation")
        if (remembered := getattr(conn, "remembered", None)) is not None:
            remembered.clear()
    conn.execute("RELEASE operation")
    return result
