"""Problems for errors that SQLite raises: a table from each constraint and trigger to its problem.

Operations check before they write, so that a problem carries its details. The database is the last line of defense behind
them. `INTERNAL` lists the rules that only a bug in minibill can break.
"""

import re
from collections.abc import Callable

from minibill.core.problems import (
    AmountTooLarge,
    BudgetExceeded,
    CampaignFieldLocked,
    CampaignNotActive,
    FieldError,
    InternalError,
    InvalidRequest,
    Overloaded,
    PerWalletCapExceeded,
    Problem,
    SourceAlreadyCredited,
    StorageFull,
    TierNotFound,
    TooManyLots,
    TooManyPools,
)
from minibill.db.sqlite import sqlite3

ProblemFactory = Callable[[], Problem]

SQLITE_BUSY, SQLITE_FULL = 5, 13


def _invalid(path: str, message: str) -> ProblemFactory:
    return lambda: InvalidRequest(FieldError(path, message))


CONSTRAINT_PROBLEMS: dict[str, ProblemFactory] = {
    "lots_source_is_unique": lambda: SourceAlreadyCredited("this source has been credited already"),
    "lots_metadata_is_an_object": _invalid("metadata", "expected an object that is not nested deeper than 1,000 levels"),
    "entries_metadata_is_an_object": _invalid("metadata", "expected an object that is not nested deeper than 1,000 levels"),
    "reservations_metadata_is_an_object": _invalid(
        "metadata", "expected an object that is not nested deeper than 1,000 levels"
    ),
    "charges_metadata_is_an_object": _invalid("metadata", "expected an object that is not nested deeper than 1,000 levels"),
    "grants_formula_input_is_an_object": _invalid("grants", "expected inputs that are not nested deeper than 1,000 levels"),
    "memberships_are_at_most_1000_per_account": _invalid(
        "communityId", "the account has 1000 memberships, which is the limit; delete an expired one"
    ),
    "webhooks_are_at_most_20": _invalid("", "there are 20 webhooks, which is the limit; delete one first"),
    "memberships_tier_exists_on_insert": TierNotFound,
    "memberships_tier_exists_on_update": TierNotFound,
    "balances_sum_fits_63_bits": lambda: AmountTooLarge("the account would hold more than 9223372036854775807 micro-units"),
    "balances_are_at_most_64_per_account": lambda: TooManyPools("the account has 64 pools, which is the limit", limit=64),
    "reservation_lots_are_at_most_1000": lambda: TooManyLots("a reservation draws on at most 1000 lots", limit=1_000),
    "campaigns_spent_within_budget": lambda: BudgetExceeded("the grants exceed the campaign's remaining budget"),
    "campaigns_terms_are_locked_once_active": lambda: CampaignFieldLocked(
        "the campaign's terms are fixed once it is active"
    ),
    "campaigns_ended_are_locked": lambda: CampaignFieldLocked("the campaign has ended"),
    "campaigns_granted_total_fits_63_bits": lambda: AmountTooLarge(
        "a campaign grants at most 9223372036854775807 micro-units in total, including revoked grants"
    ),
    "grants_campaign_is_active": lambda: CampaignNotActive("the campaign is not active"),
    "grants_are_within_the_cap": lambda: PerWalletCapExceeded("a grant is over the campaign's cap per wallet"),
}

