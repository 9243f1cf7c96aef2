"""The lanes of the writer: the scheduler decides which queue the next group comes from.

Requests come first. Bulk and background work runs in slices, each in its own transaction. While requests arrive, a slice and
its COMMIT are followed by a pause in which only requests run, `PAUSE_SHARE` times as long. All requests that wait when the
pause ends run before the next slice. Then the slice runs, even if new requests have arrived, so neither side starves.
"""

from collections import deque
from enum import IntEnum

from minibill.db.write_task import WriteTask

# The pause after a slice, as a multiple of the duration of the slice.
PAUSE_SHARE = 3.0

# The weight of a group's duration, relative to the group after it.
OLDER_GROUP_SHARE = 0.8

# Writes that may wait; one more is rejected. At 5,000 writes per second the last of them waits 0.4 s.
QUEUE_MAX = 2_000

# The longest expected wait of one more write, by the durations of earlier groups: 2,000 large batches of 30 ms would take a
# minute, and no client waits so long. `QUEUE_MIN` writes may wait in any case, since one slow group predicts little.
WAIT_SECONDS_MAX = 2.0
QUEUE_MIN = 64
# The same limits for batches, each of which may be a long list.
BULK_MAX = 256
BULK_MIN = 16


class Lane(IntEnum):
    """The kind of a write: a request, a batch of a client, or the maintenance of the service itself."""

    REQUEST = 0
    BULK = 1
    BACKGROUND = 2


# A module's name is faster to look up than an attribute of an enum.
_REQUEST, _BULK = Lane.REQUEST, Lane.BULK


class Queue:
    """The waiting tasks of one lane, and the durations of its latest groups, with the most weight on the newest."""

    __slots__ = ("recent_seconds", "recent_writes", "tasks")

    def __init__(self) -> None:
        self.tasks: deque[WriteTask] = deque()
        self.recent_seconds = 0.0
        self.recent_writes = 0.0

    def note(self, seconds: float, writes: int) -> None:
        """Record a group that has ended."""
        self.recent_seconds = self.recent_seconds * OLDER_GROUP_SHARE + seconds
        self.recent_writes = self.recent_writes * OLDER_GROUP_SHARE + writes

    def is_full(self, at_most: int, at_least: int, seconds_max: float) -> bool:
        """Return true if one more task would be too many, or would wait too long behind at least `at_least` others."""
        waiting = len(self.tasks)
        return waiting >= at_most or (
            waiting >= at_least and waiting * self.recent_seconds > seconds_max * self.recent_writes
        )


class LaneScheduler:
    """The queues of all lanes. Times are monotonic seconds."""

    def __init__(self) -> None:
        self.requests, self.bulk, self.background = self.queues = (Queue(), Queue(), Queue())
        # The end of the pause after the latest slice.
        self._resume_s = 0.0
        # The requests that still run before the next slice; None while no slice is next.
        self._ahead: int | None = None
        # True once a request has run since the latest slice.
        self._has_requests = False
        self._last_slice = self.background

    def __bool__(self) -> bool:
        return bool(self.requests.tasks or self.bulk.tasks or self.background.tasks)

    def is_full(self, lane: Lane) -> bool:
        """Return true if one more task is rejected. Background work never is: each job has one task at a time."""
        if lane is _REQUEST:
            return self.requests.is_full(QUEUE_MAX, QUEUE_MIN, WAIT_SECONDS_MAX)
        return lane is _BULK and self.bulk.is_full(BULK_MAX, BULK_MIN, WAIT_SECONDS_MAX)

    def take_all(self) -> list[WriteTask]:
        """Remove all waiting tasks and return them."""
        tasks = [task for queue in self.queues for task in queue.tasks]
        for queue in self.queues:
            queue.tasks.clear()
        return tasks

    def wait_s(self, now_s: float, *, hurry: bool = False) -> float:
        """Return the seconds until the next group may begin. In a `hurry` there are no pauses."""
        return 0.0 if hurry or self.requests.tasks else max(0.0, self._resume_s - now_s)

    def next(self, now_s: float, *, hurry: bool = False) -> Queue | None:
        """Return the queue of the next group; None when nothing may run now."""
        requests = self.requests if self.requests.tasks else None
        if not (self.bulk.tasks or self.background.tasks) or not (hurry or now_s >= self._resume_s):
            return requests
        if self._ahead is None:
            self._ahead = len(self.requests.tasks)
        return requests if requests is not None and self._ahead > 0 else self._slice()

    def ended(self, queue: Queue, tasks: int, *, seconds: float, now_s: float) -> None:
        """Record the end of a group: its number of tasks, and its duration including the COMMIT."""
        pause_s = 0.0
        if queue is self.requests:
            self._has_requests = True
            if self._ahead is not None:
                self._ahead -= tasks
        else:
            if self._has_requests or self.requests.tasks:
                pause_s = PAUSE_SHARE * seconds
            self._resume_s = now_s + pause_s
            self._ahead, self._has_requests, self._last_slice = None, False, queue
        if queue.tasks:
            queue.note(seconds + pause_s, tasks)

    def _slice(self) -> Queue:
        """Return the queue of the next slice: bulk and background take turns when both wait."""
        other = self.background if self._last_slice is self.bulk else self.bulk
        return other if other.tasks else self._last_slice
