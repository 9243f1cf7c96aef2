"""Every constraint and trigger of the schema rejects what breaks it, and maps to a problem."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from minibill.core.problems import InternalError, Overloaded, Problem, StorageFull
from minibill.db import constraint_errors
from minibill.db.connection import open_writer
from minibill.db.sqlite import sqlite3
from tests.sql.book import CAMPAIGNS, IS_OVER, STARTS_LATER, audit_rows, literal, make_book

MAX = 2**63 - 1
# This plus the id of a campaign is the id of a lot of the campaign that no grant has.
LOTS_TO_GRANT = 20
YEAR_10000 = 253_402_300_800_000_000

# The problem that a client receives when the database rejects what an operation should have rejected before.
PROBLEMS = {
    "lots_source_is_unique": (409, "source_already_credited"),
    "lots_metadata_is_an_object": (400, "validation_error"),
    "entries_metadata_is_an_object": (400, "validation_error"),
    "reservations_metadata_is_an_object": (400, "validation_error"),
    "charges_metadata_is_an_object": (400, "validation_error"),
    "grants_formula_input_is_an_object": (400, "validation_error"),
    "memberships_are_at_most_1000_per_account": (400, "validation_error"),
    "webhooks_are_at_most_20": (400, "validation_error"),
    "memberships_tier_exists_on_insert": (404, "tier_not_found"),
    "memberships_tier_exists_on_update": (404, "tier_not_found"),
    "balances_sum_fits_63_bits": (422, "amount_too_large"),
    "balances_are_at_most_64_per_account": (422, "too_many_pools"),
    "reservation_lots_are_at_most_1000": (422, "too_many_lots"),
    "campaigns_spent_within_budget": (422, "budget_exceeded"),
    "campaigns_terms_are_locked_once_active": (422, "campaign_field_locked"),
    "campaigns_ended_are_locked": (422, "campaign_field_locked"),
    "campaigns_granted_total_fits_63_bits": (422, "amount_too_large"),
    "grants_campaign_is_active": (409, "campaign_not_active"),
    "grants_are_within_the_cap": (422, "per_wallet_cap_exceeded"),
}

# One valid row per table. A case changes only the columns of its rule.
VALID: dict[str, dict[str, object]] = {
    "credit_accounts": {"entity_type": "person", "entity_id": "bea", "created_at_us": 2000},
    "credit_lots": {
        "id": 10, "account_id": 1, "pool_id": "general", "source_type": "deposit", "source_id": "order-9",
        "campaign_id": None, "priority": 50, "original_micro": 100, "available_micro": 100, "reserved_micro": 0,
        "consumed_micro": 0,
        "expired_micro": 0, "revoked_micro": 0, "expires_at_us": None, "revoked_at_us": None, "metadata": None,
        "created_at_us": 2000,
    },
    "discount_tiers": {
        "community_id": "guild", "tier": "bronze", "position": 3, "rate_bps": 100, "max_discount_micro": None,
    },
    "memberships": {"account_id": 3, "community_id": "guild", "tier": "gold", "expires_at_us": None},
    "credit_reservations": {
        "account_id": 1, "pool_id": "general", "billing_mode": "live", "status": "pending", "list_micro": 100,
        "discount_bps": 1000, "max_discount_micro": 10, "discount_micro": 10, "community_id": "guild", "tier": "gold",
        "held_micro": 90, "expires_at_us": 3000, "description": None, "metadata": None, "created_by": "service:g",
        "created_at_us": 2000,
    },
    "credit_charges": {
        "id": 5, "account_id": 1, "pool_id": "general", "source_id": "call-5", "billing_mode": "live", "list_micro": 100,
        "discount_bps": 1000, "max_discount_micro": 10, "discount_micro": 10, "community_id": "guild", "tier": "gold",
        "charged_micro": 90, "debt_micro": 0, "after_entry_id": 26, "entry_count": 1, "description": None, "metadata": None,
        "created_by": "service:g", "created_at_us": 2000,
    },
    "reservation_lots": {"reservation_id": 1, "position": 2, "lot_id": 6, "reserved_micro": 10},
    "credit_debts": {
        "account_id": 1, "reservation_id": 2, "charge_id": None, "original_micro": 10, "paid_micro": 0,
        "created_at_us": 2000,
    },
    "credit_ledger": {
        "account_id": 1, "pool_id": "general", "entry_seq": 7, "entry_type": "deposit", "lot_id": 1, "reservation_id": None,
        "charge_id": None, "amount_micro": 10, "available_delta_micro": 10, "reserved_delta_micro": 0,
        "available_after_micro": 630, "reserved_after_micro": 300, "description": None, "metadata": None,
        "created_at_us": 2000,
    },
    "credit_campaigns": {
        "name": "New", "description": None, "campaign_type": "loyalty", "status": "draft", "budget_micro": 1000,
        "spent_micro": 0, "grant_formula": "fixed_amount", "grant_config": None, "pool_id": "general",
        "per_wallet_cap_micro": 500, "starts_at_us": None, "expires_at_us": None, "grant_ttl_seconds": None,
        "grant_count": 0, "created_by": "op", "created_at_us": 2000, "updated_at_us": 2000,
    },
    "credit_grants": {
        "campaign_id": 2, "account_id": 1, "lot_id": LOTS_TO_GRANT + 2, "amount_micro": 70, "status": "granted",
        "grant_formula": "fixed_amount", "formula_input": None, "created_at_us": 2000,
    },
    "thresholds": {
        "account_id": 1, "pool_id": "general", "below_micro": 10, "recovered_micro": 20, "position": 3, "is_below": 0,
    },
    "events": {
        "after_entry_id": 26, "type": "account.opened", "account_id": 1, "campaign_id": None, "data": "{}",
        "created_at_us": 2000,
    },
    "webhooks": {
        "url": "https://example.com/", "types": None, "description": None, "is_enabled": 1, "secret_version": 1,
        "rotated_until_us": None, "entry_id": 26, "event_id": 5, "failing_since_us": None, "revision": 1,
        "created_at_us": 2000, "updated_at_us": 2000,
    },
    "webhook_attempts": {
        "webhook_id": 1, "entry_id": 26, "event_id": 0, "attempt": 1, "outcome": "accepted", "status": 200, "error": None,
        "duration_us": 5, "attempted_at_us": 2000,
    },
    "admin_audit_log": {
        "seq": len(audit_rows()) + 1, "id": len(audit_rows()) + 1, "actor_id": "op", "action": "account.mint",
        "target_type": "account", "target_id": "acct_1", "details": "{}", "created_at_us": 2000,
        "previous_hash": audit_rows()[-1][-1],
        "hash": bytes(32),
    },
    "idempotency_keys": {
        "caller": "admin:op", "key": "key-2", "fingerprint": bytes(32), "status": 200, "body": b"{}", "created_at_us": 2000,
        "checksum": 0,
    },
    "revoked_tokens": {"token_id": "token-2", "revoked_at_us": 2000},
    "silent_ends": {"reservation_id": 1},
    "revoked_subjects": {"sub": "eve", "issued_before_us": 1500, "revoked_at_us": 2000},
}  # fmt: skip


RELEASED = {"status": "released", "released_micro": 300, "closed_at_us": 2000}
BAD_CALLERS = ("", "gateway", "service:", "admin:", "Service:x", "root:x", " admin:x", "service:" + "x" * 129)


def insert(table: str, **changes: object) -> str:
    """Return an INSERT of the table's valid row with these changes."""
    row = {**VALID[table], **changes}
    return f"INSERT INTO {table} ({', '.join(row)}) VALUES ({', '.join(map(literal, row.values()))})"


def entry(amount: int, available: int, reserved: int, entry_type: str, **changes: object) -> str:
    """Return an INSERT of account 1's next entry with these deltas and the resulting balances."""
    row = {
        "entry_type": entry_type,
        "reservation_id": 1,
        "amount_micro": amount,
        "available_delta_micro": available,
        "reserved_delta_micro": reserved,
        "available_after_micro": 620 + available,
        "reserved_after_micro": 300 + reserved,
    }
    return insert("credit_ledger", **(row | changes))


def update(table: str, row_id: int, **changes: object) -> str:
    """Return an UPDATE of one row."""
    setting = ", ".join(f"{column} = {literal(value)}" for column, value in changes.items())
    return f"UPDATE {table} SET {setting} WHERE id = {row_id}"


def replace(table: str, row_id: int) -> str:
    """Return a REPLACE of one row by itself: an implicit delete."""
    return f"REPLACE INTO {table} SELECT * FROM {table} WHERE id = {row_id}"


BAD_POOLS = ("", "-gpu", "Gpu", "gpu pool", "gpü", "g" * 65)
NOT_OBJECTS = ("[]", "1", "{", "")

LIFE_CYCLE = {
    ("draft", "active"), ("draft", "expired"),
    ("active", "paused"), ("active", "completed"), ("active", "expired"),
    ("paused", "active"), ("paused", "completed"), ("paused", "expired"),
}  # fmt: skip

