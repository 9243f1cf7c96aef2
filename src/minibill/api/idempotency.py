"""Idempotency keys: the first success of a request is stored with its effect, and sent again to every retry."""

import hashlib
import re
from typing import Any

import msgspec

from minibill.core.clock import US_PER_SECOND
from minibill.core.problems import IdempotencyKeyReused, InvalidIdempotencyKey
from minibill.db.queries import queries
from minibill.db.sqlite import Connection

SQL = queries("requests")

# Clients may rely on 24 h; twice that is kind to retries after a long outage.
KEEP_SECONDS = 48 * 3600
# Keys that one step of a slice deletes, and rows that are read at a time.
PRUNE_KEYS_MAX = 100

KEY_CHARACTERS_MAX = 255
_KEY = re.compile(rb"[\x21-\x7e]{1,255}")


class Key(msgspec.Struct, frozen=True, gc=False):
    """A key and the fingerprint of the request that it came with. `caller` is the kind of token and its subject."""

    caller: str
    key: str
    fingerprint: bytes


class StoredResponse(msgspec.Struct, frozen=True, gc=False):
    """The response of a write as JSON bytes; `replayed` if an earlier request of the same key got it first."""

    status: int
    body: bytes
    replayed: bool = False


def checked_key(key: bytes | None) -> str:
    """Return a key as text. Raises `InvalidIdempotencyKey`, also for None, which stands for a repeated header."""
    if key is None or not _KEY.fullmatch(key):
        raise InvalidIdempotencyKey(f"expected one key of 1 to {KEY_CHARACTERS_MAX} visible ASCII characters")
    return key.decode()


def fingerprint(method: str, path: bytes, query: bytes, body: bytes) -> bytes:
    """Return a hash over the method, path, query and body of a request, byte for byte as sent.

    `dryRun` is left out: a dry run with a stored key shows the response that the same request would get.
    """
    if b"dryRun=" in query:
        query = b"&".join(pair for pair in query.split(b"&") if not pair.startswith(b"dryRun="))
    return hashlib.sha256(b"\0".join((method.encode(), path, query, body))).digest()


def find_response(conn: Connection, key: Key) -> StoredResponse | None:
    """Return the response of the first success. Raises `IdempotencyKeyReused` if the key came with another request."""
    row = SQL.find_key.one(conn, caller=key.caller, key=key.key)
    if row is None:
        return None
    require_own(key, row[0])
    return StoredResponse(row[1], row[2], replayed=True)


def require_own(key: Key, fingerprint: bytes) -> None:
    """Raise `IdempotencyKeyReused` if the key belongs to a request with another fingerprint than its own."""
    if fingerprint != key.fingerprint:
        raise IdempotencyKeyReused("this key came with another path, query or body before; take a new key for a new request")


def store_response(conn: Connection, key: Key, response: StoredResponse, *, uptime_us: int) -> None:
    """Store the response of a success, in the transaction of its effect. `uptime_us` is the service uptime."""
    SQL.store_response.run(
        conn,
        caller=key.caller,
        key=key.key,
        fingerprint=key.fingerprint,
        status=response.status,
        body=response.body,
        uptime_us=uptime_us,
        checksum=_checksum(key.caller, key.key, key.fingerprint, response.status, response.body, uptime_us),
    )


def damaged_responses(conn: Connection) -> tuple[int, list[int]]:
    """Return the number of stored keys, and the row ids of those whose row does not match its checksum."""
    count, found = 0, list[int]()
    cursor = SQL.stored_responses.run(conn)
    while rows := cursor.fetchmany(PRUNE_KEYS_MAX):
        count += len(rows)
        found += [key_id for key_id, *kept, checksum in rows if not _is_whole(kept, checksum)]
    return count, found


def _is_whole(kept: list[Any], checksum: object) -> bool:
    try:
        return _checksum(*kept) == checksum
    except (TypeError, AttributeError):
        # A column has another type than `store_response` writes.
        return False


def _checksum(caller: str, key: str, fingerprint: bytes, status: int, body: bytes, created_at_us: int) -> int:
    """Return the first 63 bits of SHA-256 over a row. The hash chain covers the checksum, and so the row."""
    head = b"%d %d %s\0%s\0%s" % (status, created_at_us, caller.encode(), key.encode(), fingerprint)
    return int.from_bytes(hashlib.sha256(head + body).digest()[:8]) >> 1


def prune(conn: Connection, *, uptime_us: int) -> int:
    """Delete up to `PRUNE_KEYS_MAX` keys that are older than `KEEP_SECONDS` of service uptime; return their number."""
    before_us = uptime_us - KEEP_SECONDS * US_PER_SECOND
    return SQL.prune_keys.run(conn, before_us=before_us, count=PRUNE_KEYS_MAX).rowcount
