"""Epochs: after a restore, or a start that may have lost commits, no id is issued that a lost copy of the book has issued.

The ids of an epoch are above its base. The base follows the machine's clock and leaves room for two million ids per second.
No book issues ids that fast, so every id that any copy of the book has issued before is lower. Rows continue above the base
without gaps, so ids keep the order in which rows were created.
"""

from typing import NamedTuple

from minibill.core.clock import real_now_us
from minibill.db.queries import queries
from minibill.db.sqlite import Connection, sqlite3

SQL = queries("epochs")
CHAIN = queries("chain")

# 2026-01-01 in UTC. From there on, ids stay below 2^53 until 2165: JSON readers that use doubles keep them exact.
CLOCK_ORIGIN_US = 1_767_225_600_000_000
# Ids per millisecond, as a power of two.
CLOCK_SHIFT = 11

# Ids that are skipped where the clock is behind the ids of the book: a lost copy may have issued some of them.
SKIPPED_IDS = 1 << 32

# Tables whose rows can be deleted. SQLite counts their ids itself.
COUNTED = ("webhooks", "webhook_attempts")


class Epoch(NamedTuple):
    """An epoch: every id that is issued in it is greater than `base_id`."""

    number: int
    base_id: int


FIRST = Epoch(1, 0)


def current_epoch(conn: Connection) -> Epoch:
    """Return the epoch in which a book issues ids."""
    row = SQL.newest_epoch.one(conn)
    return FIRST if row is None else Epoch(*row)


def issued(conn: Connection) -> Epoch:
    """Return the epoch of a book with the highest id that it has issued in place of the base."""
    newest, counted = SQL.newest_ids.one(conn), SQL.newest_counted_id.one(conn)
    assert newest is not None
    assert counted is not None
    return Epoch(current_epoch(conn).number, max(*newest, *counted))


def begin_epoch(conn: sqlite3.Connection, reason: str, *, beside: Epoch = FIRST) -> Epoch:
    """Begin the next epoch in a transaction of its own, counted as a commit of the book.

    `reason` is `restored`, `loss_accepted` or `anchor_missing`. `beside` is what `issued` returned for another copy of the
    book, whose epochs and ids the new epoch comes after as well.
    """
    conn.execute("BEGIN IMMEDIATE")
    try:
        number, highest_id = map(max, issued(conn), beside)
        now_us = real_now_us()
        epoch = Epoch(number + 1, base_after(highest_id, now_us=now_us))
        newest = SQL.newest_ids.one(conn)
        assert newest is not None
        _, _, *newest_of_tables = newest
        SQL.begin_epoch.many(conn, [(epoch.base_id, epoch.number, reason, now_us, *newest_of_tables)])
        for table in COUNTED:
            SQL.forget_counted_id.run(conn, name=table)
            SQL.count_on_from.run(conn, name=table, seq=epoch.base_id)
        CHAIN.count_commit.run(conn)
        conn.execute("COMMIT")
    except BaseException:
        conn.rollback()
        raise
    return epoch


def base_after(highest_id: int, *, now_us: int) -> int:
    """Return the base of an epoch that begins now, above every id that the copies at hand have issued."""
    by_clock = max(0, now_us - CLOCK_ORIGIN_US) // 1000 << CLOCK_SHIFT
    return by_clock if by_clock > highest_id else highest_id + SKIPPED_IDS
