"""Rows of the ledger's queries: one type per row, its fields in the order of the SELECT list.

Keys are integers, amounts micro-units, times microseconds. The named queries are in `sql/queries/`.
"""

from typing import NamedTuple

import msgspec

from minibill.ledger.pricing import Discount


class AccountRow(NamedTuple):
    """A row of `find_account`, `find_account_of_entity` and `accounts_page`."""

    id: int
    entity_type: str
    entity_id: str
    created_at_us: int


class AccountState(NamedTuple):
    """A row of `account_state`. `pending` is None unless the query was asked to count pending reservations."""

    next_expiry_us: int
    has_memberships: int
    pending: int | None


class ExpiredLot(NamedTuple):
    """A row of `expired_lots` and `expired_lots_of_account`."""

    expires_at_us: int
    id: int


class OverdueReservation(NamedTuple):
    """A row of `overdue_reservations` and `overdue_reservations_of_account`."""

    expires_at_us: int
    id: int
    account_id: int
    lots: int


class CreditedLot(NamedTuple):
    """A row of `find_lot_of_source`."""

    id: int
    account_id: int
    pool_id: str
    priority: int
    original_micro: int
    expires_at_us: int | None


class LotRow(NamedTuple):
    """A row of `lots_page`, with expiry applied up to the time of the query."""

    id: int
    account_id: int
    pool_id: str
    source_type: str
    source_id: str | None
    priority: int
    original_micro: int
    available_micro: int
    reserved_micro: int
    consumed_micro: int
    expired_micro: int
    revoked_micro: int
    state: str
    expires_at_us: int | None
    metadata: str | None
    campaign_id: int | None
    grant_id: int | None
    created_at_us: int


class LotToExplain(NamedTuple):
    """A row of `lots_to_explain` and `newest_lots_to_explain`."""

    id: int
    pool_id: str
    priority: int
    original_micro: int
    available_micro: int
    consumed_micro: int
    revoked_micro: int
    revoked_at_us: int | None
    expires_at_us: int | None


class LotToRevoke(NamedTuple):
    """A row of `lots_to_revoke`."""

    id: int
    account_id: int
    pool_id: str
    available_micro: int
    consumed_micro: int
    reserved_micro: int


class ReservedLot(NamedTuple):
    """A row of `lots_of_reservation`: the credits of one lot that a reservation holds, and the state of the lot."""

    lot_id: int
    reserved_micro: int
    pool_id: str
    expires_at_us: int | None
    revoked_at_us: int | None


class BalanceHead(NamedTuple):
    """The first row of `balance_now` and `balance_at`. `pool_id` is None; `newest_entry` is 0 for a past time."""

    pool_id: str | None
    debt_micro: int
    newest_entry: int


class PoolRow(NamedTuple):
    """A further row of `balance_now` and `balance_at`."""

    pool_id: str
    available_micro: int
    reserved_micro: int


class EntryRow(NamedTuple):
    """A row of `entries_of_pool`, `entries_of_pools` and `entry_events`, with amounts as the API shows them.

    It has the grant of its lot and the status of its reservation.
    """

    id: int
    entry_seq: int
    entry_type: str
    pool_id: str
    lot_id: int | None
    reservation_id: int | None
    charge_id: int | None
    campaign_id: int | None
    grant_id: int | None
    reservation_status: str | None
    amount_micro: str
    available_delta_micro: str
    reserved_delta_micro: str
    available_after_micro: str
    reserved_after_micro: str
    description: str | None
    metadata: str | None
    created_at_us: int


class DebtRow(NamedTuple):
    """A row of `find_debt` and `debts_page`."""

    id: int
    account_id: int
    pool_id: str
    reservation_id: int | None
    charge_id: int | None
    original_micro: int
    paid_micro: int
    created_at_us: int


class OpenDebt(NamedTuple):
    """A row of `open_debts`."""

    account_id: int
    id: int
    reservation_id: int | None
    charge_id: int | None
    owed_micro: int


class ReservationRow(msgspec.Struct, gc=False):
    """A row of `find_reservation`. Reserving builds the same row before it knows the key, which is 0 until then."""

    id: int
    account_id: int
    pool_id: str
    billing_mode: str
    status: str
    list_micro: int
    discount_bps: int
    max_discount_micro: int | None
    discount_micro: int
    community_id: str | None
    tier: str | None
    held_micro: int
    expires_at_us: int
    created_by: str
    created_at_us: int
    actual_cost_micro: int | None = None
    finalized_micro: int | None = None
    released_micro: int | None = None
    overrun_micro: int | None = None
    absorbed_micro: int | None = None
    # None if `created_by` closed it, or nobody did.
    closed_by: str | None = None
    closed_at_us: int | None = None

    @property
    def discount(self) -> Discount:
        """The discount terms of the time at which it was made; they apply to the actual cost too."""
        return Discount(self.discount_bps, self.max_discount_micro, self.community_id, self.tier)
