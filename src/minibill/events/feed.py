"""The event feed: ledger entries and other events in one order, and long polls that wait for more.

Committed events never change, and later commits have later positions (position.py). The feed therefore reads its two tables
one after the other up to the same position, without a common snapshot.
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

# Rows that one read scans for the requested types: about 10 ms on a reader's thread.
SCAN_ROWS_MAX = 20_000

# Commits within this time wake the waiting polls together, with one read for all of them.
WAKEUP_DELAY_SECONDS = 0.005

# One read for all waiting polls returns at most this many events; a longer backlog takes several reads.
_SHARED_EVENTS = 500

# Polls woken before other requests get their turn: about 5 ms of responses.
_WAKE_CHUNK = 50

# A request without `wait` searches for its types for this long; the next request continues the search.
SEARCH_SECONDS = 1.0

# Events serialized before other requests get their turn: about 0.5 ms.
_SERIALIZE_CHUNK = 50

NO_TYPES = "[]"


class FeedPage(NamedTuple):
    """Events with their positions. Up to `until` the feed has no other event of the requested types."""

    events: list[tuple[Position, Event]]
    until: Position
    is_end: bool


class _Poll(msgspec.Struct, eq=False):
    """A long poll that has read the feed to its end, at `after`, and waits for events of `types` (None: all)."""

    after: Position
    types: frozenset[str] | None
    # A shared page, with the number of commits before it was read.
    page: "asyncio.Future[tuple[FeedPage, int]]"


class Feed:
    """Read events, and wait for more. Runs on the event loop of the writer."""

    def __init__(self, readers: Readers, writer: Writer) -> None:
        self._readers = readers
        self._committed = asyncio.Event()
        self._listeners = 0
        self._polls: set[_Poll] = set()
        self._waking: asyncio.Task[None] | None = None
        self._must_wake_again = False
        # The duration of the last wake-up; the next one starts no sooner, so that polls take half of the time at most.
        self._wake_s = 0.0
        self._commits = 0
        self._is_stopped = False
        writer.after_group = self._after_group

    @property
    def is_stopped(self) -> bool:
        """True once the service stops: no call waits any longer."""
        return self._is_stopped

    @property
    def waiters(self) -> int:
        """The number of long polls that wait for events."""
        return len(self._polls)

    def newest(self) -> Position:
        """Return the end of the feed. Every later event has a later position."""
        return Position(*self._readers.query_now(SQL.end_of_feed)[0])

    def has(self, position: Position) -> bool:
        """Return true if this feed contains the position. After a restore it lacks the positions issued since the backup."""
        [(found,)] = self._readers.query_now(SQL.position_exists, **position._asdict())
        return bool(found)

    async def read(self, after: Position, *, types: frozenset[str] | None, count: int) -> FeedPage:
        """Return up to `count` events after a position, of these types or of all.

        The page may be empty although later events match: one read scans at most `SCAN_ROWS_MAX` rows. Check `is_end`.
        """
        entry_types, other_types = _split(types)
        newest = self.newest()
        after_id = after.event_id or self._last_event_before(after.entry_id)
        until = newest
        # The scan ends at an existing row, so one read skips the ids between two epochs.
        if entry_types != NO_TYPES and until.entry_id > after.entry_id + SCAN_ROWS_MAX:
            for (entry_id,) in self._readers.query_now(SQL.first_entry_from, entry_id=after.entry_id + SCAN_ROWS_MAX):
                until = Position(entry_id, self._last_event_before(entry_id + 1))
        if other_types != NO_TYPES and until.event_id > after_id + SCAN_ROWS_MAX:
            until = Position(*self._readers.query_now(SQL.first_event_from, event_id=after_id + SCAN_ROWS_MAX)[0])
        entries: list[Row] = []
        others: list[Row] = []
        if entry_types != NO_TYPES and until.entry_id > after.entry_id:
            entries = await self._readers.all(
                SQL.entry_events, after_id=after.entry_id, until_id=until.entry_id, types=entry_types, count=count
            )
        if other_types != NO_TYPES and until.event_id > after_id:
            others = await self._readers.all(
                SQL.other_events, after_id=after_id, until_id=until.event_id, types=other_types, count=count
            )
        events = await _serialize(entries, others, count)
        if len(events) == count:
            return FeedPage(events, events[-1][0], False)
        return FeedPage(events, until, until == newest)

    async def read_or_wait(self, after: Position, *, types: frozenset[str] | None, count: int, seconds: float) -> FeedPage:
        """Return a page as `read` does, but search on until it has an event, and wait for one at the end of the feed.

        The wait ends after `seconds`, or when the service stops.
        """
        began_s = monotonic_s()
        commits = self._commits
        page = await self.read(after, types=types, count=count)
        while not page.events and not self._is_stopped:
            rest_s = began_s + (seconds if page.is_end else max(seconds, SEARCH_SECONDS)) - monotonic_s()
            if rest_s <= 0:
                break
            if page.is_end:
                poll = _Poll(page.until, types, asyncio.get_running_loop().create_future())
                found = await self._wait_for_page(poll, commits, rest_s)
                if found is None:
                    break
                shared, commits = found
                page = _select(shared, poll, count)
            else:
                commits = self._commits
                page = await self.read(page.until, types=types, count=count)
        return page

    @property
    def commits(self) -> int:
        """The number of commits so far. Read it before the feed, and pass it to `wait`."""
        return self._commits

    async def event_at(self, position: Position) -> Event | None:
        """Return the event at a position, None without one."""
        is_entry = not position.event_id
        key, query = (position.entry_id, SQL.entry_events) if is_entry else (position.event_id, SQL.other_events)
        rows = await self._readers.all(query, after_id=key - 1, until_id=key, types=None, count=1)
        event = (event_from_entry if is_entry else event_from_row)(rows[0]) if rows else None
        return event if event is not None and event.id == event_id(position) else None

    async def wait(self, commits: int, seconds: float) -> None:
        """Return once there are more than `commits` commits, when the service stops, or after `seconds`."""
        if self._is_stopped:
            return
        self._listeners += 1
        if commits != self._commits:
            self._wake_soon()
        try:
            async with asyncio.timeout(seconds):
                await self._committed.wait()
        except TimeoutError:
            pass
        finally:
            self._listeners -= 1

    def stop(self) -> None:
        """End every wait, now and later: the service stops."""
        self._is_stopped = True
        if self._waking is not None:
            self._waking.cancel()
        self._committed.set()
        for poll in self._polls:
            if not poll.page.done():
                poll.page.set_result((FeedPage([], poll.after, True), self._commits))

    async def _wait_for_page(self, poll: _Poll, commits: int, seconds: float) -> tuple[FeedPage, int] | None:
        """Return a shared page that may have events for a poll, None after that many seconds.

        `commits` is the number of commits before the poll last read the feed.
        """
        self._polls.add(poll)
        if commits != self._commits:
            self._wake_soon()
        try:
            async with asyncio.timeout(seconds):
                return await poll.page
        except TimeoutError:
            return None
        finally:
            self._polls.discard(poll)

    def _after_group(self) -> None:
        """Count a commit and wake the waiters; the writer calls this after each group of writes."""
        self._commits += 1
        if self._listeners or self._polls:
            self._wake_soon()

    def _wake_soon(self) -> None:
        # After a delay: under a steady load, polls would be woken without a pause.
        if self._waking is not None:
            self._must_wake_again = True
        elif not self._is_stopped:
            self._waking = asyncio.create_task(self._wake())

    async def _wake(self) -> None:
        """Wake the listeners, and the polls with one read of the feed for all of them."""
        try:
            await asyncio.sleep(max(WAKEUP_DELAY_SECONDS, self._wake_s))
            self._must_wake_again = False
            began_s = monotonic_s()
            committed, self._committed = self._committed, asyncio.Event()
            committed.set()
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
        commits = self._commits
        try:
            shared = await self.read(min(poll.after for poll in polls), types=types, count=_SHARED_EVENTS)
        except Exception as error:
            for poll in polls:
                if not poll.page.done():
                    poll.page.set_exception(error)
            return
        for number, poll in enumerate(polls, 1):
            if not poll.page.done():
                poll.page.set_result((shared, commits))
            if number % _WAKE_CHUNK == 0:
                await asyncio.sleep(0)

    def _last_event_before(self, entry_id: int) -> int:
        rows = self._readers.query_now(SQL.event_before_entry, entry_id=entry_id)
        return rows[0][0] if rows else 0


def end_of_feed(conn: Connection) -> Position:
    """Return the end of the feed within a transaction."""
    found = SQL.end_of_feed.one(conn)
    assert found is not None
    return Position(*found)


async def _serialize(entries: list[Row], others: list[Row], count: int) -> list[tuple[Position, Event]]:
    """Return the first `count` events of both tables, in the order of the feed."""
    found = heapq.merge(
        # The first columns of `entry_events` and `other_events` are the id, and (id, after_entry_id).
        ((Position(row[0], 0), row, event_from_entry) for row in entries),
        ((Position(row[1], row[0]), row, event_from_row) for row in others),
        key=itemgetter(0),
    )
    events: list[tuple[Position, Event]] = []
    for position, row, serialize in islice(found, count):
        events.append((position, serialize(row)))
        if len(events) % _SERIALIZE_CHUNK == 0:
            await asyncio.sleep(0)
    return events


def _select(shared: FeedPage, poll: _Poll, count: int) -> FeedPage:
    """Return the page of one poll, from a page that was read for several polls."""
    events = [
        (position, event)
        for position, event in shared.events
        if position > poll.after and (poll.types is None or event.type in poll.types)
    ][:count]
    if len(events) == count:
        return FeedPage(events, events[-1][0], False)
    return FeedPage(events, max(poll.after, shared.until), shared.is_end)


def _split(types: frozenset[str] | None) -> tuple[str | None, str | None]:
    """Return the types of entries and the other types, each as a JSON array; None for all."""
    if types is None:
        return None, None
    entry_types = sorted(name.removeprefix(LEDGER) for name in types if name.startswith(LEDGER))
    return encode(entry_types).decode(), encode(sorted(name for name in types if not name.startswith(LEDGER))).decode()
