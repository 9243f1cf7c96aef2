"""The feed: every ledger entry and every other event, in one order, and how to wait for more of it.

What is committed is never changed and nothing is committed before it (places.py), so the two tables are read one after the
other up to the same place, and need no snapshot.
"""

import asyncio
import heapq
from itertools import islice
from operator import itemgetter
from typing import NamedTuple

import msgspec

from minibill.api.types import encode
from minibill.core.clock import monotonic_s
from minibill.db.queries import Row, queries
from minibill.db.readers import Readers
from minibill.db.sqlite import Connection
from minibill.db.writer import Writer
from minibill.events.position import Position, event_id
from minibill.events.schemas import LEDGER, Event
from minibill.events.serialization import event_from_entry, event_from_row

SQL = queries("events")

# Rows that one reading looks through for the types that are asked for: some ten milliseconds on a reader's thread.
SCAN_ROWS_MAX = 20_000

# Commits within this time wake the waiting polls together, with one read for all of them.
WAKEUP_DELAY_SECONDS = 0.005

# Events that one read for the waiting polls returns at most; a longer backlog takes several.
_SHARED_EVENTS = 500

# Polls that are woken before other requests get their turn: about 5 ms of responses.
_WAKE_AT_ONCE = 50

# How long a request without `wait` looks for its types; what it has not looked through by then, the next one does.
SEARCH_SECONDS = 1.0

# How many events are put into words without a pause: half a millisecond.
_AT_ONCE = 50

NO_TYPES = "[]"


class FeedPage(NamedTuple):
    """Some events with their places, and how far was looked: up to there no other is of the types that were asked for."""

    events: list[tuple[Position, Event]]
    until: Position
    is_end: bool


class _Poll(msgspec.Struct, eq=False):
    """A long poll that has read the feed to its end, at `after`, and waits for events of `types` (None: all)."""

    after: Position
    types: frozenset[str] | None
    # With the number of groups of writes before that read.
    news: "asyncio.Future[tuple[FeedPage, int]]"


