"""Every way in which a book can be broken is found, by the invariant that it breaks and with the rows that do."""

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from minibill.db.connect import open_reader, open_writer
from minibill.db.sqlite import sqlite3
from minibill.invariants import INVARIANTS, violations
from tests.sql.book import make_book

Harm = tuple[str, list[tuple[object, ...]]]


def _miscounts() -> Iterator[Harm]:
    """Each total of a campaign with grants, and of one without, is one too many."""
    for column in (
        "granted_micro", "reserved_micro", "expired_micro", "spending_accounts", "grants_revoked", "revoked_micro",
        "revoked_consumed_micro", "revoked_reserved_micro",
    ):  # fmt: skip
        for campaign in (2, 7):
            one_more = f"UPDATE credit_campaign_totals SET {column} = {column} + 1 WHERE campaign_id = {campaign}"
            yield one_more, [(campaign,)]


# By invariant: what harm is done to the small book, and the rows that the invariant must answer.
HARMS: dict[str, list[Harm]] = {
    # Lots and entries.
    "lots_say_what_their_entries_say": [
        ("UPDATE credit_lots SET available_micro = 549, consumed_micro = 151 WHERE id = 1", [(1,)]),
        ("UPDATE credit_lots SET reserved_micro = 299, consumed_micro = 151 WHERE id = 1", [(1,)]),
        ("UPDATE credit_lots SET expired_micro = 49, revoked_micro = 1 WHERE id = 5", [(5,)]),
        ("UPDATE credit_lots SET revoked_micro = 99, consumed_micro = 1 WHERE id = 4", [(4,)]),
        ("DELETE FROM credit_ledger WHERE id = 6", [(6,)]),
        ("UPDATE credit_ledger SET entry_type = 'expire' WHERE id = 14", [(4,)]),
        ("INSERT INTO credit_lots SELECT 9, 1, 'x', 'grant', NULL, NULL, 50, 1, 0, 0, 0, 0, 0, NULL, NULL, NULL, 1", [(9,)]),
    ],
    "entries_are_about_lots_of_their_account_and_pool": [
        ("UPDATE credit_ledger SET lot_id = 1 WHERE id = 11", [(11,)]),
        ("UPDATE credit_lots SET pool_id = 'gpu' WHERE id = 6", [(6,)]),
        ("UPDATE credit_lots SET account_id = 1 WHERE id = 3", [(11,), (12,)]),
    ],
    # The chain of the entries.
    "entries_follow_the_one_before": [
        ("UPDATE credit_ledger SET entry_seq = 8 WHERE id = 6", [(6,)]),
        ("UPDATE credit_ledger SET entry_seq = 2 WHERE id = 17", [(17,)]),
        ("DELETE FROM credit_ledger WHERE id = 7", [(8,)]),
        ("UPDATE credit_ledger SET available_after_micro = 701 WHERE id = 2", [(2,), (3,)]),
        ("UPDATE credit_ledger SET reserved_after_micro = 301 WHERE id = 6", [(6,)]),
        ("UPDATE credit_ledger SET available_delta_micro = 999 WHERE id = 1", [(1,)]),
        ("UPDATE credit_ledger SET reserved_delta_micro = 1 WHERE id = 15", [(15,)]),
        ("UPDATE credit_ledger SET created_at_us = 1039 WHERE id = 5", [(5,)]),
    ],
    # Balances.
    "balances_are_those_of_the_newest_entry": [
        ("UPDATE credit_balances SET available_micro = 621 WHERE account_id = 1", [(1, "general")]),
        ("UPDATE credit_balances SET reserved_micro = 301 WHERE account_id = 1", [(1, "general")]),
        ("UPDATE credit_balances SET entry_seq = 5, available_micro = 550 WHERE account_id = 1", [(1, "general")]),
        ("UPDATE credit_balances SET entry_seq = 7 WHERE account_id = 1", [(1, "general")]),
        ("INSERT INTO credit_balances VALUES (2, 'gpu', 0, 0, 1)", [(2, "gpu")]),
    ],
    "balances_are_the_sums_of_the_lots": [
        ("UPDATE credit_lots SET available_micro = 69, consumed_micro = 1 WHERE id = 6", [(1, "general")]),
        ("UPDATE credit_balances SET available_micro = 610, reserved_micro = 310 WHERE account_id = 1", [(1, "general")]),
        ("INSERT INTO credit_balances VALUES (2, 'gpu', 5, 0, 1)", [(2, "gpu")]),
        ("INSERT INTO credit_balances VALUES (2, 'gpu', 0, 5, 1)", [(2, "gpu")]),
    ],
    "every_pool_with_entries_has_a_balance": [
        ("DELETE FROM credit_balances WHERE account_id = 2", [(7,)]),
        ("DELETE FROM credit_balances WHERE pool_id = 'gpu'", [(17,)]),
    ],
    # Campaigns and grants.
    "campaigns_have_spent_what_their_grants_came_to": [
        ("UPDATE credit_campaigns SET spent_micro = 200 WHERE id = 2", [(2,)]),
        ("UPDATE credit_campaigns SET grant_count = 1 WHERE id = 2", [(2,)]),
        ("UPDATE credit_campaigns SET spent_micro = 1 WHERE id = 7", [(7,)]),
        ("UPDATE credit_campaigns SET grant_count = 1 WHERE id = 5", [(5,)]),
        ("DELETE FROM credit_grants WHERE id = 1", [(2,)]),
        ("UPDATE credit_grants SET campaign_id = 7 WHERE id = 1", [(2,), (7,)]),
    ],
    "grants_have_their_lots": [
        ("UPDATE credit_grants SET lot_id = 99 WHERE id = 1", [(1,)]),
        ("UPDATE credit_lots SET campaign_id = 7 WHERE id = 2", [(1,)]),
        ("UPDATE credit_grants SET campaign_id = 99 WHERE id = 2", [(2,)]),
        ("UPDATE credit_grants SET account_id = 1 WHERE id = 1", [(1,)]),
        ("UPDATE credit_grants SET amount_micro = 99 WHERE id = 2", [(2,)]),
        ("UPDATE credit_campaigns SET pool_id = 'gpu' WHERE id = 2", [(1,), (2,)]),
        ("UPDATE credit_lots SET source_type = 'deposit' WHERE id = 2", [(1,)]),
    ],
    "lots_of_campaigns_have_their_grants": [
        ("UPDATE credit_lots SET campaign_id = 2 WHERE id = 6", [(6,)]),
        ("DELETE FROM credit_grants WHERE id = 1", [(2,)]),
    ],
    "grants_are_revoked_with_their_lots": [
        ("UPDATE credit_lots SET revoked_at_us = 1141 WHERE id = 4", [(2,)]),
        ("UPDATE credit_lots SET revoked_at_us = 1140 WHERE id = 2", [(1,)]),
        ("UPDATE credit_grants SET revoked_at_us = NULL WHERE id = 2", [(2,)]),
        ("UPDATE credit_lots SET revoked_micro = 99, reserved_micro = 1 WHERE id = 4", [(2,)]),
    ],
    "campaigns_counted_what_became_of_their_grants": [
        *_miscounts(),
        ("UPDATE credit_lots SET consumed_micro = 0, reserved_micro = 100 WHERE id = 2", [(2,)]),
        ("UPDATE credit_grants SET status = 'granted', revoked_micro = NULL WHERE id = 2", [(2,)]),
    ],
    "every_campaign_counts": [("DELETE FROM credit_campaign_totals WHERE campaign_id = 2", [(2,)])],
    "campaigns_counted_what_they_did_each_day": [
        ("UPDATE credit_campaign_days SET grants = 3", [(2, 0)]),
        ("UPDATE credit_campaign_days SET granted_micro = 199", [(2, 0)]),
        ("UPDATE credit_campaign_days SET consumed_micro = 101", [(2, 0)]),
        ("UPDATE credit_campaign_days SET day = 1", [(2, 0), (2, 1)]),
        ("DELETE FROM credit_campaign_days", [(2, 0)]),
        ("INSERT INTO credit_campaign_days VALUES (7, 3, 1, 0, 0)", [(7, 3)]),
    ],
    # Reservations.
    "lots_hold_what_pending_reservations_hold": [
        ("UPDATE credit_lots SET reserved_micro = 299, available_micro = 551 WHERE id = 1", [(1,)]),
        ("UPDATE credit_lots SET reserved_micro = 1, available_micro = 69 WHERE id = 6", [(6,)]),
        ("UPDATE credit_reservations SET status = 'released' WHERE id = 1", [(1,)]),
        ("UPDATE credit_reservations SET status = 'pending' WHERE id = 3", [(2,)]),
        ("UPDATE reservation_lots SET lot_id = 6 WHERE reservation_id = 1", [(1,), (6,)]),
    ],
    "reservations_hold_what_their_lots_say": [
        ("DELETE FROM reservation_lots WHERE reservation_id = 2", [(2,)]),
        ("UPDATE credit_reservations SET held_micro = 99 WHERE id = 3", [(3,)]),
        ("UPDATE credit_reservations SET held_micro = 1 WHERE id = 5", [(5,)]),
        ("INSERT INTO reservation_lots VALUES (4, 1, 5, 80)", [(4,)]),
        ("UPDATE credit_reservations SET billing_mode = 'live' WHERE id = 4", [(4,)]),
    ],
    # Debts.
    "debts_are_what_the_entries_say": [
        ("UPDATE credit_debts SET paid_micro = 41", [(2,)]),
        ("UPDATE credit_debts SET original_micro = 61", [(2,)]),
        ("INSERT INTO credit_debts VALUES (2, 1, 2, 10, 0, 1)", [(1,)]),
        ("DELETE FROM credit_ledger WHERE entry_type = 'debt_incurred'", [(2,)]),
        ("DELETE FROM credit_ledger WHERE entry_type = 'debt_paid'", [(2,)]),
        ("DELETE FROM credit_debts", [(2,)]),
    ],
    # The table, the row, the table that it means, and the number of the key.
    "foreign_keys": [
        ("UPDATE credit_ledger SET reservation_id = 99 WHERE id = 2", [("credit_ledger", 2, "credit_reservations", 0)]),
        ("UPDATE credit_ledger SET lot_id = 99 WHERE id = 6", [("credit_ledger", 6, "credit_lots", 1)]),
        ("UPDATE credit_debts SET account_id = 99", [("credit_debts", 1, "credit_accounts", 1)]),
        ("DELETE FROM credit_campaigns WHERE id = 2",
         [("credit_grants", 1, "credit_campaigns", 2), ("credit_grants", 2, "credit_campaigns", 2),
          ("credit_lots", 2, "credit_campaigns", 0), ("credit_lots", 4, "credit_campaigns", 0),
          ("credit_campaign_totals", 2, "credit_campaigns", 0), ("credit_campaign_days", None, "credit_campaigns", 0)]),
    ],
    # The audit log.
    "audit_rows_are_chained": [
        ('UPDATE admin_audit_log SET details = \'{"after":2}\' WHERE seq = 2', [(2,)]),
        ("UPDATE admin_audit_log SET actor_id = 'other' WHERE seq = 1", [(1,)]),
        ("UPDATE admin_audit_log SET token_id = NULL WHERE seq = 2", [(2,)]),
        ("UPDATE admin_audit_log SET created_at_us = created_at_us + 1 WHERE seq = 1", [(1,)]),
        ("UPDATE admin_audit_log SET hash = zeroblob(32) WHERE seq = 1", [(1,), (2,)]),
        ("UPDATE admin_audit_log SET previous_hash = zeroblob(32) WHERE seq = 2", [(2,)]),
        ("DELETE FROM admin_audit_log WHERE seq = 1", [(2,)]),
        ("UPDATE admin_audit_log SET seq = 7 WHERE seq = 2", [(7,)]),
    ],
}  # fmt: skip

