"""Events in flight to one endpoint: one queue per account, so that its events are sent in order."""

import heapq
from collections import deque
from itertools import count

import msgspec

from minibill.events.position import Position


class QueuedEvent(msgspec.Struct, eq=False):
    """An event to deliver. `key` is its account or campaign: the events of one key are sent one after the other."""

    position: Position
    event_id: str
    key: str
    body: bytes
    is_replay: bool = False
    attempts: int = 0
    first_failed_us: int | None = None
    # Accepted, abandoned, or set aside in the database.
    is_done: bool = False


class DeliveryQueue:
    """The events of one endpoint that are held in memory until they are done.

    The first event of each key is ready, being sent, or waiting for a retry. The others wait behind it.
    """

    def __init__(self) -> None:
        self._by_key: dict[str, deque[QueuedEvent]] = {}
        self._ready: deque[QueuedEvent] = deque()
        # A heap of (time, number, event); the number orders events of the same time.
        self._retries: list[tuple[float, int, QueuedEvent]] = []
        self._numbers = count()

    def __contains__(self, key: str) -> bool:
        return key in self._by_key

    @property
    def has_ready(self) -> bool:
        """True if an event can be sent now."""
        return bool(self._ready)

    @property
    def next_retry_s(self) -> float | None:
        """The monotonic time of the next retry, None without one."""
        return self._retries[0][0] if self._retries else None

    def enqueue(self, event: QueuedEvent) -> None:
        """Add an event behind the events of its key."""
        same_key = self._by_key.setdefault(event.key, deque())
        same_key.append(event)
        if len(same_key) == 1:
            self._ready.append(event)

    def next_ready(self) -> QueuedEvent:
        """Remove and return the event that has been ready for the longest time."""
        return self._ready.popleft()

    def retry_at(self, event: QueuedEvent, time_s: float) -> None:
        """Make a failed event ready again at that monotonic time."""
        heapq.heappush(self._retries, (time_s, next(self._numbers), event))

    def start_retries(self, now_s: float) -> None:
        """Make the events ready whose retry time has come."""
        while self._retries and self._retries[0][0] <= now_s:
            self._ready.append(heapq.heappop(self._retries)[2])

    def drop_behind_first(self, key: str) -> list[QueuedEvent]:
        """Keep only the first event of a key; return all of them, the first included."""
        events = list(self._by_key[key])
        self._by_key[key] = deque(events[:1])
        return events

    def finish(self, event: QueuedEvent) -> None:
        """Remove the first event of its key, and make the next one ready."""
        same_key = self._by_key[event.key]
        same_key.popleft()
        if same_key:
            self._ready.append(same_key[0])
        else:
            del self._by_key[event.key]