INTERNAL = frozenset({
    "accounts_are_never_changed",
    "accounts_are_never_deleted",
    "accounts_entity_id_has_1_to_200_characters",
    "accounts_entity_id_has_single_inner_spaces",
    "accounts_entity_id_is_visible",
    "accounts_entity_type_is_known",
    "accounts_evm_address_is_in_lower_case",
    "accounts_one_per_entity",
    "audit_actor_has_1_to_128_characters",
    "audit_details_are_an_object",
    "audit_hash_has_32_bytes",
    "audit_rows_are_consecutive",
    "audit_rows_are_never_changed",
    "audit_rows_are_never_deleted",
    "audit_times_do_not_decrease",
    "balances_are_never_deleted",
    "balances_available_is_not_negative",
    "balances_follow_entries",
    "balances_reserved_is_not_negative",
    "balances_start_with_first_entry",
    "campaigns_are_never_deleted",
    "campaigns_cap_is_not_negative",
    "campaigns_config_is_an_object",
    "campaigns_description_has_at_most_2000_characters",
    "campaigns_expire_after_they_start",
    "campaigns_formula_is_known",
    "campaigns_grant_ttl_is_within_100_years",
    "campaigns_name_has_1_to_200_characters",
    "campaigns_pool_id_is_well_formed",
    "campaigns_spent_is_not_negative",
    "campaigns_start_as_drafts",
    "campaigns_status_transition_is_allowed",
    "campaigns_type_is_known",
    "charges_are_never_changed",
    "charges_are_never_deleted",
    "charges_billing_mode_is_known",
    "charges_charged_is_not_negative",
    "charges_created_by_is_service_or_admin",
    "charges_debt_needs_soft_mode",
    "charges_discount_has_membership",
    "charges_discount_is_0_to_10000_bps",
    "charges_discount_matches_rate_and_cap",
    "charges_entry_count_matches_price",
    "charges_list_is_not_negative",
    "charges_max_discount_is_not_negative",
    "charges_one_per_account_and_source",
    "charges_parts_sum_to_price",
    "charges_pool_id_is_well_formed",
    "charges_source_id_has_1_to_200_characters",
    "debts_are_never_deleted",
    "debts_belong_to_reservation_or_charge",
    "debts_change_only_by_payment",
    "debts_forgiven_are_fully_paid",
    "debts_one_per_charge",
    "debts_one_per_forgiving_lot",
    "debts_one_per_reservation",
    "debts_original_is_positive",
    "debts_paid_is_within_original",
    "debts_start_unpaid",
    "entries_are_consecutive",
    "entries_are_never_changed",
    "entries_are_never_deleted",
    "entries_belong_to_reservation_or_charge",
    "entries_deltas_match_type",
    "entries_have_lot_if_credits_move",
    "entries_match_their_charge",
    "entries_one_per_sequence_number",
    "entries_pool_id_is_well_formed",
    "entries_times_do_not_decrease",
    "epochs_are_consecutive",
    "epochs_are_never_changed",
    "epochs_are_never_deleted",
    "epochs_reason_is_known",
    "epochs_start_above_every_id",
    "events_are_in_feed_order",
    "events_are_never_changed",
    "events_are_never_deleted",
    "events_data_is_an_object",
    "events_type_is_known",
    "grants_are_never_deleted",
    "grants_are_revoked_once",
    "grants_are_revoked_with_their_lots",
    "grants_match_their_lot",
    "grants_one_per_campaign_and_account",
    "grants_one_per_lot",
    "grants_revocation_matches_status",
    "grants_revoke_reason_has_1_to_500_characters",
    "grants_revoked_consumed_within_amount",
    "grants_revoked_reserved_within_amount",
    "grants_revoked_within_amount",
    "grants_terms_are_fixed",
    "head_commits_increase_by_one",
    "head_copies_match",
    "head_is_never_deleted",
    "head_is_one_row",
    "idempotency_checksum_has_63_bits",
    "idempotency_fingerprint_has_32_bytes",
    "idempotency_key_has_1_to_255_characters",
    "idempotency_one_per_caller_and_key",
    "idempotency_responses_are_never_changed",
    "idempotency_status_is_success",
    "links_are_consecutive",
    "links_are_never_changed",
    "links_are_never_deleted",
    "links_hash_has_32_bytes",
    "links_keys_hash_has_32_bytes",
    "lots_are_never_deleted",
    "lots_are_revoked_once",
    "lots_available_is_not_negative",
    "lots_consumed_is_not_negative",
    "lots_expire_after_creation",
    "lots_expired_is_not_negative",
    "lots_final_parts_never_decrease",
    "lots_original_is_positive",
    "lots_parts_sum_to_original",
    "lots_pool_id_is_well_formed",
    "lots_priority_is_0_to_100",
    "lots_reserved_is_not_negative",
    "lots_revoked_have_nothing_available",
    "lots_revoked_have_revocation_time",
    "lots_revoked_is_not_negative",
    "lots_source_id_has_1_to_200_characters",
    "lots_source_type_is_known",
    "lots_start_fully_available",
    "lots_terms_are_fixed",
    "memberships_account_and_community_are_fixed",
    "memberships_community_id_has_1_to_200_characters",
    "memberships_expire_before_the_year_10000",
    "memberships_one_per_account_and_community",
    "reconciliation_audit_hash_has_32_bytes",
    "reconciliation_audit_seq_never_decreases",
    "reconciliation_has_audit_seq_and_hash",
    "reconciliation_is_never_deleted",
    "reconciliation_is_one_row",
    "reconciliation_report_is_an_object",
    "reservation_lots_are_never_changed",
    "reservation_lots_are_never_deleted",
    "reservation_lots_position_counts_from_1",
    "reservation_lots_reserved_is_positive",
    "reservations_absorbed_is_not_negative",
    "reservations_actual_cost_is_not_negative",
    "reservations_are_never_deleted",
    "reservations_are_pending_or_closed",
    "reservations_billing_mode_is_known",
    "reservations_charge_matches_cost_and_discount",
    "reservations_close_once",
    "reservations_closed_by_differs_from_created_by",
    "reservations_closed_by_is_service_or_admin",
    "reservations_created_by_is_service_or_admin",
    "reservations_discount_has_membership",
    "reservations_discount_is_0_to_10000_bps",
    "reservations_discount_matches_rate_and_cap",
    "reservations_expire_after_creation",
    "reservations_finalized_have_cost",
    "reservations_finalized_is_within_held",
    "reservations_held_matches_price",
    "reservations_list_is_not_negative",
    "reservations_max_discount_is_not_negative",
    "reservations_overrun_is_not_negative",
    "reservations_parts_sum_to_held",
    "reservations_pool_id_is_well_formed",
    "reservations_start_pending",
    "reservations_status_is_known",
    "reservations_terms_are_fixed",
    "revoked_subjects_sub_has_1_to_128_characters",
    "revoked_subjects_times_never_decrease",
    "revoked_tokens_id_has_1_to_255_characters",
    "silent_ends_are_never_changed",
    "silent_ends_are_never_deleted",
    "silent_ends_one_per_reservation",
    "thresholds_are_at_most_20_per_account",
    "thresholds_below_is_positive",
    "thresholds_is_below_is_0_or_1",
    "thresholds_one_per_position",
    "thresholds_pool_id_is_well_formed",
    "thresholds_recovered_is_at_least_below",
    "tiers_are_at_most_100_per_community",
    "tiers_community_id_has_1_to_200_characters",
    "tiers_max_discount_is_not_negative",
    "tiers_one_per_position",
    "tiers_rate_is_0_to_10000_bps",
    "tiers_tier_has_1_to_64_characters",
    "webhook_attempts_count_from_1",
    "webhook_attempts_outcome_is_known",
    "webhooks_description_has_at_most_500_characters",
    "webhooks_is_enabled_is_0_or_1",
    "webhooks_secret_version_is_positive",
    "webhooks_types_are_an_array",
    "webhooks_url_has_1_to_2000_characters",
})  # fmt: skip

