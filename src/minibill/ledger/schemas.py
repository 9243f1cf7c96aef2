"""The wire of accounts and the ledger."""

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from minibill.api.decoding import json_object
from minibill.api.types import (
    AnyId,
    Body,
    Description,
    Entity,
    EntityId,
    EntityType,
    Flag,
    KeptObject,
    Micro,
    MicroText,
    PageQuery,
    PoolId,
    Query,
    Reason,
    ResponseBody,
    SentObject,
    SignedMicro,
    SourceId,
    TimeUs,
    WriteQuery,
    one_of,
)
from minibill.core.problems import FieldError, InvalidRequest

BillingMode = Literal["live", "soft", "shadow"]
SourceType = Literal["deposit", "grant", "purchase", "transfer_in", "commons_dividend"]
ReservationStatus = Literal["pending", "finalized", "released", "expired"]
LotState = Literal["live", "spent", "expired", "revoked"]
EntryType = Literal[
    "deposit", "grant", "reserve", "finalize", "release", "expire", "revoke", "debt_incurred", "debt_paid", "shadow_reserve",
    "shadow_finalize",
]  # fmt: skip

# What became of a lot: it was drawn on; it would have been had it sufficed together with the others; or why not.
LotOutcome = Literal["drawn", "not_enough", "not_needed", "other_pool", "revoked", "spent", "expired", "reserved"]
# Which limit made an amount what it is.
BoundBy = Literal["maxDiscountMicro", "availableMicro", "totalReservedMicro"]


class MintBody(Body, frozen=True):
    """Credits to mint. Raises `InvalidRequest` for an amount of 0 and for metadata that is not a small JSON object."""

    amount_micro: Micro
    source_type: Literal["grant", "deposit"] | None = None
    source_id: SourceId | None = None
    pool_id: PoolId | None = None
    priority: Annotated[int, Meta(ge=0, le=100)] | None = None
    expires_at: TimeUs | None = None
    description: Description | None = None
    metadata: SentObject = msgspec.field(default_factory=Raw)

    def __post_init__(self) -> None:
        if self.amount_micro == 0:
            raise InvalidRequest(FieldError("amountMicro", "expected more than 0"))
        json_object(self.metadata, "metadata")


class ReserveBody(Body, frozen=True):
    """Credits to reserve. A service names the account here, by its id or its entity; an admin names it in the path.

    Raises `InvalidRequest` for metadata that is not a small JSON object.
    """

    amount_micro: Micro
    account_id: AnyId | None = None
    entity: Entity | None = None
    pool_id: PoolId | None = None
    ttl_seconds: Annotated[int, Meta(ge=1, le=86_400)] | None = None
    billing_mode: BillingMode | None = None
    description: Description | None = None
    metadata: SentObject = msgspec.field(default_factory=Raw)

    def __post_init__(self) -> None:
        json_object(self.metadata, "metadata")


class AdminFinalizeBody(Body, frozen=True):
    """What the work cost, at list price; the path names the reservation."""

    actual_cost_micro: Micro
    reservation_id: AnyId | None = None


class FinalizeBody(AdminFinalizeBody, frozen=True, kw_only=True):
    """What the work cost, and for which reservation."""

    reservation_id: AnyId


class AdminReleaseBody(Body, frozen=True):
    """The path names the reservation."""

    reservation_id: AnyId | None = None


class ReleaseBody(Body, frozen=True):
    reservation_id: AnyId


class AccountsQuery(PageQuery, frozen=True):
    """An entity id follows the same rules as in a request body."""

    entity_type: EntityType | None = None
    entity_id: EntityId | None = None


class BalanceQuery(Query, frozen=True):
    pool_id: PoolId | None = None
    at: TimeUs | None = None


class DebtsQuery(PageQuery, frozen=True):
    """`open`: those that are not paid in full, or those that are."""

    open: Flag | None = None


class ForgiveBody(Body, frozen=True):
    reason: Reason


class LotsQuery(PageQuery, frozen=True):
    state: LotState | None = None


class ReserveQuery(WriteQuery, frozen=True):
    """`explain` asks why it came to what it is."""

    explain: Flag | None = None


class ReservationQuery(Query, frozen=True):
    explain: Flag | None = None


class HistoryQuery(PageQuery, frozen=True):
    pool_id: PoolId | None = None
    entry_type: EntryType | None = None
    from_: TimeUs | None = msgspec.field(default=None, name="from")
    to: TimeUs | None = None


class Account(ResponseBody):
    id: str
    entity_type: Annotated[str, one_of(EntityType)]
    entity_id: str
    created_at: str


class PoolAmounts(ResponseBody):
    """Available and reserved credits of one pool."""

    available_micro: MicroText
    reserved_micro: MicroText


class Minted(ResponseBody):
    lot_id: str
    account_id: str
    amount_micro: MicroText
    pool_id: str
    priority: int
    expires_at: str | None
    duplicate: bool
    balance: PoolAmounts


