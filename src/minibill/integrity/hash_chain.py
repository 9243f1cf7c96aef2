"""The chain of the book: it shows that a row is not what it was when it was written.

It covers rows that never change, the ends of reservations, which happen once, and idempotency keys until they are pruned.

A link is SHA-256 over the hash of the link before, the link's own number and bounds, and the rows that came since, as JSON.
Links are made a slice at a time, a short while after their rows were committed, so that no write waits for one; db/anchor.py
keeps the last of them outside the file.
"""

import hashlib
from typing import NamedTuple

import msgspec

from minibill.db.queries import queries
from minibill.db.sqlite import Connection

SQL = queries("chain")

NO_HASH = bytes(32)

# Rows of each table that one link covers: about half a millisecond of work.
LINK_ROWS_MAX = 500


class LinkRange(NamedTuple):
    """The last row of each table that a link covers."""

    accounts: int
    lots: int
    reservations: int
    debts: int
    entries: int
    grants: int
    audit_rows: int
    events: int
    silent_ends: int
    keys: int
    epochs: int


NOTHING = LinkRange(*[0] * 11)

# What is hashed, and which bound it goes by.
_PARTS = tuple(
    (LinkRange._fields.index(bound), query)
    for bound, query in (
        ("accounts", SQL.linked_accounts),
        ("lots", SQL.linked_lots),
        ("reservations", SQL.linked_reservations),
        ("reservations", SQL.linked_reservation_lots),
        ("debts", SQL.linked_debts),
        ("entries", SQL.linked_entries),
        ("entries", SQL.ends_of_entries),
        ("grants", SQL.linked_grants),
        ("audit_rows", SQL.linked_audit_rows),
        ("events", SQL.linked_events),
        ("silent_ends", SQL.linked_silent_ends),
        ("silent_ends", SQL.ends_noted),
        ("epochs", SQL.linked_epochs),
    )
)


def append_link(conn: Connection) -> bool:
    """Adds a link over rows that none covers yet, a slice of them; answers whether it did."""
    last = SQL.last_link.one(conn)
    number, before, after = (0, NO_HASH, NOTHING) if last is None else (last[0], last[1], LinkRange(*last[2:]))
    found = SQL.rows_to_link.one(conn, **after._asdict(), count=LINK_ROWS_MAX)
    assert found is not None
    until = LinkRange(*found)
    if until == after:
        return False
    number += 1
    keys = keys_hash(conn, after=after, until=until)
    own = link_hash(conn, number=number, before=before, after=after, until=until, keys_hash=keys)
    SQL.append_link.run(conn, number=number, hash=own, keys_hash=keys, **until._asdict())
    return True


def broken_links(conn: Connection) -> tuple[int, list[int]]:
    """How many links there are, and which of them are not those of their rows."""
    broken = list[int]()
    number, before, after = 0, NO_HASH, NOTHING
    oldest = SQL.oldest_key.one(conn)
    assert oldest is not None
    count = 0
    for found, own, keys, *bounds in conn.cursor().execute(SQL.links.sql):
        count += 1
        number += 1
        until = LinkRange(*bounds)
        if (
            found != number
            or not isinstance(keys, bytes)
            or own != link_hash(conn, number=number, before=before, after=after, until=until, keys_hash=keys)
            or (_are_all_kept(oldest[0], after) and keys != keys_hash(conn, after=after, until=until))
        ):
            broken.append(found)
        # Those that follow are judged by what this one says, so that only what is broken is named.
        number, before, after = found, own if isinstance(own, bytes) else NO_HASH, until
    return count, broken


def _are_all_kept(oldest_key: int | None, after: LinkRange) -> bool:
    """Tells whether no key of a link was pruned: the oldest go first."""
    return oldest_key is not None and oldest_key <= after.keys + 1


def keys_hash(conn: Connection, *, after: LinkRange, until: LinkRange) -> bytes:
    """The hash of the idempotency keys between these bounds; zeros for none."""
    if until.keys == after.keys:
        return NO_HASH
    rows = SQL.keys_to_hash.one(conn, after=after.keys, until=until.keys)
    assert rows is not None
    return hashlib.sha256(rows[0]).digest()


def link_hash(
    conn: Connection, *, number: int, before: bytes, after: LinkRange, until: LinkRange, keys_hash: bytes
) -> bytes:
    """The hash of a link over the rows between these bounds."""
    hashed = hashlib.sha256(before)
    hashed.update(msgspec.json.encode((number, *until, keys_hash.hex())))
    for bound, query in _PARTS:
        if until[bound] == after[bound]:
            continue
        rows = query.one(conn, after=after[bound], until=until[bound])
        assert rows is not None
        # JSON has no line breaks: what belongs to which table is unmistakable.
        hashed.update(b"\n")
        hashed.update(rows[0])
    return hashed.digest()
