"""Idempotency keys: the first success of a request, kept with its effect and answered again. Source: contract, section 1."""

import hashlib
from typing import NamedTuple

from minibill.clock import US_PER_SECOND, real_now_us
from minibill.db.queries import queries
from minibill.db.sqlite import sqlite3
from minibill.problems import IdempotencyKeyReused

SQL = queries("requests")

KEEP_SECONDS = 48 * 3600  # The contract promises 24 h; a weekend's retries are welcome.
PRUNE_KEYS_MAX = 1_000  # One slice: a few milliseconds.


class Key(NamedTuple):
    """A key with what it was sent with. `caller` is the kind of token and its subject."""

    caller: str
    key: str
    fingerprint: bytes


class Kept(NamedTuple):
    """An answer that was given before."""

    status: int
    body: bytes


def fingerprint(method: str, path: str, body: bytes) -> bytes:
    """What makes two requests the same: method, path and the very bytes of the body."""
    return hashlib.sha256(b"\0".join((method.encode(), path.encode(), body))).digest()


def find(conn: sqlite3.Connection, key: Key) -> Kept | None:
    """The answer of the first success; raises `IdempotencyKeyReused` when the key belongs to another request."""
    row = SQL.find_key.one(conn, caller=key.caller, key=key.key)
    if row is None:
        return None
    require_own(key, row[0])
    return Kept(row[1], row[2])


def require_own(key: Key, fingerprint: bytes) -> None:
    """Raises `IdempotencyKeyReused` when the key came with another request, which had this fingerprint."""
    if fingerprint != key.fingerprint:
        raise IdempotencyKeyReused("this key came with another path or body before; take a new key for a new request")


def keep(conn: sqlite3.Connection, key: Key, kept: Kept) -> None:
    """Keeps the answer of a success, in the transaction of its effect."""
    SQL.keep_key.run(
        conn,
        caller=key.caller,
        key=key.key,
        fingerprint=key.fingerprint,
        status=kept.status,
        body=kept.body,
        real_now_us=real_now_us(),
    )


def prune(conn: sqlite3.Connection) -> int:
    """Forgets a slice of the keys that are old enough; answers how many."""
    before_us = real_now_us() - KEEP_SECONDS * US_PER_SECOND
    return SQL.prune_keys.run(conn, before_us=before_us, count=PRUNE_KEYS_MAX).rowcount