class Feed:
    """Reads events, and knows when there may be more. Used from the event loop of the writer."""

    def __init__(self, readers: Readers, writer: Writer) -> None:
        self._readers = readers
        self._news = asyncio.Event()
        self._listeners = 0
        self._polls: set[_Poll] = set()
        self._waking: asyncio.Task[None] | None = None
        self._must_wake_again = False
        # The duration of the last wake-up; the next one starts no sooner, so that polls take half of the time at most.
        self._wake_s = 0.0
        self._groups = 0
        self._is_stopped = False
        writer.after_group = self._after_group

    @property
    def is_stopped(self) -> bool:
        """Whether the service stops, so that nothing is worth waiting for."""
        return self._is_stopped

    @property
    def waiters(self) -> int:
        """The number of long polls that wait for events."""
        return len(self._polls)

    def newest(self) -> Position:
        """The end of the feed: whatever comes later has a place after it."""
        return Position(*self._readers.query_now(SQL.newest_of_the_feed)[0])

    def has(self, place: Position) -> bool:
        """Return whether a position is one of this book. A position that a lost copy of it has issued never is."""
        [(found,)] = self._readers.query_now(SQL.is_place, entry_id=place.entry_id, event_id=place.event_id)
        return bool(found)

    async def read(self, after: Position, *, types: frozenset[str] | None, count: int) -> FeedPage:
        """The first events after a place, of these types or of all; it may find none although there are some further on."""
        entry_types, other_types = _split(types)
        newest = self.newest()
        after_id = after.event_id or self._last_event_before(after.entry_id)
        until = newest
        # A stretch ends at a row, and so skips the ids between two epochs at once.
        if entry_types != NO_TYPES and until.entry_id > after.entry_id + SCAN_ROWS_MAX:
            for (entry_id,) in self._readers.query_now(SQL.first_entry_from, entry_id=after.entry_id + SCAN_ROWS_MAX):
                until = Position(entry_id, self._last_event_before(entry_id + 1))
        if other_types != NO_TYPES and until.event_id > after_id + SCAN_ROWS_MAX:
            until = Position(*self._readers.query_now(SQL.first_event_from, event_id=after_id + SCAN_ROWS_MAX)[0])
        entries: list[Row] = []
        others: list[Row] = []
        if entry_types != NO_TYPES and until.entry_id > after.entry_id:
            entries = await self._readers.all(
                SQL.entries_to_tell, after_id=after.entry_id, until_id=until.entry_id, types=entry_types, count=count
            )
        if other_types != NO_TYPES and until.event_id > after_id:
            others = await self._readers.all(
                SQL.events_to_tell, after_id=after_id, until_id=until.event_id, types=other_types, count=count
            )
        events = await _in_words(entries, others, count)
        if len(events) == count:
            return FeedPage(events, events[-1][0], False)
        return FeedPage(events, until, until == newest)

    async def read_patiently(self, after: Position, *, types: frozenset[str] | None, count: int, seconds: float) -> FeedPage:
        """The same, but it goes on until it finds some, and waits so long for the first; no more once the service stops."""
        began_s = monotonic_s()
        groups = self._groups
        told = await self.read(after, types=types, count=count)
        while not told.events and not self._is_stopped:
            rest_s = began_s + (seconds if told.is_end else max(seconds, SEARCH_SECONDS)) - monotonic_s()
            if rest_s <= 0:
                break
            if told.is_end:
                poll = _Poll(told.until, types, asyncio.get_running_loop().create_future())
                news = await self._wait_for_news(poll, groups, rest_s)
                if news is None:
                    break
                shared, groups = news
                told = _select(shared, poll, count)
            else:
                groups = self._groups
                told = await self.read(told.until, types=types, count=count)
        return told

    @property
    def groups(self) -> int:
        """How many groups of writes there have been; to be read before the feed is, and waited from."""
        return self._groups

    async def at(self, place: Position) -> Event | None:
        """The event at a place; None where there is none."""
        key, query = (place.event_id, SQL.events_to_tell) if place.event_id else (place.entry_id, SQL.entries_to_tell)
        rows = await self._readers.all(query, after_id=key - 1, until_id=key, types=None, count=1)
        event = (event_from_row if place.event_id else event_from_entry)(rows[0]) if rows else None
        return event if event is not None and event.id == event_id(place) else None

    async def wait(self, groups: int, seconds: float) -> None:
        """Returns when something was written since there were so many `groups`, when the service stops, or after so long."""
        if self._is_stopped:
            return
        self._listeners += 1
        if groups != self._groups:
            self._wake_soon()
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            pass
        finally:
            self._listeners -= 1

    def stop(self) -> None:
        """Nobody waits from now on: the service stops."""
        self._is_stopped = True
        if self._waking is not None:
            self._waking.cancel()
        self._news.set()
        for poll in self._polls:
            if not poll.news.done():
                poll.news.set_result((FeedPage([], poll.after, True), self._groups))

    async def _wait_for_news(self, poll: _Poll, groups: int, seconds: float) -> tuple[FeedPage, int] | None:
        """Return the shared read that may have events for a poll; None after so many seconds.

        `groups` is the number of groups before the poll last read the feed.
        """
        self._polls.add(poll)
        if groups != self._groups:
            self._wake_soon()
        try:
            async with asyncio.timeout(seconds):
                return await poll.news
        except TimeoutError:
            return None
        finally:
            self._polls.discard(poll)

    def _after_group(self) -> None:
        """Called by the writer after each group of writes."""
        self._groups += 1
        if self._listeners or self._polls:
            self._wake_soon()

    def _wake_soon(self) -> None:
        # Not at once: under a steady load, polls would never rest.
        if self._waking is not None:
            self._must_wake_again = True
        elif not self._is_stopped:
            self._waking = asyncio.create_task(self._wake())

    async def _wake(self) -> None:
        """Tell the listeners that something was written, and wake the polls with one read of the feed for all of them."""
        try:
            await asyncio.sleep(max(WAKEUP_DELAY_SECONDS, self._wake_s))
            self._must_wake_again = False
            began_s = monotonic_s()
            news, self._news = self._news, asyncio.Event()
            news.set()
            if polls := list(self._polls):
                await self._wake_polls(polls)
            self._wake_s = monotonic_s() - began_s
        finally:
            self._waking = None
        if self._must_wake_again:
            self._wake_soon()

    async def _wake_polls(self, polls: list[_Poll]) -> None:
        types: frozenset[str] | None = frozenset()
        for poll in polls:
            types = None if types is None or poll.types is None else types | poll.types
        groups = self._groups
        try:
            shared = await self.read(min(poll.after for poll in polls), types=types, count=_SHARED_EVENTS)
        except Exception as error:
            for poll in polls:
                if not poll.news.done():
                    poll.news.set_exception(error)
            return
        for number, poll in enumerate(polls, 1):
            if not poll.news.done():
                poll.news.set_result((shared, groups))
            if number % _WAKE_AT_ONCE == 0:
                await asyncio.sleep(0)

    def _last_event_before(self, entry_id: int) -> int:
        rows = self._readers.query_now(SQL.event_before_entry, entry_id=entry_id)
        return rows[0][0] if rows else 0


def end_of_feed(conn: Connection) -> Position:
    """The end of the feed within a transaction."""
    found = SQL.newest_of_the_feed.one(conn)
    assert found is not None
    return Position(*found)


async def _in_words(entries: list[Row], others: list[Row], count: int) -> list[tuple[Position, Event]]:
    """The first events of both, in the order of their places."""
    found = heapq.merge(
        ((Position(row[0], 0), row, event_from_entry) for row in entries),
        ((Position(row[1], row[0]), row, event_from_row) for row in others),
        key=itemgetter(0),
    )
    events: list[tuple[Position, Event]] = []
    for place, row, tell in islice(found, count):
        events.append((place, tell(row)))
        if len(events) % _AT_ONCE == 0:
            await asyncio.sleep(0)
    return events


def _select(shared: FeedPage, poll: _Poll, count: int) -> FeedPage:
    """Return the result of a poll's own read, taken from a read for several polls."""
    events = [
        (place, event)
        for place, event in shared.events
        if place > poll.after and (poll.types is None or event.type in poll.types)
    ][:count]
    if len(events) == count:
        return FeedPage(events, events[-1][0], False)
    return FeedPage(events, max(poll.after, shared.until), shared.is_end)


def _split(types: frozenset[str] | None) -> tuple[str | None, str | None]:
    """The types of entries and the other types, each as a JSON array; None for all."""
    if types is None:
        return None, None
    entry_types = sorted(name.removeprefix(LEDGER) for name in types if name.startswith(LEDGER))
    return encode(entry_types).decode(), encode(sorted(name for name in types if not name.startswith(LEDGER))).decode()
