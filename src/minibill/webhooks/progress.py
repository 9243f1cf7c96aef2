"""Delivery progress of one endpoint: the window of events read, and the changes that are not yet in the database."""

import logging
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from minibill.core.clock import monotonic_s
from minibill.core.problems import Problem
from minibill.db.sqlite import Connection
from minibill.events.position import Position
from minibill.webhooks.delivery_queue import QueuedEvent
from minibill.webhooks.endpoints import SQL, WebhookEndpoint

if TYPE_CHECKING:
    from minibill.book import Book

log = logging.getLogger("minibill.webhooks")

# Accepted events are recorded this often; after a kill, those since the last record are sent again.
SAVE_SECONDS = 0.25
# Attempts of all endpoints in the delivery log.
ATTEMPTS_KEPT = 20_000


class Attempt(NamedTuple):
    """A row of `webhook_attempts` to insert."""

    webhook_id: int
    entry_id: int
    event_id: int
    attempt: int
    outcome: str
    status: int | None
    error: str | None
    duration_us: int
    attempted_at_us: int


class _Changes(msgspec.Struct):
    """Rows to write in the next transaction."""

    attempts: list[Attempt] = []
    accepted: list[Position] = []
    replayed: list[Position] = []
    # Events behind a rejected event, by key.
    set_aside: list[tuple[str, Position]] = []
    set_aside_done: list[tuple[str, Position]] = []

    def followed_by(self, later: "_Changes") -> "_Changes":
        """Return these changes and later ones, in that order."""
        return _Changes(
            self.attempts + later.attempts,
            self.accepted + later.accepted,
            self.replayed + later.replayed,
            self.set_aside + later.set_aside,
            self.set_aside_done + later.set_aside_done,
        )


class DeliveryProgress:
    """The progress of one endpoint. `save` writes it, and keeps it for the next time if the write fails."""

    def __init__(self, book: "Book", endpoint: WebhookEndpoint) -> None:
        self._book = book
        self._endpoint = endpoint
        # The end of the events that were read, and the position up to which all are done.
        self.read_until = endpoint.position
        self._saved = endpoint.position
        # In the order of the feed, the events read from the first that is not done.
        self._window: deque[QueuedEvent] = deque()
        self._changes = _Changes()
        self._is_unsaved = False
        self._saved_s = monotonic_s()

    @property
    def window_events(self) -> int:
        """The number of events held in memory since the first that is not done."""
        return len(self._window)

    @property
    def save_at_s(self) -> float | None:
        """The monotonic time of the next save, None if nothing has changed."""
        return self._saved_s + SAVE_SECONDS if self._is_unsaved else None

    @property
    def has_unsaved_set_aside(self) -> bool:
        """True if the database lacks events that were set aside."""
        return bool(self._changes.set_aside)

    def add_to_window(self, event: QueuedEvent) -> None:
        """Add the event that was read last."""
        self._window.append(event)

    def advance(self, until: Position) -> None:
        """Record that the feed was read up to that position."""
        self._is_unsaved = self._is_unsaved or until != self.read_until
        self.read_until = until

    def add_attempt(self, attempt: Attempt) -> None:
        """Record an attempt."""
        self._changes.attempts.append(attempt)
        self._is_unsaved = True

    def set_aside(self, key: str, position: Position) -> None:
        """Record that an event waits in the database behind the rejected event of its key."""
        self._changes.set_aside.append((key, position))

    def finish_set_aside(self, key: str, position: Position) -> None:
        """Record that an event that was set aside is done."""
        self._changes.set_aside_done.append((key, position))

    def finish_replay(self, position: Position) -> None:
        """Record that an event was sent again."""
        self._changes.replayed.append(position)

    def finish(self, position: Position) -> None:
        """Record that an event was accepted or abandoned."""
        self._changes.accepted.append(position)

    async def save(self, failing_since_us: int | None) -> bool:
        """Write the changes; return false if the write failed, and keep them for the next save."""
        while self._window and self._window[0].is_done:
            self._saved = self._window.popleft().position
        if not self._window:
            self._saved = self.read_until
        changes, self._changes = self._changes, _Changes()
        changes.accepted = [position for position in changes.accepted if position > self._saved]
        saved = self._saved
        self._is_unsaved = False
        self._saved_s = monotonic_s()
        try:
            await self._book.in_background(lambda conn: self._write(conn, changes, saved, failing_since_us))
        except Problem as problem:
            log.warning(
                "could not save webhook progress; will retry",
                extra={"webhook": self._endpoint.public_id, "reason": problem.detail},
            )
            self._changes = changes.followed_by(self._changes)
            self._is_unsaved = True
            return False
        return True

    def _write(self, conn: Connection, changes: _Changes, saved: Position, failing_since_us: int | None) -> None:
        endpoint = self._endpoint
        if SQL.find_webhook.one(conn, webhook_id=endpoint.id) is None:
            return
        SQL.insert_attempts.many(conn, changes.attempts)
        SQL.prune_attempts.run(conn, kept=ATTEMPTS_KEPT)
        for position in changes.replayed:
            SQL.delete_replay.run(conn, webhook_id=endpoint.id, **position._asdict())
        advanced = SQL.advance_webhook.one(
            conn,
            webhook_id=endpoint.id,
            revision=endpoint.revision,
            failing_since_us=failing_since_us,
            **saved._asdict(),
        )
        if advanced is None:
            # The endpoint was edited meanwhile; its next worker starts from the database.
            return
        SQL.insert_set_aside.many(conn, [(endpoint.id, key, *position) for key, position in changes.set_aside])
        for key, position in changes.set_aside_done:
            SQL.delete_set_aside.run(conn, webhook_id=endpoint.id, line_key=key, **position._asdict())
        SQL.delete_accepted_until.run(conn, webhook_id=endpoint.id, **saved._asdict())
        SQL.insert_accepted.many(conn, [(endpoint.id, *position) for position in changes.accepted])
