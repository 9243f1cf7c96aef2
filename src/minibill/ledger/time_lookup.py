"""Where a moment lies among an account's entries: in each of its pools, between which two of them.

A pool's entries are numbered 1, 2, 3 … without gap, ids are given in the order of the inserts, and times do not decrease: by
number, by id and by (time, id) they are in one order. So those before a place in that order are the first ones of the pool,
and the place is found by halving: twenty look-ups by number among a million entries, and no index by time. All of it is one
statement, because each one more is a time at which the thread waits for the interpreter's lock.
"""

from typing import NamedTuple

from minibill.db.queries import queries
from minibill.db.sqlite import Connection

SQL = queries("ledger")

# An id below every entry's.
_BEFORE_ALL = 0


class EntryPosition(NamedTuple):
    """A place in the order of the ledger, before the entry of this time and id if there is one."""

    at_us: int
    entry_id: int


def position_at(at_us: int) -> EntryPosition:
    """The place before everything that happened at this time or later."""
    return EntryPosition(at_us, _BEFORE_ALL)


def entries_before(
    conn: Connection, place: EntryPosition, *, account_id: int, pool_id: str | None = None
) -> list[tuple[str, int]]:
    """Each pool of an account with how many of its entries come before a place; of one pool when one is named.

    The count is also the number of the last of them.
    """
    return SQL.entries_before.all(
        conn, account_id=account_id, pool_id=pool_id, before_us=place.at_us, before_id=place.entry_id
    )
