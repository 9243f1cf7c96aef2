"""Every way in which a book can be broken is found, by the rule that it breaks and with the rows that do."""

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from minibill import ids
from minibill.db.connect import open_reader, open_writer
from minibill.db.sqlite import sqlite3
from minibill.invariants import AUDIT_RULE, CHECKS, EXAMPLES_MAX, FILE_RULE, RULES, run_check, run_checks, violations
from tests.sql.book import make_book

MAX, MIN = 2**63 - 1, -(2**63)


def _miscounts() -> Iterator[tuple[str, list[int]]]:
    """Each total of a campaign with grants, and of one without, is one too many."""
    for column in (
        "granted_micro", "reserved_micro", "expired_micro", "spending_accounts", "grants_revoked", "revoked_micro",
        "revoked_consumed_micro", "revoked_reserved_micro",
    ):  # fmt: skip
        for campaign in (2, 7):
            yield f"UPDATE credit_campaign_totals SET {column} = {column} + 1 WHERE campaign_id = {campaign}", [campaign]


# By rule: what harm is done to the small book, and the keys of the things that the rule must name.
HARMS: dict[str, list[tuple[str, list[int]]]] = {
    # lot_balance_match
    "lots_have_parts_that_sum_to_their_original": [
        ("UPDATE credit_lots SET available_micro = 551 WHERE id = 1", [1]),
        ("UPDATE credit_lots SET original_micro = 999 WHERE id = 1", [1]),
        ("UPDATE credit_lots SET available_micro = -1, reserved_micro = 851 WHERE id = 1", [1]),
        ("UPDATE credit_lots SET revoked_micro = -1, expired_micro = 51 WHERE id = 5", [5]),
        ("UPDATE credit_lots SET original_micro = 0, available_micro = 0 WHERE id = 6", [6]),
        (f"UPDATE credit_lots SET available_micro = {MAX}, reserved_micro = {MAX} WHERE id = 1", [1]),
        (f"UPDATE credit_lots SET original_micro = {MIN} WHERE id IN (1, 6)", [1, 6]),
    ],
    # balance_cache_match
    "balances_are_those_of_the_newest_entry": [
        ("UPDATE credit_balances SET available_micro = 621 WHERE account_id = 1", [1]),
        ("UPDATE credit_balances SET reserved_micro = 301 WHERE account_id = 1", [1]),
        ("UPDATE credit_balances SET entry_seq = 5, available_micro = 550 WHERE account_id = 1", [1]),
        ("UPDATE credit_balances SET entry_seq = 7 WHERE account_id = 1", [1]),
        ("DELETE FROM credit_ledger WHERE id = 6", [1]),
        ("INSERT INTO credit_balances VALUES (2, 'gpu', 0, 0, 1)", [2]),
    ],
    "balances_are_the_sums_of_the_lots": [
        ("UPDATE credit_lots SET available_micro = 69, consumed_micro = 1 WHERE id = 6", [1]),
        ("UPDATE credit_balances SET available_micro = 610, reserved_micro = 310 WHERE account_id = 1", [1]),
        ("INSERT INTO credit_balances VALUES (2, 'gpu', 5, 0, 1)", [2]),
        ("INSERT INTO credit_balances VALUES (2, 'gpu', 0, 5, 1)", [2]),
        (f"UPDATE credit_lots SET available_micro = {MAX}, reserved_micro = {MAX} WHERE account_id = 1", [1]),
    ],
    "every_pool_with_entries_has_a_balance": [
        ("DELETE FROM credit_balances WHERE account_id = 2", [2]),
        ("DELETE FROM credit_balances WHERE pool_id = 'gpu'", [3]),
    ],
    "debts_are_what_the_entries_say": [
        ("UPDATE credit_debts SET paid_micro = 41", [2]),
        ("UPDATE credit_debts SET original_micro = 61", [2]),
        ("INSERT INTO credit_debts VALUES (2, 1, 2, 10, 0, NULL, 1)", [1]),
        ("DELETE FROM credit_ledger WHERE entry_type = 'debt_incurred'", [2]),
        ("DELETE FROM credit_ledger WHERE entry_type = 'debt_paid'", [2]),
        ("DELETE FROM credit_debts", [2]),
        ("UPDATE credit_debts SET paid_micro = 61", [2]),
        (f"INSERT INTO credit_debts VALUES (2, 2, 1, {MAX}, 0, NULL, 1), (3, 2, 2, {MAX}, {MAX}, NULL, 1)", [2]),
    ],
    "thresholds_are_on_the_side_of_their_balance": [
        ("UPDATE thresholds SET is_below = 1 WHERE below_micro = 600", [1]),
        ("UPDATE thresholds SET is_below = 0 WHERE below_micro = 700", [1]),
        ("UPDATE thresholds SET is_below = 0 WHERE pool_id = 'gpu'", [2]),
        ("UPDATE credit_balances SET available_micro = 599 WHERE account_id = 1", [1]),
    ],
    # entry_chain
    "events_are_in_the_order_of_the_entries": [
        ("UPDATE events SET after_entry_id = 3 WHERE id = 1", [0]),
        ("UPDATE events SET after_entry_id = 18 WHERE id = (SELECT max(id) FROM events)", [18]),
        ("DELETE FROM credit_ledger WHERE id = 17", [17]),
    ],
    "rows_have_ids_of_an_epoch": [
        # Each says of one table that its newest row is older than it is.
        (f"INSERT INTO book_epochs VALUES (500, 2, 'restored', 1, {newest})", [key])
        for newest, key in (
            ("2, 6, 6, 1, 17, 8, 2, 500", 3),
            ("3, 5, 6, 1, 17, 8, 2, 500", 6),
            ("3, 6, 5, 1, 17, 8, 2, 500", 6),
            ("3, 6, 6, 0, 17, 8, 2, 500", 3),
            ("3, 6, 6, 1, 16, 8, 2, 500", 17),
            ("3, 6, 6, 1, 17, 7, 2, 500", 8),
            ("3, 6, 6, 1, 17, 8, 1, 500", 2),
            ("3, 6, 6, 1, 17, 8, 2, (SELECT max(id) - 1 FROM events)", 17),
        )
    ],
    "entries_follow_the_one_before": [
        ("UPDATE credit_ledger SET entry_seq = 8 WHERE id = 6", [6]),
        ("UPDATE credit_ledger SET entry_seq = 2 WHERE id = 17", [17]),
        ("UPDATE credit_ledger SET entry_seq = 0 WHERE id = 1", [1, 2]),
        ("DELETE FROM credit_ledger WHERE id = 7", [8]),
        ("UPDATE credit_ledger SET available_after_micro = 701 WHERE id = 2", [2, 3]),
        ("UPDATE credit_ledger SET reserved_after_micro = 301 WHERE id = 6", [6]),
        ("UPDATE credit_ledger SET available_delta_micro = 999 WHERE id = 1", [1]),
        ("UPDATE credit_ledger SET reserved_delta_micro = 1 WHERE id = 15", [15]),
        ("UPDATE credit_ledger SET id = 99 WHERE id = 5", [6]),
        (f"UPDATE credit_ledger SET available_after_micro = {MAX} WHERE id = 1", [1, 2]),
        (f"UPDATE credit_ledger SET available_delta_micro = {MIN}, available_after_micro = {MIN} WHERE id = 6", [6]),
    ],
    "entries_are_in_the_order_of_time": [
        ("UPDATE credit_ledger SET created_at_us = 1039 WHERE id = 5", [5]),
        ("UPDATE credit_ledger SET created_at_us = 1081 WHERE id = 7", [8]),
    ],
    "entries_mean_what_their_type_says": [
        ("UPDATE credit_ledger SET entry_type = 'finalize' WHERE id = 6", [6]),
        ("UPDATE credit_ledger SET entry_type = 'gift' WHERE id = 6", [6]),
        ("UPDATE credit_ledger SET amount_micro = -301 WHERE id = 2", [2]),
        ("UPDATE credit_ledger SET lot_id = NULL WHERE id = 6", [6]),
        ("UPDATE credit_ledger SET lot_id = 2 WHERE id = 10", [10]),
        ("UPDATE credit_ledger SET reservation_id = NULL WHERE id IN (2, 5, 17)", [2, 5, 17]),
    ],
    # entries_match_lots
    "lots_say_what_their_entries_say": [
        ("UPDATE credit_lots SET available_micro = 549, consumed_micro = 151 WHERE id = 1", [1]),
        ("UPDATE credit_lots SET reserved_micro = 299, consumed_micro = 151 WHERE id = 1", [1]),
        ("UPDATE credit_lots SET expired_micro = 49, revoked_micro = 1 WHERE id = 5", [5]),
        ("UPDATE credit_lots SET revoked_micro = 99, consumed_micro = 1 WHERE id = 4", [4]),
        ("DELETE FROM credit_ledger WHERE id = 6", [6]),
        ("UPDATE credit_ledger SET entry_type = 'expire' WHERE id = 14", [4]),
        ("INSERT INTO credit_lots SELECT 9, 1, 'x', 'grant', NULL, NULL, 50, 1, 0, 0, 0, 0, 0, NULL, NULL, NULL, 1", [9]),
        ("UPDATE credit_ledger SET entry_type = 'deposit' WHERE id = 5", [1]),
        (f"UPDATE credit_ledger SET amount_micro = {MIN}, available_delta_micro = {MAX} WHERE lot_id = 1", [1]),
        (f"UPDATE credit_lots SET available_micro = {MIN} WHERE id = 1", [1]),
    ],
    "entries_are_about_lots_of_their_account_and_pool": [
        ("UPDATE credit_ledger SET lot_id = 1 WHERE id = 11", [11]),
        ("UPDATE credit_ledger SET lot_id = 99 WHERE id = 12", [12]),
        ("UPDATE credit_lots SET pool_id = 'gpu' WHERE id = 6", [6]),
        ("UPDATE credit_lots SET account_id = 1 WHERE id = 3", [11, 12]),
        ("UPDATE credit_lots SET source_type = 'deposit' WHERE id = 6", [6]),
        ("UPDATE credit_lots SET created_at_us = 1061 WHERE id = 6", [6]),
        ("UPDATE credit_lots SET original_micro = 71 WHERE id = 6", [6]),
    ],
    # reservation_match
    "reservations_hold_what_their_lots_say": [
        ("DELETE FROM reservation_lots WHERE reservation_id = 2", [2]),
        ("UPDATE credit_reservations SET held_micro = 99 WHERE id = 3", [3]),
        ("UPDATE credit_reservations SET held_micro = 1 WHERE id = 5", [5]),
        ("INSERT INTO reservation_lots VALUES (4, 1, 5, 80)", [4]),
        ("UPDATE credit_reservations SET billing_mode = 'live' WHERE id = 4", [4]),
        (f"INSERT INTO reservation_lots VALUES (1, 2, 6, {MAX}), (1, 3, 6, {MAX})", [1]),
    ],
    "reservations_hold_lots_of_their_account_and_pool": [
        ("UPDATE credit_reservations SET account_id = 2 WHERE id = 1", [1]),
        ("UPDATE credit_lots SET pool_id = 'gpu' WHERE id = 2", [3]),
        ("UPDATE reservation_lots SET lot_id = 3 WHERE reservation_id = 1", [1]),
        ("UPDATE reservation_lots SET reserved_micro = -1 WHERE reservation_id = 1", [1]),
    ],
    "lots_hold_what_pending_reservations_hold": [
        ("UPDATE credit_lots SET reserved_micro = 299, available_micro = 551 WHERE id = 1", [1]),
        ("UPDATE credit_lots SET reserved_micro = 1, available_micro = 69 WHERE id = 6", [6]),
        ("UPDATE credit_reservations SET status = 'released' WHERE id = 1", [1]),
        ("UPDATE credit_reservations SET status = 'pending' WHERE id = 3", [2]),
        ("UPDATE reservation_lots SET lot_id = 6 WHERE reservation_id = 1", [1, 6]),
        (f"INSERT INTO reservation_lots VALUES (1, 2, 6, {MAX}), (1, 3, 6, {MAX})", [6]),
    ],
    "reservations_have_figures_that_add_up": [
        ("UPDATE credit_reservations SET discount_micro = 19, held_micro = 181 WHERE id = 2", [2]),
        ("UPDATE credit_reservations SET max_discount_micro = 19 WHERE id = 2", [2]),
        ("UPDATE credit_reservations SET held_micro = 299 WHERE id = 1", [1]),
        ("UPDATE credit_reservations SET held_micro = 301 WHERE id = 1", [1]),
        ("UPDATE credit_reservations SET list_micro = 99 WHERE id = 3", [3]),
        ("UPDATE credit_reservations SET actual_cost_micro = 168 WHERE id = 2", [2]),
        ("UPDATE credit_reservations SET finalized_micro = 151, released_micro = 29 WHERE id = 2", [2]),
        ("UPDATE credit_reservations SET absorbed_micro = 1 WHERE id = 2", [2]),
        ("UPDATE credit_reservations SET overrun_micro = 0, absorbed_micro = 60 WHERE id = 3", [3]),
        ("UPDATE credit_reservations SET billing_mode = 'live' WHERE id = 3", [3]),
        ("UPDATE credit_reservations SET released_micro = 31 WHERE id = 2", [2]),
        ("UPDATE credit_reservations SET released_micro = 0 WHERE id = 1", [1]),
        ("UPDATE credit_reservations SET released_micro = NULL WHERE id = 6", [6]),
        ("UPDATE credit_reservations SET actual_cost_micro = 0 WHERE id = 5", [5]),
        ("UPDATE credit_reservations SET status = 'gone' WHERE id = 5", [5]),
        (f"UPDATE credit_reservations SET list_micro = {MAX}, actual_cost_micro = {MAX} WHERE id = 2", [2]),
        (f"UPDATE credit_reservations SET list_micro = {MIN} WHERE id = 2", [2]),
    ],
    "reservations_moved_what_their_entries_say": [
        ("UPDATE credit_ledger SET amount_micro = -301 WHERE id = 2", [1]),
        ("DELETE FROM credit_ledger WHERE id = 4", [2]),
        ("DELETE FROM credit_ledger WHERE id = 10", [3]),
        ("DELETE FROM credit_ledger WHERE id = 17", [4]),
        ("UPDATE credit_ledger SET reservation_id = 1 WHERE id = 5", [1, 2]),
        ("UPDATE credit_ledger SET reservation_id = 2 WHERE id = 2", [1, 2]),
        ("UPDATE credit_ledger SET available_delta_micro = -150, reserved_delta_micro = 0 WHERE id = 4", [2]),
        ("UPDATE credit_reservations SET finalized_micro = 151, released_micro = 29 WHERE id = 2", [2]),
        ("UPDATE credit_reservations SET overrun_micro = 61 WHERE id = 3", [3]),
        ("UPDATE credit_reservations SET released_micro = 1 WHERE id = 5", [5]),
        ("UPDATE credit_reservations SET status = 'finalized' WHERE id = 4", [4]),
        (f"UPDATE credit_ledger SET amount_micro = {MIN}, reserved_delta_micro = {MIN} WHERE lot_id = 1", [1, 2]),
    ],
    "entries_move_lots_for_the_reservation_that_holds_them": [
        ("UPDATE credit_ledger SET lot_id = 6 WHERE id IN (3, 4)", [2, 2]),
        ("UPDATE credit_ledger SET reservation_id = 2 WHERE id = 2", [2]),
        ("UPDATE credit_ledger SET reservation_id = 6 WHERE id = 2", [6]),
        ("UPDATE reservation_lots SET reserved_micro = 299 WHERE reservation_id = 1", [1]),
        ("UPDATE credit_reservations SET status = 'released' WHERE id = 1", [1]),
        (f"UPDATE credit_ledger SET reserved_delta_micro = {MAX} WHERE lot_id = 1", [1, 2]),
    ],
    "entries_act_for_reservations_of_their_account": [
        ("UPDATE credit_ledger SET reservation_id = 3 WHERE id = 2", [2]),
        ("UPDATE credit_reservations SET account_id = 1 WHERE id = 4", [17]),
        ("UPDATE credit_reservations SET pool_id = 'tpu' WHERE id = 4", [17]),
    ],
    "debts_are_what_their_reservation_left_unpaid": [
        ("UPDATE credit_debts SET reservation_id = 1", [1]),
        ("UPDATE credit_debts SET original_micro = 61", [3]),
        ("UPDATE credit_debts SET created_at_us = 1091", [3]),
        ("UPDATE credit_ledger SET reservation_id = 4 WHERE id = 10", [3]),
    ],
    # orphan_reservations
    "reservations_that_hold_credits_hold_lots": [
        ("DELETE FROM reservation_lots WHERE reservation_id IN (1, 2)", [1, 2]),
        ("UPDATE credit_reservations SET billing_mode = 'soft' WHERE id = 4", [4]),
    ],
    "reservations_are_of_accounts_that_there_are": [
        ("UPDATE credit_reservations SET account_id = 99 WHERE id = 5", [5]),
        ("DELETE FROM credit_accounts WHERE id = 2", [3]),
    ],
    "lots_are_held_by_reservations_that_there_are": [
        ("DELETE FROM credit_reservations WHERE id = 1", [1]),
        ("UPDATE reservation_lots SET reservation_id = 99 WHERE reservation_id = 2", [99]),
        ("UPDATE reservation_lots SET lot_id = 99 WHERE reservation_id = 2", [2]),
    ],
    "entries_name_reservations_that_there_are": [
        ("DELETE FROM credit_reservations WHERE id = 1", [2]),
        ("UPDATE credit_ledger SET reservation_id = 99 WHERE id = 6", [6]),
    ],
    # campaign_spent_match
    "campaigns_have_spent_what_their_grants_came_to": [
        ("UPDATE credit_campaigns SET spent_micro = 200 WHERE id = 2", [2]),
        ("UPDATE credit_campaigns SET grant_count = 1 WHERE id = 2", [2]),
        ("UPDATE credit_campaigns SET spent_micro = 1 WHERE id = 7", [7]),
        ("UPDATE credit_campaigns SET grant_count = 1 WHERE id = 5", [5]),
        ("DELETE FROM credit_grants WHERE id = 1", [2]),
        ("UPDATE credit_grants SET campaign_id = 7 WHERE id = 1", [2, 7]),
        ("UPDATE credit_campaigns SET budget_micro = 99 WHERE id = 2", [2]),
        ("UPDATE credit_lots SET revoked_micro = 99, consumed_micro = 1 WHERE id = 4", [2]),
        (f"UPDATE credit_grants SET amount_micro = {MAX} WHERE campaign_id = 2", [2]),
    ],
    "campaigns_counted_what_became_of_their_grants": [
        *_miscounts(),
        ("UPDATE credit_lots SET consumed_micro = 0, reserved_micro = 100 WHERE id = 2", [2]),
        ("UPDATE credit_grants SET status = 'granted', revoked_micro = NULL WHERE id = 2", [2]),
        ("DELETE FROM credit_campaign_totals WHERE campaign_id = 7", [7]),
        (f"UPDATE credit_grants SET revoked_consumed_micro = {MAX}, revoked_reserved_micro = {MAX}", [2]),
    ],
    "campaigns_counted_what_they_did_each_day": [
        ("UPDATE credit_campaign_days SET grants = 3", [2]),
        ("UPDATE credit_campaign_days SET granted_micro = 199", [2]),
        ("UPDATE credit_campaign_days SET consumed_micro = 101", [2]),
        ("UPDATE credit_campaign_days SET day = 1", [2, 2]),
        ("DELETE FROM credit_campaign_days", [2]),
        ("INSERT INTO credit_campaign_days VALUES (7, 3, 1, 0, 0)", [7]),
        (f"INSERT INTO credit_campaign_days VALUES (2, 1, {MAX}, {MAX}, {MAX}), (2, 2, {MIN}, {MIN}, {MIN})", [2, 2]),
    ],
    # grant_lot_match
    "grants_have_their_lots": [
        ("UPDATE credit_grants SET lot_id = 99 WHERE id = 1", [1]),
        ("UPDATE credit_grants SET campaign_id = 99 WHERE id = 2", [2]),
        ("UPDATE credit_grants SET account_id = 1 WHERE id = 1", [1]),
        ("UPDATE credit_grants SET amount_micro = 99 WHERE id = 2", [2]),
        ("UPDATE credit_grants SET created_at_us = 1071 WHERE id = 1", [1]),
        ("UPDATE credit_campaigns SET pool_id = 'gpu' WHERE id = 2", [1, 2]),
        ("UPDATE credit_campaigns SET per_wallet_cap_micro = 99 WHERE id = 2", [1, 2]),
        ("UPDATE credit_lots SET source_type = 'deposit' WHERE id = 2", [1]),
        ("UPDATE credit_lots SET source_id = 'order-9' WHERE id = 2", [1]),
        ("UPDATE credit_lots SET campaign_id = 7 WHERE id = 2", [1]),
    ],
    "lots_of_campaigns_have_their_grants": [
        ("UPDATE credit_lots SET campaign_id = 2 WHERE id = 6", [6]),
        ("DELETE FROM credit_grants WHERE id = 1", [2]),
    ],
    "grants_say_of_their_lots_what_was_revoked": [
        ("UPDATE credit_lots SET revoked_micro = 0, available_micro = 100 WHERE id = 4", [2]),
        ("UPDATE credit_lots SET revoked_micro = 99, consumed_micro = 1 WHERE id = 4", [2]),
        ("UPDATE credit_lots SET revoked_micro = 1, consumed_micro = 99 WHERE id = 2", [1]),
        ("UPDATE credit_grants SET status = 'granted' WHERE id = 2", [2]),
        ("UPDATE credit_grants SET status = 'lost' WHERE id = 1", [1]),
        ("UPDATE credit_grants SET revoked_micro = 99 WHERE id = 2", [2]),
        ("UPDATE credit_grants SET revoked_micro = NULL WHERE id = 2", [2]),
        ("UPDATE credit_grants SET revoked_consumed_micro = 1 WHERE id = 2", [2]),
        ("UPDATE credit_grants SET revoked_at_us = 1129 WHERE id = 2", [2]),
        ("UPDATE credit_lots SET revoked_at_us = 1141 WHERE id = 4", [2]),
        ("UPDATE credit_lots SET revoked_at_us = 1140 WHERE id = 2", [1]),
        ("UPDATE credit_grants SET revoke_reason = NULL WHERE id = 2", [2]),
        ("UPDATE credit_grants SET revoke_reason = 'why' WHERE id = 1", [1]),
    ],
    "lots_are_revoked_with_their_grant": [
        ("UPDATE credit_lots SET revoked_micro = 1, available_micro = 69 WHERE id = 6", [6]),
        ("UPDATE credit_lots SET revoked_at_us = 1140 WHERE id = 6", [6]),
        ("UPDATE credit_grants SET status = 'granted' WHERE id = 2", [4]),
        ("DELETE FROM credit_grants WHERE id = 2", [4]),
    ],
    # audit_chain
    "the_audit_log_holds_what_the_last_reconciliation_saw": [
        ("DELETE FROM admin_audit_log WHERE seq = 1", [1]),
        ("DELETE FROM admin_audit_log", [1]),
        ("UPDATE admin_audit_log SET hash = zeroblob(32) WHERE seq = 1", [1]),
        ("UPDATE reconciliations SET audit_seq = 3", [3]),
    ],
    "accounts_are_no_newer_than_the_audit_log": [
        ("DELETE FROM admin_audit_log", [1, 2, 3]),
        ("UPDATE credit_accounts SET created_at_us = 1151 WHERE id = 3", [3]),
    ],
    "lots_are_no_newer_than_the_audit_log": [
        ("DELETE FROM admin_audit_log WHERE seq = 2", [1, 2, 3, 4, 5, 6]),
        ("UPDATE credit_lots SET created_at_us = 1151 WHERE id = 5", [5]),
    ],
    "campaigns_are_no_newer_than_the_audit_log": [
        ("UPDATE credit_campaigns SET created_at_us = 1151 WHERE id = 3", [3]),
    ],
    "revocations_are_no_newer_than_the_audit_log": [
        ("DELETE FROM admin_audit_log WHERE seq = 2", [2]),
    ],
    # foreign_keys
    "rows_name_rows_that_there_are": [
        ("UPDATE credit_ledger SET reservation_id = 99 WHERE id = 2", [2]),
        ("UPDATE credit_ledger SET lot_id = 99 WHERE id = 6", [6]),
        ("UPDATE credit_debts SET account_id = 99", [3]),
        ("UPDATE memberships SET account_id = 99 WHERE id = 2", [99]),
        ("DELETE FROM credit_campaigns WHERE id = 2", [1, 2, 2, 2, 2, 2, 2, 4]),
        ("UPDATE events SET account_id = 99 WHERE id = 2", [99]),
        ("UPDATE credit_lots SET account_id = 99 WHERE id = 6", [6]),
        ("UPDATE credit_reservations SET account_id = 99 WHERE id = 5", [5]),
    ],
    "thresholds_are_of_accounts_that_there_are": [("UPDATE thresholds SET account_id = 99 WHERE account_id = 2", [99])],
    "reservation_lots_name_rows_that_there_are": [
        ("UPDATE reservation_lots SET reservation_id = 99 WHERE reservation_id = 2", [99]),
        ("UPDATE reservation_lots SET lot_id = 99 WHERE reservation_id = 2", [2]),
    ],
    "balances_are_of_accounts_that_there_are": [
        ("UPDATE credit_balances SET account_id = 99 WHERE account_id = 2", [99]),
    ],
    "campaign_days_are_of_campaigns_that_there_are": [
        ("UPDATE credit_campaign_days SET campaign_id = 99", [99]),
    ],
    # What no query can tell: the hashes of the audit log.
    AUDIT_RULE: [
        ('UPDATE admin_audit_log SET details = \'{"after":2}\' WHERE seq = 2', [2]),
        ("UPDATE admin_audit_log SET actor_id = 'other' WHERE seq = 1", [1]),
        ("UPDATE admin_audit_log SET token_id = NULL WHERE seq = 2", [2]),
        ("UPDATE admin_audit_log SET created_at_us = created_at_us + 1 WHERE seq = 1", [1]),
        ("UPDATE admin_audit_log SET hash = zeroblob(32) WHERE seq = 1", [1, 2]),
        ("UPDATE admin_audit_log SET hash = zeroblob(31) WHERE seq = 2", [2]),
        ("UPDATE admin_audit_log SET previous_hash = zeroblob(32) WHERE seq = 2", [2]),
        ("DELETE FROM admin_audit_log WHERE seq = 1", [2]),
        ("UPDATE admin_audit_log SET seq = 7 WHERE seq = 2", [2]),
        ("UPDATE admin_audit_log SET id = 7 WHERE seq = 2", [7]),
    ],
}  # fmt: skip