# The name of a rule, and statements. Only the last one breaks the rule.
Case = tuple[str, tuple[str, ...]]


NO_DISCOUNT: dict[str, object] = {
    "discount_bps": 0, "max_discount_micro": None, "discount_micro": 0, "community_id": None, "tier": None,
    "held_micro": 100,
}  # fmt: skip


UNDISCOUNTED: dict[str, object] = {
    "discount_bps": 0, "max_discount_micro": None, "discount_micro": 0, "community_id": None, "tier": None,
    "charged_micro": 100,
}  # fmt: skip


def _inserts() -> Iterator[Case]:
    rate_and_cap = "reservations_discount_matches_rate_and_cap"
    of_a_membership = "reservations_discount_has_membership"
    table: list[tuple[str, str, dict[str, object]]] = [
        ("accounts_entity_type_is_known", "credit_accounts", {"entity_type": "robot"}),
        ("accounts_entity_id_has_1_to_200_characters", "credit_accounts", {"entity_id": ""}),
        ("accounts_entity_id_has_1_to_200_characters", "credit_accounts", {"entity_id": "e" * 201}),
        ("accounts_entity_id_has_single_inner_spaces", "credit_accounts", {"entity_id": " ada"}),
        ("accounts_entity_id_has_single_inner_spaces", "credit_accounts", {"entity_id": "ada "}),
        ("accounts_entity_id_has_single_inner_spaces", "credit_accounts", {"entity_id": "ada  love"}),
        ("accounts_entity_id_is_visible", "credit_accounts", {"entity_id": "a\x1bb"}),
        ("accounts_entity_id_is_visible", "credit_accounts", {"entity_id": "a\x9bb"}),
        ("accounts_entity_id_is_visible", "credit_accounts", {"entity_id": "a\u00a0b"}),
        ("accounts_entity_id_is_visible", "credit_accounts", {"entity_id": "a\u200bb"}),
        ("accounts_entity_id_is_visible", "credit_accounts", {"entity_id": "a\u202eb"}),
        ("accounts_entity_id_is_visible", "credit_accounts", {"entity_id": "a\u2060b"}),
        ("accounts_entity_id_is_visible", "credit_accounts", {"entity_id": "a\u3000b"}),
        ("accounts_entity_id_is_visible", "credit_accounts", {"entity_id": "a\ue000b"}),
        ("accounts_entity_id_is_visible", "credit_accounts", {"entity_id": "a\ufeffb"}),
        ("accounts_entity_id_is_visible", "credit_accounts", {"entity_id": "a\U000e0041b"}),
        ("accounts_evm_address_is_in_lower_case", "credit_accounts", {"entity_id": "0x" + "a" * 39 + "B"}),
        ("accounts_evm_address_is_in_lower_case", "credit_accounts", {"entity_id": "0X" + "a" * 40}),
        ("accounts_one_per_entity", "credit_accounts", {"entity_id": "ada"}),
        ("lots_source_type_is_known", "credit_lots", {"source_type": "gift"}),
        ("lots_source_id_has_1_to_200_characters", "credit_lots", {"source_id": ""}),
        ("lots_source_id_has_1_to_200_characters", "credit_lots", {"source_id": "s" * 201}),
        ("lots_source_is_unique", "credit_lots", {"source_id": "order-1"}),
        ("lots_priority_is_0_to_100", "credit_lots", {"priority": -1}),
        ("lots_priority_is_0_to_100", "credit_lots", {"priority": 101}),
        ("lots_original_is_positive", "credit_lots", {"original_micro": 0, "available_micro": 0}),
        ("lots_consumed_is_not_negative", "credit_lots", {"consumed_micro": -1, "reserved_micro": 1}),
        ("lots_expired_is_not_negative", "credit_lots", {"expired_micro": -1, "reserved_micro": 1}),
        ("lots_revoked_is_not_negative", "credit_lots", {"revoked_micro": -1, "reserved_micro": 1}),
        ("lots_expire_after_creation", "credit_lots", {"expires_at_us": 2000}),
        ("lots_expire_after_creation", "credit_lots", {"expires_at_us": YEAR_10000}),
        ("lots_parts_sum_to_original", "credit_lots", {"reserved_micro": 1}),
        ("silent_ends_one_per_reservation", "silent_ends", {"reservation_id": 5}),
        ("lots_start_fully_available", "credit_lots", {"available_micro": 99, "reserved_micro": 1}),
        ("lots_revoked_have_nothing_available", "credit_lots", {"revoked_at_us": 2000}),
        ("tiers_community_id_has_1_to_200_characters", "discount_tiers", {"community_id": ""}),
        ("tiers_community_id_has_1_to_200_characters", "discount_tiers", {"community_id": "c" * 201}),
        ("tiers_tier_has_1_to_64_characters", "discount_tiers", {"tier": ""}),
        ("tiers_tier_has_1_to_64_characters", "discount_tiers", {"tier": "t" * 65}),
        ("tiers_are_at_most_100_per_community", "discount_tiers", {"position": 0}),
        ("tiers_are_at_most_100_per_community", "discount_tiers", {"position": 101}),
        ("tiers_one_per_position", "discount_tiers", {"position": 2}),
        ("tiers_rate_is_0_to_10000_bps", "discount_tiers", {"rate_bps": -1}),
        ("tiers_rate_is_0_to_10000_bps", "discount_tiers", {"rate_bps": 10_001}),
        ("tiers_max_discount_is_not_negative", "discount_tiers", {"max_discount_micro": -1}),
        ("memberships_expire_before_the_year_10000", "memberships", {"expires_at_us": YEAR_10000}),
        ("memberships_one_per_account_and_community", "memberships", {"account_id": 1}),
        ("memberships_tier_exists_on_insert", "memberships", {"tier": "Gold"}),
        ("memberships_tier_exists_on_insert", "memberships", {"community_id": "other"}),
        ("reservations_start_pending", "credit_reservations", {"status": "released"}),
        ("reservations_billing_mode_is_known", "credit_reservations", {"billing_mode": "free"}),
        ("reservations_list_is_not_negative", "credit_reservations",
         {"list_micro": -1, "discount_micro": -1, "held_micro": 0}),
        ("reservations_discount_is_0_to_10000_bps", "credit_reservations", {"discount_bps": -1}),
        ("reservations_discount_is_0_to_10000_bps", "credit_reservations", {"discount_bps": 10_001}),
        ("reservations_max_discount_is_not_negative", "credit_reservations", {"max_discount_micro": -1}),
        (rate_and_cap, "credit_reservations", {"discount_micro": -1, "held_micro": 101}),
        (rate_and_cap, "credit_reservations", {"discount_micro": 11, "held_micro": 89}),
        (rate_and_cap, "credit_reservations", {"discount_micro": 9, "held_micro": 91}),
        (rate_and_cap, "credit_reservations", {"max_discount_micro": 9}),
        (rate_and_cap, "credit_reservations",
         {"discount_micro": 101, "max_discount_micro": None, "held_micro": 0, "billing_mode": "soft"}),
        # 1999 * 1000 / 10000 is 199.9, and the largest list price at any rate is a product of more than 63 bits.
        (rate_and_cap, "credit_reservations",
         {"list_micro": 1999, "max_discount_micro": None, "discount_micro": 200, "held_micro": 1799}),
        (rate_and_cap, "credit_reservations",
         {"list_micro": MAX, "discount_bps": 9_999, "max_discount_micro": None,
          "discount_micro": MAX * 9_999 // 10_000 + 1, "held_micro": MAX - MAX * 9_999 // 10_000 - 1}),
        (of_a_membership, "credit_reservations", {"community_id": None}),
        (of_a_membership, "credit_reservations", {"tier": None}),
        (of_a_membership, "credit_reservations", {"community_id": None, "tier": None}),
        (of_a_membership, "credit_reservations", NO_DISCOUNT | {"max_discount_micro": 5}),
        (of_a_membership, "credit_reservations", NO_DISCOUNT | {"list_micro": 5, "discount_bps": 1, "held_micro": 5}),
        (of_a_membership, "credit_reservations", {"billing_mode": "shadow"}),
        ("reservations_held_matches_price", "credit_reservations", {"held_micro": 89}),
        ("reservations_held_matches_price", "credit_reservations",
         {"held_micro": 89, "billing_mode": "shadow"}),
        ("reservations_held_matches_price", "credit_reservations",
         {"held_micro": 91, "billing_mode": "soft"}),
        ("reservations_held_matches_price", "credit_reservations",
         {"held_micro": -1, "billing_mode": "soft"}),
        ("reservations_expire_after_creation", "credit_reservations", {"expires_at_us": 2000}),
        ("reservations_expire_after_creation", "credit_reservations", {"expires_at_us": YEAR_10000}),
        ("reservation_lots_position_counts_from_1", "reservation_lots", {"position": 0}),
        ("reservation_lots_are_at_most_1000", "reservation_lots", {"position": 1001}),
        ("reservation_lots_reserved_is_positive", "reservation_lots", {"reserved_micro": 0}),
        ("debts_original_is_positive", "credit_debts", {"original_micro": 0}),
        ("debts_start_unpaid", "credit_debts", {"paid_micro": 1}),
        ("debts_start_unpaid", "credit_debts", {"forgiven_lot_id": 3}),
        ("debts_one_per_reservation", "credit_debts", {"reservation_id": 3}),
        ("debts_one_per_charge", "credit_debts", {"reservation_id": None, "charge_id": 2}),
        ("debts_belong_to_reservation_or_charge", "credit_debts", {"charge_id": 1}),
        ("debts_belong_to_reservation_or_charge", "credit_debts", {"reservation_id": None}),
        ("entries_have_lot_if_credits_move", "credit_ledger", {"lot_id": None}),
        ("entries_times_do_not_decrease", "credit_ledger", {"created_at_us": 1209}),
        ("entries_one_per_sequence_number", "credit_ledger", {"entry_seq": 6}),
        ("entries_one_per_sequence_number", "credit_ledger", {"entry_seq": 1}),
        ("campaigns_name_has_1_to_200_characters", "credit_campaigns", {"name": ""}),
        ("campaigns_name_has_1_to_200_characters", "credit_campaigns", {"name": "n" * 201}),
        ("campaigns_description_has_at_most_2000_characters", "credit_campaigns", {"description": "d" * 2001}),
        ("campaigns_type_is_known", "credit_campaigns", {"campaign_type": "airdrop"}),
        ("campaigns_spent_within_budget", "credit_campaigns", {"budget_micro": -1}),
        ("campaigns_formula_is_known", "credit_campaigns", {"grant_formula": "guess"}),
        ("campaigns_cap_is_not_negative", "credit_campaigns", {"per_wallet_cap_micro": -1}),
        ("campaigns_expire_after_they_start", "credit_campaigns", {"starts_at_us": 3000, "expires_at_us": 3000}),
        ("campaigns_grant_ttl_is_within_100_years", "credit_campaigns", {"grant_ttl_seconds": 0}),
        ("campaigns_grant_ttl_is_within_100_years", "credit_campaigns", {"grant_ttl_seconds": 3_153_600_001}),
        ("campaigns_start_as_drafts", "credit_campaigns", {"status": "active"}),
        ("campaigns_start_as_drafts", "credit_campaigns", {"spent_micro": 1}),
        ("campaigns_start_as_drafts", "credit_campaigns", {"grant_count": 1}),
        ("thresholds_below_is_positive", "thresholds", {"below_micro": 0}),
        ("thresholds_recovered_is_at_least_below", "thresholds", {"recovered_micro": 9}),
        ("thresholds_are_at_most_20_per_account", "thresholds", {"position": 0}),
        ("thresholds_are_at_most_20_per_account", "thresholds", {"position": 21}),
        ("thresholds_is_below_is_0_or_1", "thresholds", {"is_below": 2}),
        ("thresholds_one_per_position", "thresholds", {"position": 2}),
        ("events_type_is_known", "events", {"type": "account.closed"}),
        ("events_type_is_known", "events", {"type": "ledger.grant"}),
        ("events_are_in_feed_order", "events", {"after_entry_id": 25}),
        ("events_are_in_feed_order", "events", {"after_entry_id": 27}),
        ("events_are_in_feed_order", "events", {"id": 0}),
        ("webhooks_url_has_1_to_2000_characters", "webhooks", {"url": ""}),
        ("webhooks_url_has_1_to_2000_characters", "webhooks", {"url": "u" * 2001}),
        ("webhooks_description_has_at_most_500_characters", "webhooks", {"description": "d" * 501}),
        ("webhooks_is_enabled_is_0_or_1", "webhooks", {"is_enabled": 2}),
        ("webhooks_secret_version_is_positive", "webhooks", {"secret_version": 0}),
        ("webhook_attempts_count_from_1", "webhook_attempts", {"attempt": 0}),
        ("webhook_attempts_outcome_is_known", "webhook_attempts", {"outcome": "lost"}),
        ("audit_actor_has_1_to_128_characters", "admin_audit_log", {"actor_id": ""}),
        ("audit_actor_has_1_to_128_characters", "admin_audit_log", {"actor_id": "a" * 129}),
        ("audit_hash_has_32_bytes", "admin_audit_log", {"hash": bytes(31)}),
        ("audit_times_do_not_decrease", "admin_audit_log", {"created_at_us": 1009}),
        ("audit_rows_are_consecutive", "admin_audit_log", {"seq": len(audit_rows()) + 2}),
        ("audit_rows_are_consecutive", "admin_audit_log", {"seq": len(audit_rows())}),
        ("audit_rows_are_consecutive", "admin_audit_log", {"id": 2}),
        ("audit_rows_are_consecutive", "admin_audit_log", {"previous_hash": bytes(32)}),
        ("idempotency_key_has_1_to_255_characters", "idempotency_keys", {"key": ""}),
        ("idempotency_key_has_1_to_255_characters", "idempotency_keys", {"key": "k" * 256}),
        ("idempotency_fingerprint_has_32_bytes", "idempotency_keys", {"fingerprint": bytes(33)}),
        ("idempotency_checksum_has_63_bits", "idempotency_keys", {"checksum": -1}),
        ("idempotency_status_is_success", "idempotency_keys", {"status": 199}),
        ("idempotency_status_is_success", "idempotency_keys", {"status": 300}),
        ("idempotency_one_per_caller_and_key", "idempotency_keys", {"key": "key-1"}),
        ("revoked_tokens_id_has_1_to_255_characters", "revoked_tokens", {"token_id": ""}),
        ("revoked_tokens_id_has_1_to_255_characters", "revoked_tokens", {"token_id": "t" * 256}),
        ("revoked_subjects_sub_has_1_to_128_characters", "revoked_subjects", {"sub": ""}),
        ("revoked_subjects_sub_has_1_to_128_characters", "revoked_subjects", {"sub": "s" * 129}),
    ]  # fmt: skip
    for prefix, owner in (
        ("lots", "credit_lots"),
        ("reservations", "credit_reservations"),
        ("charges", "credit_charges"),
        ("entries", "credit_ledger"),
        ("campaigns", "credit_campaigns"),
        ("thresholds", "thresholds"),
    ):
        table += [(f"{prefix}_pool_id_is_well_formed", owner, {"pool_id": pool}) for pool in BAD_POOLS]
    for name, owner, column in (
        ("lots_metadata_is_an_object", "credit_lots", "metadata"),
        ("reservations_metadata_is_an_object", "credit_reservations", "metadata"),
        ("charges_metadata_is_an_object", "credit_charges", "metadata"),
        ("entries_metadata_is_an_object", "credit_ledger", "metadata"),
        ("campaigns_config_is_an_object", "credit_campaigns", "grant_config"),
        ("grants_formula_input_is_an_object", "credit_grants", "formula_input"),
        ("audit_details_are_an_object", "admin_audit_log", "details"),
        ("events_data_is_an_object", "events", "data"),
    ):
        table += [(name, owner, {column: text}) for text in NOT_OBJECTS]
    table += [("webhooks_types_are_an_array", "webhooks", {"types": text}) for text in ("{}", "1", "[", "")]
    for name, owner, changes in table:
        yield name, (insert(owner, **changes),)


def _changes_of_lots_and_debts() -> Iterator[Case]:
    for name, changes in (
        ("lots_available_is_not_negative", "available_micro = -1, consumed_micro = 701 WHERE id = 1"),
        ("lots_reserved_is_not_negative", "reserved_micro = -1, consumed_micro = 451 WHERE id = 1"),
        ("lots_parts_sum_to_original", "available_micro = 549 WHERE id = 1"),
        ("lots_final_parts_never_decrease", "consumed_micro = 149, available_micro = 551 WHERE id = 1"),
        ("lots_final_parts_never_decrease", "expired_micro = 49, available_micro = 1 WHERE id = 5"),
        ("lots_final_parts_never_decrease", "revoked_micro = 99, reserved_micro = 1 WHERE id = 4"),
        ("lots_revoked_have_nothing_available", "revoked_at_us = 2000 WHERE id = 1"),
        ("lots_revoked_have_revocation_time", "revoked_micro = 300, reserved_micro = 0 WHERE id = 1"),
        ("lots_are_revoked_once", "revoked_at_us = 2000 WHERE id = 4"),
        ("lots_are_revoked_once", "revoked_at_us = NULL WHERE id = 4"),
    ):
        yield name, (f"UPDATE credit_lots SET {changes}",)
    yield "debts_paid_is_within_original", (update("credit_debts", 1, paid_micro=61),)
    yield "debts_change_only_by_payment", (update("credit_debts", 1, paid_micro=39),)
    yield "debts_forgiven_are_fully_paid", (update("credit_debts", 1, forgiven_lot_id=3),)
    forgiven = update("credit_debts", 1, paid_micro=60, forgiven_lot_id=3)
    for lot_id in (None, 2):
        yield "debts_change_only_by_payment", (forgiven, update("credit_debts", 1, forgiven_lot_id=lot_id))
    other = insert("credit_debts", id=3)
    yield "debts_one_per_forgiving_lot", (forgiven, other, update("credit_debts", 3, paid_micro=10, forgiven_lot_id=3))


def _memberships() -> Iterator[Case]:
    change = "memberships_tier_exists_on_update"
    yield change, (update("memberships", 1, tier="bronze"),)
    yield change, ("DELETE FROM discount_tiers WHERE tier = 'gold'", update("memberships", 1, expires_at_us=3000))
    for column, value in (("id", 7), ("account_id", 3), ("community_id", "guild")):
        yield "memberships_account_and_community_are_fixed", (update("memberships", 1, **{column: value}),)
    # No tier has such a community. Without the trigger, the length is the first rule to fail.
    for community_id in ("", "c" * 201):
        yield "memberships_community_id_has_1_to_200_characters", (
            "DROP TRIGGER memberships_tier_exists_on_insert", insert("memberships", community_id=community_id),
        )  # fmt: skip
    communities = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)"
    yield (
        "memberships_are_at_most_1000_per_account",
        (
            f"{communities} INSERT INTO discount_tiers SELECT 'c' || i, 'gold', 1, 0, NULL FROM n",
            f"{communities} INSERT INTO memberships SELECT NULL, 3, 'c' || i, 'gold', NULL FROM n",
            insert("memberships"),
        ),
    )


def _webhooks() -> Iterator[Case]:
    yield "webhooks_are_at_most_20", (*[insert("webhooks")] * 19, insert("webhooks"))


def _changes_of_reservations() -> Iterator[Case]:
    charge = "reservations_charge_matches_cost_and_discount"
    # The finalize of a pending reservation that holds 300: cost, finalized, overrun, absorbed, released.
    for name, amounts in (
        ("reservations_actual_cost_is_not_negative", (-1, 0, 0, 0, 300)),
        ("reservations_finalized_is_within_held", (301, 301, 0, 0, -1)),
        ("reservations_finalized_is_within_held", (0, -1, 0, 0, 301)),
        ("reservations_overrun_is_not_negative", (300, 300, -1, 0, 0)),
        ("reservations_absorbed_is_not_negative", (300, 300, 0, -1, 0)),
        ("reservations_parts_sum_to_held", (100, 100, 0, 0, 199)),
        (charge, (300, 299, 0, 0, 1)),
        (charge, (301, 300, 0, 0, 0)),
        (charge, (300, 300, 1, 0, 0)),
        (charge, (MAX, 300, MAX, 0, 0)),
        ("reservations_finalized_have_cost", (None, None, None, None, 300)),
        ("reservations_finalized_have_cost", (None, 300, 0, 0, 0)),
        ("reservations_finalized_have_cost", (300, None, 0, 0, 300)),
        ("reservations_finalized_have_cost", (300, 300, None, 0, 0)),
        ("reservations_finalized_have_cost", (300, 300, 0, None, 0)),
    ):
        columns = ("actual_cost_micro", "finalized_micro", "overrun_micro", "absorbed_micro", "released_micro")
        closing = {"status": "finalized", "closed_at_us": 2000, **dict(zip(columns, amounts, strict=True))}
        yield name, (update("credit_reservations", 1, **closing),)
    once = "reservations_are_pending_or_closed"
    table: list[tuple[str, dict[str, object]]] = [
        ("reservations_finalized_have_cost", {"actual_cost_micro": 1}),
        ("reservations_parts_sum_to_held", {"status": "released", "released_micro": 299, "closed_at_us": 2000}),
        ("reservations_status_is_known", {"status": "lost", "released_micro": 300, "closed_at_us": 2000}),
        ("reservations_status_is_known", {"status": "PENDING", "released_micro": 300, "closed_at_us": 2000}),
        (once, {"closed_at_us": 2000}),
        (once, {"released_micro": 300}),
        (once, {"status": "released", "released_micro": 300}),
        (once, {"status": "released", "closed_at_us": 2000}),
        ("reservations_closed_by_differs_from_created_by", {"closed_by": "admin:op"}),
        ("reservations_closed_by_differs_from_created_by", RELEASED | {"status": "expired", "closed_by": "admin:op"}),
        ("reservations_closed_by_differs_from_created_by", RELEASED | {"closed_by": "service:g"}),
        *(("reservations_closed_by_is_service_or_admin", RELEASED | {"closed_by": by}) for by in BAD_CALLERS),
    ]
    for name, changes in table:
        yield name, (update("credit_reservations", 1, **changes),)
    for row_id in (2, 3, 5, 6):
        again = update("credit_reservations", row_id, status="pending", released_micro=None, closed_at_us=None)
        yield "reservations_close_once", (again,)
        yield "reservations_close_once", (update("credit_reservations", row_id, closed_by="admin:other"),)


def _callers() -> Iterator[Case]:
    for by in BAD_CALLERS:
        yield "reservations_created_by_is_service_or_admin", (insert("credit_reservations", created_by=by),)
        yield "charges_created_by_is_service_or_admin", (insert("credit_charges", created_by=by),)


def _changes_of_campaigns() -> Iterator[Case]:
    table: list[tuple[str, tuple[str, ...], dict[str, object]]] = [
        ("campaigns_spent_is_not_negative", ("active",), {"spent_micro": -1}),
        ("campaigns_spent_within_budget", ("active",), {"spent_micro": 1001}),
        ("campaigns_spent_within_budget", ("active",), {"budget_micro": 99}),
        ("campaigns_expire_after_they_start", ("paused",), {"expires_at_us": 300}),
    ]
    ended: dict[str, object] = {
        "name": "Other", "description": "other", "budget_micro": 1001, "expires_at_us": 9001, "spent_micro": 1,
    }  # fmt: skip
    terms: dict[str, object] = {
        "campaign_type": "x", "grant_formula": "x", "grant_config": "{}", "pool_id": "gpu", "per_wallet_cap_micro": 501,
        "starts_at_us": 301, "grant_ttl_seconds": 61,
    }  # fmt: skip
    table += [("campaigns_ended_are_locked", ("completed", "expired"), {column: value}) for column, value in ended.items()]
    table += [
        ("campaigns_terms_are_locked_once_active", ("active", "paused", "completed", "expired"), {column: value})
        for column, value in terms.items()
    ]
    table += [
        ("campaigns_status_transition_is_allowed", (before,), {"status": after})
        for before in CAMPAIGNS
        for after in (*CAMPAIGNS, "lost")
        if after != before and (before, after) not in LIFE_CYCLE
    ]
    for name, statuses, changes in table:
        for status in statuses:
            yield name, (update("credit_campaigns", CAMPAIGNS[status], **changes),)
    # It has granted 200, of which 100 were revoked and are not spent.
    all_of_it = update("credit_campaigns", 2, budget_micro=MAX, spent_micro=MAX - 99, grant_count=3)
    yield "campaigns_granted_total_fits_63_bits", (all_of_it,)


def _changes_of_grants() -> Iterator[Case]:
    revoked: dict[str, object] = {
        "status": "revoked", "revoked_at_us": 2000, "revoked_micro": 0, "revoked_consumed_micro": 0,
        "revoked_reserved_micro": 0, "revoke_reason": "why",
    }  # fmt: skip
    said = "grants_revocation_matches_status"
    table: list[tuple[str, dict[str, object]]] = [
        ("grants_revoked_within_amount", revoked | {"revoked_micro": -1}),
        ("grants_revoked_within_amount", revoked | {"revoked_micro": 101}),
        ("grants_revoked_consumed_within_amount", revoked | {"revoked_consumed_micro": -1}),
        ("grants_revoked_consumed_within_amount", revoked | {"revoked_consumed_micro": 101}),
        ("grants_revoked_reserved_within_amount", revoked | {"revoked_reserved_micro": -1}),
        ("grants_revoked_reserved_within_amount", revoked | {"revoked_reserved_micro": 101}),
        ("grants_revoke_reason_has_1_to_500_characters", revoked | {"revoke_reason": ""}),
        ("grants_revoke_reason_has_1_to_500_characters", revoked | {"revoke_reason": "r" * 501}),
        (said, revoked | {"status": "lost"}),
    ]
    # Revoked with one column missing, and granted with one column given.
    for column in sorted(revoked.keys() - {"status"}):
        table += [(said, revoked | {column: None}), (said, {column: revoked[column]})]
    for name, changes in table:
        yield (
            name,
            (update("credit_lots", 2, revoked_at_us=changes.get("revoked_at_us")), update("credit_grants", 1, **changes)),
        )
    with_their_lots = "grants_are_revoked_with_their_lots"
    yield with_their_lots, (update("credit_grants", 1, **revoked),)
    yield with_their_lots, (update("credit_lots", 2, revoked_at_us=1999), update("credit_grants", 1, **revoked))
    yield "grants_are_revoked_once", (update("credit_grants", 2, revoke_reason="another"),)
    yield "grants_are_revoked_once", (update("credit_grants", 2, status="granted"),)


def _grants() -> Iterator[Case]:
    in_time = "grants_campaign_is_active"
    for campaign in (*(CAMPAIGNS[s] for s in ("draft", "paused", "completed", "expired")), STARTS_LATER, IS_OVER):
        yield in_time, (insert("credit_grants", campaign_id=campaign, lot_id=LOTS_TO_GRANT + campaign),)
    yield in_time, (insert("credit_grants", status="revoked"),)
    new_lot = insert(
        "credit_lots",
        account_id=1,
        source_type="grant",
        source_id=None,
        campaign_id=2,
        original_micro=501,
        available_micro=501,
    )
    yield "grants_are_within_the_cap", (new_lot, insert("credit_grants", lot_id=10, amount_micro=501))
    own_lot = "grants_match_their_lot"
    yield own_lot, (insert("credit_grants", lot_id=109),)
    yield own_lot, (insert("credit_grants", campaign_id=99),)
    yield own_lot, (insert("credit_grants", account_id=2, campaign_id=7),)
    yield own_lot, (insert("credit_grants", amount_micro=69),)
    for source in (
        {"source_type": "deposit", "source_id": None}, {"source_type": "grant", "source_id": "order-9"},
        {"source_type": "grant", "source_id": None, "campaign_id": 7},
    ):  # fmt: skip
        lot = insert("credit_lots", **{"campaign_id": 2, **source})
        yield own_lot, (lot, insert("credit_grants", lot_id=10, amount_micro=100))
    again = insert("credit_lots", account_id=2, source_type="grant", source_id=None, campaign_id=2)
    yield (
        "grants_one_per_campaign_and_account",
        (again, insert("credit_grants", account_id=2, lot_id=10, amount_micro=100)),
    )
    # A lot belongs to one campaign, which pays an account once. Only without that index could a lot have two grants.
    yield (
        "grants_one_per_lot",
        (
            "DROP INDEX grants_one_per_campaign_and_account",
            insert("credit_grants", account_id=2, lot_id=2, amount_micro=100),
        ),
    )


_GRANTED = ((0, 0, 0), (-10, -10, 0), (10, 9, 0), (10, 10, 1), (10, 0, 10))
_TAKEN = ((10, 10, 0), (0, 0, 0), (-10, -10, -10), (-10, 0, 0), (-10, -10, 10), (-10, -4, -6))
_SHADOW = ((1, 0, 0), (-1, 0, 0), (0, -1, 0), (0, 0, 1))

# Wrong entries by type: the amount, and the deltas of available and reserved credits.
WRONG_MOVES = {
    "deposit": _GRANTED,
    "grant": _GRANTED,
    "reserve": ((10, 10, -10), (0, 0, 0), (-10, -10, 0), (-10, -10, 9), (-10, 0, 10)),
    "release": ((-10, -10, 10), (0, 0, 0), (10, 10, 0), (10, 0, -10), (10, 10, -9)),
    "finalize": _TAKEN,
    "expire": _TAKEN,
    "revoke": _TAKEN,
    "debt_paid": ((10, 10, 0), (0, 0, 0), (-10, 0, -10), (-10, -9, 0), (-10, 0, 0)),
    "debt_incurred": ((10, 0, 0), (0, 0, 0), (-10, -10, 0), (-10, 0, -10)),
    "shadow_reserve": _SHADOW,
    "shadow_finalize": _SHADOW,
    "shadow_charge": _SHADOW,
    "charge": ((10, 10, 0), (0, 0, 0), (-10, 0, -10), (-10, 0, 0), (-10, -10, 10)),
    "gift": ((10, 10, 0), (-10, -10, 0), (0, 0, 0)),
    "Deposit": ((10, 10, 0),),
    "": ((10, 10, 0), (-10, 0, -10)),
}
WITHOUT_A_LOT = ("debt_incurred", "shadow_reserve", "shadow_finalize", "shadow_charge")

# Valid entries by type, of types that need a reservation.
MOVES_OF_A_RESERVATION = {
    "reserve": (-10, -10, 10),
    "release": (10, 10, -10),
    "finalize": (-10, 0, -10),
    "debt_incurred": (-10, 0, 0),
    "shadow_reserve": (0, 0, 0),
    "shadow_finalize": (0, 0, 0),
}
MOVES_OF_A_CHARGE = {"charge": (-10, -10, 0), "shadow_charge": (0, 0, 0)}
MOVES_OF_A_LOT_ALONE = {"deposit": (10, 10, 0), "grant": (10, 10, 0), "expire": (-10, -10, 0), "revoke": (-10, -10, 0)}


def lot_of(entry_type: str) -> int | None:
    return None if entry_type in WITHOUT_A_LOT else 1


def _entries() -> Iterator[Case]:
    for entry_type, moves in WRONG_MOVES.items():
        for move in moves:
            yield "entries_deltas_match_type", (entry(*move, entry_type, lot_id=lot_of(entry_type)),)
    owner = "entries_belong_to_reservation_or_charge"
    for entry_type, move in (MOVES_OF_A_RESERVATION | MOVES_OF_A_CHARGE).items():
        yield owner, (entry(*move, entry_type, lot_id=lot_of(entry_type), reservation_id=None),)
    for entry_type, move in MOVES_OF_A_CHARGE.items():
        yield owner, (entry(*move, entry_type, lot_id=lot_of(entry_type)),)
    for entry_type, move in (MOVES_OF_A_RESERVATION | MOVES_OF_A_LOT_ALONE).items():
        if entry_type != "debt_incurred":
            yield owner, (entry(*move, entry_type, lot_id=lot_of(entry_type), reservation_id=None, charge_id=1),)
    yield owner, (entry(-10, 0, 0, "debt_incurred", lot_id=None, charge_id=1),)
    for entry_type, move in (MOVES_OF_A_RESERVATION | MOVES_OF_A_CHARGE | MOVES_OF_A_LOT_ALONE).items():
        wrong_lot = 1 if entry_type in WITHOUT_A_LOT else None
        yield "entries_have_lot_if_credits_move", (entry(*move, entry_type, lot_id=wrong_lot),)


def _charges() -> Iterator[Case]:
    table: list[tuple[str, dict[str, object]]] = [
        ("source_id_has_1_to_200_characters", {"source_id": ""}),
        ("source_id_has_1_to_200_characters", {"source_id": "s" * 201}),
        ("one_per_account_and_source", {"account_id": 4, "source_id": "call-1"}),
        ("billing_mode_is_known", {"billing_mode": "free"}),
        ("list_is_not_negative", {"list_micro": -1, "discount_micro": 0, "charged_micro": -1}),
        ("discount_is_0_to_10000_bps", {"discount_bps": -1}),
        ("discount_is_0_to_10000_bps", {"discount_bps": 10_001}),
        ("max_discount_is_not_negative", {"max_discount_micro": -1}),
        ("discount_matches_rate_and_cap", {"discount_micro": 9, "charged_micro": 91}),
        ("discount_matches_rate_and_cap", {"discount_micro": 11, "charged_micro": 89}),
        ("discount_matches_rate_and_cap", {"max_discount_micro": 9}),
        ("charged_is_not_negative", {"billing_mode": "soft", "charged_micro": -1, "debt_micro": 91}),
        ("debt_needs_soft_mode", {"charged_micro": 80, "debt_micro": 10, "entry_count": 2}),
        ("debt_needs_soft_mode", {"billing_mode": "soft", "charged_micro": 91, "debt_micro": -1}),
        ("parts_sum_to_price", {"charged_micro": 89}),
        ("parts_sum_to_price", {"billing_mode": "soft", "charged_micro": 80, "debt_micro": 11, "entry_count": 2}),
        ("entry_count_matches_price", {"entry_count": 0}),
        ("entry_count_matches_price", {"entry_count": 1001}),
        ("entry_count_matches_price", {"list_micro": 0, "discount_micro": 0, "charged_micro": 0}),
        ("entry_count_matches_price", {"entry_count": -1, "list_micro": 0, "discount_micro": 0, "charged_micro": 0}),
        ("entry_count_matches_price", {"billing_mode": "soft", "charged_micro": 80, "debt_micro": 10}),
        ("entry_count_matches_price", {"billing_mode": "soft", "charged_micro": 80, "debt_micro": 10, "entry_count": 1002}),
        ("entry_count_matches_price", {"billing_mode": "soft", "charged_micro": 0, "debt_micro": 90, "entry_count": 2}),
        ("entry_count_matches_price", UNDISCOUNTED | {"billing_mode": "shadow", "entry_count": 0}),
        ("entry_count_matches_price", UNDISCOUNTED | {"billing_mode": "shadow", "entry_count": 2}),
        ("discount_has_membership", {"community_id": None}),
        ("discount_has_membership", {"tier": None}),
        ("discount_has_membership", {"billing_mode": "shadow"}),
        ("discount_has_membership", UNDISCOUNTED | {"max_discount_micro": 5}),
    ]
    for rule, changes in table:
        yield f"charges_{rule}", (insert("credit_charges", **changes),)
    match, charge = "entries_match_their_charge", insert("credit_charges")
    of_charge: dict[str, object] = {"reservation_id": None, "charge_id": 5}
    whole = entry(-90, -90, 0, "charge", **of_charge)
    after: dict[str, object] = {"entry_seq": 8, "available_after_micro": 520}
    # The charge has one entry only, and none of more than its amount.
    yield match, (charge, whole, entry(-10, -10, 0, "charge", **of_charge, **after))
    yield match, (charge, entry(-91, -91, 0, "charge", **of_charge))
    # Lot 2 is of another account, and lot 10 of another pool.
    yield match, (charge, entry(-90, -90, 0, "charge", lot_id=2, **of_charge))
    yield match, (insert("credit_lots", pool_id="gpu"), charge, entry(-90, -90, 0, "charge", lot_id=10, **of_charge))
    yield match, (charge, entry(-1, 0, 0, "debt_incurred", lot_id=None, **of_charge))
    yield match, (charge, entry(0, 0, 0, "shadow_charge", lot_id=None, **of_charge))
    yield match, (insert("credit_charges", after_entry_id=25), whole)
    yield match, (insert("credit_charges", after_entry_id=27), whole)
    yield match, (insert("credit_charges", account_id=2), whole)
    yield match, (insert("credit_charges", pool_id="gpu"), entry(-90, -90, 0, "charge", pool_id="tpu", **of_charge))
    yield match, (insert("credit_charges", created_at_us=1999), whole)
    yield match, (insert("credit_charges", **(UNDISCOUNTED | {"billing_mode": "shadow"})), whole)
    yield match, (whole,)


def _balances() -> Iterator[Case]:
    yield "balances_available_is_not_negative", (entry(-621, -621, 0, "revoke"),)
    yield "balances_reserved_is_not_negative", (entry(-301, 0, -301, "finalize"),)
    room = MAX - 620 - 300
    yield "balances_sum_fits_63_bits", (entry(room + 1, room + 1, 0, "deposit"),)
    first = {"pool_id": "gpu", "available_after_micro": 10, "reserved_after_micro": 0}
    yield "entries_are_consecutive", (insert("credit_ledger", **{**first, "entry_seq": 2}),)
    yield "entries_are_consecutive", (insert("credit_ledger", **{**first, "entry_seq": 0}),)
    begin = "balances_start_with_first_entry"
    yield begin, (insert("credit_ledger", **{**first, "entry_seq": 1, "available_after_micro": 11}),)
    yield begin, (insert("credit_ledger", **{**first, "entry_seq": 1, "reserved_after_micro": 1}),)
    # The account has two pools.
    begin_pools = (
        "INSERT INTO credit_ledger (account_id, pool_id, entry_seq, entry_type, reservation_id, amount_micro,"
        " available_delta_micro, reserved_delta_micro, available_after_micro, reserved_after_micro, created_at_us)"
        " SELECT 3, 'pool-' || value, 1, 'shadow_reserve', 4, 0, 0, 0, 0, 0, 2000 FROM json_each('{}')"
    )
    yield (
        "balances_are_at_most_64_per_account",
        (begin_pools.format(list(range(62))), begin_pools.format([62])),
    )
    yield begin, ("INSERT INTO credit_balances VALUES (1, 'gpu', 0, 0, 0)",)
    yield begin, ("INSERT INTO credit_balances VALUES (1, 'gpu', 10, 0, 1)",)
    follow = "balances_follow_entries"
    yield follow, (insert("credit_ledger", entry_seq=8),)
    yield follow, (insert("credit_ledger", entry_seq=0),)
    yield follow, (insert("credit_ledger", available_after_micro=631),)
    yield follow, (insert("credit_ledger", reserved_after_micro=301),)
    for changed in (
        "available_micro = 621", "reserved_micro = 301", "entry_seq = 5", "pool_id = 'gpu'", "account_id = 2, pool_id = 'x'",
    ):  # fmt: skip
        yield follow, (f"UPDATE credit_balances SET {changed} WHERE account_id = 1",)


def _reconciliations() -> Iterator[Case]:
    yield "reconciliation_is_one_row", ("INSERT INTO reconciliations VALUES (2, 1, '{}', NULL, NULL)",)
    for text in NOT_OBJECTS:
        yield "reconciliation_report_is_an_object", (update("reconciliations", 1, report=text),)
    yield "reconciliation_audit_hash_has_32_bytes", (update("reconciliations", 1, audit_hash=bytes(31)),)
    yield (
        "reconciliation_has_audit_seq_and_hash",
        (update("reconciliations", 1, audit_hash=None),),
    )
    less = "reconciliation_audit_seq_never_decreases"
    yield less, (update("reconciliations", 1, audit_seq=0),)
    yield less, (update("reconciliations", 1, audit_seq=None, audit_hash=None),)
    yield "reconciliation_is_never_deleted", ("DELETE FROM reconciliations",)
    yield "reconciliation_is_never_deleted", (replace("reconciliations", 1),)


def _links_and_heads() -> Iterator[Case]:
    link = "INSERT INTO book_chain VALUES ({}, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, zeroblob(32), 0, zeroblob({}))".format
    keys = "INSERT INTO book_chain VALUES (1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, zeroblob(31), 0, zeroblob(32))"
    yield "links_keys_hash_has_32_bytes", (keys,)
    yield "links_hash_has_32_bytes", (link(1, 31),)
    for number in (0, 2):
        yield "links_are_consecutive", (link(number, 32),)
    yield "links_are_consecutive", (link(1, 32), link(1, 32))
    yield "links_are_never_changed", (link(1, 32), "UPDATE book_chain SET entries = entries")
    yield "links_are_never_deleted", (link(1, 32), "DELETE FROM book_chain")
    epoch = "INSERT INTO book_epochs VALUES ({}, {}, '{}', 2000, 4, 9, 6, 4, 2, 26, 8, 2, 31)".format
    yield "epochs_start_above_every_id", (epoch(30, 2, "restored"),)
    yield "epochs_reason_is_known", (epoch(100, 2, "created"),)
    for base_id, number in ((100, 1), (100, 0), (0, 2)):
        yield "epochs_are_consecutive", (epoch(base_id, number, "restored"),)
    for base_id, number in ((100, 3), (200, 2)):
        yield "epochs_are_consecutive", (epoch(100, 2, "restored"), epoch(base_id, number, "loss_accepted"))
    yield "epochs_are_never_changed", (epoch(100, 2, "anchor_missing"), "UPDATE book_epochs SET number = number")
    yield "epochs_are_never_deleted", (epoch(100, 2, "restored"), "DELETE FROM book_epochs")
    # The base of a new epoch takes the place of an entry until there is one.
    for changes in ({"after_entry_id": 26, "id": 101}, {"after_entry_id": 100, "id": 40}):
        yield "events_are_in_feed_order", (epoch(100, 2, "restored"), insert("events", **changes))
    yield "audit_rows_are_consecutive", (epoch(100, 2, "restored"), insert("admin_audit_log", id=100))
    yield "head_is_one_row", ("INSERT INTO book_head VALUES (2, 0, 0)",)
    yield "head_copies_match", ("UPDATE book_head SET commits = commits + 1",)
    for step in (-1, 0, 2):
        changed = f"commits = commits + {step}, negated_commits = negated_commits - {step}"
        yield "head_commits_increase_by_one", (f"UPDATE book_head SET {changed}",)
    yield "head_is_never_deleted", ("DELETE FROM book_head",)
    for changed in ("sub = 'eve'", "issued_before_us = 999", "revoked_at_us = 999"):
        yield "revoked_subjects_times_never_decrease", (f"UPDATE revoked_subjects SET {changed}",)


def _fixed_rows() -> Iterator[Case]:
    """Yield changes of append-only tables and of fixed columns."""
    for table, prefix, where in (
        ("credit_accounts", "accounts", "id = 1"),
        ("credit_lots", "lots", "id = 6"),
        ("credit_reservations", "reservations", "id = 4"),
        ("reservation_lots", "reservation_lots", "reservation_id = 1"),
        ("silent_ends", "silent_ends", "id = 1"),
        ("credit_debts", "debts", "id = 1"),
        ("credit_charges", "charges", "id = 1"),
        ("credit_ledger", "entries", "id = 26"),
        ("credit_balances", "balances", "account_id = 3"),
        ("credit_campaigns", "campaigns", "id = 1"),
        ("credit_grants", "grants", "id = 1"),
        ("admin_audit_log", "audit_rows", "seq = 2"),
        ("events", "events", "id = 1"),
    ):
        yield f"{prefix}_are_never_deleted", (f"DELETE FROM {table} WHERE {where}",)
    # BEFORE INSERT triggers accept these rows; they run before the conflict is resolved.
    for table, prefix, row_id in (
        ("credit_accounts", "accounts", 1),
        ("credit_lots", "lots", 6),
        ("credit_reservations", "reservations", 4),
        ("credit_charges", "charges", 4),
        ("credit_ledger", "entries", 26),
        ("credit_campaigns", "campaigns", 1),
        ("credit_grants", "grants", 1),
    ):
        yield f"{prefix}_are_never_deleted", (replace(table, row_id),)
    # The debt is half paid, so this trigger would reject it first.
    yield "debts_are_never_deleted", ("DROP TRIGGER debts_start_unpaid", replace("credit_debts", 1))
    for table, prefix, where, column in (
        ("credit_accounts", "accounts", "id = 1", "entity_id"),
        ("reservation_lots", "reservation_lots", "reservation_id = 1", "reserved_micro"),
        ("silent_ends", "silent_ends", "id = 1", "reservation_id"),
        ("credit_charges", "charges", "id = 1", "description"),
        ("credit_ledger", "entries", "id = 1", "description"),
        ("admin_audit_log", "audit_rows", "seq = 1", "details"),
        ("events", "events", "id = 1", "data"),
        ("idempotency_keys", "idempotency_responses", "id = 1", "body"),
    ):
        yield f"{prefix}_are_never_changed", (f"UPDATE {table} SET {column} = {column} WHERE {where}",)
    for table, name, row_id, columns in (
        ("credit_lots", "lots_terms_are_fixed", 1,
         """id account_id pool_id source_type source_id campaign_id priority original_micro expires_at_us metadata
            created_at_us"""),
        ("credit_reservations", "reservations_terms_are_fixed", 1,
         """id account_id pool_id billing_mode list_micro discount_bps max_discount_micro discount_micro community_id tier
            held_micro expires_at_us description metadata created_by created_at_us"""),
        ("credit_grants", "grants_terms_are_fixed", 1,
         "id campaign_id account_id lot_id amount_micro grant_formula formula_input created_at_us"),
        ("credit_debts", "debts_change_only_by_payment", 1,
         "id account_id reservation_id charge_id original_micro created_at_us"),
    ):  # fmt: skip
        for column in columns.split():
            yield name, (f"UPDATE {table} SET {column} = 7 WHERE id = {row_id}",)


SUBJECTS: tuple[Callable[[], Iterator[Case]], ...] = (
    _inserts,
    _changes_of_lots_and_debts,
    _callers,
    _memberships,
    _webhooks,
    _changes_of_reservations,
    _changes_of_campaigns,
    _changes_of_grants,
    _grants,
    _entries,
    _charges,
    _balances,
    _reconciliations,
    _links_and_heads,
    _fixed_rows,
)  # fmt: skip


@pytest.fixture(scope="module")
def book(migrated_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[sqlite3.Connection]:
    """A small database with lots for future grants. Every test rolls back its changes."""
    conn = open_writer(make_book(migrated_file, tmp_path_factory.mktemp("constraints")))
    for campaign in (*CAMPAIGNS.values(), STARTS_LATER, IS_OVER):
        of_campaign = {"id": LOTS_TO_GRANT + campaign, "source_type": "grant", "source_id": None, "campaign_id": campaign}
        conn.execute(insert("credit_lots", original_micro=70, available_micro=70, **of_campaign))
    yield conn
    conn.close()


@pytest.fixture
def conn(book: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """The database in a transaction that is rolled back."""
    book.execute("BEGIN IMMEDIATE")
    yield book
    book.execute("ROLLBACK")


def everything(conn: sqlite3.Connection) -> list[object]:
    """Return all rows of all tables."""
    tables = conn.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name").fetchall()
    return [conn.execute(f"SELECT * FROM {table}").fetchall() for (table,) in tables]


def rejection(conn: sqlite3.Connection, statements: tuple[str, ...]) -> sqlite3.Error:
    """Return the error of the last statement. The others must succeed, and the last must leave no change."""
    for statement in statements[:-1]:
        conn.execute(statement)
    before = everything(conn)
    with pytest.raises(sqlite3.Error) as raised:
        conn.execute(statements[-1])
    assert everything(conn) == before
    return raised.value


# --- constraint_errors.py lists every rule of the schema ---


def schema_sql(conn: sqlite3.Connection, kind: str) -> dict[str, str]:
    """Return the statements of the schema by name, without comments and without the table of migrations."""
    rows = conn.execute(
        "SELECT name, sql FROM sqlite_schema WHERE type = ? AND sql IS NOT NULL AND tbl_name <> 'schema_migrations'", (kind,)
    )
    return {name: re.sub(r"--[^\n]*", "", sql) for name, sql in rows}


def named_checks(conn: sqlite3.Connection) -> list[str]:
    return [name for sql in schema_sql(conn, "table").values() for name in re.findall(r"CONSTRAINT\s+(\w+)\s+CHECK\b", sql)]


def unique_indexes(conn: sqlite3.Connection) -> dict[str, str]:
    """Return the name of each UNIQUE index and its columns as SQLite names them in an error."""
    found = {}
    for name, sql in schema_sql(conn, "index").items():
        if sql.startswith("CREATE UNIQUE INDEX"):
            [table] = conn.execute("SELECT tbl_name FROM sqlite_schema WHERE name = ?", (name,)).fetchone()
            columns = conn.execute("SELECT name FROM pragma_index_info(?) ORDER BY seqno", (name,)).fetchall()
            found[name] = ", ".join(f"{table}.{column}" for (column,) in columns)
    return found


def raising_triggers(conn: sqlite3.Connection) -> dict[str, list[str]]:
    """Return the triggers that raise errors, and their messages."""
    found = {name: re.findall(r"RAISE\s*\(\s*\w+\s*,\s*'([^']*)'", sql) for name, sql in schema_sql(conn, "trigger").items()}
    return {name: raised for name, raised in found.items() if raised}


def test_every_rule_has_a_problem_or_is_internal(conn: sqlite3.Connection) -> None:
    rules = [*named_checks(conn), *unique_indexes(conn), *raising_triggers(conn)]
    assert sorted(rules) == sorted(constraint_errors.CONSTRAINT_PROBLEMS.keys() | constraint_errors.INTERNAL)


def test_no_rule_has_a_problem_and_is_internal() -> None:
    assert constraint_errors.CONSTRAINT_PROBLEMS.keys() & constraint_errors.INTERNAL == set()


def test_every_check_has_a_name(conn: sqlite3.Connection) -> None:
    all_checks = sum(len(re.findall(r"\bCHECK\s*\(", sql)) for sql in schema_sql(conn, "table").values())
    assert len(named_checks(conn)) == all_checks


def test_a_trigger_raises_its_own_name(conn: sqlite3.Connection) -> None:
    assert {name: set(raised) for name, raised in raising_triggers(conn).items()} == {
        name: {name} for name in raising_triggers(conn)
    }


def test_every_unique_index_is_known_by_its_columns(conn: sqlite3.Connection) -> None:
    indexes = unique_indexes(conn)
    assert {columns: name for name, columns in indexes.items()} == constraint_errors.UNIQUE_COLUMNS
    assert len(set(indexes.values())) == len(indexes), (
        "two UNIQUE indexes on the same columns: SQLite names only the columns"
    )


def test_no_table_has_a_unique_constraint_without_a_name(conn: sqlite3.Connection) -> None:
    unnamed = conn.execute(
        "SELECT t.name, i.name FROM sqlite_schema t, pragma_index_list(t.name) i WHERE t.type = 'table' AND i.origin = 'u'"
    ).fetchall()
    assert unnamed == []


def test_every_table_is_strict(conn: sqlite3.Connection) -> None:
    lax = conn.execute(
        "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table'"
        " AND name NOT LIKE 'sqlite_%' AND strict = 0"
    ).fetchall()
    assert lax == []


# --- every rule rejects what breaks it ---


def test_every_rule_has_a_case() -> None:
    names = {name for cases in SUBJECTS for name, _ in cases()}
    assert names == constraint_errors.CONSTRAINT_PROBLEMS.keys() | constraint_errors.INTERNAL


@pytest.mark.parametrize("cases", SUBJECTS)
def test_every_rule_rejects_what_breaks_it(conn: sqlite3.Connection, cases: Callable[[], Iterator[Case]]) -> None:
    failed: list[object] = []
    for name, statements in cases():
        conn.execute("SAVEPOINT one_case")
        try:
            require_rejection(conn, name, statements)
        except (Exception, pytest.fail.Exception) as error:
            failed.append((name, statements[-1], repr(error)))
        conn.execute("ROLLBACK TO one_case")
    assert failed == []


def require_rejection(conn: sqlite3.Connection, name: str, statements: tuple[str, ...]) -> None:
    """Require that the last statement is rejected by the named rule alone, with the rule's problem."""
    error = rejection(conn, statements)
    assert constraint_errors.constraint_of(error) == name, error
    problem = constraint_errors.problem_from_sqlite_error(error)
    assert isinstance(problem, Problem)
    if name in PROBLEMS:
        assert (problem.status, problem.code) == PROBLEMS[name]
    else:
        assert type(problem) is InternalError
        assert problem.__cause__ is error
    assert name not in f"{problem.title} {problem.detail} {problem.extensions}", "a client sees no names of the schema"


def test_every_problem_of_a_rule_is_tested() -> None:
    assert PROBLEMS.keys() == constraint_errors.CONSTRAINT_PROBLEMS.keys()


ACCEPTED = [
    *(insert(table) for table in VALID),
    insert("credit_lots", source_id=None, expires_at_us=2001, priority=0, metadata="{}", pool_id="g" * 64),
    insert("credit_lots", source_id="s" * 200, expires_at_us=YEAR_10000 - 1, priority=100, pool_id="0a:._-"),
    insert("discount_tiers", community_id="c" * 200, tier="t" * 64, position=100, rate_bps=10_000, max_discount_micro=0),
    insert("memberships", expires_at_us=YEAR_10000 - 1),
    insert("memberships", expires_at_us=-1),
    update("memberships", 2, tier="gold", expires_at_us=None),
    "DELETE FROM memberships WHERE id = 1",
    "DELETE FROM discount_tiers WHERE tier = 'gold'",
    insert("credit_reservations", **NO_DISCOUNT, billing_mode="shadow"),
    *(
        insert(
            "credit_reservations",
            list_micro=MAX,
            discount_bps=bps,
            max_discount_micro=cap,
            discount_micro=off,
            held_micro=MAX - off,
        )
        for bps, cap, off in [(9_999, None, MAX * 9_999 // 10_000), (10_000, None, MAX), (10_000, MAX, MAX), (1, 7, 7)]
    ),
    insert("credit_reservations", list_micro=1999, max_discount_micro=None, discount_micro=199, held_micro=1800),
    insert("credit_reservations", billing_mode="soft", held_micro=0),
    insert("credit_reservations", list_micro=0, discount_micro=0, held_micro=0, max_discount_micro=None),
    insert("credit_reservations", discount_bps=10_000, discount_micro=100, max_discount_micro=None, held_micro=0),
    entry(MAX - 920, MAX - 920, 0, "deposit"),
    entry(-620, -620, 620, "reserve"),
    entry(-300, 0, -300, "expire"),
    entry(-620, -620, 0, "revoke"),
    insert("credit_ledger", created_at_us=1210),
    *(entry(*move, kind, lot_id=lot_of(kind)) for kind, move in MOVES_OF_A_RESERVATION.items()),
    *(entry(*move, kind, reservation_id=None) for kind, move in MOVES_OF_A_LOT_ALONE.items()),
    insert("credit_grants", campaign_id=STARTS_LATER, lot_id=LOTS_TO_GRANT + STARTS_LATER, created_at_us=2001),
    insert("credit_grants", campaign_id=IS_OVER, lot_id=LOTS_TO_GRANT + IS_OVER, created_at_us=1999),
    update("credit_lots", 1, revoked_at_us=2000, available_micro=0, revoked_micro=550),
    update("credit_lots", 2, revoked_at_us=2000),
    insert(
        "credit_campaigns", description="d" * 2000, starts_at_us=3000, expires_at_us=3001, grant_ttl_seconds=3_153_600_000
    ),
    update("credit_campaigns", 2, spent_micro=1000, budget_micro=1000, name="Other", expires_at_us=9000),
    update("credit_campaigns", 1, pool_id="gpu", per_wallet_cap_micro=0, campaign_type="referral", starts_at_us=1),
    *(update("credit_campaigns", CAMPAIGNS[before], status=after) for before, after in sorted(LIFE_CYCLE)),
    update("credit_debts", 1, paid_micro=60),
    update("credit_debts", 1, paid_micro=60, forgiven_lot_id=3),
    update("credit_reservations", 1, **RELEASED),
    update("credit_reservations", 1, **RELEASED, closed_by="admin:" + "x" * 128),
    insert("credit_reservations", created_by="service:" + "x" * 128),
    insert("credit_reservations", created_by="admin:\t"),
    insert("credit_charges", **UNDISCOUNTED, source_id="s" * 200, pool_id="0a:._-", metadata="{}"),
    insert("credit_charges", **UNDISCOUNTED | {"billing_mode": "shadow", "source_id": None}),
    insert("credit_charges", list_micro=0, discount_micro=0, charged_micro=0, entry_count=0, max_discount_micro=None),
    insert(
        "credit_charges", discount_bps=10_000, discount_micro=100, charged_micro=0, entry_count=0, max_discount_micro=None
    ),
    insert("credit_charges", entry_count=1000),
    insert("credit_charges", billing_mode="soft", charged_micro=0, debt_micro=90, entry_count=1),
    insert("credit_charges", billing_mode="soft", charged_micro=1, debt_micro=89, entry_count=1001),
    *(
        insert(
            "credit_charges",
            list_micro=MAX,
            discount_bps=bps,
            max_discount_micro=cap,
            discount_micro=off,
            charged_micro=MAX - off,
            entry_count=int(off < MAX),
        )
        for bps, cap, off in [(9_999, None, MAX * 9_999 // 10_000), (10_000, None, MAX), (10_000, MAX, MAX), (1, 7, 7)]
    ),
    insert("credit_charges", account_id=3, source_id="call-1"),
    insert("thresholds", pool_id="g" * 64, below_micro=MAX, recovered_micro=MAX, position=20, is_below=1),
    "UPDATE thresholds SET is_below = 1 WHERE position = 1 AND account_id = 1",
    "DELETE FROM thresholds WHERE account_id = 2",
    "DELETE FROM idempotency_keys",
    "DELETE FROM revoked_tokens",
    "UPDATE revoked_subjects SET issued_before_us = 1001, revoked_at_us = 1001",
    "DELETE FROM revoked_subjects",
]


def test_every_rule_accepts_the_values_at_its_limits(conn: sqlite3.Connection) -> None:
    failed: list[object] = []
    for statement in ACCEPTED:
        conn.execute("SAVEPOINT one_case")
        try:
            if (count := conn.execute(statement).rowcount) != 1:
                failed.append((statement, count))
        except sqlite3.Error as error:
            failed.append((statement, repr(error)))
        conn.execute("ROLLBACK TO one_case")
    assert failed == []


def test_an_ended_campaign_can_spend_less(conn: sqlite3.Connection) -> None:
    conn.execute("UPDATE credit_campaigns SET status = 'completed' WHERE id = 2")
    assert conn.execute("UPDATE credit_campaigns SET spent_micro = spent_micro - 1 WHERE id = 2").rowcount == 1


# --- errors without a name of the schema ---


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        (insert("credit_accounts", entity_id=None), "NOT NULL constraint failed: credit_accounts.entity_id"),
        (insert("credit_lots", account_id=99), "FOREIGN KEY constraint failed"),
        (insert("credit_ledger", lot_id=109), "FOREIGN KEY constraint failed"),
        (insert("credit_lots", priority="high"), "cannot store TEXT value in INTEGER column credit_lots.priority"),
        ("INSERT INTO reservation_lots VALUES (1, 1, 6, 1)",
         "UNIQUE constraint failed: reservation_lots.reservation_id, reservation_lots.position"),
        ("SELECT * FROM nowhere", "no such table: nowhere"),
    ],
)  # fmt: skip
def test_an_error_without_a_named_rule_is_internal(conn: sqlite3.Connection, statement: str, message: str) -> None:
    error = rejection(conn, (statement,))
    assert str(error) == message
    assert constraint_errors.constraint_of(error) is None
    problem = constraint_errors.problem_from_sqlite_error(error)
    assert type(problem) is InternalError
    assert message not in problem.detail


def test_a_full_disk_is_the_problem_storage_full(migrated_file: Path, tmp_path: Path) -> None:
    conn = open_writer(make_book(migrated_file, tmp_path))
    try:
        [pages] = conn.execute("PRAGMA page_count").fetchone()
        conn.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(sqlite3.Error) as raised:
            conn.execute(insert("idempotency_keys", body=bytes(1_000_000)))
        assert type(constraint_errors.problem_from_sqlite_error(raised.value)) is StorageFull
    finally:
        conn.close()


def test_a_locked_file_is_the_problem_overloaded(migrated_file: Path, tmp_path: Path) -> None:
    path = make_book(migrated_file, tmp_path)
    other, conn = open_writer(path), open_writer(path)
    try:
        conn.execute("PRAGMA busy_timeout = 0")
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(sqlite3.Error) as raised:
            conn.execute("BEGIN IMMEDIATE")
        assert type(constraint_errors.problem_from_sqlite_error(raised.value)) is Overloaded
    finally:
        other.close()
        conn.close()
