"""The hash chain: it covers all columns of append-only rows, and detects later changes."""

import re
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from minibill.api import idempotency
from minibill.api.idempotency import damaged_responses
from minibill.db.connection import open_reader, open_writer
from minibill.db.queries import queries
from minibill.db.sqlite import sqlite3
from minibill.integrity import hash_chain
from minibill.integrity.hash_chain import LINK_ROWS_MAX, LinkRange, append_link, broken_links
from tests.api_client import Api
from tests.sql.book import make_book

# Columns in neither the hash chain nor an index: a check recomputes them, or compares them as the comment says.
RECOMPUTED = {
    "credit_lots": {
        "available_micro", "reserved_micro", "consumed_micro", "expired_micro", "revoked_micro",
        "revoked_at_us",  # that of its grant
    },
    "credit_reservations": {
        # In the hash chain once it has ended.
        "status", "actual_cost_micro", "finalized_micro", "overrun_micro", "absorbed_micro", "released_micro",
        "closed_at_us", "closed_by",
    },
    # Compared with its audit row: forgiven_debts_match_the_audit_log.
    "credit_debts": {"paid_micro", "forgiven_lot_id"},
    "credit_balances": {"available_micro", "reserved_micro", "entry_seq", "account_id", "pool_id"},
    "credit_campaigns": {"spent_micro", "grant_count"},
    "credit_campaign_totals": {
        "campaign_id", "granted_micro", "reserved_micro", "expired_micro", "spending_accounts", "grants_revoked",
        "revoked_micro", "revoked_consumed_micro", "revoked_reserved_micro",
    },
    "credit_campaign_days": {"campaign_id", "day", "grants", "granted_micro", "consumed_micro"},
    # Recomputed from its campaign's totals and its lot's time.
    "credit_grants": {"revoked_at_us", "revoked_micro", "revoked_consumed_micro", "revoked_reserved_micro"},
    # Covered by the hashes of the audit log: audit_chain.
    "admin_audit_log": {
        "id", "details", "ip", "user_agent", "correlation_id", "token_id", "previous_hash", "target_type", "action",
        "actor_id", "target_id", "created_at_us",
    },
    # A copy of the newest audit row.
    "reconciliations": {"id", "audit_seq", "audit_hash"},
    # The progress of deliveries and the last attempts: state of the receivers, not of the book.
    "webhooks": {"entry_id", "event_id", "failing_since_us"},
    "webhook_accepted": {"webhook_id", "entry_id", "event_id"},
    "webhook_replays": {"webhook_id", "entry_id", "event_id"},
    "webhook_set_aside": {"webhook_id", "line_key", "entry_id", "event_id"},
    "webhook_attempts": {
        "webhook_id", "entry_id", "event_id", "attempt", "outcome", "status", "error", "duration_us", "attempted_at_us",
    },
    # The highest webhook id so far, kept by SQLite.
    "sqlite_sequence": {"name", "seq"},
    # The links are recomputed, and the head stores its count twice.
    "book_chain": {"number", *LinkRange._fields, "keys_hash", "hash"},
    "book_head": {"id", "commits", "negated_commits"},
    # Covered by the checksum (stored_responses), which is in the hash chain.
    "idempotency_keys": {"fingerprint", "status", "body", "created_at_us", "checksum"},
    # Properties of the file; every start compares version and checksum.
    "schema_migrations": {"version", "name", "checksum", "applied_at_us"},
}  # fmt: skip