CASES = [(rule, harm, keys) for rule, harms in HARMS.items() for harm, keys in harms]


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


def test_a_whole_book_passes_every_check(migrated_file: Path, tmp_path: Path) -> None:
    with closing(open_reader(make_book(migrated_file, tmp_path))) as conn:
        findings = run_checks(conn)
    assert {name: (found.violations, found.examples, found.broken) for name, found in findings.items()} == {
        name: (0, [], []) for name in CHECKS
    }
    assert all(found.checked > 0 for found in findings.values())


def test_an_empty_book_passes_every_check(migrated_file: Path) -> None:
    with closing(open_reader(migrated_file)) as conn:
        assert violations(conn) == {}


@pytest.mark.parametrize(("rule", "harm", "keys"), CASES, ids=_ids())
def test_a_broken_book_is_found_out(defenceless: sqlite3.Connection, rule: str, harm: str, keys: list[int]) -> None:
    conn = defenceless
    [check] = [
        name for name, check in CHECKS.items() if rule in (*check.rules, *([AUDIT_RULE] if name == "audit_chain" else []))
    ]
    conn.execute("BEGIN IMMEDIATE")
    try:
        assert violations(conn) == {}
        assert conn.execute(harm).rowcount > 0
        found = run_check(conn, check)
        named = RULES[rule].all(conn) if rule in RULES else None
        others = run_checks(conn)
    finally:
        conn.execute("ROLLBACK")
    assert rule in found.broken
    assert found.violations > 0 and len(found.examples) <= EXAMPLES_MAX
    if named is None:
        named = [("audit_", key) for key in keys]
    assert sorted(key for _, key in named) == keys
    # Each is among the examples under its public id.
    assert {ids.encode(kind, key) for kind, key in named} <= set(found.examples)
    # A check fails with a reason, and names what is wrong.
    for other in others.values():
        assert bool(other.violations) == bool(other.broken) == bool(other.examples)
        assert FILE_RULE not in other.broken


