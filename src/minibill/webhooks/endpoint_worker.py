"""One webhook: the events that are on their way to it, their order, and their retries.

In order for each account (and each campaign, of events without an account): an event is sent after the one before it was
accepted. When an event is rejected, the events of its account are set aside in the database, and those of other accounts go
on. At least once: accepted events are recorded a moment later, so after a kill some are sent again, with the same id.
"""

import asyncio
import heapq
import logging
import secrets
from collections import deque
from itertools import count
from typing import TYPE_CHECKING

import msgspec

from minibill.api.types import encode
from minibill.config import Settings
from minibill.core import ids
from minibill.core.clock import US_PER_SECOND, monotonic_s, real_now_us
from minibill.core.counters import Deliveries
from minibill.core.problems import Problem
from minibill.db.queries import Row
from minibill.db.sqlite import Connection
from minibill.events.position import BEGINNING, Position
from minibill.events.schemas import Event
from minibill.events.type_filter import parse_types
from minibill.webhooks import signing
from minibill.webhooks.endpoints import SQL, WebhookEndpoint

if TYPE_CHECKING:
    from minibill.book import Book
    from minibill.webhooks.sender import EndpointResponse, Sender

log = logging.getLogger("minibill.webhooks")

# Messages to one webhook that are on their way at the same time.
IN_FLIGHT_MAX = 8
# Events of one webhook that are held in memory: a few MiB.
WINDOW_EVENTS = 1_000
_READ_EVENTS = 200
# Accounts with a rejected event. With this many, a webhook reads no new events until one of them is accepted or abandoned.
REJECTED_LINES_MAX = 5_000
# Events of one account that are read together after its rejected event was accepted.
_RESUME_EVENTS = 50

# After each failure in a row, and then the last again and again; each is up to a fifth more or less.
DELAYS_S = (1, 5, 15, 60, 300, 900)

# A receiver that accepts nothing for so long is given up.
DISABLE_US = 5 * 24 * 3600 * US_PER_SECOND
# An event that is refused for so long, while others are accepted, no longer holds up its account.
GIVE_UP_US = 2 * 24 * 3600 * US_PER_SECOND

# How often it is written down what was accepted.
SAVE_SECONDS = 0.25
ATTEMPTS_KEPT = 20_000
# What is on its way when the service stops has this long to be answered.
STOP_SECONDS = 2.0
# How often webhooks are looked at when nothing happens.
LOOK_SECONDS = 1.0

GONE = 410


class _Item(msgspec.Struct, eq=False):
    """An event on its way to a webhook. `key` is its account or campaign: items of one key go one after the other."""

    place: Position
    event_id: str
    key: str
    body: bytes
    is_replay: bool = False
    attempts: int = 0
    first_failed_us: int | None = None
    is_done: bool = False


