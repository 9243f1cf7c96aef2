"""Changes by hand: an attacker with the file drops the triggers, changes rows with one statement, and restores the triggers.

The list of columns comes from the schema: `verify` must detect a change of each, or SECURITY.md must list it as not covered.
"""

import re
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from minibill.api.idempotency import _checksum
from minibill.db.connection import open_reader, open_writer
from minibill.db.migrations import MigrationRefused, migrate_file
from minibill.db.sqlite import sqlite3
from minibill.integrity.verify import verify_file
from tests.api_client import Api, Loop
from tests.faults.test_bit_flips import live

ROOT = Path(__file__).parents[2]

# The list of SECURITY.md: `table.column`, or a table and a change of its rows.
NOT_COVERED = {
    "schema_migrations.name", "schema_migrations.applied_at_us",
    "credit_campaigns.updated_at_us",
    "webhooks.entry_id", "webhooks.event_id", "webhooks.failing_since_us", "webhooks.revision", "webhooks.updated_at_us",
    "webhook_accepted", "webhook_replays", "webhook_set_aside", "webhook_attempts", "sqlite_sequence",
    "reconciliations.reconciled_at_us", "reconciliations.report", "reconciliations deleted",
    "idempotency_keys deleted",
    "thresholds.is_below", "memberships.id", "events inserted",
}  # fmt: skip

# Statements that the triggers allow.
PLAIN = (
    "UPDATE discount_tiers SET rate_bps = 10000",
    "UPDATE discount_tiers SET max_discount_micro = NULL",
    "UPDATE memberships SET tier = 'gold'",
    "UPDATE memberships SET expires_at_us = NULL",
    "UPDATE credit_campaigns SET budget_micro = budget_micro + 1000000 WHERE status = 'paused'",
    "UPDATE credit_campaigns SET per_wallet_cap_micro = per_wallet_cap_micro + 1 WHERE status = 'draft'",
    "UPDATE credit_campaigns SET expires_at_us = 253402300799999999 WHERE status = 'paused'",
    "UPDATE credit_campaigns SET status = 'active' WHERE status = 'paused'",
    "UPDATE credit_campaigns SET name = 'Another', updated_at_us = updated_at_us + 1 WHERE status = 'draft'",
    "UPDATE webhooks SET url = 'https://attacker.example/'",
    "UPDATE webhooks SET is_enabled = 0, revision = revision + 1",
    "UPDATE webhooks SET secret_version = secret_version + 1, rotated_until_us = NULL",
    "UPDATE thresholds SET below_micro = 1, recovered_micro = 1 WHERE pool_id = 'gpu'",
    "DELETE FROM thresholds",
    "DELETE FROM revoked_tokens",
    "INSERT INTO revoked_tokens VALUES ('a-token', 1)",
    "UPDATE revoked_subjects SET issued_before_us = issued_before_us + 1",
    "DELETE FROM revoked_subjects",
    "UPDATE credit_debts SET forgiven_lot_id = 1 WHERE id = 1",
)

ENDS = "UPDATE credit_reservations SET"

# Statements on several columns that satisfy every constraint.
STATEMENTS = (
    "UPDATE idempotency_keys SET body = x'7b7d', checksum = checksum + 1",
    "UPDATE idempotency_keys SET status = 200",
    "UPDATE idempotency_keys SET key = key || 'x'",
    f"{ENDS} actual_cost_micro = 13, finalized_micro = 13, released_micro = 17 WHERE actual_cost_micro = 12",
    f"{ENDS} actual_cost_micro = 1, absorbed_micro = 1 WHERE held_micro = 0 AND actual_cost_micro = 0",
    f"{ENDS} actual_cost_micro = 3, finalized_micro = 3, overrun_micro = 0, released_micro = 47 WHERE overrun_micro = 20",
    f"{ENDS} status = 'expired', closed_by = NULL WHERE status = 'released'",
    f"{ENDS} status = 'pending', released_micro = NULL, closed_at_us = NULL, closed_by = NULL WHERE status = 'released'",
    f"{ENDS} closed_at_us = closed_at_us - 1 WHERE closed_at_us IS NOT NULL",
    "UPDATE credit_debts SET paid_micro = paid_micro - 1 WHERE forgiven_lot_id IS NULL",
    "UPDATE credit_grants SET revoke_reason = 'no reason' WHERE status = 'revoked'",
    "UPDATE credit_lots SET available_micro = 0, consumed_micro = consumed_micro + available_micro",
    "UPDATE credit_lots SET expires_at_us = NULL",
    "UPDATE credit_balances SET available_micro = available_micro + 1",
    "UPDATE admin_audit_log SET details = '{}' WHERE action = 'tiers.replace'",
    "DELETE FROM admin_audit_log WHERE seq = (SELECT max(seq) FROM admin_audit_log)",
    "DELETE FROM events WHERE type LIKE 'campaign.%'",
    "DELETE FROM book_chain",
)