def test_every_rule_is_broken_here_once_at_least_and_belongs_to_one_check() -> None:
    assert HARMS.keys() == {*RULES, AUDIT_RULE}
    assert sorted(rule for check in CHECKS.values() for rule in check.rules) == sorted(RULES)


def test_a_thing_that_breaks_several_rules_of_a_check_is_one_violation(defenceless: sqlite3.Connection) -> None:
    conn = defenceless
    conn.execute("BEGIN IMMEDIATE")
    try:
        conn.execute("UPDATE credit_balances SET available_micro = 605 WHERE account_id = 1")
        found = run_check(conn, "balance_cache_match")
    finally:
        conn.execute("ROLLBACK")
    assert (found.checked, found.violations, found.examples) == (4, 1, ["acct_0000000000001"])
    assert found.broken == ["balances_are_the_sums_of_the_lots", "balances_are_those_of_the_newest_entry"]


def test_of_many_violations_ten_are_named_and_all_are_counted(defenceless: sqlite3.Connection) -> None:
    conn = defenceless
    conn.execute("BEGIN IMMEDIATE")
    try:
        conn.execute("UPDATE credit_ledger SET available_after_micro = -5 - id")
        conn.execute("UPDATE admin_audit_log SET hash = zeroblob(32)")
        found, audited = run_check(conn, "entry_chain"), run_check(conn, "audit_chain")
    finally:
        conn.execute("ROLLBACK")
    assert found.violations == 17 and len(found.examples) == 10 == len(set(found.examples))
    assert audited.violations == 2 and audited.examples == ["audit_0000000000001", "audit_0000000000002"]