class PoolBalance(ResponseBody):
    pool_id: str
    available_micro: MicroText
    reserved_micro: MicroText


class Balance(ResponseBody):
    account_id: str
    at: str
    pools: list[PoolBalance]
    total_available_micro: MicroText
    total_reserved_micro: MicroText
    debt_micro: MicroText


class Lot(ResponseBody):
    id: str
    account_id: str
    pool_id: str
    source_type: Annotated[str, one_of(SourceType)]
    source_id: str | None
    priority: int
    original_micro: MicroText
    available_micro: MicroText
    reserved_micro: MicroText
    consumed_micro: MicroText
    expired_micro: MicroText
    revoked_micro: MicroText
    state: Annotated[str, one_of(LotState)]
    expires_at: str | None
    metadata: KeptObject | None
    created_at: str


class Entry(ResponseBody):
    id: str
    entry_seq: int
    entry_type: Annotated[str, one_of(EntryType)]
    pool_id: str
    lot_id: str | None
    reservation_id: str | None
    amount_micro: SignedMicro
    available_delta_micro: SignedMicro
    reserved_delta_micro: SignedMicro
    available_after_micro: MicroText
    reserved_after_micro: MicroText
    description: str | None
    metadata: KeptObject | None
    created_at: str


class Allocation(ResponseBody):
    """What a reservation holds of one lot."""

    lot_id: str
    reserved_micro: MicroText


class Reserved(ResponseBody):
    reservation_id: str
    account_id: str
    pool_id: str
    list_micro: MicroText
    discount_bps: int
    discount_micro: MicroText
    total_reserved_micro: MicroText
    status: Annotated[str, one_of(ReservationStatus)]
    billing_mode: Annotated[str, one_of(BillingMode)]
    expires_at: str
    lot_allocations: list[Allocation]


class Reservation(Reserved):
    """A reservation as it is read: what reserving and finalizing answered. Null is what has not happened.

    `created_by` and `closed_by` are `service:SUB` or `admin:SUB`; nobody closes a reservation that expires.
    """

    finalized_micro: MicroText | None
    released_micro: MicroText | None
    overrun_micro: MicroText | None
    absorbed_micro: MicroText | None
    finalized_at: str | None
    created_at: str
    created_by: str
    closed_by: str | None


class Debt(ResponseBody):
    """Credits that soft mode charged beyond the available ones, and the part of them that was paid since."""

    debt_id: str
    account_id: str
    pool_id: str
    reservation_id: str | None
    charge_id: str | None
    refund_id: str | None
    original_micro: MicroText
    paid_micro: MicroText
    created_at: str


class ForgivenDebt(ResponseBody):
    """The rest of a debt that was written off, and the lot that paid it; null where nothing was left."""

    debt_id: str
    forgiven_micro: MicroText
    lot_id: str | None


class Considered(ResponseBody):
    """A membership that was weighed for a price. No rate: its community dropped the tier."""

    community_id: str
    tier: str
    rate_bps: int | None
    applied: bool
    reason: str


class DiscountExplained(ResponseBody):
    """How a list price came to what is to be paid. `uncapped_micro` is what the rate alone would take off."""

    list_micro: MicroText
    discount_bps: int
    uncapped_micro: MicroText
    max_discount_micro: MicroText | None
    discount_micro: MicroText
    payable_micro: MicroText
    community_id: str | None
    tier: str | None


class LotExplained(ResponseBody):
    """What a lot had before, which is not known afterwards, and what of it was drawn."""

    lot_id: str
    pool_id: str
    priority: int
    expires_at: str | None
    available_micro: MicroText | None
    drawn_micro: MicroText
    outcome: LotOutcome


class Explanation(ResponseBody):
    """Why a reservation holds what it does. `bound_by` names each limit without which it would be another amount."""

    discount: DiscountExplained
    bound_by: list[BoundBy]
    lots: list[LotExplained]
    lots_not_shown: int


class ReserveExplanation(Explanation):
    """As it is told when it is made or refused, with what is not kept: what was weighed and what was passed over."""

    considered: list[Considered]


class ChargeExplained(ResponseBody):
    """How the actual cost came to what was charged."""

    discount: DiscountExplained
    bound_by: list[BoundBy]


class ReservationExplanation(Explanation):
    """As it is told later, from what is kept. No charge: it is not finalized."""

    charge: ChargeExplained | None


class ReservedExplained(Reserved):
    """What reserving answers; the explanation is there with `explain`."""

    explanation: ReserveExplanation | UnsetType = UNSET


class ReservationExplained(Reservation):
    """What reading answers; the explanation is there with `explain`."""

    explanation: ReservationExplanation | UnsetType = UNSET


class Finalized(ResponseBody):
    reservation_id: str
    account_id: str
    finalized_micro: MicroText
    released_micro: MicroText
    overrun_micro: MicroText
    absorbed_micro: MicroText
    billing_mode: Annotated[str, one_of(BillingMode)]
    finalized_at: str


class Released(ResponseBody):
    reservation_id: str
    account_id: str
    released_micro: MicroText
