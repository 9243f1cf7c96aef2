"""How two states of a book stand to each other: whether they are of one book, and what one has that the other lacks."""

from collections.abc import Callable
from typing import NamedTuple

from minibill.db.queries import Query, queries
from minibill.db.sqlite import Connection

SQL = queries("lineage")


class Divergence(NamedTuple):
    """What a book has that another state of it lacks."""

    entries: int
    audit_rows: int


def are_one_book(one: Connection, other: Connection) -> bool:
    """Whether both begin with the same row of the audit log and the same entry; one that has none may become any other.

    They may have gone on differently, after an earlier restore.
    """
    both = (
        (SQL.audit_row_at.one(one, seq=1), SQL.audit_row_at.one(other, seq=1)),
        (SQL.first_entry.one(one), SQL.first_entry.one(other)),
    )
    return all(first is None or second is None or first == second for first, second in both)


def later(conn: Connection, *, than: Connection) -> Divergence:
    """What a book has that another state of it lacks."""
    # Of ids that an epoch skipped neither has a row: what is compared is the last row up to an id.
    entry_id = common_prefix(
        min(_number(SQL.newest_entry, conn), _number(SQL.newest_entry, than)),
        lambda number: SQL.entry_until.one(conn, id=number) == SQL.entry_until.one(than, id=number),
    )
    newest_audit_row = _number(SQL.newest_audit_row, conn)
    audit_rows = common_prefix(
        min(newest_audit_row, _number(SQL.newest_audit_row, than)),
        lambda number: SQL.audit_row_at.one(conn, seq=number) == SQL.audit_row_at.one(than, seq=number),
    )
    return Divergence(_number(SQL.count_entries_after, conn, id=entry_id), newest_audit_row - audit_rows)


def _number(query: Query, conn: Connection, **named: int) -> int:
    row = query.one(conn, **named)
    assert row is not None
    number: int = row[0]
    return number


def common_prefix(newest: int, are_alike: Callable[[int], bool]) -> int:
    """Up to which number rows are alike, by halves: rows are only added, so where two states part they stay apart."""
    alike, unlike = 0, newest + 1
    while unlike - alike > 1:
        middle = (alike + unlike) // 2
        if are_alike(middle):
            alike = middle
        else:
            unlike = middle
    return alike
