"""Request and response bodies of events and thresholds."""

from typing import Annotated, Literal, get_args

from msgspec import Meta

from minibill.api.types import Body, KeptObject, Micro, PoolId, Query, ResponseBody, Wait, one_of
from minibill.api.types import FeedLimit as Limit
from minibill.ledger.schemas import EntryType

OtherType = Literal[
    "account.opened", "campaign.created", "campaign.edited", "campaign.activated", "campaign.paused", "campaign.completed",
    "campaign.expired", "campaign.exhausted", "debt.forgiven", "grant.revoked", "threshold.below", "threshold.recovered",
]  # fmt: skip

# The type of a ledger entry's event is this prefix and the type of the entry.
LEDGER = "ledger."
LEDGER_TYPES = tuple(LEDGER + entry_type for entry_type in get_args(EntryType))
TYPES: tuple[str, ...] = (*LEDGER_TYPES, *get_args(OtherType))

ThresholdState = Literal["above", "below"]
THRESHOLDS_MAX = 20

FEED_ITEMS_DEFAULT = 100

# The cursor of the current end of the feed.
LATEST = "latest"


class ThresholdBody(Body, frozen=True):
    """Emit an event when a pool's available credits fall below `belowMicro`, and when they reach `recoveredMicro` again.

    The default pool is `general`; the default of `recoveredMicro` is `belowMicro`.
    """

    below_micro: Micro
    pool_id: PoolId | None = None
    recovered_micro: Micro | None = None


class ThresholdsBody(Body, frozen=True):
    thresholds: Annotated[list[ThresholdBody], Meta(max_length=THRESHOLDS_MAX)]


class EventsQuery(Query, frozen=True):
    """Parameters of the feed.

    `after` is an event id, a `nextCursor`, or `latest` for the end. `types` is a comma-separated list. `wait` is in seconds.
    """

    after: str | None = None
    types: str | None = None
    wait: Wait = Wait(0)
    limit: Limit = Limit(FEED_ITEMS_DEFAULT)


class Threshold(ResponseBody):
    """`state` reflects the entries written so far; `availableMicro` are the credits that it was last compared with."""

    pool_id: str
    below_micro: str
    recovered_micro: str
    state: Annotated[str, one_of(ThresholdState)]
    available_micro: str


class Thresholds(ResponseBody):
    account_id: str
    thresholds: list[Threshold]


_SHAPES = ("Entry", "Account", "Campaign", "Debt", "Grant", "Threshold")
# The resource of an event, as its own route returns it.
EventData = Annotated[
    KeptObject,
    Meta(
        description="The resource at the time of the event: ledger.* an Entry, account.* an Account, campaign.* a Campaign, "
        "debt.* a Debt, grant.* a Grant, threshold.* a Threshold.",
        extra_json_schema={"anyOf": [{"$ref": f"#/components/schemas/{shape}"} for shape in _SHAPES]},
    ),
]


class Event(ResponseBody):
    """An event. Its id never changes, and ids sort in the order of the feed."""

    id: str
    type: Annotated[str, Meta(extra_json_schema={"enum": list(TYPES)})]
    created_at: str
    account_id: str | None
    campaign_id: str | None
    data: EventData


class Events(ResponseBody):
    """A page of the feed. `nextCursor` is always present, also on an empty page."""

    items: list[Event]
    next_cursor: str