def test_numbers_of_any_size_in_any_column_break_no_check(defenceless: sqlite3.Connection) -> None:
    """Overflow: each check still comes to a finding, and never to an error of SQL."""
    conn = defenceless
    columns = [
        (table, column)
        for (table,) in conn.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name LIKE 'credit_%'"
        ).fetchall()
        for _, column, *_ in conn.execute(f"PRAGMA table_info({table})").fetchall()
        if column.endswith(("_micro", "_bps", "_us", "_seq", "_count"))
    ]
    assert len(columns) > 40
    for table, column in [*columns, ("reservation_lots", "reserved_micro")]:
        for number in (MAX, MIN):
            conn.execute("BEGIN IMMEDIATE")
            try:
                conn.execute("DROP INDEX entries_one_per_sequence_number")
                conn.execute(f"UPDATE {table} SET {column} = {number}")
                findings = run_checks(conn)
            finally:
                conn.execute("ROLLBACK")
            assert not any(FILE_RULE in found.broken for found in findings.values()), (table, column, number)


def test_a_file_that_can_not_be_read_fails_the_check_that_reads_it(defenceless: sqlite3.Connection) -> None:
    conn = defenceless
    conn.execute("BEGIN IMMEDIATE")
    try:
        conn.execute("DROP TABLE credit_balances")
        findings = run_checks(conn)
    finally:
        conn.execute("ROLLBACK")
    assert findings["balance_cache_match"].broken == [FILE_RULE] and findings["balance_cache_match"].violations == 1
    assert findings["audit_chain"].violations == 0
