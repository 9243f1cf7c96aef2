"""Requests and responses of accounts and the ledger. See docs/reference/http-api.md."""

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
    "deposit", "grant", "reserve", "finalize", "release", "expire", "revoke", "debt_incurred", "debt_paid", "charge",
    "shadow_reserve", "shadow_finalize", "shadow_charge",
]  # fmt: skip

# Why credits were released, expired or revoked: a release, the rest of a finalize, expiry, a revocation.
EntryCause = Literal["requested", "finalized", "expired", "revoked"]

# The role of a lot in an explanation: drawn, drawable but not enough together with the others, or why it was passed over.
LotOutcome = Literal["drawn", "not_enough", "not_needed", "other_pool", "revoked", "spent", "expired", "reserved"]
# The limit that reduced an amount.
BoundBy = Literal["maxDiscountMicro", "availableMicro", "totalReservedMicro"]


class MintBody(Body, frozen=True):
    """Credits to mint."""

    amount_micro: Micro
    source_type: Literal["grant", "deposit"] | None = None
    source_id: SourceId | None = None
    pool_id: PoolId | None = None
    priority: Annotated[int, Meta(ge=0, le=100)] | None = None
    expires_at: TimeUs | None = None
    description: Description | None = None
    metadata: SentObject = msgspec.field(default_factory=Raw)

    def check(self) -> None:
        """Raise `InvalidRequest` for an amount of 0, and for metadata that is not a small JSON object."""
        if self.amount_micro == 0:
            raise InvalidRequest(FieldError("amountMicro", "expected more than 0"))
        if self.metadata:
            json_object(self.metadata, "metadata")


class ReserveBody(Body, frozen=True):
    """Credits to reserve. A service names the account here, by its id or its entity; an admin names it in the path."""

    amount_micro: Micro
    account_id: AnyId | None = None
    entity: Entity | None = None
    pool_id: PoolId | None = None
    ttl_seconds: Annotated[int, Meta(ge=1, le=86_400)] | None = None
    billing_mode: BillingMode | None = None
    description: Description | None = None
    metadata: SentObject = msgspec.field(default_factory=Raw)

    def check(self) -> None:
        """Raise `InvalidRequest` for metadata that is not a small JSON object."""
        if self.metadata:
            json_object(self.metadata, "metadata")


class AdminFinalizeBody(Body, frozen=True):
    """The actual cost at list price. The path names the reservation; the body may name it too."""

    actual_cost_micro: Micro
    reservation_id: AnyId | None = None


class FinalizeBody(AdminFinalizeBody, frozen=True, kw_only=True):
    """The actual cost at list price, and the reservation."""

    reservation_id: AnyId


class AdminReleaseBody(Body, frozen=True):
    """The path names the reservation; the body may name it too."""

    reservation_id: AnyId | None = None


class ReleaseBody(Body, frozen=True):
    reservation_id: AnyId


class AccountsQuery(PageQuery, frozen=True):
    """The filters of accounts. An entity id is normalized as in a request body."""

    entity_type: EntityType | None = None
    entity_id: EntityId | None = None


class BalanceQuery(Query, frozen=True):
    pool_id: PoolId | None = None
    at: TimeUs | None = None


class DebtsQuery(PageQuery, frozen=True):
    """`open` selects the debts that are not paid in full, or those that are."""

    open: Flag | None = None


class ForgiveBody(Body, frozen=True):
    reason: Reason


class LotsQuery(PageQuery, frozen=True):
    state: LotState | None = None


class ReserveQuery(WriteQuery, frozen=True):
    """`explain` adds the explanation of the amount."""

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
    campaign_id: str | None
    grant_id: str | None
    created_at: str


class Entry(ResponseBody):
    """An entry. `cause` states why credits were released, expired or revoked."""

    id: str
    entry_seq: int
    entry_type: Annotated[str, one_of(EntryType)]
    pool_id: str
    lot_id: str | None
    reservation_id: str | None
    charge_id: str | None
    campaign_id: str | None
    grant_id: str | None
    cause: Annotated[str, one_of(EntryCause)] | None
    amount_micro: SignedMicro
    available_delta_micro: SignedMicro
    reserved_delta_micro: SignedMicro
    available_after_micro: MicroText
    reserved_after_micro: MicroText
    description: str | None
    metadata: KeptObject | None
    created_at: str


class Allocation(ResponseBody):
    """The credits of one lot that a reservation holds."""

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
    """A reservation. Members of an event that has not happened are null.

    `created_by` and `closed_by` are `service:SUB` or `admin:SUB`. An expired reservation has no `closed_by`.
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
    """Credits that soft mode charged beyond the available ones, and the part that was paid since."""

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
    """The forgiven amount of a debt, and the lot that paid it; null if the debt was already paid."""

    debt_id: str
    forgiven_micro: MicroText
    lot_id: str | None


class Considered(ResponseBody):
    """A membership that was considered for a price. `rateBps` is null if the community no longer has the tier."""

    community_id: str
    tier: str
    rate_bps: int | None
    applied: bool
    reason: str


class DiscountExplained(ResponseBody):
    """The steps from a list price to the payable amount. `uncappedMicro` is the discount before its cap."""

    list_micro: MicroText
    discount_bps: int
    uncapped_micro: MicroText
    max_discount_micro: MicroText | None
    discount_micro: MicroText
    payable_micro: MicroText
    community_id: str | None
    tier: str | None


class LotExplained(ResponseBody):
    """A lot, the credits drawn from it, and its available credits before; these are null once the draw was made."""

    lot_id: str
    pool_id: str
    priority: int
    expires_at: str | None
    available_micro: MicroText | None
    drawn_micro: MicroText
    outcome: LotOutcome


class Explanation(ResponseBody):
    """The explanation of a reserved amount. `boundBy` names each limit that reduced it."""

    discount: DiscountExplained
    bound_by: list[BoundBy]
    lots: list[LotExplained]
    lots_not_shown: int


class ReserveExplanation(Explanation):
    """The explanation of a new or rejected spend, with all memberships and the lots that were passed over."""

    considered: list[Considered]


class CostExplained(ResponseBody):
    """The steps from the actual cost to the charged amount."""

    discount: DiscountExplained
    bound_by: list[BoundBy]


class ReservationExplanation(Explanation):
    """The explanation of a stored reservation. `charge` is null unless it is finalized."""

    charge: CostExplained | None


class ReservedExplained(Reserved):
    """A new reservation, with its explanation if the request asks for it."""

    explanation: ReserveExplanation | UnsetType = UNSET


class ReservationExplained(Reservation):
    """A reservation, with its explanation if the request asks for it."""

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
