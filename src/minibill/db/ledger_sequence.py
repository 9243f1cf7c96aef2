"""The ledger sequence: the newest entry that a response can reflect.

Entries are numbered in the order of their commits, and none is ever changed or deleted. So the number of the newest entry
identifies a state of the whole ledger. Of two responses the one with the greater number reflects all that the other does.
"""

from collections.abc import Callable
from typing import TypeVar

from minibill.db.queries import queries
from minibill.db.sqlite import Connection

SQL = queries("sequence")

T = TypeVar("T")


class SequenceTracker:
    """The newest entry whose effects a response can contain; `sequence` is None before the first read."""

    __slots__ = ("sequence",)

    def __init__(self) -> None:
        self.sequence: int | None = None

    def note(self, sequence: int) -> None:
        """Record another read: a response after several reads can contain what the newest of them saw."""
        if self.sequence is None or sequence > self.sequence:
            self.sequence = sequence


def ledger_sequence(conn: Connection) -> int:
    """Return the number of the newest entry that this connection sees; 0 when there is none."""
    row = SQL.ledger_sequence.one(conn)
    assert row is not None
    sequence: int = row[0]
    return sequence


def in_one_snapshot(conn: Connection, operation: Callable[[Connection], T]) -> tuple[T, int]:
    """Run a read-only operation; return its result and the ledger sequence of the same snapshot."""
    conn.execute("BEGIN")
    try:
        return operation(conn), ledger_sequence(conn)
    finally:
        # An error may have ended the transaction.
        if conn.in_transaction:
            conn.execute("COMMIT")