CASES = [(name, harm, rows) for name, harms in HARMS.items() for harm, rows in harms]


def _ids() -> list[str]:
    seen: Counter[str] = Counter()
    found = []
    for name, *_ in CASES:
        seen[name] += 1
        found.append(f"{name}-{seen[name]}")
    return found


@pytest.fixture(scope="module")
def defenceless(migrated_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[sqlite3.Connection]:
    """The small book on a connection that refuses nothing."""
    conn = open_writer(make_book(migrated_file, tmp_path_factory.mktemp("invariants")))
    conn.execute("PRAGMA foreign_keys = OFF")
    conn.execute("PRAGMA ignore_check_constraints = ON")
    for (name,) in conn.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
        conn.execute(f"DROP TRIGGER {name}")
    yield conn
    conn.close()


def test_a_whole_book_breaks_no_invariant(migrated_file: Path, tmp_path: Path) -> None:
    with closing(open_reader(make_book(migrated_file, tmp_path))) as conn:
        assert violations(conn) == {}


def test_an_empty_book_breaks_no_invariant(migrated_file: Path) -> None:
    with closing(open_reader(migrated_file)) as conn:
        assert violations(conn) == {}


@pytest.mark.parametrize(("name", "harm", "rows"), CASES, ids=_ids())
def test_a_broken_book_is_found_out(
    defenceless: sqlite3.Connection, name: str, harm: str, rows: list[tuple[object, ...]]
) -> None:
    conn = defenceless
    conn.execute("BEGIN IMMEDIATE")
    try:
        assert violations(conn) == {}
        assert conn.execute(harm).rowcount > 0
        found = violations(conn)
    finally:
        conn.execute("ROLLBACK")
    assert sorted(map(repr, found.get(name, []))) == sorted(map(repr, rows)), f"found: {found}"


def test_every_invariant_is_broken_here_once_at_least() -> None:
    assert HARMS.keys() == {query.name for query in INVARIANTS} | {"foreign_keys", "audit_rows_are_chained"}
