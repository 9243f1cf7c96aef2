"""How two states of a book stand to each other: whether they are of one book, and what one has that the other lacks."""

from collections.abc import Callable
from typing import NamedTuple

from minibill.book import rows_in_all
from minibill.db.queries import queries
from minibill.db.sqlite import sqlite3

SQL = queries("lineage")


class Later(NamedTuple):
    """What a book has that another state of it lacks."""

    entries: int
    audit_rows: int


def are_one_book(one: sqlite3.Connection, other: sqlite3.Connection) -> bool:
    """Whether both begin with the same row of the audit log and the same entry; one that has none may become any other.

    They may have gone on differently, after an earlier restore.
    """
    both = (
        (SQL.audit_row_at.one(one, seq=1), SQL.audit_row_at.one(other, seq=1)),
        (SQL.entry_at.one(one, id=1), SQL.entry_at.one(other, id=1)),
    )
    return all(first is None or second is None or first == second for first, second in both)


def later(conn: sqlite3.Connection, *, than: sqlite3.Connection) -> Later:
    """What a book has that another state of it lacks."""
    rows, other_rows = rows_in_all(conn), rows_in_all(than)
    entries = _alike(
        min(rows["entries"], other_rows["entries"]),
        lambda number: SQL.entry_at.one(conn, id=number) == SQL.entry_at.one(than, id=number),
    )
    audit_rows = _alike(
        min(rows["audit"], other_rows["audit"]),
        lambda number: SQL.audit_row_at.one(conn, seq=number) == SQL.audit_row_at.one(than, seq=number),
    )
    return Later(rows["entries"] - entries, rows["audit"] - audit_rows)


def _alike(count: int, are_alike: Callable[[int], bool]) -> int:
    """How many of the first rows are alike, by halves: rows are only added, so where two states part they stay apart."""
    alike, unlike = 0, count + 1
    while unlike - alike > 1:
        middle = (alike + unlike) // 2
        if are_alike(middle):
            alike = middle
        else:
            unlike = middle
    return alike
