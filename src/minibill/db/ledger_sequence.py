"""The ledger's sequence: which entries an answer can have seen.

Entries are numbered in the order in which they are committed, and none is ever changed or deleted. So the number of the
newest one names a state of the whole ledger, and of two answers the one with the greater number saw all that the other saw.
"""

from collections.abc import Callable
from typing import TypeVar

from minibill.db.queries import queries
from minibill.db.sqlite import Connection

SQL = queries("sequence")

T = TypeVar("T")


class SequenceTracker:
    """How much of the ledger an answer saw: `sequence` is the newest entry whose effects it can contain; None: no look."""

    __slots__ = ("sequence",)

    def __init__(self) -> None:
        self.sequence: int | None = None

    def note(self, sequence: int) -> None:
        """One more look: what is answered after several can contain what the newest of them saw."""
        if self.sequence is None or sequence > self.sequence:
            self.sequence = sequence


def ledger_sequence(conn: Connection) -> int:
    """The number of the newest entry as this connection sees the ledger; 0 when there is none."""
    row = SQL.ledger_sequence.one(conn)
    assert row is not None
    sequence: int = row[0]
    return sequence


def in_one_snapshot(conn: Connection, operation: Callable[[Connection], T]) -> tuple[T, int]:
    """What an operation reads, and the sequence of the very state of the book that it read."""
    conn.execute("BEGIN")
    try:
        return operation(conn), ledger_sequence(conn)
    finally:
        # An error may have ended it already.
        if conn.in_transaction:
            conn.execute("COMMIT")
