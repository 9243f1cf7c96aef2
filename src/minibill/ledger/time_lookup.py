"""Find the position of a time among an account's entries, in each of its pools.

The entries of a pool are numbered 1, 2, 3 ... without gaps. Their ids increase and their times never decrease, so number,
id and (time, id) give the same order. The entries before a position are therefore the first N of a pool, and a binary
search by number finds N: 20 point lookups among a million entries, without an index on the time.

The search is one statement. A thread that runs several waits for the interpreter's lock after each.
"""

from typing import NamedTuple

from minibill.db.queries import queries
from minibill.db.sqlite import Connection

SQL = queries("ledger")

# An id below every entry's.
_BEFORE_ALL = 0


class EntryPosition(NamedTuple):
    """A position in the order of the ledger: right before the entry with this time and id, if there is one."""

    at_us: int
    entry_id: int


def position_at(at_us: int) -> EntryPosition:
    """Return the position before all entries of this time or later."""
    return EntryPosition(at_us, _BEFORE_ALL)


def entries_before(
    conn: Connection, position: EntryPosition, *, account_id: int, pool_id: str | None = None
) -> list[tuple[str, int]]:
    """Return (pool, number of its entries before the position) for each pool of an account, or for one pool.

    The number is also the sequence number of the last of these entries.
    """
    return SQL.entries_before.all(
        conn, account_id=account_id, pool_id=pool_id, before_us=position.at_us, before_id=position.entry_id
    )
