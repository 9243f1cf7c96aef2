"""What a caller is told when the database itself refuses: one table from each constraint and trigger to its problem.

Operations check before they write, so that a refusal comes with its facts; what is listed here is the last line behind
them. `INTERNAL` are the rules that only a bug of ours could break.
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

Refusal = Callable[[], Problem]

SQLITE_BUSY, SQLITE_FULL = 5, 13


def _invalid(path: str, message: str) -> Refusal:
    return lambda: InvalidRequest(FieldError(path, message))


CONSTRAINT_PROBLEMS: dict[str, Refusal] = {
    "lots_source_credits_once": lambda: SourceAlreadyCredited("this source has been credited already"),
    "lots_metadata_is_an_object": _invalid("metadata", "expected an object that is not nested deeper than 1,000 levels"),
    "entries_metadata_is_an_object": _invalid("metadata", "expected an object that is not nested deeper than 1,000 levels"),
    "reservations_metadata_is_an_object": _invalid(
        "metadata", "expected an object that is not nested deeper than 1,000 levels"
    ),
    "grants_formula_input_is_an_object": _invalid("grants", "expected inputs that are not nested deeper than 1,000 levels"),
    "memberships_are_at_most_1000_an_account": _invalid(
        "communityId", "the account has 1000 memberships, which is the most; delete one that is over"
    ),
    "webhooks_are_at_most_20": _invalid("", "there are 20 webhooks, which is the most; delete one first"),
    "memberships_begin_in_a_tier_of_the_community": TierNotFound,
    "memberships_change_to_a_tier_of_the_community": TierNotFound,
    "balances_sum_fits_63_bits": lambda: AmountTooLarge("the account would hold more than 9223372036854775807 micro-units"),
    "balances_are_at_most_64_an_account": lambda: TooManyPools("the account has 64 pools, which is the most", limit=64),
    "reservation_lots_are_at_most_1000": lambda: TooManyLots("a reservation draws on at most 1000 lots", limit=1_000),
    "campaigns_spent_within_budget": lambda: BudgetExceeded("the campaign's budget does not cover this"),
    "campaigns_terms_are_locked_once_active": lambda: CampaignFieldLocked(
        "the campaign's terms are fixed once it is active"
    ),
    "campaigns_ended_are_closed": lambda: CampaignFieldLocked("the campaign has ended"),
    "campaigns_grant_what_fits_63_bits": lambda: AmountTooLarge(
        "a campaign grants at most 9223372036854775807 micro-units, what is revoked of them included"
    ),
    "grants_are_paid_by_an_active_campaign_in_its_time": lambda: CampaignNotActive("the campaign is not active"),
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
    "audit_rows_are_never_changed",
    "audit_rows_are_never_deleted",
    "audit_rows_follow_each_other",
    "audit_times_do_not_decrease",
    "balances_are_never_deleted",
    "balances_available_is_not_negative",
    "balances_begin_with_the_first_entry",
    "balances_follow_the_entries",
    "balances_reserved_is_not_negative",
    "campaigns_are_never_deleted",
    "campaigns_begin_as_drafts",
    "campaigns_cap_is_not_negative",
    "campaigns_config_is_an_object",
    "campaigns_description_has_at_most_2000_characters",
    "campaigns_expire_after_they_start",
    "campaigns_formula_is_known",
    "campaigns_grant_ttl_is_within_100_years",
    "campaigns_keep_to_their_life_cycle",
    "campaigns_name_has_1_to_200_characters",
    "campaigns_pool_id_is_well_formed",
    "campaigns_spent_is_not_negative",
    "campaigns_type_is_known",
    "debts_are_forgiven_wholly",
    "debts_are_never_deleted",
    "debts_are_not_paid_beyond_what_is_owed",
    "debts_are_only_ever_paid",
    "debts_begin_unpaid",
    "debts_one_per_forgiving_lot",
    "debts_one_per_reservation",
    "debts_original_is_positive",
    "entries_are_never_changed",
    "entries_are_never_deleted",
    "entries_follow_each_other",
    "entries_move_what_their_type_says",
    "entries_name_a_lot_unless_none_moves",
    "entries_name_the_reservation_that_acts",
    "entries_one_per_sequence_number",
    "entries_pool_id_is_well_formed",
    "entries_times_do_not_decrease",
    "epochs_are_never_changed",
    "epochs_are_never_deleted",
    "epochs_begin_above_every_id",
    "epochs_follow_each_other",
    "epochs_reason_is_known",
    "events_are_never_changed",
    "events_are_never_deleted",
    "events_come_after_all_that_was_before",
    "events_data_is_an_object",
    "events_type_is_known",
    "grants_are_never_deleted",
    "grants_are_revoked_once",
    "grants_are_revoked_with_their_lots",
    "grants_have_a_lot_of_their_own_account_and_amount",
    "grants_once_per_campaign_and_account",
    "grants_one_per_lot",
    "grants_revoke_reason_has_1_to_500_characters",
    "grants_revoked_consumed_within_amount",
    "grants_revoked_reserved_within_amount",
    "grants_revoked_within_amount",
    "grants_say_what_was_revoked_when_they_are_revoked",
    "grants_terms_are_fixed",
    "head_counts_every_commit",
    "head_is_kept",
    "head_is_one_row",
    "head_says_its_commits_twice",
    "idempotency_answers_are_never_changed",
    "idempotency_checksum_has_63_bits",
    "idempotency_fingerprint_has_32_bytes",
    "idempotency_keeps_successes_only",
    "idempotency_key_has_1_to_255_characters",
    "idempotency_one_per_caller_and_key",
    "links_are_never_changed",
    "links_are_never_deleted",
    "links_follow_each_other",
    "links_hash_has_32_bytes",
    "links_keys_hash_has_32_bytes",
    "lots_are_never_deleted",
    "lots_are_revoked_once",
    "lots_available_is_not_negative",
    "lots_begin_all_available",
    "lots_consumed_is_not_negative",
    "lots_ends_are_final",
    "lots_expire_after_they_are_made",
    "lots_expired_is_not_negative",
    "lots_original_is_positive",
    "lots_parts_sum_to_original",
    "lots_pool_id_is_well_formed",
    "lots_priority_is_0_to_100",
    "lots_reserved_is_not_negative",
    "lots_revoked_have_nothing_available",
    "lots_revoked_is_not_negative",
    "lots_say_when_they_were_revoked",
    "lots_source_id_has_1_to_200_characters",
    "lots_source_type_is_known",
    "lots_terms_are_fixed",
    "memberships_community_id_has_1_to_200_characters",
    "memberships_expire_before_the_year_10000",
    "memberships_one_per_account_and_community",
    "memberships_stay_with_their_account_and_community",
    "reconciliation_audit_hash_has_32_bytes",
    "reconciliation_is_kept",
    "reconciliation_is_the_last",
    "reconciliation_names_an_audit_row_whole",
    "reconciliation_report_is_an_object",
    "reconciliation_sees_no_less_of_the_audit_log",
    "reservation_lots_are_never_changed",
    "reservation_lots_are_never_deleted",
    "reservation_lots_hold_something",
    "reservation_lots_position_counts_from_1",
    "reservations_are_closed_by_a_service_or_an_admin",
    "reservations_are_created_by_a_service_or_an_admin",
    "reservations_name_another_caller_that_closed_them",
    "reservations_absorbed_is_not_negative",
    "reservations_actual_cost_is_not_negative",
    "reservations_are_closed_once_they_are_not_pending",
    "reservations_are_never_deleted",
    "reservations_begin_pending",
    "reservations_billing_mode_is_known",
    "reservations_charge_is_the_cost_less_its_discount",
    "reservations_close_once",
    "reservations_discount_is_0_to_10000_bps",
    "reservations_discount_is_that_of_a_membership",
    "reservations_discount_is_that_of_its_rate_and_cap",
    "reservations_expire_after_they_are_made",
    "reservations_finalized_is_within_held",
    "reservations_have_a_cost_when_they_are_finalized",
    "reservations_held_is_the_price_or_in_soft_mode_less",
    "reservations_list_is_not_negative",
    "reservations_max_discount_is_not_negative",
    "reservations_overrun_is_not_negative",
    "reservations_parts_sum_to_held",
    "reservations_pool_id_is_well_formed",
    "reservations_status_is_known",
    "reservations_terms_are_fixed",
    "revoked_subjects_sub_has_1_to_128_characters",
    "revoked_subjects_take_nothing_back",
    "revoked_tokens_id_has_1_to_255_characters",
    "webhook_attempts_count_from_1",
    "webhook_attempts_outcome_is_known",
    "webhooks_are_enabled_or_not",
    "webhooks_description_has_at_most_500_characters",
    "webhooks_secret_version_is_positive",
    "webhooks_types_are_an_array",
    "webhooks_url_has_1_to_2000_characters",
    "silent_ends_are_never_changed",
    "silent_ends_are_never_deleted",
    "silent_ends_once_per_reservation",
    "thresholds_are_at_most_20_an_account",
    "thresholds_are_below_or_not",
    "thresholds_below_is_positive",
    "thresholds_one_per_position",
    "thresholds_pool_id_is_well_formed",
    "thresholds_recover_where_they_are_not_below",
    "tiers_are_at_most_100_a_community",
    "tiers_community_id_has_1_to_200_characters",
    "tiers_max_discount_is_not_negative",
    "tiers_one_per_position",
    "tiers_rate_is_0_to_10000_bps",
    "tiers_tier_has_1_to_64_characters",
})  # fmt: skip

# SQLite names the columns of a UNIQUE index that is violated, not the index.
UNIQUE_COLUMNS = {
    "credit_accounts.entity_id, credit_accounts.entity_type": "accounts_one_per_entity",
    "credit_lots.source_type, credit_lots.source_id": "lots_source_credits_once",
    "discount_tiers.community_id, discount_tiers.position": "tiers_one_per_position",
    "memberships.account_id, memberships.community_id": "memberships_one_per_account_and_community",
    "thresholds.account_id, thresholds.position": "thresholds_one_per_position",
    "credit_debts.reservation_id": "debts_one_per_reservation",
    "credit_debts.forgiven_lot_id": "debts_one_per_forgiving_lot",
    "credit_ledger.account_id, credit_ledger.pool_id, credit_ledger.entry_seq": "entries_one_per_sequence_number",
    "credit_grants.campaign_id, credit_grants.account_id": "grants_once_per_campaign_and_account",
    "credit_grants.lot_id": "grants_one_per_lot",
    "idempotency_keys.caller, idempotency_keys.key": "idempotency_one_per_caller_and_key",
    "silent_ends.reservation_id": "silent_ends_once_per_reservation",
}


def constraint_of(error: sqlite3.Error) -> str | None:
    """The name of the constraint or trigger that raised an error; None when it was none of ours."""
    text = str(error)
    if found := re.fullmatch(r"CHECK constraint failed: (\w+)", text):
        return found[1]
    if found := re.fullmatch(r"UNIQUE constraint failed: (.+)", text):
        return UNIQUE_COLUMNS.get(found[1])
    return text if text in INTERNAL or text in CONSTRAINT_PROBLEMS else None


def error_code(error: sqlite3.Error) -> int:
    """SQLite's primary result code of an error; 0 where there is none."""
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF


def problem_from_sqlite_error(error: sqlite3.Error) -> Exception:
    """What to raise to the caller of an operation in which SQLite raised `error`."""
    code = error_code(error)
    if code == SQLITE_FULL:
        return StorageFull()
    if code == SQLITE_BUSY:
        return Overloaded("another program holds the database file")
    refusal = CONSTRAINT_PROBLEMS.get(constraint_of(error) or "")
    if refusal is not None:
        return refusal()
    internal = InternalError()
    internal.__cause__ = error
    return internal
