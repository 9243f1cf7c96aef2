"""The bare insert, a baseline: the rows of real batches, inserted again without minibill.

It reads the rows from a finished book and inserts them into a new one with the same schema, in the same batches: one
executemany per table, one transaction per batch. The result must equal the original, row for row.
"""

import time
from pathlib import Path
from typing import Any, NamedTuple

from bench.report import Unfit, require_whole
from minibill.db.connection import open_reader, open_writer
from minibill.db.migrations import migrate
from minibill.db.queries import Row
from minibill.db.sqlite import sqlite3

# In the order of foreign keys and triggers.
BATCH_TABLES = ("credit_accounts", "credit_lots", "credit_ledger", "credit_grants", "admin_audit_log")

INSERT_BALANCE = (
    "INSERT INTO credit_balances (account_id, pool_id, available_micro, reserved_micro, entry_seq) VALUES (?, ?, ?, ?, ?)"
)
UPDATE_BALANCE = """
UPDATE credit_balances
   SET available_micro = ?,
       reserved_micro = ?,
       entry_seq = ?
 WHERE account_id = ?
   AND pool_id = ?
"""
CHARGE_CAMPAIGN = """
UPDATE credit_campaigns
   SET spent_micro = spent_micro + ?,
       grant_count = grant_count + ?,
       updated_at_us = ?
 WHERE id = ?
"""

# These triggers stay: they fire once per batch, and maintain the counts of the campaign.
COUNTING_TRIGGERS = ("campaigns_create_totals", "campaigns_update_granted_totals")

# Migration times, the hash chain and the commit count differ between the books.
NOT_OF_THE_BATCHES = ("schema_migrations", "book_chain", "book_head")

Named = dict[str, Any]


class Statement(NamedTuple):
    """One executemany."""

    sql: str
    rows: list[Row]


class Captured(NamedTuple):
    """The rows of a book before its first batch, and those of each batch."""

    before: list[Statement]
    batches: list[list[Statement]]


def capture(db: Path, *, with_triggers: bool) -> Captured:
    """Read the rows of the batches of a finished book.

    Its campaigns must be older than the first batch. The bare book has no triggers, so balances and events are inserted like
    other tables.
    """
    conn = open_reader(db)
    try:
        tables = {table: table_rows(conn, table) for table in BATCH_TABLES}
        events = table_rows(conn, "events")
        keys = table_rows(conn, "idempotency_keys")
        campaigns = table_rows(conn, "credit_campaigns")
    finally:
        conn.close()
    audit = tables["admin_audit_log"]
    times_us = [row["created_at_us"] for row in audit if row["action"] == "campaign.grant"]
    before = [
        *_drafts_activated(campaigns),
        insert_rows("admin_audit_log", [r for r in audit if r["created_at_us"] < times_us[0]]),
    ]
    if not with_triggers:
        before.append(insert_rows("events", [row for row in events if row["created_at_us"] < times_us[0]]))
    batches = []
    for time_us, key in zip(times_us, keys, strict=True):
        of_batch = {table: [row for row in rows if row["created_at_us"] == time_us] for table, rows in tables.items()}
        statements = [insert_rows(table, rows) for table, rows in of_batch.items() if rows]
        if not with_triggers:
            statements += _balances(of_batch["credit_ledger"])
            if new := [row for row in events if row["created_at_us"] == time_us]:
                statements.append(insert_rows("events", new))
        statements += [_charge(of_batch["credit_grants"]), insert_rows("idempotency_keys", [key])]
        batches.append(statements)
    return Captured(before, batches)


def replay(captured: Captured, db: Path, *, like: Path, with_triggers: bool) -> list[float]:
    """Insert everything; return the seconds of each batch. The file is new or a copy from before, and must become `like`."""
    conn = open_writer(db)
    try:
        migrate(conn)
        if not with_triggers:
            for (name,) in conn.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
                if name not in COUNTING_TRIGGERS:
                    conn.execute(f"DROP TRIGGER {name}")
        _write(conn, captured.before)
        seconds = [_write(conn, batch) for batch in captured.batches]
    finally:
        conn.close()
    require_whole(db)
    if _everything(db) != _everything(like):
        raise Unfit("the bare insert did not write the rows that the batches wrote")
    return seconds


def commits_per_s(db: Path, count: int) -> float:
    """Return the sequential single-row transactions per second of a new file."""
    conn = open_writer(db)
    try:
        conn.execute("CREATE TABLE one_row (number INTEGER PRIMARY KEY) STRICT")
        statement = [Statement("INSERT INTO one_row DEFAULT VALUES", [()])]
        return count / sum(_write(conn, statement) for _ in range(count))
    finally:
        conn.close()


def _write(conn: sqlite3.Connection, statements: list[Statement]) -> float:
    began_s = time.perf_counter()
    conn.execute("BEGIN IMMEDIATE")
    for sql, rows in statements:
        conn.executemany(sql, rows)
    conn.execute("COMMIT")
    return time.perf_counter() - began_s


def table_rows(conn: sqlite3.Connection, table: str) -> list[Named]:
    """Return the rows of a table in the order of their keys."""
    # The key is the first column of each table.
    cursor = conn.execute(f"SELECT * FROM {table} ORDER BY 1")
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor]


def rows_by_time(conn: sqlite3.Connection, table: str) -> dict[int, list[Named]]:
    """Return the rows of a table by the time of their transaction."""
    by_time: dict[int, list[Named]] = {}
    for row in table_rows(conn, table):
        by_time.setdefault(row["created_at_us"], []).append(row)
    return by_time


def insert_rows(table: str, rows: list[Named]) -> Statement:
    """Return the insert of these rows."""
    places = ", ".join("?" for _ in rows[0])
    return Statement(f"INSERT INTO {table} ({', '.join(rows[0])}) VALUES ({places})", [tuple(row.values()) for row in rows])


def _drafts_activated(campaigns: list[Named]) -> list[Statement]:
    drafts = [row | {"status": "draft", "spent_micro": 0, "grant_count": 0} for row in campaigns]
    activate = Statement("UPDATE credit_campaigns SET status = 'active' WHERE id = ?", [(row["id"],) for row in campaigns])
    return [insert_rows("credit_campaigns", drafts), activate]


def _balances(entries: list[Named]) -> list[Statement]:
    key = ("account_id", "pool_id")
    after = ("available_after_micro", "reserved_after_micro", "entry_seq")
    first = [tuple(entry[name] for name in key + after) for entry in entries if entry["entry_seq"] == 1]
    later = [tuple(entry[name] for name in after + key) for entry in entries if entry["entry_seq"] > 1]
    return [s for s in (Statement(INSERT_BALANCE, first), Statement(UPDATE_BALANCE, later)) if s.rows]


def _charge(grants: list[Named]) -> Statement:
    total_micro = sum(grant["amount_micro"] for grant in grants)
    return Statement(CHARGE_CAMPAIGN, [(total_micro, len(grants), grants[0]["created_at_us"], grants[0]["campaign_id"])])


def _everything(db: Path) -> dict[str, list[Row]]:
    conn = open_reader(db)
    try:
        tables = conn.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name").fetchall()
        written = [table for (table,) in tables if table not in NOT_OF_THE_BATCHES]
        everything = {table: conn.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall() for table in written}
        # Campaigns are inserted in their state before the first batch, so their events differ.
        of_campaigns = conn.execute("SELECT id FROM events WHERE campaign_id IS NOT NULL").fetchall()
        everything["events"] = [row for row in everything["events"] if row[:1] not in set(of_campaigns)]
        return everything
    finally:
        conn.close()
