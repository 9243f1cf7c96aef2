"""Worker of one webhook endpoint: read the feed, send events in order, retry, and save the progress.

Order holds per account, and per campaign for events without an account: an event is sent after the one before it was
accepted. When an event is rejected, later events of its account are set aside in the database, and those of other accounts
continue. Delivery is at least once: acceptance is saved a moment later, so a kill causes repetitions with the same id.
"""

import asyncio
import logging
from typing import TYPE_CHECKING

import msgspec

from minibill.api.types import encode
from minibill.config import Settings
from minibill.core.clock import US_PER_SECOND, monotonic_s, real_now_us
from minibill.core.counters import Deliveries
from minibill.db.sqlite import Connection
from minibill.events.position import BEGINNING, Position
from minibill.events.schemas import Event
from minibill.events.type_filter import parse_types
from minibill.webhooks import signing
from minibill.webhooks.delivery_queue import DeliveryQueue, QueuedEvent
from minibill.webhooks.endpoint_health import EndpointHealth, retry_delay_s
from minibill.webhooks.endpoints import SQL, WebhookEndpoint
from minibill.webhooks.progress import Attempt, DeliveryProgress

if TYPE_CHECKING:
    from minibill.book import Book
    from minibill.webhooks.sender import Sender

log = logging.getLogger("minibill.webhooks")

# Events of one endpoint held in memory: a few MiB.
WINDOW_EVENTS = 1_000
_READ_EVENTS = 200
# Keys with a rejected event. At this limit the worker reads no new events until one of these is accepted or abandoned.
REJECTED_KEYS_MAX = 5_000
# Events of one key that are read together after its rejected event was accepted.
_RESUME_EVENTS = 50

# A worker that failed restarts after this delay.
RESTART_SECONDS = 1.0
# When the service stops, the worker waits this long for responses to messages in flight.
STOP_SECONDS = 2.0
# An idle worker checks its times this often.
POLL_SECONDS = 1.0


