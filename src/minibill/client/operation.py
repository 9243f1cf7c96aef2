"""Operations of the API as values, independent of the transport, and the decoding of their responses."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from minibill.api.types import Entity
from minibill.auth.callers import CallerKind
from minibill.ledger.schemas import BillingMode

T = TypeVar("T")

Json = Mapping[str, Any]

_DECODERS: dict[type[Any], msgspec.json.Decoder[Any]] = {}

# The operations of the service API: method, and path under its prefix.
SERVICE_OPERATIONS = frozenset(
    {
        ("POST", "/accounts"),
        ("GET", "/accounts"),
        ("GET", "/accounts/{account_id}/balance"),
        ("GET", "/accounts/{account_id}/quote"),
        ("GET", "/events"),
        ("POST", "/reservations"),
        ("GET", "/reservations/{reservation_id}"),
        ("POST", "/finalize"),
        ("POST", "/release"),
        ("POST", "/charges"),
        ("POST", "/charges/batch"),
        ("GET", "/charges/{charge_id}"),
    }
)

# An account, by its id or by its entity.
AccountRef = str | Entity


class Operation(NamedTuple):
    """One operation: caller kind, method, route and arguments. `key` is the idempotency key; None for a read."""

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
    """A grant of a batch: the account, and an amount in micro-units or the input of the campaign's formula."""

    who: AccountRef
    amount_micro: int | None = None
    formula_input: Json | None = None


class UsageOf(msgspec.Struct, frozen=True):
    """A usage record of a batch: the account, its cost at list price in micro-units, and the id that charges it once."""

    who: AccountRef
    cost_micro: int
    source_id: str
    pool_id: str | None = None
    billing_mode: BillingMode | None = None
    description: str | None = None
    metadata: Json | None = None


class TierOf(msgspec.Struct, frozen=True):
    """A discount tier: its rate in basis points, 0 to 10,000, and its maximum discount in micro-units."""

    tier: str
    rate_bps: int
    max_discount_micro: int | None = None


class ThresholdOf(msgspec.Struct, frozen=True):
    """A balance threshold of a pool (default `general`), in micro-units of available credits.

    An event is emitted when the balance drops below `below_micro`, and when it is back at `recovered_micro` or more.
    """

    below_micro: int
    recovered_micro: int | None = None
    pool_id: str | None = None


def make_operation(
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
    """Return an operation. Query parameters and members of the body that are None are left out.

    Raises `TypeError` for an operation that services do not have, and for a dry run of a service.
    """
    if kind == "service":
        if (method, route) not in SERVICE_OPERATIONS:
            raise TypeError(f"services have no {method} {route}; use an admin's client")
        if dry_run:
            raise TypeError("services have no dry run; leave dry_run out, or use an admin's client")
    parameters = {name: str(value) for name, value in (query or {}).items() if value is not None}
    if dry_run:
        parameters["dryRun"] = "true"
    encoded = b""
    if body is not None:
        encoded = msgspec.json.encode({name: value for name, value in body.items() if value is not None})
    return Operation(kind, method, route, dict(segments), parameters, encoded, key)


def decode(body: bytes, expected: type[T]) -> T:
    """Return a response body as a struct. Raises `msgspec.DecodeError`, or its subclass `msgspec.ValidationError`."""
    decoder = _DECODERS.get(expected)
    if decoder is None:
        decoder = _DECODERS[expected] = msgspec.json.Decoder(expected)
    decoded: T = decoder.decode(body)
    return decoded


def micro(amount: int | None) -> str | None:
    """Return an amount in its JSON form. Raises `TypeError` for anything but an integer."""
    if amount is None:
        return None
    if type(amount) is bool or not isinstance(amount, int):
        raise TypeError(f"an amount must be an integer number of micro-units, not {amount!r}")
    return str(int(amount))


def time(moment: datetime | str | None) -> str | None:
    """Return a time in its JSON form. Raises `ValueError` for a datetime without an offset."""
    if not isinstance(moment, datetime):
        return moment
    if moment.tzinfo is None:
        raise ValueError(f"{moment!r} has no time zone; add one, such as datetime.UTC")
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def flag(value: bool) -> str | None:
    """Return the query parameter of a flag; None leaves it out."""
    return "true" if value else None


def account_of(who: AccountRef) -> dict[str, Any]:
    """Return the member that names an account."""
    return {"accountId": who} if isinstance(who, str) else {"entity": who}


def grant_item(grant: GrantTo) -> dict[str, Any]:
    """Return a grant in its JSON form."""
    members = {"amountMicro": micro(grant.amount_micro), "formulaInput": grant.formula_input}
    return account_of(grant.who) | {name: value for name, value in members.items() if value is not None}


def usage_record(of: UsageOf) -> dict[str, Any]:
    """Return a usage record in its JSON form."""
    members = {
        "costMicro": micro(of.cost_micro),
        "sourceId": of.source_id,
        "poolId": of.pool_id,
        "billingMode": of.billing_mode,
        "description": of.description,
        "metadata": of.metadata,
    }
    return account_of(of.who) | {name: value for name, value in members.items() if value is not None}


def threshold(of: ThresholdOf) -> Json:
    """Return a threshold in its JSON form."""
    return {"belowMicro": micro(of.below_micro), "recoveredMicro": micro(of.recovered_micro), "poolId": of.pool_id}


def tier(of: TierOf) -> dict[str, Any]:
    """Return a tier in its JSON form."""
    return {"tier": of.tier, "rateBps": of.rate_bps, "maxDiscountMicro": micro(of.max_discount_micro)}
