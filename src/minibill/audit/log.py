"""The audit log: one row for each write of an admin, chained by hashes.

The hash of a row is SHA-256 over the hash of the previous row and the row's columns as a JSON array, in the order of
`HASHED`.
"""

import hashlib

import msgspec

from minibill.core.write_result import Origin, WriteResult
from minibill.db.new_ids import next_ids
from minibill.db.queries import queries
from minibill.db.sqlite import Connection

SQL = queries("audit")

HASHED = (
    "seq", "id", "actor_id", "action", "target_type", "target_id", "details", "ip", "user_agent", "correlation_id",
    "token_id", "created_at_us",
)  # fmt: skip

NO_HASH = bytes(32)


def append(conn: Connection, result: WriteResult, *, actor_id: str, origin: Origin, now_us: int) -> None:
    """Append the row of an admin's write. Call it in the transaction of the write itself."""
    last = SQL.last_audit_row.one(conn)
    last_seq, previous_hash = (0, NO_HASH) if last is None else last
    seq = last_seq + 1
    details = msgspec.json.encode(result.details()).decode()
    new = next_ids(conn)
    key = new.audit_rows
    new.audit_rows += 1
    row = (
        seq, key, actor_id, result.action, result.target_type, result.target_id, details, origin.ip, origin.user_agent,
        origin.correlation_id, origin.token_id, now_us,
    )  # fmt: skip
    SQL.append_audit_row.many(conn, [(*row, previous_hash, row_hash(row, previous_hash))])


def row_hash(row: tuple[object, ...], previous_hash: bytes) -> bytes:
    """Return the hash of a row with the columns of `HASHED`."""
    return hashlib.sha256(previous_hash + msgspec.json.encode(row)).digest()