class EndpointWorker:
    """Deliver events to one endpoint, with the configuration that it had at the start."""

    def __init__(
        self, book: "Book", settings: Settings, sender: "Sender", deliveries: Deliveries, endpoint: WebhookEndpoint
    ) -> None:
        self._book = book
        self._settings = settings
        self._sender = sender
        self._deliveries = deliveries
        self._endpoint = endpoint
        names = None if endpoint.types is None else msgspec.json.decode(endpoint.types)
        self._types = None if names is None else parse_types(names, "types")
        self._queue = DeliveryQueue()
        self._health = EndpointHealth(endpoint.failing_since_us)
        self._progress = DeliveryProgress(book, endpoint)
        self._is_at_end = False

        read = book.readers.query_now
        self._accepted = {Position(*row) for row in read(SQL.accepted_by_webhook, webhook_id=endpoint.id)}
        # The number of earlier attempts of an event, and the time of the first.
        self._attempted = {
            Position(entry_id, event_id): (attempts, first_us)
            for entry_id, event_id, attempts, first_us in read(SQL.attempts_by_event, webhook_id=endpoint.id)
        }
        # The keys with events set aside. Those whose next events must be read have the last position that is done.
        self._rejected = {key for (key,) in read(SQL.keys_set_aside, webhook_id=endpoint.id)}
        self._to_resume = dict.fromkeys(self._rejected, BEGINNING)

        self._sending: set[asyncio.Task[None]] = set()
        self._woken = asyncio.Event()
        self._is_stopping = False
        self._error: BaseException | None = None

    def stop(self, task: "asyncio.Task[None]") -> None:
        """Cancel the worker's task, once: a second cancellation would interrupt its shutdown."""
        if not self._is_stopping:
            self._is_stopping = True
            task.cancel()

    def wake(self) -> None:
        """Look for new events."""
        self._is_at_end = False
        self._woken.set()

    async def run(self) -> None:
        """Deliver until the task is cancelled, or the endpoint is disabled."""
        try:
            await self._enqueue_replays()
            while not self._health.must_be_disabled:
                self._woken.clear()
                if self._error is not None:
                    raise self._error
                await self._resume()
                await self._read()
                self._send_ready()
                save_at_s = self._progress.save_at_s
                if save_at_s is not None and monotonic_s() >= save_at_s:
                    await self._save()
                await self._wait()
            await self._book.in_background(self._disable)
        except Exception:
            # The dispatcher starts another worker, which continues from the saved progress.
            log.exception("webhook delivery failed; restarting", extra={"webhook": self._endpoint.public_id})
            await asyncio.sleep(RESTART_SECONDS)
        finally:
            # A worker that ends by itself must not be cancelled during its shutdown.
            self._is_stopping = True
            await self._shut_down()

    # --- reading ---

    async def _enqueue_replays(self) -> None:
        for row in self._book.readers.query_now(SQL.replays_of_webhook, webhook_id=self._endpoint.id):
            position = Position(*row)
            event = await self._book.feed.event_at(position)
            if event is not None:
                self._queue.enqueue(QueuedEvent(position, event.id, f"replay {event.id}", encode(event), is_replay=True))

    @property
    def _can_read(self) -> bool:
        has_room = self._progress.window_events < WINDOW_EVENTS and len(self._rejected) < REJECTED_KEYS_MAX
        return has_room and not self._is_at_end

    async def _read(self) -> None:
        if not self._can_read:
            return
        self._is_at_end = True
        room = WINDOW_EVENTS - self._progress.window_events
        page = await self._book.feed.read(self._progress.read_until, types=self._types, count=min(room, _READ_EVENTS))
        # `wake` may have been called during the read.
        self._is_at_end = self._is_at_end and page.is_end
        for position, event in page.events:
            self._add(position, event)
        self._progress.advance(page.until)

    def _add(self, position: Position, event: Event) -> None:
        key = event.account_id or event.campaign_id or ""
        if key in self._rejected:
            self._progress.set_aside(key, position)
            return
        queued = self._new_event(position, event, key)
        self._progress.add_to_window(queued)
        if position in self._accepted:
            queued.is_done = True
        else:
            self._queue.enqueue(queued)

    def _new_event(self, position: Position, event: Event, key: str) -> QueuedEvent:
        attempts, first_failed_us = self._attempted.pop(position, (0, None))
        return QueuedEvent(position, event.id, key, encode(event), attempts=attempts, first_failed_us=first_failed_us)

    def _set_aside(self, key: str) -> None:
        """Set the events of a key aside in the database; its first event, which was rejected, stays in memory."""
        self._rejected.add(key)
        for event in self._queue.drop_behind_first(key):
            event.is_done = True
            self._progress.set_aside(key, event.position)

    async def _resume(self) -> None:
        """Enqueue the next events of each key whose rejected event was accepted or abandoned."""
        if not self._to_resume or (self._progress.has_unsaved_set_aside and not await self._save()):
            return
        to_resume, self._to_resume = self._to_resume, {}
        for key, done in to_resume.items():
            # After a start only the rejected event is read: the endpoint may reject it again.
            count = 1 if done == BEGINNING else _RESUME_EVENTS
            rows = self._book.readers.query_now(
                SQL.next_set_aside, webhook_id=self._endpoint.id, line_key=key, **done._asdict(), count=count
            )
            if not rows:
                self._rejected.discard(key)
            for position in (Position(*row) for row in rows):
                event = await self._book.feed.event_at(position)
                if event is None or (self._types is not None and event.type not in self._types):
                    self._progress.finish_set_aside(key, position)
                else:
                    self._queue.enqueue(self._new_event(position, event, key))
            if rows and key not in self._queue:
                self._to_resume[key] = Position(*rows[-1])

    # --- sending ---

    def _send_ready(self) -> None:
        now_s = monotonic_s()
        self._queue.start_retries(now_s)
        if now_s < self._health.paused_until_s:
            return
        while self._queue.has_ready and len(self._sending) < self._health.in_flight_max:
            task = asyncio.create_task(self._send(self._queue.next_ready()))
            self._sending.add(task)
            task.add_done_callback(self._sent)

    def _sent(self, task: "asyncio.Task[None]") -> None:
        self._sending.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # The event would block its key for ever, so the worker ends with this error, and another starts.
            self._error = error
            self._woken.set()

    async def _send(self, event: QueuedEvent) -> None:
        began_s, began_us = monotonic_s(), real_now_us()
        headers = signing.headers(
            self._endpoint.secrets(self._settings),
            message_id=event.event_id,
            timestamp_s=began_us // US_PER_SECOND,
            body=event.body,
        )
        response = await self._sender.post(self._endpoint.url, headers, event.body)
        event.attempts += 1
        if response.error is None:
            outcome = "accepted"
            self._health.record_success()
        else:
            event.first_failed_us = event.first_failed_us or began_us
            outcome = "abandoned" if self._health.is_hopeless(event.first_failed_us) else "failed"
            self._health.record_failure(response, began_s=began_s, began_us=began_us)
        self._deliveries.counts[outcome] += 1
        duration_us = round((monotonic_s() - began_s) * US_PER_SECOND)
        self._progress.add_attempt(
            Attempt(
                self._endpoint.id, *event.position, event.attempts, outcome, response.status, response.error, duration_us,
                began_us,
            )
        )  # fmt: skip
        if outcome == "failed":
            if not event.is_replay and event.key not in self._rejected:
                self._set_aside(event.key)
            self._queue.retry_at(event, monotonic_s() + max(retry_delay_s(event.attempts), response.retry_after_s))
        else:
            self._finish(event)
        self._woken.set()

    def _finish(self, event: QueuedEvent) -> None:
        """Record an event as accepted or abandoned, and let the next one of its key follow."""
        event.is_done = True
        if event.is_replay:
            self._progress.finish_replay(event.position)
        elif event.key in self._rejected:
            self._progress.finish_set_aside(event.key, event.position)
        else:
            self._progress.finish(event.position)
        self._queue.finish(event)
        if event.key not in self._queue and event.key in self._rejected:
            self._to_resume[event.key] = event.position

    async def _wait(self) -> None:
        """Wait until the worker is woken, or the next of its times comes."""
        now_s = monotonic_s()
        times_s = [now_s + POLL_SECONDS]
        if self._queue.has_ready and len(self._sending) < self._health.in_flight_max:
            times_s.append(self._health.paused_until_s)
        if (next_retry_s := self._queue.next_retry_s) is not None:
            times_s.append(max(next_retry_s, self._health.paused_until_s))
        if (save_at_s := self._progress.save_at_s) is not None:
            times_s.append(save_at_s)
        if self._can_read:
            times_s.append(now_s)
        try:
            async with asyncio.timeout(max(0, min(times_s) - now_s)):
                await self._woken.wait()
        except TimeoutError:
            pass

    # --- saving and ending ---

    async def _save(self) -> bool:
        return await self._progress.save(self._health.failing_since_us)

    def _disable(self, conn: Connection) -> None:
        log.warning("webhook disabled: its endpoint accepts nothing", extra={"webhook": self._endpoint.public_id})
        SQL.disable_webhook.run(
            conn,
            webhook_id=self._endpoint.id,
            revision=self._endpoint.revision,
            failing_since_us=self._health.failing_since_us,
            now_us=self._book.clock.now_us(),
        )

    async def _shut_down(self) -> None:
        if self._sending:
            await asyncio.wait(self._sending, timeout=STOP_SECONDS)
        for task in self._sending:
            task.cancel()
        # Each task releases its connection before the pool closes.
        await asyncio.gather(*self._sending, return_exceptions=True)
        if self._progress.save_at_s is not None:
            await self._save()
        await self._sender.close()
