"""The feed and thresholds over HTTP."""

import msgspec

from minibill.api.decoding import Decoder
from minibill.api.openapi.operation import describe
from minibill.api.request import Call
from minibill.api.response import Reply
from minibill.api.types import Query
from minibill.core.clock import monotonic_s
from minibill.core.problems import AccountNotFound, InvalidCursor
from minibill.events.feed import Feed
from minibill.events.position import BEGINNING, Place, event_id, place_of
from minibill.events.schemas import LATEST, Events, EventsQuery, Thresholds, ThresholdsBody
from minibill.events.thresholds import SQL, replace_thresholds, thresholds_answer
from minibill.events.type_filter import read_types
from minibill.ledger import reads

_THRESHOLDS = Decoder(ThresholdsBody)

# The status, by nginx's convention, under which metrics count a poll whose client has disconnected. Nobody receives it.
CLIENT_CLOSED_REQUEST = 499


@describe(Thresholds, body=ThresholdsBody, refusals=(AccountNotFound,))
async def put_thresholds(call: Call) -> Reply:
    """Replaces the thresholds of an account."""
    body = await call.read(_THRESHOLDS)
    return await call.write(replace_thresholds, account_id=call.segment("account_id"), thresholds=body.thresholds)


@describe(Thresholds, refusals=(AccountNotFound,))
async def show_thresholds(call: Call) -> Reply:
    """The thresholds of an account, and on which side of each its credits are."""
    call.parameters(Query)
    reading = call.reading
    account_id = call.segment("account_id")
    account = reads.require_account(reading, account_id)
    return call.answer(thresholds_answer(account_id, await reading.all(SQL.thresholds_of_account, account_id=account[0])))


@describe(Events, query=EventsQuery, refusals=(InvalidCursor,))
async def list_events(call: Call) -> Reply:
    """Everything that happens, in order: entries of the ledger, campaigns, thresholds.

    Begins after the event that `after` names, or with the first. Where there is nothing yet it waits for `wait` seconds at
    most. `nextCursor` is always there: to go on is to ask again with it as `after`, and misses nothing.
    """
    query = call.parameters(EventsQuery)
    feed = call.service.book.feed
    types = None if query.types is None else read_types(query.types.split(","), "types")
    after = require_place(query.after, feed)
    began_s = monotonic_s()
    reading = feed.read_patiently(after, types=types, count=query.limit, seconds=query.wait)
    told = await (call.unless_disconnected(reading) if query.wait else reading)
    if told is None:
        return Reply(CLIENT_CLOSED_REQUEST, b"", waited_s=monotonic_s() - began_s)
    answer = Events([event for _, event in told.events], event_id(told.until))
    # To wait was asked for, so it does not count as slow.
    return msgspec.structs.replace(call.answer(answer), waited_s=monotonic_s() - began_s)


def require_place(text: str | None, feed: Feed) -> Place:
    """Return the place from which a client reads on; raises `InvalidCursor` for text that is no place of this book."""
    if text is None:
        return BEGINNING
    if text == LATEST:
        return feed.newest()
    place = place_of(text)
    if place is None:
        raise InvalidCursor("take the id of an event or the nextCursor of an answer, unchanged")
    if not feed.has(place):
        raise InvalidCursor(
            "the book has no event with this id, probably because it was restored from a backup; continue from the last "
            "event that you know and that the book still has, or from the beginning"
        )
    return place
