"""What is asked of a book, whichever way it goes there, and how its answer is read."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from minibill.api.types import Entity
from minibill.auth.callers import CallerKind

T = TypeVar("T")

Json = Mapping[str, Any]

_DECODERS: dict[type[Any], msgspec.json.Decoder[Any]] = {}

# An account by its id, or by whom it belongs to.
Who = str | Entity


class Operation(NamedTuple):
    """One operation: a route under its door, what its path says, and what is sent. `key` is None for a read."""

    kind: CallerKind
    method: str
    # With {names} of `segments`.
    route: str
    segments: dict[str, str]
    query: dict[str, str]
    body: bytes = b""
    key: str | None = None


class PageOf(msgspec.Struct, Generic[T], rename="camel"):
    """One page of a list."""

    items: list[T]
    next_cursor: str | None


class GrantTo(msgspec.Struct, frozen=True):
    """One account to pay, and how much in micro-units, or what the campaign's formula is to go by."""

    who: Who
    amount_micro: int | None = None
    formula_input: Json | None = None


class TierOf(msgspec.Struct, frozen=True):
    """A tier: what it takes off in basis points, and at most how many micro-units."""

    tier: str
    rate_bps: int
    max_discount_micro: int | None = None


class ThresholdOf(msgspec.Struct, frozen=True):
    """Below how many micro-units available in a pool, and from how many on again, an account is to be told of."""

    below_micro: int
    recovered_micro: int | None = None
    pool_id: str | None = None


def to_ask(
    method: str,
    route: str,
    segments: Json,
    *,
    body: Json | None = None,
    query: Json | None = None,
    key: str | None = None,
    dry_run: bool = False,
    kind: CallerKind = "admin",
) -> Operation:
    """An operation from plain values; what is None is left out."""
    asked = {name: str(value) for name, value in (query or {}).items() if value is not None}
    if dry_run:
        asked["dryRun"] = "true"
    sent = b""
    if body is not None:
        sent = msgspec.json.encode({name: value for name, value in body.items() if value is not None})
    return Operation(kind, method, route, dict(segments), asked, sent, key)


def read(answer: bytes, expected: type[T]) -> T:
    """An answer as the struct that it is; raises `msgspec.ValidationError` or `msgspec.DecodeError`."""
    found = _DECODERS.get(expected)
    if found is None:
        found = _DECODERS[expected] = msgspec.json.Decoder(expected)
    answered: T = found.decode(answer)
    return answered


def micro(amount: int | None) -> str | None:
    """An amount as it is sent. Only whole numbers are amounts."""
    if amount is None:
        return None
    if type(amount) is bool or not isinstance(amount, int):
        raise TypeError(f"an amount is a whole number of micro-units, not {amount!r}")
    return str(int(amount))


def time(moment: datetime | str | None) -> str | None:
    """A moment as it is sent; a datetime must say its offset."""
    if not isinstance(moment, datetime):
        return moment
    if moment.tzinfo is None:
        raise ValueError(f"{moment!r} has no time zone: give it one, such as datetime.UTC")
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def flag(value: bool) -> str | None:
    """A parameter that is left out unless it is true."""
    return "true" if value else None


def account_of(who: Who) -> dict[str, Any]:
    """The member that names an account."""
    return {"accountId": who} if isinstance(who, str) else {"entity": who}


def grant_item(grant: GrantTo) -> dict[str, Any]:
    """A grant as it is sent: a `GrantItem`."""
    members = {"amountMicro": micro(grant.amount_micro), "formulaInput": grant.formula_input}
    return account_of(grant.who) | {name: value for name, value in members.items() if value is not None}


def threshold(of: ThresholdOf) -> Json:
    """A threshold as it is sent."""
    return {"belowMicro": micro(of.below_micro), "recoveredMicro": micro(of.recovered_micro), "poolId": of.pool_id}


def tier(of: TierOf) -> dict[str, Any]:
    """A tier as it is sent: a `TierBody`."""
    return {"tier": of.tier, "rateBps": of.rate_bps, "maxDiscountMicro": micro(of.max_discount_micro)}
