"""Each kind of damage is found, by the rule that it breaks and with the damaged rows."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from minibill.db.connection import open_reader, open_writer
from minibill.db.sqlite import sqlite3
from minibill.integrity import checks
from minibill.integrity.audited_settings import SETTINGS
from minibill.integrity.checks import (
    AUDIT_RULE,
    CHECKS,
    EXAMPLES_MAX,
    FILE_RULE,
    RULES,
    account_slices,
    public_id,
    run_check,
    run_checks,
    violations,
    violations_of,
)
from tests.api_client import Api, ok
from tests.sql.book import make_book

MAX, MIN = 2**63 - 1, -(2**63)


def _miscounts() -> Iterator[tuple[str, list[int]]]:
    """Yield statements that add 1 to one total of a campaign, with grants and without."""
    for column in (
        "granted_micro", "reserved_micro", "expired_micro", "spending_accounts", "grants_revoked", "revoked_micro",
        "revoked_consumed_micro", "revoked_reserved_micro",
    ):  # fmt: skip
        for campaign in (2, 7):
            yield f"UPDATE credit_campaign_totals SET {column} = {column} + 1 WHERE campaign_id = {campaign}", [campaign]


# By rule: a statement that breaks it in the small database, and the keys of the violations that the rule must return. A sum
# beyond 63 bits is a violation by a table.
HARMS: dict[str, Sequence[tuple[str, Sequence[int | str]]]] = {
    # lot_balance_match
    "lots_parts_sum_to_original": [
        ("UPDATE credit_lots SET available_micro = 551 WHERE id = 1", [1]),
        ("UPDATE credit_lots SET original_micro = 999 WHERE id = 1", [1]),
        ("UPDATE credit_lots SET available_micro = -1, reserved_micro = 851 WHERE id = 1", [1]),
        ("UPDATE credit_lots SET revoked_micro = -1, expired_micro = 51 WHERE id = 5", [5]),
        ("UPDATE credit_lots SET original_micro = 0, available_micro = 0 WHERE id = 6", [6]),
        (f"UPDATE credit_lots SET available_micro = {MAX}, reserved_micro = {MAX} WHERE id = 1", [1]),
        (f"UPDATE credit_lots SET original_micro = {MIN} WHERE id IN (1, 6)", [1, 6]),
    ],
    # balance_cache_match
    "balances_match_newest_entry": [
        ("UPDATE credit_balances SET available_micro = 621 WHERE account_id = 1", [1]),
        ("UPDATE credit_balances SET reserved_micro = 301 WHERE account_id = 1", [1]),
        ("UPDATE credit_balances SET entry_seq = 5, available_micro = 550 WHERE account_id = 1", [1]),
        ("UPDATE credit_balances SET entry_seq = 7 WHERE account_id = 1", [1]),
        ("DELETE FROM credit_ledger WHERE id = 6", [1]),
        ("INSERT INTO credit_balances VALUES (2, 'gpu', 0, 0, 1)", [2]),
    ],
    "balances_match_lots": [
        ("UPDATE credit_lots SET available_micro = 69, consumed_micro = 1 WHERE id = 6", [1]),
        ("UPDATE credit_balances SET available_micro = 610, reserved_micro = 310 WHERE account_id = 1", [1]),
        ("INSERT INTO credit_balances VALUES (2, 'gpu', 5, 0, 1)", [2]),
        ("INSERT INTO credit_balances VALUES (2, 'gpu', 0, 5, 1)", [2]),
        (f"UPDATE credit_lots SET available_micro = {MAX} WHERE account_id = 1", ["credit_balances"]),
        (f"UPDATE credit_lots SET reserved_micro = {MAX} WHERE account_id = 1", ["credit_balances"]),
    ],
    "pools_with_entries_have_balance": [
        ("DELETE FROM credit_balances WHERE account_id = 2", [2]),
        ("DELETE FROM credit_balances WHERE pool_id = 'gpu'", [3, 4]),
    ],
    "thresholds_match_balance": [
        ("UPDATE thresholds SET is_below = 1 WHERE below_micro = 600", [1]),
        ("UPDATE thresholds SET is_below = 0 WHERE below_micro = 700", [1]),
        ("UPDATE thresholds SET is_below = 0 WHERE pool_id = 'gpu'", [2]),
        ("UPDATE credit_balances SET available_micro = 599 WHERE account_id = 1", [1]),
    ],
    # entry_chain
    "events_are_in_entry_order": [
        ("UPDATE events SET after_entry_id = 3 WHERE id = 1", [0]),
        ("UPDATE events SET after_entry_id = 27 WHERE id = (SELECT max(id) FROM events)", [27]),
        ("DELETE FROM credit_ledger WHERE id = 26", [26]),
    ],
    "ids_belong_to_an_epoch": [
        # Each row states a newest id that is too low for one table.
        (f"INSERT INTO book_epochs VALUES (500, 2, 'restored', 1, {newest})", [key])
        for newest, key in (
            ("3, 9, 6, 4, 2, 26, 8, 2, 500", "acct_0000000000004"),
            ("4, 8, 6, 4, 2, 26, 8, 2, 500", "lot_0000000000009"),
            ("4, 9, 5, 4, 2, 26, 8, 2, 500", "res_0000000000006"),
            ("4, 9, 6, 3, 2, 26, 8, 2, 500", "charge_0000000000004"),
            ("4, 9, 6, 4, 1, 26, 8, 2, 500", "charge_0000000000002"),
            ("4, 9, 6, 4, 2, 25, 8, 2, 500", "entry_000000000000t"),
            ("4, 9, 6, 4, 2, 26, 7, 2, 500", "camp_0000000000008"),
            ("4, 9, 6, 4, 2, 26, 8, 1, 500", "grant_0000000000002"),
            ("4, 9, 6, 4, 2, 26, 8, 2, (SELECT max(id) - 1 FROM events)", "entry_000000000000t"),
        )
    ] + [
        (
            "INSERT INTO book_epochs VALUES (500, 2, 'restored', 1, 4, 9, 6, 4, 0, 26, 8, 2, 500)",
            ["charge_0000000000002", "res_0000000000003"],
        )
    ],
    "entries_continue_previous_entry": [
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
    "entries_are_in_time_order": [
        ("UPDATE credit_ledger SET created_at_us = 1039 WHERE id = 5", [5]),
        ("UPDATE credit_ledger SET created_at_us = 1081 WHERE id = 7", [8]),
    ],
    "entries_deltas_match_type": [
        ("UPDATE credit_ledger SET entry_type = 'finalize' WHERE id = 6", [6]),
        ("UPDATE credit_ledger SET entry_type = 'gift' WHERE id = 6", [6]),
        ("UPDATE credit_ledger SET amount_micro = -301 WHERE id = 2", [2]),
        ("UPDATE credit_ledger SET lot_id = NULL WHERE id = 6", [6]),
        ("UPDATE credit_ledger SET lot_id = 2 WHERE id = 10", [10]),
        ("UPDATE credit_ledger SET reservation_id = NULL WHERE id IN (2, 5, 17)", [2, 5, 17]),
        ("UPDATE credit_ledger SET charge_id = NULL WHERE id IN (20, 23, 24)", [20, 23, 24]),
        ("UPDATE credit_ledger SET charge_id = 1 WHERE id IN (2, 18)", [2, 18]),
        ("UPDATE credit_ledger SET reservation_id = 3 WHERE id IN (20, 23)", [20, 23]),
        ("UPDATE credit_ledger SET charge_id = NULL, reservation_id = 3 WHERE id IN (20, 24)", [20, 24]),
        ("UPDATE credit_ledger SET reserved_delta_micro = 1 WHERE id IN (20, 24)", [20, 24]),
        ("UPDATE credit_ledger SET available_delta_micro = -7 WHERE id = 21", [21]),
        ("UPDATE credit_ledger SET lot_id = NULL WHERE id = 20", [20]),
        ("UPDATE credit_ledger SET lot_id = 7 WHERE id = 24", [24]),
    ],
    # entries_match_lots
    "lots_match_entries": [
        ("UPDATE credit_lots SET available_micro = 549, consumed_micro = 151 WHERE id = 1", [1]),
        ("UPDATE credit_lots SET reserved_micro = 299, consumed_micro = 151 WHERE id = 1", [1]),
        ("UPDATE credit_lots SET expired_micro = 49, revoked_micro = 1 WHERE id = 5", [5]),
        ("UPDATE credit_lots SET revoked_micro = 99, consumed_micro = 1 WHERE id = 4", [4]),
        ("DELETE FROM credit_ledger WHERE id = 6", [6]),
        ("UPDATE credit_ledger SET entry_type = 'expire' WHERE id = 14", [4]),
        ("UPDATE credit_ledger SET entry_type = 'expire' WHERE id = 22", [8]),
        ("INSERT INTO credit_lots SELECT 10, 1, 'x', 'grant', NULL, NULL, 50, 1, 0, 0, 0, 0, 0, NULL, NULL, NULL, 1", [10]),
        ("UPDATE credit_ledger SET entry_type = 'deposit' WHERE id = 5", [1]),
        (f"UPDATE credit_ledger SET available_delta_micro = {MAX} WHERE lot_id = 1", ["credit_ledger"]),
        (f"UPDATE credit_ledger SET amount_micro = {MIN} WHERE lot_id = 1", [1]),
        (f"UPDATE credit_lots SET available_micro = {MIN} WHERE id = 1", [1]),
    ],
    "entries_match_account_and_pool_of_lot": [
        ("UPDATE credit_ledger SET lot_id = 1 WHERE id = 11", [11]),
        ("UPDATE credit_ledger SET lot_id = 99 WHERE id = 12", [12]),
        ("UPDATE credit_lots SET pool_id = 'gpu' WHERE id = 6", [6]),
        ("UPDATE credit_lots SET account_id = 1 WHERE id = 3", [11, 12]),
        ("UPDATE credit_lots SET source_type = 'deposit' WHERE id = 6", [6]),
        ("UPDATE credit_lots SET created_at_us = 1061 WHERE id = 6", [6]),
        ("UPDATE credit_lots SET original_micro = 71 WHERE id = 6", [6]),
    ],
    # reservation_match
    "reservations_match_reserved_lots": [
        ("DELETE FROM reservation_lots WHERE reservation_id = 2", [2]),
        ("UPDATE credit_reservations SET held_micro = 99 WHERE id = 3", [3]),
        ("UPDATE credit_reservations SET held_micro = 1 WHERE id = 5", [5]),
        ("INSERT INTO reservation_lots VALUES (4, 1, 5, 80)", [4]),
        ("UPDATE credit_reservations SET billing_mode = 'live' WHERE id = 4", [4]),
        (f"INSERT INTO reservation_lots VALUES (1, 2, 6, {MAX}), (1, 3, 6, {MAX})", ["credit_reservations"]),
    ],
    "reservation_lots_match_account_and_pool": [
        ("UPDATE credit_reservations SET account_id = 2 WHERE id = 1", [1]),
        ("UPDATE credit_lots SET pool_id = 'gpu' WHERE id = 2", [3]),
        ("UPDATE reservation_lots SET lot_id = 3 WHERE reservation_id = 1", [1]),
        ("UPDATE reservation_lots SET reserved_micro = -1 WHERE reservation_id = 1", [1]),
    ],
    "lots_match_pending_reservations": [
        ("UPDATE credit_lots SET reserved_micro = 299, available_micro = 551 WHERE id = 1", [1]),
        ("UPDATE credit_lots SET reserved_micro = 1, available_micro = 69 WHERE id = 6", [6]),
        ("UPDATE credit_reservations SET status = 'released' WHERE id = 1", [1]),
        ("UPDATE credit_reservations SET status = 'pending' WHERE id = 3", [2]),
        ("UPDATE reservation_lots SET lot_id = 6 WHERE reservation_id = 1", [1, 6]),
        (f"INSERT INTO reservation_lots VALUES (1, 2, 6, {MAX}), (1, 3, 6, {MAX})", ["credit_reservations"]),
    ],
    "reservations_amounts_add_up": [
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
    "reservations_match_entries": [
        ("UPDATE credit_ledger SET amount_micro = -301 WHERE id = 2", [1]),
        ("DELETE FROM credit_ledger WHERE id = 4", [2]),
        ("DELETE FROM credit_ledger WHERE id = 10", [3]),
        ("UPDATE credit_ledger SET reservation_id = 1 WHERE id = 5", [1, 2]),
        ("UPDATE credit_ledger SET reservation_id = 2 WHERE id = 2", [2]),
        ("UPDATE credit_ledger SET available_delta_micro = -150, reserved_delta_micro = 0 WHERE id = 4", [2]),
        ("UPDATE credit_reservations SET finalized_micro = 151, released_micro = 29 WHERE id = 2", [2]),
        ("UPDATE credit_reservations SET overrun_micro = 61 WHERE id = 3", [3]),
        ("UPDATE credit_reservations SET status = 'finalized' WHERE id = 4", [4]),
        (f"UPDATE credit_ledger SET amount_micro = {MIN}, reserved_delta_micro = {MIN} WHERE lot_id = 1", [1, 2]),
    ],
    "reservations_have_entries": [
        ("DELETE FROM credit_ledger WHERE id = 2", [1]),
        ("DELETE FROM credit_ledger WHERE id = 17", [4]),
        ("DELETE FROM credit_ledger WHERE reservation_id IS NOT NULL", [1, 2, 3, 4]),
        ("UPDATE credit_reservations SET held_micro = 7 WHERE id = 5", [5]),
    ],
    "entries_match_reserved_lots": [
        ("UPDATE credit_ledger SET lot_id = 6 WHERE id IN (3, 4)", [2, 2]),
        ("UPDATE credit_ledger SET reservation_id = 2 WHERE id = 2", [2]),
        ("UPDATE credit_ledger SET reservation_id = 6 WHERE id = 2", [6]),
        ("UPDATE reservation_lots SET reserved_micro = 299 WHERE reservation_id = 1", [1]),
        ("UPDATE credit_reservations SET status = 'released' WHERE id = 1", [1]),
        (f"UPDATE credit_ledger SET reserved_delta_micro = {MAX} WHERE lot_id = 1", ["credit_reservations"]),
    ],
    "entries_match_account_of_reservation": [
        ("UPDATE credit_ledger SET reservation_id = 3 WHERE id = 2", [2]),
        ("UPDATE credit_reservations SET account_id = 1 WHERE id = 4", [17]),
        ("UPDATE credit_reservations SET pool_id = 'tpu' WHERE id = 4", [17]),
    ],
    "silent_ends_are_recorded": [
        ("UPDATE credit_reservations SET status = 'released' WHERE id = 4", [4]),
        ("UPDATE credit_reservations SET status = 'pending' WHERE id = 5", [5]),
        ("DELETE FROM silent_ends", [5, 6]),
        ("INSERT INTO silent_ends VALUES (3, 2)", [2]),
        ("INSERT INTO silent_ends VALUES (3, 99)", [99]),
    ],
    "debts_match_incurring_entry": [
        ("UPDATE credit_debts SET reservation_id = 1 WHERE id = 1", [1]),
        ("UPDATE credit_debts SET original_micro = 61 WHERE id = 1", [3]),
        ("UPDATE credit_debts SET created_at_us = 1091 WHERE id = 1", [3]),
        ("UPDATE credit_ledger SET reservation_id = 4 WHERE id = 10", [3]),
        ("UPDATE credit_debts SET paid_micro = 61 WHERE id = 1", [3]),
        ("DELETE FROM credit_ledger WHERE entry_type = 'debt_incurred'", ["charge_0000000000002", "res_0000000000003"]),
        (
            f"INSERT INTO credit_debts VALUES (3, 2, 1, NULL, {MAX}, 0, NULL, 1), (4, 2, 2, NULL, {MAX}, {MAX}, NULL, 1)",
            [1, 2],
        ),
        ("UPDATE credit_debts SET charge_id = 1 WHERE id = 2", ["charge_0000000000001"]),
        ("UPDATE credit_debts SET charge_id = 1 WHERE id = 1", ["charge_0000000000001"]),
        ("UPDATE credit_debts SET original_micro = 19 WHERE id = 2", ["charge_0000000000002"]),
        ("UPDATE credit_debts SET paid_micro = 19 WHERE id = 2", ["charge_0000000000002"]),
        ("UPDATE credit_debts SET created_at_us = 1191 WHERE id = 2", ["charge_0000000000002"]),
        ("UPDATE credit_ledger SET charge_id = 1 WHERE id = 23", ["charge_0000000000002"]),
        ("UPDATE credit_debts SET charge_id = NULL WHERE id = 2", ["res_"]),
    ],
    "debt_entries_have_debt": [
        ("DELETE FROM credit_debts", ["charge_0000000000002", "res_0000000000003"]),
        ("DELETE FROM credit_debts WHERE id = 2", ["charge_0000000000002"]),
        ("UPDATE credit_debts SET original_micro = 19 WHERE id = 2", ["charge_0000000000002"]),
        ("UPDATE credit_debts SET account_id = 1 WHERE id = 2", ["charge_0000000000002"]),
        ("UPDATE credit_debts SET created_at_us = 1191 WHERE id = 2", ["charge_0000000000002"]),
        ("UPDATE credit_debts SET charge_id = NULL, reservation_id = 2 WHERE id = 2", ["charge_0000000000002"]),
        ("UPDATE credit_debts SET original_micro = 61 WHERE id = 1", [3]),
        ("UPDATE credit_debts SET account_id = 1 WHERE id = 1", [3]),
        ("UPDATE credit_debts SET created_at_us = 1091 WHERE id = 1", [3]),
    ],
    "debts_paid_matches_entries": [
        ("UPDATE credit_debts SET paid_micro = 41 WHERE id = 1", [3]),
        ("UPDATE credit_debts SET account_id = 1 WHERE id = 1", [3]),
        ("UPDATE credit_debts SET reservation_id = 1 WHERE id = 1", [12]),
        ("UPDATE credit_ledger SET amount_micro = -39 WHERE id = 12", [3]),
        ("UPDATE credit_ledger SET metadata = NULL WHERE id = 12", [12]),
        ("UPDATE credit_ledger SET metadata = replace(metadata, '3', '1') WHERE id = 12", [12]),
        (f"UPDATE credit_debts SET paid_micro = {MAX}", ["charge_0000000000002", "res_0000000000003"]),
        ("UPDATE credit_debts SET paid_micro = 6 WHERE id = 2", ["charge_0000000000002"]),
        ("UPDATE credit_debts SET account_id = 1 WHERE id = 2", ["charge_0000000000002"]),
        ("UPDATE credit_debts SET charge_id = 1 WHERE id = 2", ["entry_000000000000t"]),
        ("UPDATE credit_ledger SET amount_micro = -4 WHERE id = 26", ["charge_0000000000002"]),
        ("UPDATE credit_ledger SET metadata = replace(metadata, '2', '1') WHERE id = 26", ["entry_000000000000t"]),
        ("UPDATE credit_ledger SET metadata = replace(metadata, 'debtC', 'debtK') WHERE id = 26", ["entry_000000000000t"]),
    ],
    "paid_debts_have_entries": [
        ("DELETE FROM credit_ledger WHERE entry_type = 'debt_paid'", ["charge_0000000000002", "res_0000000000003"]),
        ("DELETE FROM credit_ledger WHERE id = 26", ["charge_0000000000002"]),
        ("INSERT INTO credit_debts VALUES (3, 1, 2, NULL, 10, 1, NULL, 1)", ["res_0000000000002"]),
        ("INSERT INTO credit_debts VALUES (3, 4, NULL, 1, 10, 1, NULL, 1)", ["charge_0000000000001"]),
    ],
    # charge_match
    "charges_amounts_add_up": [
        ("UPDATE credit_charges SET discount_micro = 11, charged_micro = 109 WHERE id = 1", [1]),
        ("UPDATE credit_charges SET max_discount_micro = 11 WHERE id = 1", [1]),
        ("UPDATE credit_charges SET discount_bps = 999 WHERE id = 1", [1]),
        ("UPDATE credit_charges SET list_micro = 121 WHERE id = 1", [1]),
        ("UPDATE credit_charges SET charged_micro = 109 WHERE id = 1", [1]),
        ("UPDATE credit_charges SET charged_micro = 61, debt_micro = -1 WHERE id = 2", [2]),
        ("UPDATE credit_charges SET charged_micro = -1, debt_micro = 61 WHERE id = 2", [2]),
        ("UPDATE credit_charges SET billing_mode = 'live' WHERE id = 2", [2]),
        ("UPDATE credit_charges SET billing_mode = 'shadow' WHERE id = 1", [1]),
        (f"UPDATE credit_charges SET list_micro = {MAX} WHERE id = 1", [1]),
        (f"UPDATE credit_charges SET list_micro = {MIN} WHERE id = 1", [1]),
    ],
    "charges_match_entries": [
        ("UPDATE credit_ledger SET amount_micro = -99 WHERE id = 20", [1]),
        ("UPDATE credit_ledger SET amount_micro = -17 WHERE id = 23", [2]),
        ("UPDATE credit_ledger SET charge_id = 2 WHERE id = 21", [1]),
        ("UPDATE credit_ledger SET charge_id = NULL WHERE id = 24", [3]),
        ("UPDATE credit_ledger SET entry_type = 'charge' WHERE id = 23", [2]),
        ("UPDATE credit_ledger SET entry_type = 'charge' WHERE id = 24", [3]),
        ("DELETE FROM credit_ledger WHERE id = 20", [1]),
        ("DELETE FROM credit_ledger WHERE charge_id IS NOT NULL", [1, 2, 3]),
        ("UPDATE credit_charges SET after_entry_id = after_entry_id + 1 WHERE id < 3", [1, 2]),
        ("UPDATE credit_charges SET after_entry_id = after_entry_id - 1 WHERE id < 3", [1, 2]),
        ("UPDATE credit_charges SET entry_count = 1 WHERE id = 1", [1]),
        ("UPDATE credit_charges SET entry_count = 3 WHERE id = 1", [1]),
        ("UPDATE credit_charges SET entry_count = 1 WHERE id = 4", [4]),
        ("UPDATE credit_charges SET list_micro = 1, charged_micro = 1 WHERE id = 4", [4]),
        ("UPDATE credit_charges SET billing_mode = 'soft' WHERE id = 3", [3]),
        ("UPDATE credit_charges SET billing_mode = 'shadow' WHERE id = 4", [4]),
        (f"UPDATE credit_charges SET entry_count = {MAX} WHERE id = 1", [1]),
        (f"UPDATE credit_charges SET after_entry_id = {MAX} WHERE id = 1", [1]),
        (f"UPDATE credit_ledger SET amount_micro = {-MAX} WHERE id IN (20, 21)", ["credit_charges"]),
    ],
    "entries_match_their_charge": [
        ("UPDATE credit_ledger SET charge_id = 99 WHERE id = 22", [22]),
        ("UPDATE credit_ledger SET charge_id = 2 WHERE id = 26", [26]),
        ("UPDATE credit_ledger SET charge_id = 2 WHERE id = 21", [21]),
        ("UPDATE credit_ledger SET pool_id = 'gpu' WHERE id = 21", [21]),
        ("UPDATE credit_ledger SET created_at_us = 1191 WHERE id = 23", [23]),
        ("UPDATE credit_charges SET account_id = 1 WHERE id = 1", [20, 21]),
        ("UPDATE credit_charges SET pool_id = 'tpu' WHERE id = 3", [24]),
        ("UPDATE credit_charges SET created_at_us = 1186 WHERE id = 1", [20, 21]),
        ("UPDATE credit_charges SET after_entry_id = 20 WHERE id = 1", [20]),
        ("UPDATE credit_charges SET after_entry_id = 18 WHERE id = 1", [21]),
        ("UPDATE credit_charges SET entry_count = 0 WHERE id = 1", [20, 21]),
        (f"UPDATE credit_charges SET after_entry_id = {MIN} WHERE id = 3", [24]),
        ("DELETE FROM credit_charges WHERE id = 2", [22, 23]),
    ],
    # orphan_reservations
    "reservations_have_lots": [
        ("DELETE FROM reservation_lots WHERE reservation_id IN (1, 2)", [1, 2]),
        ("UPDATE credit_reservations SET billing_mode = 'soft' WHERE id = 4", [4]),
    ],
    "reservations_have_account": [
        ("UPDATE credit_reservations SET account_id = 99 WHERE id = 5", [5]),
        ("DELETE FROM credit_accounts WHERE id = 2", [3]),
    ],
    "reservation_lots_have_reservation_and_lot": [
        ("DELETE FROM credit_reservations WHERE id = 1", [1]),
        ("UPDATE reservation_lots SET reservation_id = 99 WHERE reservation_id = 2", [99]),
        ("UPDATE reservation_lots SET lot_id = 99 WHERE reservation_id = 2", [2]),
    ],
    "entries_have_reservation": [
        ("DELETE FROM credit_reservations WHERE id = 1", [2]),
        ("UPDATE credit_ledger SET reservation_id = 99 WHERE id = 6", [6]),
    ],
    # campaign_spent_match
    "campaigns_spent_matches_grants": [
        ("UPDATE credit_campaigns SET spent_micro = 200 WHERE id = 2", [2]),
        ("UPDATE credit_campaigns SET grant_count = 1 WHERE id = 2", [2]),
        ("UPDATE credit_campaigns SET spent_micro = 1 WHERE id = 7", [7]),
        ("UPDATE credit_campaigns SET grant_count = 1 WHERE id = 5", [5]),
        ("DELETE FROM credit_grants WHERE id = 1", [2]),
        ("UPDATE credit_grants SET campaign_id = 7 WHERE id = 1", [2, 7]),
        ("UPDATE credit_campaigns SET budget_micro = 99 WHERE id = 2", [2]),
        ("UPDATE credit_lots SET revoked_micro = 99, consumed_micro = 1 WHERE id = 4", [2]),
        (f"UPDATE credit_grants SET amount_micro = {MAX} WHERE campaign_id = 2", ["credit_campaigns"]),
    ],
    "campaign_totals_match_grants": [
        *_miscounts(),
        ("UPDATE credit_lots SET consumed_micro = 0, reserved_micro = 100 WHERE id = 2", [2]),
        ("UPDATE credit_grants SET status = 'granted', revoked_micro = NULL WHERE id = 2", [2]),
        ("DELETE FROM credit_campaign_totals WHERE campaign_id = 7", [7]),
        (f"UPDATE credit_grants SET revoked_consumed_micro = {MAX}, revoked_reserved_micro = {MAX}", ["credit_campaigns"]),
        (f"UPDATE credit_grants SET revoked_consumed_micro = {MAX} WHERE id = 2", [2]),
    ],
    "campaign_days_match_entries": [
        ("UPDATE credit_campaign_days SET grants = 3", [2]),
        ("UPDATE credit_campaign_days SET granted_micro = 199", [2]),
        ("UPDATE credit_campaign_days SET consumed_micro = 101", [2]),
        ("UPDATE credit_campaign_days SET day = 1", [2, 2]),
        ("DELETE FROM credit_campaign_days", [2]),
        # A charge consumes this lot.
        ("UPDATE credit_lots SET campaign_id = 2 WHERE id = 8", [2]),
        ("INSERT INTO credit_campaign_days VALUES (7, 3, 1, 0, 0)", [7]),
        (f"INSERT INTO credit_campaign_days VALUES (2, 1, {MAX}, {MAX}, {MAX}), (2, 2, {MIN}, {MIN}, {MIN})", [2, 2]),
    ],
    # grant_lot_match
    "grants_match_lots": [
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
    "campaign_lots_have_grant": [
        ("UPDATE credit_lots SET campaign_id = 2 WHERE id = 6", [6]),
        ("DELETE FROM credit_grants WHERE id = 1", [2]),
    ],
    "grants_revocation_matches_lot": [
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
    "revoked_lots_have_revoked_grant": [
        ("UPDATE credit_lots SET revoked_micro = 1, available_micro = 69 WHERE id = 6", [6]),
        ("UPDATE credit_lots SET revoked_at_us = 1140 WHERE id = 6", [6]),
        ("UPDATE credit_grants SET status = 'granted' WHERE id = 2", [4]),
        ("DELETE FROM credit_grants WHERE id = 2", [4]),
    ],
    "grants_match_revoked_event": [
        ("UPDATE credit_grants SET revoke_reason = 'another' WHERE id = 2", [2]),
        ("UPDATE credit_grants SET status = 'granted' WHERE id = 2", [2]),
        ("DELETE FROM credit_grants WHERE id = 2", [2]),
        ("UPDATE events SET data = replace(data, 'mistake', 'gift') WHERE type = 'grant.revoked'", [2]),
    ],
    "revoked_grants_have_event": [
        ("DELETE FROM events WHERE type = 'grant.revoked'", [2]),
        ("UPDATE credit_grants SET status = 'revoked' WHERE id = 1", [1]),
    ],
    # audit_chain
    "audit_log_contains_reconciled_row": [
        ("DELETE FROM admin_audit_log WHERE seq = 1", [1]),
        ("DELETE FROM admin_audit_log", [1]),
        ("UPDATE admin_audit_log SET hash = zeroblob(32) WHERE seq = 1", [1]),
        ("UPDATE reconciliations SET audit_seq = 99", [99]),
    ],
    "lots_not_newer_than_audit_log": [
        ("DELETE FROM admin_audit_log WHERE seq >= 2", [1, 2, 3, 4, 5, 6, 7, 8, 9]),
        ("UPDATE credit_lots SET created_at_us = 1211 WHERE id = 5", [5]),
    ],
    "campaigns_not_newer_than_audit_log": [
        ("UPDATE credit_campaigns SET created_at_us = 1211 WHERE id = 3", [3]),
    ],
    "revocations_not_newer_than_audit_log": [
        ("DELETE FROM admin_audit_log WHERE seq >= 2", [2]),
    ],
    # foreign_keys
    "foreign_keys_are_valid": [
        ("UPDATE credit_ledger SET reservation_id = 99 WHERE id = 2", [2]),
        ("UPDATE credit_ledger SET lot_id = 99 WHERE id = 6", [6]),
        ("UPDATE credit_debts SET account_id = 99", ["charge_0000000000002", "res_0000000000003"]),
        ("UPDATE credit_charges SET account_id = 99 WHERE id = 4", ["charge_0000000000004"]),
        ("UPDATE credit_ledger SET charge_id = 99 WHERE id = 20", ["entry_000000000000m"]),
        ("UPDATE memberships SET account_id = 99 WHERE id = 2", [99]),
        ("DELETE FROM credit_campaigns WHERE id = 2", [1, 2, 2, 2, 2, 2, 2, 4]),
        ("UPDATE events SET account_id = 99 WHERE id = 2", [99]),
        ("UPDATE credit_lots SET account_id = 99 WHERE id = 6", [6]),
        ("UPDATE credit_reservations SET account_id = 99 WHERE id = 5", [5]),
    ],
    "thresholds_have_account": [("UPDATE thresholds SET account_id = 99 WHERE account_id = 2", [99])],
    "reservation_lots_foreign_keys_are_valid": [
        ("UPDATE reservation_lots SET reservation_id = 99 WHERE reservation_id = 2", [99]),
        ("UPDATE reservation_lots SET lot_id = 99 WHERE reservation_id = 2", [2]),
    ],
    "balances_have_account": [
        ("UPDATE credit_balances SET account_id = 99 WHERE account_id = 2", [99]),
    ],
    "campaign_days_have_campaign": [
        ("UPDATE credit_campaign_days SET campaign_id = 99", [99]),
    ],
    # settings_match_audit
    "tiers_match_the_audit_log": [
        ("UPDATE discount_tiers SET rate_bps = 10000 WHERE tier = 'silver'", ["guild"]),
        ("UPDATE discount_tiers SET max_discount_micro = NULL", ["guild"]),
        ("UPDATE discount_tiers SET position = 9 WHERE tier = 'silver'", ["guild"]),
        ("UPDATE discount_tiers SET community_id = 'other' WHERE tier = 'silver'", ["guild", "other"]),
        ("DELETE FROM discount_tiers", ["guild"]),
        ("INSERT INTO discount_tiers VALUES ('other', 'gold', 1, 10, NULL)", ["other"]),
        ("DELETE FROM admin_audit_log WHERE action = 'tiers.replace'", ["guild"]),
    ],
    "memberships_match_the_audit_log": [
        ("UPDATE memberships SET tier = 'gold' WHERE id = 2", ["acct_0000000000002"]),
        ("UPDATE memberships SET expires_at_us = NULL", ["acct_0000000000002"]),
        ("UPDATE memberships SET account_id = 3 WHERE id = 2", ["acct_0000000000002", "acct_0000000000003"]),
        ("DELETE FROM memberships WHERE id = 1", ["acct_0000000000001"]),
        ("INSERT INTO memberships VALUES (3, 3, 'guild', 'gold', NULL)", ["acct_0000000000003"]),
        (f"UPDATE memberships SET expires_at_us = {MAX} WHERE id = 1", ["acct_0000000000001"]),
    ],
    "thresholds_match_the_audit_log": [
        ("UPDATE thresholds SET recovered_micro = 900 WHERE below_micro = 700", ["acct_0000000000001"]),
        ("UPDATE thresholds SET below_micro = 4 WHERE account_id = 2", ["acct_0000000000002"]),
        ("UPDATE thresholds SET position = 7 WHERE account_id = 2", ["acct_0000000000002"]),
        ("DELETE FROM thresholds WHERE account_id = 2", ["acct_0000000000002"]),
        ("INSERT INTO thresholds VALUES (3, 'general', 1, 1, 1, 1)", ["acct_0000000000003"]),
    ],
    "campaigns_match_the_audit_log": [
        ("UPDATE credit_campaigns SET budget_micro = 2000 WHERE id = 2", ["camp_0000000000002"]),
        ("UPDATE credit_campaigns SET per_wallet_cap_micro = 501 WHERE id = 2", ["camp_0000000000002"]),
        ("UPDATE credit_campaigns SET expires_at_us = NULL WHERE id = 3", ["camp_0000000000003"]),
        ("UPDATE credit_campaigns SET status = 'active' WHERE id = 3", ["camp_0000000000003"]),
        ("UPDATE credit_campaigns SET status = 'expired' WHERE id = 2", ["camp_0000000000002"]),
        ("UPDATE credit_campaigns SET status = 'completed' WHERE id = 5", ["camp_0000000000005"]),
        ("UPDATE credit_campaigns SET name = 'Other' WHERE id = 7", ["camp_0000000000007"]),
        ("UPDATE credit_campaigns SET created_at_us = 201 WHERE id = 7", ["camp_0000000000007"]),
        ("DELETE FROM credit_campaigns WHERE id = 7", ["camp_0000000000007"]),
        (("INSERT INTO credit_campaigns VALUES (9, 'Free', NULL, 'loyalty', 'active', 5, 0, 'fixed_amount', NULL, "
         "'general', 5, NULL, NULL, NULL, 0, 'op', 200, 200)"), ["camp_0000000000009"]),
    ],
    "webhooks_match_the_audit_log": [
        ("UPDATE webhooks SET url = 'https://other.example/'", ["hook_0000000000001"]),
        ("UPDATE webhooks SET types = NULL", ["hook_0000000000001"]),
        ("UPDATE webhooks SET is_enabled = 0", ["hook_0000000000001"]),
        ("UPDATE webhooks SET secret_version = 2", ["hook_0000000000001"]),
        ("UPDATE webhooks SET rotated_until_us = 9", ["hook_0000000000001"]),
        ("UPDATE webhooks SET id = 2", ["hook_0000000000001", "hook_0000000000002"]),
        ("DELETE FROM webhooks", ["hook_0000000000001"]),
    ],
    "revoked_tokens_match_the_audit_log": [
        ("UPDATE revoked_tokens SET revoked_at_us = 1", ["token-1"]),
        ("UPDATE revoked_tokens SET token_id = 'token-2'", ["token-1", "token-2"]),
        ("DELETE FROM revoked_tokens", ["token-1"]),
        ("INSERT INTO revoked_tokens VALUES ('token-3', 1)", ["token-3"]),
    ],
    "revoked_subjects_match_the_audit_log": [
        ("UPDATE revoked_subjects SET issued_before_us = 1", ["mallory"]),
        ("UPDATE revoked_subjects SET revoked_at_us = 1", ["mallory"]),
        ("UPDATE revoked_subjects SET sub = 'eve'", ["eve", "mallory"]),
        ("DELETE FROM revoked_subjects", ["mallory"]),
        ("INSERT INTO revoked_subjects VALUES ('trent', 1, 1)", ["trent"]),
    ],
    "forgiven_debts_match_the_audit_log": [
        ("UPDATE credit_debts SET paid_micro = original_micro, forgiven_lot_id = 1 WHERE id = 1", [1]),
    ],
    # Checked in Python, not by a query.
    AUDIT_RULE: [
        ('UPDATE admin_audit_log SET details = \'{"after":2}\' WHERE seq = 2', [2]),
        ("UPDATE admin_audit_log SET actor_id = 'other' WHERE seq = 1", [1]),
        ("UPDATE admin_audit_log SET token_id = NULL WHERE seq = 2", [2]),
        ("UPDATE admin_audit_log SET created_at_us = created_at_us + 1 WHERE seq = 1", [1]),
        ("UPDATE admin_audit_log SET hash = zeroblob(32) WHERE seq = 1", [1, 2]),
        ("UPDATE admin_audit_log SET hash = zeroblob(31) WHERE seq = 2", [2, 3]),
        ("UPDATE admin_audit_log SET previous_hash = zeroblob(32) WHERE seq = 2", [2]),
        ("DELETE FROM admin_audit_log WHERE seq = 1", [2]),
        ("UPDATE admin_audit_log SET seq = 99 WHERE seq = 2", [2, 3]),
        ("UPDATE admin_audit_log SET id = 99 WHERE seq = 2", [99]),
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
def unprotected(migrated_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[sqlite3.Connection]:
    """The small database, on a connection without constraints and triggers, unchanged at the end."""
    conn = open_writer(make_book(migrated_file, tmp_path_factory.mktemp("invariants")))
    conn.execute("PRAGMA foreign_keys = OFF")
    conn.execute("PRAGMA ignore_check_constraints = ON")
    for (name,) in conn.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
        conn.execute(f"DROP TRIGGER {name}")
    yield conn
    assert violations(conn) == {}
    conn.close()


def test_an_undamaged_database_passes_every_check(migrated_file: Path, tmp_path: Path) -> None:
    with closing(open_reader(make_book(migrated_file, tmp_path))) as conn:
        findings = run_checks(conn)
    assert {name: (found.violations, found.examples, found.broken) for name, found in findings.items()} == {
        name: (0, [], []) for name in CHECKS
    }
    assert all(found.checked > 0 for found in findings.values())


def test_an_empty_database_passes_every_check(migrated_file: Path) -> None:
    with closing(open_reader(migrated_file)) as conn:
        assert violations(conn) == {}


@pytest.mark.parametrize(("rule", "harm", "keys"), CASES, ids=_ids())
def test_damage_is_found_by_its_rule(unprotected: sqlite3.Connection, rule: str, harm: str, keys: list[Any]) -> None:
    conn = unprotected
    [check] = [name for name, check in CHECKS.items() if rule in check.rules]
    conn.execute("BEGIN IMMEDIATE")
    try:
        assert conn.execute(harm).rowcount > 0
        found = run_check(conn, check)
        named = list(violations_of(conn, rule))
        others = run_checks(conn)
    finally:
        conn.execute("ROLLBACK")
    assert rule in found.broken
    assert found.violations > 0 and len(found.examples) <= EXAMPLES_MAX
    # Violations of settings have public ids, or the type of the target and its id.
    shown = [public_id(kind, key) for kind, key in named]
    assert sorted(key for _, key in named) == keys or sorted(text.rpartition(":")[2] for text in shown) == keys
    assert set(shown) <= set(found.examples)
    # A failed check names its rules and examples.
    for other in others.values():
        assert bool(other.violations) == bool(other.broken) == bool(other.examples)
        assert FILE_RULE not in other.broken


def test_every_rule_has_a_case_and_belongs_to_one_check() -> None:
    every_rule = {*RULES, AUDIT_RULE, *SETTINGS}
    assert HARMS.keys() == every_rule
    assert sorted(rule for check in CHECKS.values() for rule in check.rules) == sorted(every_rule)


def test_a_row_that_breaks_several_rules_is_one_violation(unprotected: sqlite3.Connection) -> None:
    conn = unprotected
    conn.execute("BEGIN IMMEDIATE")
    try:
        conn.execute("UPDATE credit_balances SET available_micro = 605 WHERE account_id = 1")
        found = run_check(conn, "balance_cache_match")
    finally:
        conn.execute("ROLLBACK")
    assert (found.checked, found.violations, found.examples) == (6, 1, ["acct_0000000000001"])
    assert found.broken == ["balances_match_lots", "balances_match_newest_entry"]


def test_a_check_counts_all_violations_and_names_ten(unprotected: sqlite3.Connection) -> None:
    conn = unprotected
    conn.execute("BEGIN IMMEDIATE")
    try:
        conn.execute("UPDATE credit_ledger SET available_after_micro = -5 - id")
        conn.execute("UPDATE admin_audit_log SET hash = zeroblob(32)")
        found, audited = run_check(conn, "entry_chain"), run_check(conn, "audit_chain")
    finally:
        conn.execute("ROLLBACK")
    assert found.violations == 26 and len(found.examples) == 10 == len(set(found.examples))
    assert audited.violations == 18 and audited.examples == [
        f"audit_{number:013}" for number in (1, 2, 3, 4, 5, 6, 7, 8, 9)
    ] + ["audit_000000000000a"]


def test_a_check_survives_extreme_numbers_in_every_column(unprotected: sqlite3.Connection) -> None:
    """Each check returns a finding, and never an error of SQLite."""
    conn = unprotected
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


def test_an_unreadable_table_fails_the_check_that_reads_it(unprotected: sqlite3.Connection) -> None:
    conn = unprotected
    conn.execute("BEGIN IMMEDIATE")
    try:
        conn.execute("DROP TABLE credit_balances")
        findings = run_checks(conn)
    finally:
        conn.execute("ROLLBACK")
    assert findings["balance_cache_match"].broken == [FILE_RULE] and findings["balance_cache_match"].violations == 1
    assert findings["audit_chain"].violations == 0


# --- memory: SQLite sorts in memory, so a rule sorts one range of accounts, or a few rows in a database of any size ---

SORTS_LITTLE = {
    "campaigns_spent_matches_grants": "a row a campaign",
    "campaign_totals_match_grants": "a row a campaign",
    "reservations_have_entries": "a list that only a damaged database needs",
    "revoked_grants_have_event": "a list that only a damaged database needs",
}


def test_a_rule_sorts_one_range_of_accounts_at_most(migrated_file: Path) -> None:
    with closing(open_reader(migrated_file)) as conn:
        conn.create_function("key_of", 2, lambda prefix, key: key, deterministic=True)
        plans = {
            name: " ".join(
                step for *_, step in conn.execute(f"EXPLAIN QUERY PLAN {query.sql}", [0] * len(query.parameters)).fetchall()
            )
            for name, query in RULES.items()
        }
    sorting = {name for name, plan in plans.items() if re.search("TEMP B-TREE|MATERIALIZE|AUTOMATIC|LIST SUBQUERY", plan)}
    whole = {name for name in sorting if not RULES[name].parameters}
    assert whole == SORTS_LITTLE.keys()
    # An index finds the rows of a range. No rule scans a whole table per range.
    for name in sorting - whole:
        assert not re.search(r"SCAN (credit_|reservation_lots|[a-z] USING)", plans[name]), (name, plans[name])


@pytest.mark.parametrize("entries", [1, 6, 7, 12, 1_000])
def test_ranges_cover_every_account_once(
    unprotected: sqlite3.Connection, entries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("minibill.integrity.checks.SLICE_ENTRIES", entries)
    slices = [(bounds["after_account"], bounds["until_account"]) for bounds in account_slices(unprotected)]
    assert (slices[0][0], slices[-1][1]) == (MIN, MAX)
    assert [until for _, until in slices[:-1]] == [after for after, _ in slices[1:]]
    assert len(slices) == {1: 4, 6: 3, 7: 2, 12: 2, 1_000: 1}[entries]
    assert violations(unprotected) == {}


def test_ranges_find_the_same_violations_as_one_run(
    unprotected: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    conn = unprotected
    conn.execute("BEGIN IMMEDIATE")
    try:
        conn.execute("UPDATE credit_ledger SET amount_micro = amount_micro - 1, reservation_id = NULL WHERE id > 3")
        conn.execute("UPDATE credit_campaign_days SET grants = 7")
        whole = run_checks(conn)
        monkeypatch.setattr("minibill.integrity.checks.SLICE_ENTRIES", 1)
        assert run_checks(conn) == whole
    finally:
        conn.execute("ROLLBACK")
    assert sum(found.violations for found in whole.values()) > 10


def test_violations_beyond_the_memory_limit_are_counted(
    unprotected: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("minibill.integrity.checks.DISTINCT_MAX", 5)
    conn = unprotected
    conn.execute("BEGIN IMMEDIATE")
    try:
        conn.execute("UPDATE credit_ledger SET available_after_micro = -5 - id")
        found = run_check(conn, "entry_chain")
    finally:
        conn.execute("ROLLBACK")
    assert found.violations == 26 and len(found.examples) == 10


@pytest.mark.parametrize("error", [UnicodeDecodeError("utf-8", b"\xe5", 0, 1, "x"), TypeError("int and None"), ValueError()])
def test_an_unreadable_value_fails_its_check(
    unprotected: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def damaged(*_: object) -> object:
        raise error

    monkeypatch.setattr(checks, "_miscounted_days", damaged)
    found = run_check(unprotected, "campaign_spent_match")
    assert (found.violations, found.broken) == (1, [checks.FILE_RULE])


def test_the_largest_lot_passes_after_many_reservations(start: Callable[..., Api]) -> None:
    """The sums over its entries stay within 63 bits, although the sum of its reserves alone does not."""
    api = start(MINIBILL_CEILING_MICRO=str(MAX))
    account = api.account(MAX)
    for _ in range(5):
        api.release(api.reserve(account, MAX))
    assert api.available(account) == MAX
    ok(api.post("/reconciliation"))
    checks = api.get("/reconciliation")["checks"]
    assert {name for name, check in checks.items() if check["status"] != "pass"} == set()
