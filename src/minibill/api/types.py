"""The wire: the types that requests and answers are made of, and the strict way in.

A body or a query is decoded into a struct that knows each member; whatever does not fit is an `InvalidRequest` that names
the path. Answers are structs of strings and integers, encoded as they are.
"""

from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta

from minibill.core.clock import format_time


class Micro(int):
    """An amount in micro-units; on the wire a string of digits."""


class TimeUs(int):
    """A time in microseconds; on the wire RFC 3339 with an offset."""


if TYPE_CHECKING:
    # A program that names an entity passes a plain string.
    EntityId = str
else:

    class EntityId(str):
        """An entity id; it is in its normal form once it is decoded."""

        __slots__ = ()


class Limit(int):
    """How many items a page holds; in a query a string of digits."""


class FeedLimit(int):
    """How many events an answer holds; in a query a string of digits."""


class Wait(int):
    """Seconds that an answer may wait for news; in a query a string of digits."""


class Flag(int):
    """True or false in a query."""


PAGE_ITEMS_MAX = 100
PAGE_ITEMS_DEFAULT = 50

# The feed is for programs that keep up with the ledger: larger pages, so that the limit on requests does not hold them back.
FEED_ITEMS_MAX = 1_000
# Shorter than proxies wait for an answer.
WAIT_SECONDS_MAX = 30

# Metadata of a mint and the input of one grant: evidence, not storage. Bytes as sent.
OBJECT_BYTES_MAX = 4_096
OBJECT_DEPTH_MAX = 100

POOL_ID = r"^[a-z0-9][a-z0-9:._-]{0,63}\Z"
NO_NUL = r"^[^\x00]*\Z"


# How much of a caller's own word an answer repeats.
NAME_CHARACTERS_MAX = 100

PoolId = Annotated[str, Meta(pattern=POOL_ID)]
EntityType = Literal["agent", "person", "community", "mod", "protocol", "foundation", "commons"]
# Text without NUL, at which SQLite's functions stop.
SourceId = Annotated[str, Meta(min_length=1, max_length=200, pattern=NO_NUL)]
Subject = Annotated[str, Meta(min_length=1, max_length=128, pattern=NO_NUL)]
Reason = Annotated[str, Meta(min_length=1, max_length=500, pattern=NO_NUL)]
Description = Annotated[str, Meta(max_length=500, pattern=NO_NUL)]
# An object that is kept as it was sent, for `json_object` to look into; its default is `field(default_factory=Raw)`.
SentObject = Annotated[msgspec.Raw, Meta(extra_json_schema={"type": ["object", "null"]})]
# An object in an answer: `optional_raw` puts the very text that was sent there, and whoever reads the answer gets a dict.
KeptObject = dict[str, Any]
# Amounts in answers: not checked on the way out, but by a client on the way in. What an entry moved may be negative.
MicroText = Annotated[str, Meta(pattern=r"^(0|[1-9][0-9]{0,18})\Z")]
SignedMicro = Annotated[str, Meta(pattern=r"^(0|-?[1-9][0-9]{0,18})\Z")]
AnyId = Annotated[str, Meta(min_length=1, max_length=64)]


def one_of(choices: Any) -> Meta:
    """Says of a string in an answer that it is one of the words of a `Literal`; rows of the database hold plain strings."""
    return Meta(extra_json_schema={"enum": list(get_args(choices))})


class Body(msgspec.Struct, forbid_unknown_fields=True, rename="camel", frozen=True):
    """What a request brings; an unknown member is refused."""


class NoBody(Body, frozen=True):
    """Nothing is needed; none or `{}` will do."""


class Query(msgspec.Struct, forbid_unknown_fields=True, rename="camel", frozen=True):
    """The parameters of a read."""


class WriteQuery(Query, frozen=True):
    """The parameters of a write."""

    dry_run: Flag | None = None


class PageQuery(Query, frozen=True):
    """The parameters of a list."""

    limit: Limit = Limit(PAGE_ITEMS_DEFAULT)
    cursor: str | None = None


class ResponseBody(msgspec.Struct, rename="camel"):
    """What a request is answered with."""


class Entity(Body, frozen=True):
    """Who an account belongs to."""

    entity_type: EntityType
    entity_id: EntityId


class NoResponseBody(ResponseBody):
    """Nothing but the status."""


class Page(ResponseBody):
    """One page of a list."""

    items: list[Any]
    next_cursor: str | None


# --- the way in ---


# --- the way out ---

encode = msgspec.json.Encoder().encode


def optional_time(time_us: int | None) -> str | None:
    """A time as it is answered; None stays None."""
    return None if time_us is None else format_time(time_us)


def optional_raw(text: str | None) -> Any:
    """Stored JSON as it is answered, for a `KeptObject`: the same text; None stays None."""
    return None if text is None else msgspec.Raw(text)