@pytest.fixture
def conn(migrated_file: Path, tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """Return the small book of tests/sql, restored once, with one link over all rows and without triggers."""
    path = make_book(migrated_file, tmp_path)
    with closing(open_writer(path)) as conn:
        conn.execute("INSERT INTO book_epochs VALUES (1000, 2, 'restored', 2000, 4, 9, 6, 4, 2, 26, 8, 2, 61)")
        assert append_link(conn) and not append_link(conn)
        assert broken_links(conn) == (1, [])
        conn.execute("PRAGMA ignore_check_constraints = ON")
        conn.execute("PRAGMA foreign_keys = OFF")
        for (name,) in conn.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
            conn.execute(f"DROP TRIGGER {name}")
        yield conn


def linked() -> dict[str, set[str]]:
    """Return the columns that the hash chain covers, by table."""
    found = {}
    for query in queries("chain"):
        if query.name.startswith("linked_"):
            read = re.search(r"json_array\((.*?)\)\)\s+AS.*?FROM (\w+)", query.sql, re.DOTALL)
            assert read is not None
            found[read[2]] = set(re.findall(r"[a-z_]+", read[1])) - {"hex"}
    return found


def indexed(conn: sqlite3.Connection, table: str) -> set[str]:
    """Return the columns that SQLite's integrity check compares with an index over all rows."""
    indexes = conn.execute(f"SELECT name, partial FROM pragma_index_list('{table}') WHERE origin = 'c'").fetchall()
    return {
        column
        for name, is_partial in indexes
        if not is_partial or name.endswith("_integrity_copy")
        for (column,) in conn.execute(f"SELECT name FROM pragma_index_xinfo('{name}') WHERE name IS NOT NULL").fetchall()
    }


def test_every_column_is_chained_copied_or_recomputed(conn: sqlite3.Connection) -> None:
    tables = [name for (name,) in conn.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()]
    bare = {}
    for table in tables:
        columns = conn.execute(f"SELECT name, pk, type FROM pragma_table_info('{table}')").fetchall()
        # A rowid key is in every index of its table.
        keys = {name for name, is_key, kind in columns if is_key and kind == "INTEGER" and indexed(conn, table)}
        known = linked().get(table, set()) | indexed(conn, table) | keys | RECOMPUTED.get(table, set())
        if missing := {name for name, *_ in columns} - known:
            bare[table] = missing
    assert bare == {}
    assert linked().keys() | RECOMPUTED.keys() <= set(tables)


def test_append_only_columns_are_in_the_hash_chain(conn: sqlite3.Connection, migrated_file: Path) -> None:
    with closing(open_reader(migrated_file)) as whole:
        fixed = dict(whole.execute("SELECT tbl_name, sql FROM sqlite_schema WHERE name LIKE '%_terms_are_fixed'").fetchall())
    for table, sql in fixed.items():
        named = re.search(r"UPDATE OF (.*?)\s+ON", sql, re.DOTALL)
        assert named is not None
        assert set(re.findall(r"\w+", named[1])) == linked()[table]
    for table in ("credit_accounts", "credit_charges", "credit_ledger", "reservation_lots"):
        assert linked()[table] == {name for (name,) in conn.execute(f"SELECT name FROM pragma_table_info('{table}')")}


@pytest.mark.parametrize(
    ("table", "column"), [(table, column) for table, columns in linked().items() for column in sorted(columns)]
)
def test_a_change_of_any_chained_column_breaks_the_hash_chain(conn: sqlite3.Connection, table: str, column: str) -> None:
    key = conn.execute(f"SELECT max({column}) FROM {table}").fetchone()[0]
    other = key + 1 if isinstance(key, int) else b"\1" * 32 if isinstance(key, bytes) else "another"
    if column in ("expires_at_us", "max_discount_micro", "source_id", "reservation_id", "lot_id", "campaign_id"):
        other = 7
    where = f"{column} IS {key!r}" if isinstance(key, int) else "TRUE"
    assert conn.execute(f"UPDATE OR REPLACE {table} SET {column} = ? WHERE {where}", (other,)).rowcount > 0
    assert broken_links(conn) == (1, [1])


@pytest.mark.parametrize("table", linked())
def test_a_deleted_row_breaks_the_hash_chain(conn: sqlite3.Connection, table: str) -> None:
    conn.execute(f"DELETE FROM {table}{'' if table in ('reservation_lots', 'book_epochs') else ' WHERE rowid = 1'}")
    assert broken_links(conn) == (1, [1])


def test_a_link_depends_on_the_previous_link(conn: sqlite3.Connection) -> None:
    conn.execute("INSERT INTO credit_accounts VALUES (5, 'person', 'eve', 1210)")
    assert append_link(conn) and broken_links(conn) == (2, [])
    # A hash chain that is recomputed from a changed row on has another last hash.
    conn.execute("UPDATE credit_accounts SET entity_id = 'ida' WHERE id = 1")
    assert broken_links(conn) == (2, [1])
    before, *_ = conn.execute("SELECT hash FROM book_chain WHERE number = 2").fetchone()
    conn.execute("DELETE FROM book_chain")
    assert append_link(conn) and broken_links(conn) == (1, [])
    one = LinkRange(*conn.execute(f"SELECT {', '.join(LinkRange._fields)} FROM book_chain").fetchone())
    hashes = {
        hash_chain.link_hash(conn, number=2, previous_hash=first, after=one, until=one, keys_hash=bytes(32))
        for first in (before, bytes(32), b"\1" * 32)
    }
    assert len(hashes) == 3


@pytest.mark.parametrize("column", ["number", *LinkRange._fields, "keys_hash", "hash"])
def test_a_changed_link_is_reported(conn: sqlite3.Connection, column: str) -> None:
    changed = "randomblob(32)" if column.endswith("hash") else f"{column} + 1"
    conn.execute(f"UPDATE book_chain SET {column} = {changed}")
    checked, broken = broken_links(conn)
    assert checked == 1 and len(broken) == 1


def test_a_link_without_a_valid_hash_is_reported(conn: sqlite3.Connection) -> None:
    conn.execute("INSERT INTO credit_accounts VALUES (5, 'person', 'eve', 1210)")
    assert append_link(conn)
    # Only a damaged file holds text where a STRICT table has bytes.
    conn.execute("ALTER TABLE book_chain RENAME TO strict_chain")
    conn.execute("CREATE TABLE book_chain AS SELECT * FROM strict_chain")
    conn.execute("UPDATE book_chain SET hash = 'text' WHERE number = 1")
    assert broken_links(conn) == (2, [1, 2])


def test_the_hashed_form_of_rows_is_fixed(conn: sqlite3.Connection) -> None:
    # If a later SQLite encoded JSON differently, existing databases would fail verify.
    text = 'x\0\x01\t"\\/\x7fé\u2028\U0001f600'
    conn.execute("INSERT INTO credit_accounts VALUES (5, 'person', ?, 9223372036854775807)", (text,))
    hashed = queries("chain").linked_accounts.one(conn, after=3, until=5)
    assert hashed is not None
    escaped = '"x\\u0000\\u0001\\t\\"\\\\/\x7fé\u2028\U0001f600"'
    assert hashed[0].decode() == f'[[4,"agent","meter",130],[5,"person",{escaped},9223372036854775807]]'
    found = conn.execute("SELECT hash FROM book_chain").fetchone()[0].hex()
    assert found == "35b6176d8df6b380ce30d13f8d55add1a6e22192fa8f406842b8318efb15f191"


ENDS = ("actual_cost_micro", "finalized_micro", "overrun_micro", "absorbed_micro", "released_micro", "closed_at_us")


@pytest.mark.parametrize("reservation", [2, 3, 5, 6])
@pytest.mark.parametrize("column", ENDS)
def test_a_changed_end_of_a_reservation_breaks_the_hash_chain(
    conn: sqlite3.Connection, reservation: int, column: str
) -> None:
    # Reservations 2 and 3 end with entries; 5 and 6 held nothing, so they are in silent_ends.
    conn.execute(f"UPDATE credit_reservations SET {column} = coalesce({column}, 0) + 1 WHERE id = {reservation}")
    assert broken_links(conn) == (1, [1])


@pytest.mark.parametrize("status", ["pending", "expired"])
def test_a_different_end_breaks_the_hash_chain(conn: sqlite3.Connection, status: str) -> None:
    for reservation in (2, 3, 5):
        conn.execute("SAVEPOINT before")
        conn.execute("UPDATE credit_reservations SET status = ? WHERE id = ?", (status, reservation))
        assert broken_links(conn) == (1, [1])
        conn.execute("ROLLBACK TO before")


def test_a_pending_reservation_may_end_after_it_was_chained(conn: sqlite3.Connection) -> None:
    conn.execute(
        "UPDATE credit_reservations SET status = 'released', released_micro = 300, closed_at_us = 1220 WHERE id = 1"
    )
    conn.execute(
        "INSERT INTO credit_ledger"
        " VALUES (27, 1, 'general', 7, 'release', 1, 1, NULL, 300, 300, -300, 920, 0, NULL, NULL, 1220)"
    )
    assert broken_links(conn) == (1, []) and append_link(conn) and broken_links(conn) == (2, [])
    conn.execute("UPDATE credit_reservations SET closed_at_us = 1221 WHERE id = 1")
    assert broken_links(conn) == (2, [2])


def store_response(conn: sqlite3.Connection, number: int) -> None:
    key = idempotency.Key("admin:op", f"key-{number}", bytes(32))
    idempotency.store_response(conn, key, idempotency.StoredResponse(201, b'{"lotId":"lot_1"}'), uptime_us=2000)


def test_a_stored_response_with_a_new_checksum_breaks_the_hash_chain(conn: sqlite3.Connection) -> None:
    store_response(conn, 2)
    assert append_link(conn)
    conn.execute("DELETE FROM idempotency_keys WHERE id = 2")
    store_response(conn, 3)
    assert damaged_responses(conn) == (2, []) and broken_links(conn) == (2, [2])


def test_pruned_keys_leave_the_hash_chain_intact(conn: sqlite3.Connection) -> None:
    for number in (2, 3):
        store_response(conn, number)
    assert append_link(conn)
    week_us = 7 * 86_400 * 1_000_000
    assert idempotency.prune(conn, uptime_us=week_us) == 2 and idempotency.prune(conn, uptime_us=week_us) == 0
    assert conn.execute("SELECT id FROM idempotency_keys").fetchall() == [(3,)]
    assert broken_links(conn) == (2, [])
    store_response(conn, 4)
    assert conn.execute("SELECT max(id) FROM idempotency_keys").fetchone() == (4,)
    assert append_link(conn) and broken_links(conn) == (3, [])
    conn.execute("DELETE FROM idempotency_keys WHERE id = 4")
    store_response(conn, 5)
    assert broken_links(conn) == (3, [3])


def test_a_link_covers_a_bounded_number_of_rows(conn: sqlite3.Connection) -> None:
    conn.executemany(
        "INSERT INTO credit_accounts VALUES (?, 'person', ?, 1200)", [(n, f"p-{n}") for n in range(5, 6 + 2 * LINK_ROWS_MAX)]
    )
    assert [append_link(conn) for _ in range(4)] == [True, True, True, False]
    bounds = conn.execute("SELECT accounts FROM book_chain ORDER BY number").fetchall()
    assert bounds == [(4,), (4 + LINK_ROWS_MAX,), (4 + 2 * LINK_ROWS_MAX,), (5 + 2 * LINK_ROWS_MAX,)]
    assert broken_links(conn) == (4, [])


def test_a_stop_extends_the_hash_chain_to_all_rows(start: Callable[..., Api]) -> None:
    api = start()
    api.account(5, 6)
    api.stop()
    with closing(open_writer(api.book.path)) as conn:
        assert not append_link(conn) and broken_links(conn) == (1, [])


def test_a_changed_stored_response_is_detected(conn: sqlite3.Connection) -> None:
    assert damaged_responses(conn) == (1, [])
    for changed in (
        "body = x'7b7e'", "status = 200", "created_at_us = created_at_us + 4294967296", "fingerprint = randomblob(32)",
        "caller = 'admin:eve'", "key = 'key-2'",
        "checksum = checksum + 1", "created_at_us = -1",
    ):  # fmt: skip
        conn.execute("SAVEPOINT before")
        conn.execute(f"UPDATE idempotency_keys SET {changed}")
        assert damaged_responses(conn) == (1, [1])
        conn.execute("ROLLBACK TO before")