# The checksum of the row that is added below: anybody can compute it.
CHECKSUM = _checksum("admin:op", "key-1", bytes(32), 201, b"{}", 1000)

# Changes of several columns that SECURITY.md lists.
NOT_COVERED_TOGETHER = {
    "book_head.commits": "UPDATE book_head SET commits = commits + 1, negated_commits = negated_commits - 1",
    "idempotency_keys inserted": (
        "INSERT INTO idempotency_keys (caller, key, fingerprint, status, body, created_at_us, checksum) "
        f"VALUES ('admin:op', 'key-1', zeroblob(32), 201, x'7b7d', 1000, {CHECKSUM})"
    ),
}


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory, migrated_file: Path, loop: Loop) -> Path:
    """Return a book with data in every column, all of it in the hash chain."""
    path = tmp_path_factory.mktemp("rich") / "book.db"
    path.write_bytes(migrated_file.read_bytes())
    for _ in range(2):
        # Without its anchor, the book begins a new epoch at the second start.
        path.with_name("book.db-anchor").unlink(missing_ok=True)
        api = Api(path, loop, {})
        try:
            live(api)
        finally:
            api.stop()
    assert failed_checks_of(path) == []
    return path


def tables() -> list[str]:
    with closing(sqlite3.connect(":memory:")) as conn:
        for file in sorted((ROOT / "sql" / "migrations").glob("*.sql")):
            conn.executescript(file.read_text("utf-8"))
        rows = conn.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY rowid").fetchall()
    return ["schema_migrations", *[name for (name,) in rows]]


def failed_checks_of(path: Path) -> list[str]:
    return [name for name, check in verify_file(path).report.checks.items() if check.status == "fail"]


class Hand:
    """An attacker who changes copies of a book."""

    def __init__(self, book: Path, folder: Path) -> None:
        self.book = book
        self.path = folder / "book.db"
        self.changes = 0

    def is_named(self, statement: str, *, keeps_triggers: bool = False, ignores_checks: bool = False) -> bool:
        """Run a statement on a copy; return true if `verify` fails. Raises if the database rejects the statement."""
        for ending in ("", "-anchor"):
            shutil.copyfile(f"{self.book}{ending}", f"{self.path}{ending}")
        with closing(open_writer(self.path)) as conn:
            conn.execute("PRAGMA foreign_keys = OFF")
            conn.execute(f"PRAGMA ignore_check_constraints = {ignores_checks}")
            conn.execute("BEGIN")
            triggers = conn.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger' ORDER BY rowid").fetchall()
            for name, _ in triggers if not keeps_triggers else []:
                conn.execute(f"DROP TRIGGER {name}")
            assert conn.execute(statement).rowcount > 0, statement
            for _, sql in triggers if not keeps_triggers else []:
                conn.execute(sql)
            conn.execute("COMMIT")
        self.changes += 1
        try:
            return failed_checks_of(self.path) != []
        except MigrationRefused:
            return True

    def columns(self, table: str) -> list[tuple[str, str]]:
        with closing(open_reader(self.book)) as conn:
            return conn.execute(f"SELECT name, type FROM pragma_table_info('{table}')").fetchall()

    def rows(self, table: str, column: str) -> list[str]:
        """Return conditions for the first and the last row with a value, or without one if no row has one."""
        keys = [name for name, _ in self.columns(table)] if table != "idempotency_keys" else ["id"]
        with closing(open_reader(self.book)) as conn:
            chosen = f"SELECT {', '.join(f'quote({key})' for key in keys)} FROM {table} ORDER BY {column} IS NULL,"
            found = [conn.execute(f"{chosen} {order} LIMIT 1").fetchone() for order in (f"{keys[0]}", f"{keys[0]} DESC")]
        assert None not in found, f"{table} is empty"
        return [" AND ".join(f"{k} IS {v}" for k, v in zip(keys, row, strict=True)) for row in dict.fromkeys(found)]


