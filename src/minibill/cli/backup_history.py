"""Comparison of two states of a database: their common history, and the rows that only one has."""

from collections.abc import Callable
from typing import NamedTuple

from minibill.db.queries import Query, queries
from minibill.db.sqlite import Connection

SQL = queries("lineage")


class Divergence(NamedTuple):
    """Number of rows of one state that another state lacks."""

    entries: int
    audit_rows: int


def share_history(one: Connection, other: Connection) -> bool:
    """Return true if both begin with the same audit row and the same entry, or if one of them has none yet.

    After an earlier restore, the rows that follow may differ.
    """
    pairs = (
        (SQL.audit_row_at.one(one, seq=1), SQL.audit_row_at.one(other, seq=1)),
        (SQL.first_entry.one(one), SQL.first_entry.one(other)),
    )
    return all(first is None or second is None or first == second for first, second in pairs)


def divergence(conn: Connection, *, base: Connection) -> Divergence:
    """Count the rows of `conn` that `base` lacks."""
    # An epoch skips ids, and skipped ids have no row. So compare the last row up to an id.
    entry_id = common_prefix(
        min(_number(SQL.newest_entry, conn), _number(SQL.newest_entry, base)),
        lambda number: SQL.entry_until.one(conn, id=number) == SQL.entry_until.one(base, id=number),
    )
    newest_audit_row = _number(SQL.newest_audit_row, conn)
    audit_rows = common_prefix(
        min(newest_audit_row, _number(SQL.newest_audit_row, base)),
        lambda number: SQL.audit_row_at.one(conn, seq=number) == SQL.audit_row_at.one(base, seq=number),
    )
    return Divergence(_number(SQL.count_entries_after, conn, id=entry_id), newest_audit_row - audit_rows)


def _number(query: Query, conn: Connection, **parameters: int) -> int:
    row = query.one(conn, **parameters)
    assert row is not None
    number: int = row[0]
    return number


def common_prefix(newest: int, is_equal: Callable[[int], bool]) -> int:
    """Return the last number, 0..newest, at which both states are equal.

    Binary search suffices: rows are only ever added, so two states that differ at one number differ at all later ones.
    """
    equal, different = 0, newest + 1
    while different - equal > 1:
        middle = (equal + different) // 2
        if is_equal(middle):
            equal = middle
        else:
            different = middle
    return equal