# SQLite's error for a UNIQUE index names its columns, not the index.
UNIQUE_COLUMNS = {
    "credit_accounts.entity_id, credit_accounts.entity_type": "accounts_one_per_entity",
    "credit_lots.source_type, credit_lots.source_id": "lots_source_is_unique",
    "discount_tiers.community_id, discount_tiers.position": "tiers_one_per_position",
    "memberships.account_id, memberships.community_id": "memberships_one_per_account_and_community",
    "thresholds.account_id, thresholds.position": "thresholds_one_per_position",
    "credit_charges.account_id, credit_charges.source_id": "charges_one_per_account_and_source",
    "credit_debts.reservation_id": "debts_one_per_reservation",
    "credit_debts.charge_id": "debts_one_per_charge",
    "credit_debts.forgiven_lot_id": "debts_one_per_forgiving_lot",
    "credit_ledger.account_id, credit_ledger.pool_id, credit_ledger.entry_seq": "entries_one_per_sequence_number",
    "credit_grants.campaign_id, credit_grants.account_id": "grants_one_per_campaign_and_account",
    "credit_grants.lot_id": "grants_one_per_lot",
    "idempotency_keys.caller, idempotency_keys.key": "idempotency_one_per_caller_and_key",
    "silent_ends.reservation_id": "silent_ends_one_per_reservation",
}


def constraint_of(error: sqlite3.Error) -> str | None:
    """Return the name of the constraint or trigger that raised an error; None if the schema does not name it."""
    text = str(error)
    if found := re.fullmatch(r"CHECK constraint failed: (\w+)", text):
        return found[1]
    if found := re.fullmatch(r"UNIQUE constraint failed: (.+)", text):
        return UNIQUE_COLUMNS.get(found[1])
    return text if text in INTERNAL or text in CONSTRAINT_PROBLEMS else None


def error_code(error: sqlite3.Error) -> int:
    """Return the primary result code of a SQLite error; 0 if it has none."""
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF


def problem_from_sqlite_error(error: sqlite3.Error) -> Exception:
    """Return the problem to raise for an error of SQLite in an operation; `InternalError` if the client can't fix it."""
    code = error_code(error)
    if code == SQLITE_FULL:
        return StorageFull()
    if code == SQLITE_BUSY:
        return Overloaded("another program holds the database file")
    problem = CONSTRAINT_PROBLEMS.get(constraint_of(error) or "")
    if problem is not None:
        return problem()
    internal = InternalError()
    internal.__cause__ = error
    return internal
