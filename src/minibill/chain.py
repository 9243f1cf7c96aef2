"""The chain of the book: what shows that a row which never changes is not what it was when it was written.

A link is SHA-256 over the hash of the link before, the link's own number and bounds, and the rows that came since, as JSON.
Links are made a slice at a time, a short while after their rows were committed, so that no write waits for one; db/anchor.py
keeps the last of them outside the file.
"""

import hashlib
from typing import NamedTuple

import msgspec

from minibill.db.queries import queries
from minibill.db.sqlite import sqlite3

SQL = queries("chain")

NO_HASH = bytes(32)

# Rows of each table that one link covers: about half a millisecond of work.
LINK_ROWS_MAX = 500


class Bounds(NamedTuple):
    """The last row of each table that a link covers."""

    accounts: int
    lots: int
    reservations: int
    debts: int
    entries: int
    grants: int
    audit_rows: int
    events: int
    epochs: int


NOTHING = Bounds(0, 0, 0, 0, 0, 0, 0, 0, 0)

# What is hashed, and which bound it goes by.
_PARTS = tuple(
    (Bounds._fields.index(bound), query)
    for bound, query in (
        ("accounts", SQL.linked_accounts),
        ("lots", SQL.linked_lots),
        ("reservations", SQL.linked_reservations),
        ("reservations", SQL.linked_reservation_lots),
        ("debts", SQL.linked_debts),
        ("entries", SQL.linked_entries),
        ("grants", SQL.linked_grants),
        ("audit_rows", SQL.linked_audit_rows),
        ("events", SQL.linked_events),
        ("epochs", SQL.linked_epochs),
    )
)


def link(conn: sqlite3.Connection) -> bool:
    """Adds a link over rows that none covers yet, a slice of them; answers whether it did."""
    last = SQL.last_link.one(conn)
    number, before, after = (0, NO_HASH, NOTHING) if last is None else (last[0], last[1], Bounds(*last[2:]))
    found = SQL.rows_to_link.one(conn, **after._asdict(), count=LINK_ROWS_MAX)
    assert found is not None
    until = Bounds(*found)
    if until == after:
        return False
    number += 1
    own = link_hash(conn, number=number, before=before, after=after, until=until)
    SQL.append_link.run(conn, number=number, hash=own, **until._asdict())
    return True


def broken_links(conn: sqlite3.Connection) -> tuple[int, list[int]]:
    """How many links there are, and which of them are not those of their rows."""
    broken = list[int]()
    number, before, after = 0, NO_HASH, NOTHING
    links = SQL.links.all(conn)
    for found, own, *bounds in links:
        number += 1
        until = Bounds(*bounds)
        if found != number or own != link_hash(conn, number=number, before=before, after=after, until=until):
            broken.append(found)
        # Those that follow are judged by what this one says, so that only what is broken is named.
        number, before, after = found, own if isinstance(own, bytes) else NO_HASH, until
    return len(links), broken


def link_hash(conn: sqlite3.Connection, *, number: int, before: bytes, after: Bounds, until: Bounds) -> bytes:
    """The hash of a link over the rows between these bounds."""
    hashed = hashlib.sha256(before)
    hashed.update(msgspec.json.encode((number, *until)))
    for bound, query in _PARTS:
        if until[bound] == after[bound]:
            continue
        rows = query.one(conn, after=after[bound], until=until[bound])
        assert rows is not None
        # JSON has no line breaks: what belongs to which table is unmistakable.
        hashed.update(b"\n")
        hashed.update(rows[0])
    return hashed.digest()