def values(table: str, column: str, kind: str) -> Iterator[str]:
    """Yield other values of a column, the most likely first."""
    other = f"(SELECT o.{column} FROM {table} o WHERE o.{column} IS NOT {table}.{column} ORDER BY 1 DESC LIMIT 1)"
    if kind == "INTEGER":
        yield from (f"{column} + 1", f"{column} - 1", f"1 - {column}", other, "7", "NULL")
    elif kind == "TEXT":
        yield from (
            f"iif(json_type({column}) = 'object', json_set({column}, '$.hand', 1), json_set({column}, '$[0]', 'x'))",
            other, f"{column} || 'x'", "'x'", "NULL",
        )  # fmt: skip
    else:
        yield f"randomblob(length({column}))"


def unnamed_changes(hand: Hand, table: str) -> Iterator[str]:
    """Return the changed columns, deleted rows and added rows that `verify` does not detect."""
    for column, kind in hand.columns(table):
        for where in hand.rows(table, column):
            for value in values(table, column, kind):
                statement = f"UPDATE {table} SET {column} = {value} WHERE {where} AND {column} IS NOT ({value})"
                try:
                    is_named = hand.is_named(statement)
                except (sqlite3.IntegrityError, sqlite3.OperationalError, AssertionError):
                    continue
                if not is_named:
                    yield f"{table}.{column}"
                break
            else:
                assert hand.is_named(f"UPDATE {table} SET {column} = -1 WHERE {where}", ignores_checks=True), column
    key, *_ = [column for column, _ in hand.columns(table)]
    for where in hand.rows(table, key):
        if not hand.is_named(f"DELETE FROM {table} WHERE {where}"):
            yield f"{table} deleted"
    if is_inserted_unnamed(hand, table):
        yield f"{table} inserted"


def is_inserted_unnamed(hand: Hand, table: str) -> bool:
    """Insert a copy of a row with another key."""
    names = [column for column, _ in hand.columns(table)]
    where = hand.rows(table, names[0])[-1]
    for changed in range(1, len(names) + 1):
        fresh = [
            f"(SELECT max({name}) + 1 FROM {table})" if kind == "INTEGER" and place == 0 else
            f"{name} || 'x'" if kind == "TEXT" and place < changed else
            f"{name} + 1000" if place < changed and kind == "INTEGER" else name
            for place, (name, kind) in enumerate(hand.columns(table))
        ]  # fmt: skip
        statement = f"INSERT INTO {table} SELECT {', '.join(fresh)} FROM {table} WHERE {where}"
        try:
            return not hand.is_named(statement)
        except sqlite3.IntegrityError:
            continue
    return False


@pytest.mark.parametrize("table", tables())
def test_verify_detects_every_change_of_a_column_or_row(rich: Path, tmp_path: Path, table: str) -> None:
    if table in NOT_COVERED:
        return
    hand = Hand(rich, tmp_path)
    unnamed = dict.fromkeys(unnamed_changes(hand, table))
    assert hand.changes >= len(hand.columns(table))
    assert set(unnamed) == {change for change in NOT_COVERED if re.match(rf"{table}\b", change)}


@pytest.mark.parametrize("statement", PLAIN)
def test_verify_detects_statements_that_no_trigger_rejects(rich: Path, tmp_path: Path, statement: str) -> None:
    assert Hand(rich, tmp_path).is_named(statement, keeps_triggers=True)


@pytest.mark.parametrize("statement", STATEMENTS)
def test_verify_names_the_row_that_a_statement_changed(rich: Path, tmp_path: Path, statement: str) -> None:
    assert Hand(rich, tmp_path).is_named(statement)


@pytest.mark.parametrize("name", NOT_COVERED_TOGETHER)
def test_verify_misses_the_columns_listed_as_not_covered(rich: Path, tmp_path: Path, name: str) -> None:
    # Once `verify` detects it, the list is wrong.
    assert not Hand(rich, tmp_path).is_named(NOT_COVERED_TOGETHER[name])


def test_security_md_lists_what_verify_does_not_cover() -> None:
    text = (ROOT / "SECURITY.md").read_text("utf-8")
    section = text.partition("### Changes that `verify` does not name")[2].partition("\n#")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    assert {name for row in rows for name in re.findall(r"`([^`]+)`", row)} == {*NOT_COVERED, *NOT_COVERED_TOGETHER}


def test_every_table_of_a_new_database_is_covered(tmp_path: Path) -> None:
    migrate_file(tmp_path / "new.db")
    with closing(open_reader(tmp_path / "new.db")) as conn:
        there = {name for (name,) in conn.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    assert there == set(tables())
