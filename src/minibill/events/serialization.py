"""What an event says: the row that it is about, in the words of the API."""

from collections.abc import Callable
from typing import Any

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


def event_from_entry(row: Row) -> Event:
    """The event that an entry is, from a row of `entry_events`."""
    *entry, account_id, campaign_id = row
    return Event(
        id=event_id(Position(entry[0], 0)),
        type=LEDGER + entry[2],
        created_at=format_time(entry[-1]),
        account_id=ids.encode(ids.ACCOUNT, account_id),
        campaign_id=None if campaign_id is None else ids.encode(ids.CAMPAIGN, campaign_id),
        data=optional_raw(encode(entry_response(tuple(entry))).decode()),
    )


def event_from_row(row: Row) -> Event:
    """Any other event, from a row of `other_events`."""
    key, after_entry_id, kind, account_id, campaign_id, data, created_at_us = row
    told = _SERIALIZERS[kind.partition(".")[0]](msgspec.json.decode(data), created_at_us)
    return Event(
        id=event_id(Position(after_entry_id, key)),
        type=kind,
        created_at=format_time(created_at_us),
        account_id=None if account_id is None else ids.encode(ids.ACCOUNT, account_id),
        campaign_id=None if campaign_id is None else ids.encode(ids.CAMPAIGN, campaign_id),
        data=optional_raw(encode(told).decode()),
    )


def threshold_response(row: Row) -> Threshold:
    """A threshold as it is answered, from a row of `thresholds_of_account`."""
    _, pool_id, below_micro, recovered_micro, is_below, available_micro = row
    state = "below" if is_below else "above"
    return Threshold(pool_id, str(below_micro), str(recovered_micro), state, str(available_micro))


# By what an event is about: the answer that its columns (see 0002_events.sql) and its time come to.
_SERIALIZERS: dict[str, Callable[[list[Any], int], ResponseBody]] = {
    "account": lambda columns, _: account_response(tuple(columns)),
    "campaign": lambda columns, at_us: campaign_response(CampaignRow(*columns), now_us=at_us),
    "debt": lambda columns, _: debt_response(tuple(columns)),
    "grant": lambda columns, _: grant_response(GrantRow(*columns)),
    "threshold": lambda columns, _: threshold_response(tuple(columns)),
}