class EndpointWorker:
    """Delivers to one webhook, as it was configured when this began."""

    def __init__(
        self, book: "Book", settings: Settings, sender: "Sender", deliveries: Deliveries, hook: WebhookEndpoint
    ) -> None:
        self._book = book
        self._sender = sender
        self._deliveries = deliveries
        self._hook = hook
        self._settings = settings
        names = None if hook.types is None else msgspec.json.decode(hook.types)
        self._types = None if names is None else parse_types(names, "types")
        self._saved = hook.place
        self._read_until = hook.place
        self._is_at_end = False
        self._accepted = {Position(*row) for row in book.readers.query_now(SQL.accepted_by_webhook, webhook_id=hook.id)}
        tried = book.readers.query_now(SQL.tries_of_webhook, webhook_id=hook.id)
        self._tried = {Position(entry_id, number): (attempts, first_us) for entry_id, number, attempts, first_us in tried}
        # What was read and not accepted up to the first that is not, in the order of the feed.
        self._window: deque[_Item] = deque()
        # By key, what goes one after the other; the first of each is ready, on its way, or put off.
        self._lines: dict[str, deque[_Item]] = {}
        # The keys whose events are set aside, and of those whose next events are to be read: the last place that is done.
        self._rejected = {key for (key,) in book.readers.query_now(SQL.lines_set_aside, webhook_id=hook.id)}
        self._to_resume = dict.fromkeys(self._rejected, BEGINNING)
        self._ready: deque[_Item] = deque()
        self._put_off: list[tuple[float, int, _Item]] = []
        self._numbers = count()
        self._sending: set[asyncio.Task[None]] = set()
        self._poked = asyncio.Event()
        # A receiver that fails is tried with one message at a time, less and less often, until it accepts one.
        self._failures = 0
        self._failed_s = 0.0
        self._rests_until_s = 0.0
        self._failing_since_us = hook.failing_since_us
        self._last_accepted_us = 0
        self._is_gone = False
        self._is_leaving = False
        self._error: BaseException | None = None
        # What is not yet written down.
        self._attempts: list[Row] = []
        self._new_accepted: list[Position] = []
        self._replayed: list[Position] = []
        self._new_set_aside: list[tuple[str, Position]] = []
        self._done_set_aside: list[tuple[str, Position]] = []
        self._is_unsaved = False
        self._saved_s = monotonic_s()

    def stop(self, task: "asyncio.Task[None]") -> None:
        """Has its task come to an end; once, since a second time would cut off the ending."""
        if not self._is_leaving:
            self._is_leaving = True
            task.cancel()

    def wake(self) -> None:
        """There may be something to do."""
        self._is_at_end = False
        self._poked.set()

    async def run(self) -> None:
        """Delivers until it is cancelled, or the webhook is given up."""
        try:
            await self._take_up_replays()
            while not self._is_over():
                self._poked.clear()
                if self._error is not None:
                    raise self._error
                await self._resume()
                await self._read()
                self._send_what_may_go()
                if self._is_unsaved and monotonic_s() >= self._saved_s + SAVE_SECONDS:
                    await self._save()
                await self._until_something_is_to_do()
            await self._book.in_background(self._disable)
        except Exception:
            # The courier begins anew with it, from what is written down.
            log.exception("delivering to a webhook failed", extra={"webhook": self._name})
            await asyncio.sleep(DELAYS_S[0])
        finally:
            # A worker that ends by itself is not cancelled while it ends.
            self._is_leaving = True
            await self._end()

    @property
    def _name(self) -> str:
        return ids.encode(ids.WEBHOOK, self._hook.id)

    # --- what is to be sent ---

    async def _take_up_replays(self) -> None:
        for row in self._book.readers.query_now(SQL.replays_of_webhook, webhook_id=self._hook.id):
            place = Position(*row)
            event = await self._book.feed.at(place)
            if event is not None:
                self._enqueue(_Item(place, event.id, f"replay {event.id}", encode(event), is_replay=True))

    @property
    def _may_read(self) -> bool:
        has_room = len(self._window) < WINDOW_EVENTS and len(self._rejected) < REJECTED_LINES_MAX
        return has_room and not self._is_at_end

    async def _read(self) -> None:
        if not self._may_read:
            return
        self._is_at_end = True
        room = WINDOW_EVENTS - len(self._window)
        told = await self._book.feed.read(self._read_until, types=self._types, count=min(room, _READ_EVENTS))
        self._is_at_end = self._is_at_end and told.is_end
        for place, event in told.events:
            self._take_on(place, event)
        self._is_unsaved = self._is_unsaved or told.until != self._read_until
        self._read_until = told.until

    def _take_on(self, place: Position, event: Event) -> None:
        key = event.account_id or event.campaign_id or ""
        if key in self._rejected:
            self._new_set_aside.append((key, place))
            return
        item = self._new_item(place, event, key)
        self._window.append(item)
        if place in self._accepted:
            item.is_done = True
            return
        self._enqueue(item)

    def _new_item(self, place: Position, event: Event, key: str) -> _Item:
        item = _Item(place, event.id, key, encode(event))
        item.attempts, item.first_failed_us = self._tried.pop(place, (0, None))
        return item

    def _set_aside(self, key: str) -> None:
        """Set the events of a key aside in the database; its first event, which was rejected, stays in memory."""
        self._rejected.add(key)
        line = self._lines[key]
        for item in line:
            item.is_done = True
            self._new_set_aside.append((key, item.place))
        while len(line) > 1:
            line.pop()

    async def _resume(self) -> None:
        """Line up the next events of each key whose rejected event was accepted or abandoned."""
        if not self._to_resume or (self._new_set_aside and not await self._save()):
            return
        to_resume, self._to_resume = self._to_resume, {}
        for key, done in to_resume.items():
            # After a start the rejected event alone: it may be rejected again.
            count = 1 if done == BEGINNING else _RESUME_EVENTS
            rows = self._book.readers.query_now(
                SQL.next_set_aside, webhook_id=self._hook.id, line_key=key, **done._asdict(), count=count
            )
            if not rows:
                self._rejected.discard(key)
            for place in (Position(*row) for row in rows):
                event = await self._book.feed.at(place)
                if event is None or (self._types is not None and event.type not in self._types):
                    self._done_set_aside.append((key, place))
                else:
                    self._enqueue(self._new_item(place, event, key))
            if rows and key not in self._lines:
                self._to_resume[key] = Position(*rows[-1])

    def _enqueue(self, item: _Item) -> None:
        line = self._lines.setdefault(item.key, deque())
        line.append(item)
        if len(line) == 1:
            self._ready.append(item)

    def _send_what_may_go(self) -> None:
        now_s = monotonic_s()
        while self._put_off and self._put_off[0][0] <= now_s:
            self._ready.append(heapq.heappop(self._put_off)[2])
        if now_s < self._rests_until_s:
            return
        at_once = 1 if self._failures else IN_FLIGHT_MAX
        while self._ready and len(self._sending) < at_once:
            task = asyncio.create_task(self._send(self._ready.popleft()))
            self._sending.add(task)
            task.add_done_callback(self._sent)

    def _sent(self, task: "asyncio.Task[None]") -> None:
        self._sending.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # It would hold up its line for ever: the round ends by it, and another begins.
            self._error = error
            self._poked.set()

    async def _until_something_is_to_do(self) -> None:
        now_s = monotonic_s()
        times = [now_s + LOOK_SECONDS]
        if self._ready and len(self._sending) < (1 if self._failures else IN_FLIGHT_MAX):
            times.append(self._rests_until_s)
        if self._put_off:
            times.append(max(self._put_off[0][0], self._rests_until_s))
        if self._is_unsaved:
            times.append(self._saved_s + SAVE_SECONDS)
        if self._may_read:
            times.append(now_s)
        try:
            async with asyncio.timeout(max(0, min(times) - now_s)):
                await self._poked.wait()
        except TimeoutError:
            pass

    # --- what becomes of it ---

    async def _send(self, item: _Item) -> None:
        began_s, began_us = monotonic_s(), real_now_us()
        headers = signing.headers(
            self._hook.secrets(self._settings),
            message_id=item.event_id,
            timestamp_s=began_us // US_PER_SECOND,
            body=item.body,
        )
        answer = await self._sender.post(self._hook.url, headers, item.body)
        item.attempts += 1
        if answer.error is None:
            outcome = "accepted"
            self._failures = 0
            self._rests_until_s = 0.0
            self._failing_since_us = None
            self._last_accepted_us = real_now_us()
        else:
            item.first_failed_us = item.first_failed_us or began_us
            outcome = "abandoned" if self._is_hopeless(item) else "failed"
            self._count_failure(answer, began_s, began_us)
        self._deliveries.counts[outcome] += 1
        self._attempts.append((
            self._hook.id, *item.place, item.attempts, outcome, answer.status, answer.error,
            round((monotonic_s() - began_s) * US_PER_SECOND), began_us,
        ))  # fmt: skip
        if outcome == "failed":
            if not item.is_replay and item.key not in self._rejected:
                self._set_aside(item.key)
            retry_s = monotonic_s() + max(_delay_s(item.attempts), answer.retry_after_s)
            heapq.heappush(self._put_off, (retry_s, next(self._numbers), item))
        else:
            self._finish(item)
        self._is_unsaved = True
        self._poked.set()

    def _count_failure(self, answer: "EndpointResponse", began_s: float, began_us: int) -> None:
        self._failing_since_us = self._failing_since_us or began_us
        self._is_gone = self._is_gone or answer.status == GONE
        # Those that were on their way together have failed together.
        if began_s >= self._failed_s:
            self._failures += 1
            self._failed_s = monotonic_s()
            # One failure may be about its event alone: the next event is tried at once.
            delay_s = _delay_s(self._failures - 1) if self._failures > 1 else 0
            self._rests_until_s = self._failed_s + max(delay_s, answer.retry_after_s)

    def _is_hopeless(self, item: _Item) -> bool:
        """Return true if a receiver that accepts other events has rejected this one for days."""
        since_us = item.first_failed_us
        return since_us is not None and since_us < self._last_accepted_us and real_now_us() - since_us >= GIVE_UP_US

    def _finish(self, item: _Item) -> None:
        """An event that was accepted, or given up, makes room for the next of its line."""
        item.is_done = True
        if item.is_replay:
            self._replayed.append(item.place)
        elif item.key in self._rejected:
            self._done_set_aside.append((item.key, item.place))
        else:
            self._new_accepted.append(item.place)
        line = self._lines[item.key]
        line.popleft()
        if line:
            self._ready.append(line[0])
        else:
            del self._lines[item.key]
            if item.key in self._rejected:
                self._to_resume[item.key] = item.place

    def _is_over(self) -> bool:
        failing_since_us = self._failing_since_us
        return self._is_gone or (failing_since_us is not None and real_now_us() - failing_since_us >= DISABLE_US)

    # --- what is written down ---

    async def _save(self) -> bool:
        """Write down how far it came, and return true; what cannot be written now is kept for the next time."""
        while self._window and self._window[0].is_done:
            self._saved = self._window.popleft().place
        if not self._window:
            self._saved = self._read_until
        attempts, self._attempts = self._attempts, []
        accepted = [place for place in self._new_accepted if place > self._saved]
        replayed, self._replayed = self._replayed, []
        set_aside, self._new_set_aside = self._new_set_aside, []
        done_set_aside, self._done_set_aside = self._done_set_aside, []
        self._new_accepted = []
        self._is_unsaved = False
        self._saved_s = monotonic_s()
        saved, failing_since_us = self._saved, self._failing_since_us

        def save(conn: Connection) -> None:
            hook = self._hook
            found = SQL.find_webhook.one(conn, webhook_id=hook.id)
            if found is None:
                return
            SQL.add_attempts.many(conn, attempts)
            SQL.forget_attempts.run(conn, kept=ATTEMPTS_KEPT)
            for entry_id, number in replayed:
                SQL.remove_replay.run(conn, webhook_id=hook.id, entry_id=entry_id, event_id=number)
            moved = SQL.advance_webhook.one(
                conn,
                webhook_id=hook.id,
                revision=hook.revision,
                entry_id=saved.entry_id,
                event_id=saved.event_id,
                failing_since_us=failing_since_us,
            )
            if moved is None:
                return
            SQL.set_aside.many(conn, [(hook.id, key, *place) for key, place in set_aside])
            for key, place in done_set_aside:
                SQL.remove_set_aside.run(conn, webhook_id=hook.id, line_key=key, **place._asdict())
            SQL.forget_accepted_until.run(conn, webhook_id=hook.id, entry_id=saved.entry_id, event_id=saved.event_id)
            SQL.add_accepted.many(conn, [(hook.id, place.entry_id, place.event_id) for place in accepted])

        try:
            await self._book.in_background(save)
        except Problem as problem:
            log.warning("how far a webhook has come was not written down", extra={"reason": problem.detail})
            self._attempts = attempts + self._attempts
            self._new_accepted = accepted + self._new_accepted
            self._replayed = replayed + self._replayed
            self._new_set_aside = set_aside + self._new_set_aside
            self._done_set_aside = done_set_aside + self._done_set_aside
            self._is_unsaved = True
            return False
        return True

    def _disable(self, conn: Connection) -> None:
        log.warning("a webhook was disabled: its receiver accepts nothing", extra={"webhook": self._name})
        now_us = self._book.clock.now_us()
        SQL.disable_webhook.run(
            conn,
            webhook_id=self._hook.id,
            revision=self._hook.revision,
            failing_since_us=self._failing_since_us,
            now_us=now_us,
        )

    async def _end(self) -> None:
        if self._sending:
            await asyncio.wait(self._sending, timeout=STOP_SECONDS)
        for task in self._sending:
            task.cancel()
        # Each lets go of its connection before the pool closes.
        await asyncio.gather(*self._sending, return_exceptions=True)
        if self._is_unsaved:
            await self._save()
        await self._sender.close()


def _delay_s(failures: int) -> float:
    """Return the delay after that many failures in a row; random, so that retries are spread."""
    return DELAYS_S[min(failures, len(DELAYS_S)) - 1] * (0.8 + secrets.randbelow(400) / 1000)
