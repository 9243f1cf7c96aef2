"""The wire of events and thresholds."""

from typing import Annotated, Literal, get_args

from msgspec import Meta

from minibill.api.types import Body, KeptObject, Micro, PoolId, Query, ResponseBody, Wait, one_of
from minibill.api.types import FeedLimit as Limit
from minibill.ledger.schemas import EntryType

OtherType = Literal[
    "account.opened", "campaign.created", "campaign.edited", "campaign.activated", "campaign.paused", "campaign.completed",
    "campaign.expired", "campaign.exhausted", "debt.forgiven", "grant.revoked", "threshold.below", "threshold.recovered",
]  # fmt: skip

# An event of a ledger entry is named for the type of the entry.
LEDGER = "ledger."
LEDGER_TYPES = tuple(LEDGER + entry_type for entry_type in get_args(EntryType))
TYPES: tuple[str, ...] = (*LEDGER_TYPES, *get_args(OtherType))

ThresholdState = Literal["above", "below"]
THRESHOLDS_MAX = 20

FEED_ITEMS_DEFAULT = 100

# Where to begin: an event's id, or the end of the feed as it is now.
LATEST = "latest"


class ThresholdBody(Body, frozen=True):
    """Told of when the available credits of a pool fall below `belowMicro`, and when they are at `recoveredMicro` again.

    Without a pool it is `general`, without `recoveredMicro` the same as `belowMicro`.
    """

    below_micro: Micro
    pool_id: PoolId | None = None
    recovered_micro: Micro | None = None


class ThresholdsBody(Body, frozen=True):
    thresholds: Annotated[list[ThresholdBody], Meta(max_length=THRESHOLDS_MAX)]


class EventsQuery(Query, frozen=True):
    """`after`: an event's id, a `nextCursor` or `latest`, the end; `types`: separated by commas; `wait`: in seconds."""

    after: str | None = None
    types: str | None = None
    wait: Wait = Wait(0)
    limit: Limit = Limit(FEED_ITEMS_DEFAULT)


class Threshold(ResponseBody):
    """`state` is that of the entries that are written; `availableMicro` are the credits that it was last judged by."""

    pool_id: str
    below_micro: str
    recovered_micro: str
    state: Annotated[str, one_of(ThresholdState)]
    available_micro: str


class Thresholds(ResponseBody):
    account_id: str
    thresholds: list[Threshold]


_SHAPES = ("Entry", "Account", "Campaign", "Debt", "Grant", "Threshold")
# What an event is about, as the routes of that answer it.
FeedPage = Annotated[
    KeptObject,
    Meta(
        description="What it is about, as it was then: ledger.* an Entry, account.* an Account, campaign.* a Campaign, "
        "debt.* a Debt, grant.* a Grant, threshold.* a Threshold.",
        extra_json_schema={"anyOf": [{"$ref": f"#/components/schemas/{shape}"} for shape in _SHAPES]},
    ),
]


class Event(ResponseBody):
    """Something that happened. The id is the same for ever, and ids sort in the order of the feed."""

    id: str
    type: Annotated[str, Meta(extra_json_schema={"enum": list(TYPES)})]
    created_at: str
    account_id: str | None
    campaign_id: str | None
    data: FeedPage


class Events(ResponseBody):
    """`nextCursor` is where to go on, also when there is nothing yet."""

    items: list[Event]
    next_cursor: str
