"""The types of bodies, queries and responses.

Bodies and queries are decoded into structs by `api/decoding.py`. Responses are structs of strings and integers.
"""

from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta

from minibill.core.clock import format_time


class Micro(int):
    """An amount in micro-units; in JSON a string of digits."""


class TimeUs(int):
    """A time in microseconds; in JSON a string as in RFC 3339, with an offset."""


if TYPE_CHECKING:
    # Programs pass plain strings as entity ids.
    EntityId = str
else:

    class EntityId(str):
        """An entity id, which decoding brings into its normal form."""

        __slots__ = ()


class Limit(int):
    """The number of items on a page; in a query a string of digits."""


class FeedLimit(int):
    """The number of events in a response; in a query a string of digits."""


class Wait(int):
    """The seconds that a response may wait for events; in a query a string of digits."""


class Flag(int):
    """A boolean; in a query `true` or `false`."""


PAGE_ITEMS_MAX = 100
PAGE_ITEMS_DEFAULT = 50

# Pages of the feed are larger, so that the rate limit does not slow down a program that follows the ledger.
FEED_ITEMS_MAX = 1_000
# Shorter than the time that proxies wait for a response.
WAIT_SECONDS_MAX = 30

# Metadata and the formula input of one grant, in bytes as sent.
OBJECT_BYTES_MAX = 4_096
OBJECT_DEPTH_MAX = 100

POOL_ID = r"^[a-z0-9][a-z0-9:._-]{0,63}\Z"
NO_NUL = r"^[^\x00]*\Z"


# The length up to which an error repeats a member name of the client.
NAME_CHARACTERS_MAX = 100

PoolId = Annotated[str, Meta(pattern=POOL_ID)]
EntityType = Literal["agent", "person", "community", "mod", "protocol", "foundation", "commons"]
# Text without NUL, where SQLite's functions would end it.
SourceId = Annotated[str, Meta(min_length=1, max_length=200, pattern=NO_NUL)]
Subject = Annotated[str, Meta(min_length=1, max_length=128, pattern=NO_NUL)]
Reason = Annotated[str, Meta(min_length=1, max_length=500, pattern=NO_NUL)]
Description = Annotated[str, Meta(max_length=500, pattern=NO_NUL)]
# An object that is stored as it was sent; `json_object` checks it. Its default is `field(default_factory=Raw)`.
SentObject = Annotated[msgspec.Raw, Meta(extra_json_schema={"type": ["object", "null"]})]
# A stored object in a response. `optional_raw` makes it from the stored text, and clients decode it into a dict.
KeptObject = dict[str, Any]
# Amounts in responses; clients check them. The amount of an entry may be negative.
MicroText = Annotated[str, Meta(pattern=r"^(0|[1-9][0-9]{0,18})\Z")]
SignedMicro = Annotated[str, Meta(pattern=r"^(0|-?[1-9][0-9]{0,18})\Z")]
AnyId = Annotated[str, Meta(min_length=1, max_length=64)]


def one_of(choices: Any) -> Meta:
    """Return the metadata of a response's string that is one of the words of a `Literal`."""
    return Meta(extra_json_schema={"enum": list(get_args(choices))})


class Body(msgspec.Struct, forbid_unknown_fields=True, rename="camel", frozen=True):
    """The body of a request. Unknown members are rejected."""


class NoBody(Body, frozen=True):
    """An empty body, or `{}`."""


class Query(msgspec.Struct, forbid_unknown_fields=True, rename="camel", frozen=True):
    """The parameters of a read."""


class WriteQuery(Query, frozen=True):
    """The parameters of a write. Services have no `dryRun`: `Request.parameters` rejects it."""

    dry_run: Flag | None = None


class PageQuery(Query, frozen=True):
    """The parameters of a list."""

    limit: Limit = Limit(PAGE_ITEMS_DEFAULT)
    cursor: str | None = None


class ResponseBody(msgspec.Struct, rename="camel"):
    """The body of a response."""


class Entity(Body, frozen=True):
    """The owner of an account."""

    entity_type: EntityType
    entity_id: EntityId


class NoResponseBody(ResponseBody):
    """A response without a body."""


class Page(ResponseBody):
    """One page of a list."""

    items: list[Any]
    next_cursor: str | None


# --- encoding ---

encode = msgspec.json.Encoder().encode


def optional_time(time_us: int | None) -> str | None:
    """Return a time as in RFC 3339; None for None."""
    return None if time_us is None else format_time(time_us)


def optional_raw(text: str | None) -> Any:
    """Return stored JSON for a `KeptObject`, as the same text; None for None."""
    return None if text is None else msgspec.Raw(text)
