"""The hash chain: it detects rows that changed after they were written.

It covers append-only rows, the ends of reservations, which happen once, and idempotency keys until they are pruned.

A link is SHA-256 over the hash of the previous link, its own number and range, and its rows as JSON. The background job
appends links about a second after their rows were committed, so no write waits for one. db/anchor.py keeps the last hash
outside the file. See docs/concepts/integrity.md.
"""

import hashlib
from typing import NamedTuple

import msgspec

from minibill.db.queries import queries
from minibill.db.sqlite import Connection

SQL = queries("chain")

NO_HASH = bytes(32)

# Rows of each table in one link: about half a millisecond of work.
LINK_ROWS_MAX = 500


class LinkRange(NamedTuple):
    """The last row of each table that a link covers; the link before it covers all rows up to its own range."""

    accounts: int
    lots: int
    reservations: int
    charges: int
    debts: int
    entries: int
    grants: int
    audit_rows: int
    events: int
    silent_ends: int
    keys: int
    epochs: int


NOTHING = LinkRange(*[0] * 12)


class Link(NamedTuple):
    """A link of the chain: its number from 1, its hash, and its range."""

    number: int
    hash: bytes
    range: LinkRange


NO_LINK = Link(0, NO_HASH, NOTHING)

# The hashed rows of a link, each with the index of its bounds in `LinkRange`.
_PARTS = tuple(
    (LinkRange._fields.index(bound), query)
    for bound, query in (
        ("accounts", SQL.linked_accounts),
        ("lots", SQL.linked_lots),
        ("reservations", SQL.linked_reservations),
        ("reservations", SQL.linked_reservation_lots),
        ("charges", SQL.linked_charges),
        ("debts", SQL.linked_debts),
        ("entries", SQL.linked_entries),
        ("entries", SQL.reservation_ends),
        ("grants", SQL.linked_grants),
        ("audit_rows", SQL.linked_audit_rows),
        ("events", SQL.linked_events),
        ("silent_ends", SQL.linked_silent_ends),
        ("silent_ends", SQL.silent_reservation_ends),
        ("epochs", SQL.linked_epochs),
    )
)


def append_link(conn: Connection) -> bool:
    """Append a link over the oldest rows that no link covers; return false if there are none."""
    last = _last_link(conn)
    after = last.range
    found = SQL.rows_to_link.one(conn, **after._asdict(), count=LINK_ROWS_MAX)
    assert found is not None
    until = LinkRange(*found)
    if until == after:
        return False
    number = last.number + 1
    keys = keys_hash(conn, after=after, until=until)
    own = link_hash(conn, number=number, previous_hash=last.hash, after=after, until=until, keys_hash=keys)
    SQL.append_link.run(conn, number=number, hash=own, keys_hash=keys, **until._asdict())
    return True


def _last_link(conn: Connection) -> Link:
    row = SQL.last_link.one(conn)
    if row is None:
        return NO_LINK
    number, own, *bounds = row
    return Link(number, own, LinkRange(*bounds))


def broken_links(conn: Connection) -> tuple[int, list[int]]:
    """Return the number of links, and the numbers of those that do not match their rows."""
    broken = list[int]()
    number, previous_hash, after = 0, NO_HASH, NOTHING
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
            or own != link_hash(conn, number=number, previous_hash=previous_hash, after=after, until=until, keys_hash=keys)
            or (_are_keys_complete(oldest[0], after) and keys != keys_hash(conn, after=after, until=until))
        ):
            broken.append(found)
        # Check the next link against the stored hash of this one, so that only the broken link is reported.
        number, previous_hash, after = found, own if isinstance(own, bytes) else NO_HASH, until
    return count, broken


def _are_keys_complete(oldest_key: int | None, after: LinkRange) -> bool:
    """Return true if no key of a link was pruned. Pruning starts with the oldest."""
    return oldest_key is not None and oldest_key <= after.keys + 1


def keys_hash(conn: Connection, *, after: LinkRange, until: LinkRange) -> bytes:
    """Return the hash of the idempotency keys between two ranges; zeros if there are none."""
    if until.keys == after.keys:
        return NO_HASH
    rows = SQL.hashed_keys.one(conn, after=after.keys, until=until.keys)
    assert rows is not None
    return hashlib.sha256(rows[0]).digest()


def link_hash(
    conn: Connection, *, number: int, previous_hash: bytes, after: LinkRange, until: LinkRange, keys_hash: bytes
) -> bytes:
    """Return the hash of a link over the rows between two ranges."""
    hashed = hashlib.sha256(previous_hash)
    hashed.update(msgspec.json.encode((number, *until, keys_hash.hex())))
    for bound, query in _PARTS:
        if until[bound] == after[bound]:
            continue
        rows = query.one(conn, after=after[bound], until=until[bound])
        assert rows is not None
        # Encoded JSON has no line breaks, so the boundary between two tables is unambiguous.
        hashed.update(b"\n")
        hashed.update(rows[0])
    return hashed.digest()
