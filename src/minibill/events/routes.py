"""The feed and thresholds over HTTP."""

import msgspec

from minibill.api.decoding import Decoder
from minibill.api.openapi.operation import operation
from minibill.api.request import Request
from minibill.api.response import Response
from minibill.api.types import Query
from minibill.core.clock import monotonic_s
from minibill.core.problems import AccountNotFound, InvalidCursor
from minibill.db.write_operation import bind
from minibill.events.feed import Feed
from minibill.events.position import BEGINNING, Position, event_id, parse_position
from minibill.events.schemas import LATEST, Events, EventsQuery, Thresholds, ThresholdsBody
from minibill.events.thresholds import SQL, replace_thresholds, thresholds_response
from minibill.events.type_filter import parse_types
from minibill.ledger import reads

_THRESHOLDS = Decoder(ThresholdsBody)

# The status, by nginx's convention, under which metrics count a poll whose client has disconnected. Nobody receives it.
CLIENT_CLOSED_REQUEST = 499


@operation(Thresholds, body=ThresholdsBody, problems=(AccountNotFound,))
async def put_thresholds(request: Request) -> Response:
    """Replaces the thresholds of an account."""
    body = await request.read(_THRESHOLDS)
    return await request.write(
        bind(replace_thresholds, account_id=request.segment("account_id"), thresholds=body.thresholds)
    )


@operation(Thresholds, problems=(AccountNotFound,))
async def show_thresholds(request: Request) -> Response:
    """The thresholds of an account, and on which side of each its credits are."""
    request.parameters(Query)
    reader = request.reader
    account_id = request.segment("account_id")
    account = reads.require_account(reader, account_id)
    return request.answer(
        thresholds_response(account_id, await reader.all(SQL.thresholds_of_account, account_id=account[0]))
    )


@operation(Events, query=EventsQuery, problems=(InvalidCursor,))
async def list_events(request: Request) -> Response:
    """Everything that happens, in order: entries of the ledger, campaigns, thresholds.

    Begins after the event that `after` names, or with the first. Where there is nothing yet it waits for `wait` seconds at
    most. `nextCursor` is always there: to go on is to ask again with it as `after`, and misses nothing.
    """
    query = request.parameters(EventsQuery)
    feed = request.state.book.feed
    types = None if query.types is None else parse_types(query.types.split(","), "types")
    after = require_place(query.after, feed)
    began_s = monotonic_s()
    reader = feed.read_patiently(after, types=types, count=query.limit, seconds=query.wait)
    told = await (request.unless_disconnected(reader) if query.wait else reader)
    if told is None:
        return Response(CLIENT_CLOSED_REQUEST, b"", waited_s=monotonic_s() - began_s)
    answer = Events([event for _, event in told.events], event_id(told.until))
    # To wait was asked for, so it does not count as slow.
    return msgspec.structs.replace(request.answer(answer), waited_s=monotonic_s() - began_s)


def require_place(text: str | None, feed: Feed) -> Position:
    """Return the place from which a client reads on; raises `InvalidCursor` for text that is no place of this book."""
    if text is None:
        return BEGINNING
    if text == LATEST:
        return feed.newest()
    place = parse_position(text)
    if place is None:
        raise InvalidCursor("take the id of an event or the nextCursor of an answer, unchanged")
    if not feed.has(place):
        raise InvalidCursor(
            "the book has no event with this id, probably because it was restored from a backup; continue from the last "
            "event that you know and that the book still has, or from the beginning"
        )
    return place
