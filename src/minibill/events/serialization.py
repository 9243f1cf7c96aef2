"""Events as the API shows them: each carries the row that it is about."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import msgspec

from minibill.api.types import ResponseBody, encode, optional_raw
from minibill.campaigns.grants import GrantRow, grant_response
from minibill.campaigns.lifecycle import CampaignRow, campaign_response
from minibill.core import ids
from minibill.core.clock import format_time
from minibill.db.queries import Row
from minibill.events.position import Position, event_id
from minibill.events.schemas import LEDGER, Event, Threshold
from minibill.ledger.accounts import account_response
from minibill.ledger.debts import debt_response
from minibill.ledger.reads import entry_response
from minibill.ledger.rows import AccountRow, DebtRow, EntryRow

T = TypeVar("T", bound=tuple[Any, ...])


class ThresholdRow(NamedTuple):
    """A row of `thresholds_of_account`, and the data of a `threshold.*` event."""

    account_id: int
    pool_id: str
    below_micro: int
    recovered_micro: int
    is_below: int
    available_micro: int


def event_from_entry(row: Row) -> Event:
    """Return the event of a ledger entry, from a row of `entry_events`."""
    *columns, account_id = row
    entry = entry_response(EntryRow(*columns))
    return Event(
        id=event_id(Position(columns[0], 0)),
        type=LEDGER + entry.entry_type,
        created_at=entry.created_at,
        account_id=ids.encode(ids.ACCOUNT, account_id),
        campaign_id=entry.campaign_id,
        data=optional_raw(encode(entry).decode()),
    )


def event_from_row(row: Row) -> Event:
    """Return any other event, from a row of `other_events`."""
    key, after_entry_id, kind, account_id, campaign_id, data, created_at_us = row
    return Event(
        id=event_id(Position(after_entry_id, key)),
        type=kind,
        created_at=format_time(created_at_us),
        account_id=None if account_id is None else ids.encode(ids.ACCOUNT, account_id),
        campaign_id=None if campaign_id is None else ids.encode(ids.CAMPAIGN, campaign_id),
        data=optional_raw(encode(_SERIALIZERS[kind.partition(".")[0]](data, created_at_us)).decode()),
    )


def stored_row(row_type: type[T], data: str) -> T:
    """Decode the data of a stored event by name.

    Members that `row_type` does not have are ignored. A member that the event lacks takes the default of its field, so a
    column that a later version adds needs a default here.
    """
    members = msgspec.json.decode(data)
    return row_type(**{name: members[name] for name in row_type._fields if name in members})  # type: ignore[attr-defined]


def threshold_response(row: ThresholdRow) -> Threshold:
    """Return a threshold as the API shows it."""
    state = "below" if row.is_below else "above"
    return Threshold(row.pool_id, str(row.below_micro), str(row.recovered_micro), state, str(row.available_micro))


# By the subject of an event's type. sql/migrations has the triggers that write the data.
_SERIALIZERS: dict[str, Callable[[str, int], ResponseBody]] = {
    "account": lambda data, _: account_response(stored_row(AccountRow, data)),
    "campaign": lambda data, at_us: campaign_response(stored_row(CampaignRow, data), now_us=at_us),
    "debt": lambda data, _: debt_response(stored_row(DebtRow, data)),
    "grant": lambda data, _: grant_response(stored_row(GrantRow, data)),
    "threshold": lambda data, _: threshold_response(stored_row(ThresholdRow, data)),
}
