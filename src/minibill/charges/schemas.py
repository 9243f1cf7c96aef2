"""Requests and responses of charges. See docs/reference/http-api.md."""

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from minibill.api.decoding import json_object
from minibill.api.types import (
    AnyId,
    Body,
    Description,
    Entity,
    Flag,
    KeptObject,
    Micro,
    MicroText,
    PageQuery,
    PoolId,
    Query,
    ResponseBody,
    SentObject,
    SourceId,
    WriteQuery,
    one_of,
)
from minibill.core.problems import BatchTooLarge, FieldError, InvalidRequest
from minibill.ledger.schemas import BillingMode, Explanation, ReserveExplanation

# A batch is one transaction; a client sends more usage records in several.
BATCH_CHARGES_MAX = 1_000

# The result of one item of a batch.
BATCH_STATUSES = ("charged", "duplicate", "rejected")


class AdminChargeBody(Body, frozen=True):
    """A cost at list price. The path names the account."""

    cost_micro: Micro
    source_id: SourceId | None = None
    pool_id: PoolId | None = None
    billing_mode: BillingMode | None = None
    description: Description | None = None
    metadata: SentObject = msgspec.field(default_factory=Raw)

    def check(self, path: str = "") -> None:
        """Raise `InvalidRequest` for metadata that is not a small JSON object. `path` is that of the charge."""
        if self.metadata:
            json_object(self.metadata, f"{path}metadata")


class ChargeBody(AdminChargeBody, frozen=True):
    """A cost at list price, and the account to charge, by its id or its entity."""

    account_id: AnyId | None = None
    entity: Entity | None = None

    def check(self, path: str = "") -> None:
        """Raise `InvalidRequest` unless exactly one account is named, and for metadata as above."""
        if (self.account_id is None) == (self.entity is None):
            raise InvalidRequest(FieldError(f"{path}accountId", "expected exactly one of accountId and entity"))
        super().check(path)


class UsageRecord(ChargeBody, frozen=True, kw_only=True):
    """A charge of a batch."""

    source_id: SourceId


class ChargeBatchBody(Body, frozen=True):
    """1 to 1,000 charges."""

    charges: Annotated[list[UsageRecord], Meta(min_length=1)]

    def check(self) -> None:
        """Raise `BatchTooLarge`, and `InvalidRequest` for the first item that its type does not cover."""
        if len(self.charges) > BATCH_CHARGES_MAX:
            raise BatchTooLarge(
                f"a batch has at most {BATCH_CHARGES_MAX} charges; send several",
                limit=BATCH_CHARGES_MAX,
                charges=len(self.charges),
            )
        for position, item in enumerate(self.charges):
            item.check(f"charges[{position}].")


class ChargeQuery(WriteQuery, frozen=True):
    """`explain` adds the explanation of the amount."""

    explain: Flag | None = None


class ShowChargeQuery(Query, frozen=True):
    explain: Flag | None = None


class ChargesQuery(PageQuery, frozen=True):
    source_id: SourceId | None = None


class ConsumedLot(ResponseBody):
    """The credits of one lot that a charge consumed."""

    lot_id: str
    consumed_micro: MicroText


class BaseCharge(ResponseBody):
    charge_id: str
    account_id: str
    pool_id: str
    source_id: str | None
    list_micro: MicroText
    discount_bps: int
    discount_micro: MicroText
    charged_micro: MicroText
    debt_micro: MicroText
    billing_mode: Annotated[str, one_of(BillingMode)]
    lot_allocations: list[ConsumedLot]
    created_at: str


class Charge(BaseCharge):
    """A charge. `created_by` is `service:SUB` or `admin:SUB`."""

    description: str | None
    metadata: KeptObject | None
    created_by: str


class ChargeExplained(Charge):
    """A charge, with its explanation if the request asks for it."""

    explanation: Explanation | UnsetType = UNSET


class Charged(BaseCharge, kw_only=True):
    """A charge that was made now or, if it is a duplicate, before."""

    duplicate: bool


class ChargedExplained(Charged, kw_only=True):
    """A charge that was made now or before, with its explanation if the request asks for it."""

    explanation: ReserveExplanation | UnsetType = UNSET


class ChargeResult(ResponseBody, omit_defaults=True):
    """The result of one item of a batch. A rejected item has a code, and null for its charge and amounts."""

    source_id: str
    status: Annotated[str, Meta(extra_json_schema={"enum": list(BATCH_STATUSES)})]
    charge_id: str | None
    charged_micro: MicroText | None
    debt_micro: MicroText | None
    code: str | None = None


class ChargeBatch(ResponseBody):
    """The results in the order of the request. The totals of amounts count new charges only."""

    total_charged: int
    total_duplicates: int
    total_rejected: int
    charged_micro: MicroText
    debt_micro: MicroText
    charges: list[ChargeResult]
