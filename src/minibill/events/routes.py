"""Routes of the event feed and of thresholds."""

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
from minibill.events.serialization import ThresholdRow
from minibill.events.thresholds import SQL, replace_thresholds, thresholds_response
from minibill.events.type_filter import parse_types
from minibill.ledger import reads

_THRESHOLDS = Decoder(ThresholdsBody)

# The status, by nginx's convention, under which metrics count a poll whose client has disconnected. Nobody receives it.
CLIENT_CLOSED_REQUEST = 499


@operation(Thresholds, body=ThresholdsBody, problems=(AccountNotFound,))
async def put_thresholds(request: Request) -> Response:
    """Replace the thresholds of an account."""
    body = await request.read(_THRESHOLDS)
    return await request.write(bind(replace_thresholds, account_id=request.segment("account_id"), body=body))


@operation(Thresholds, problems=(AccountNotFound,))
async def show_thresholds(request: Request) -> Response:
    """List the thresholds of an account with their states."""
    request.parameters(Query)
    reader = request.reader
    account_id = request.segment("account_id")
    account = reads.require_account(reader, account_id)
    rows = await reader.all(SQL.thresholds_of_account, account_id=account[0])
    return request.answer(thresholds_response(account_id, [ThresholdRow(*row) for row in rows]))


@operation(Events, query=EventsQuery, problems=(InvalidCursor,))
async def list_events(request: Request) -> Response:
    """List events in order: ledger entries, accounts, campaigns, debts, grants and thresholds.

    The page begins after the event `after`, or with the first event. If there is none yet, the response waits for up to
    `wait` seconds. Every response has a `nextCursor`; pass it as `after` to continue without missing an event.
    """
    query = request.parameters(EventsQuery)
    feed = request.state.book.feed
    types = None if query.types is None else parse_types(query.types.split(","), "types")
    after = require_position(query.after, feed)
    began_s = monotonic_s()
    reader = feed.read_or_wait(after, types=types, count=query.limit, seconds=query.wait)
    page = await (request.unless_disconnected(reader) if query.wait else reader)
    if page is None:
        return Response(CLIENT_CLOSED_REQUEST, b"", waited_s=monotonic_s() - began_s)
    answer = Events([event for _, event in page.events], event_id(page.until))
    # The client requested the wait, so the access log does not count it as slow.
    return msgspec.structs.replace(request.answer(answer), waited_s=monotonic_s() - began_s)


def require_position(text: str | None, feed: Feed) -> Position:
    """Return the position of a client's cursor. Raises `InvalidCursor` for text that is not a position in this feed."""
    if text is None:
        return BEGINNING
    if text == LATEST:
        return feed.newest()
    position = parse_position(text)
    if position is None:
        raise InvalidCursor("this is not a cursor of the feed; pass an event id or the nextCursor of a response, unchanged")
    if not feed.has(position):
        raise InvalidCursor(
            "this cursor is not in the feed, probably because the database was restored from a backup; restart from the "
            "last event that you know and that the feed still has, or from the beginning"
        )
    return position
