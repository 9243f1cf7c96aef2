"""Turns of the writer: which of its queues the next group comes from.

Requests come first. Bulk and background work runs in slices, each a transaction of its own. While requests come, a slice and
its COMMIT are followed by a pause in which only requests run, `PAUSE_SHARE` times as long. Every request that waits when the
pause ends runs before the next slice. Then that slice runs, whatever has come meanwhile: neither side starves the other.
"""

from collections import deque
from enum import IntEnum

from minibill.db.write_task import WriteTask

# How long requests have the writer to themselves after a slice, as a multiple of how long the slice took.
PAUSE_SHARE = 3.0

# What a group before counts for, beside the one after it.
OLDER_GROUP_SHARE = 0.8

# Writes that may wait; one more is refused at once. At 5,000 writes a second the last of them waits 0.4 s.
QUEUE_MAX = 2_000

# And how long one more would wait, as far as the groups before tell: 2,000 large batches of 30 ms each would take a minute,
# which no client waits. A few may wait in any case: one slow group says little of the next.
WAIT_SECONDS_MAX = 2.0
QUEUE_MIN = 64
# The same of batches, of which each may hold a whole list: a few may wait in any case.
BULK_MAX = 256
BULK_MIN = 16


class Lane(IntEnum):
    """The kind of a write: what a client waits for, a whole batch that a client waits for, or the service's own upkeep."""

    REQUEST = 0
    BULK = 1
    BACKGROUND = 2


# An attribute of an enum costs more to find than a name of the module.
_REQUEST, _BULK = Lane.REQUEST, Lane.BULK


class Queue:
    """Jobs of one kind that wait, and how long the latest ones took, the newest counting most."""

    __slots__ = ("recent_seconds", "recent_writes", "tasks")

    def __init__(self) -> None:
        self.tasks: deque[WriteTask] = deque()
        self.recent_seconds = 0.0
        self.recent_writes = 0.0

    def note(self, seconds: float, writes: int) -> None:
        """Count a group that has ended."""
        self.recent_seconds = self.recent_seconds * OLDER_GROUP_SHARE + seconds
        self.recent_writes = self.recent_writes * OLDER_GROUP_SHARE + writes

    def is_full(self, at_most: int, at_least: int, seconds_max: float) -> bool:
        """Tell whether one more would be too many, or would wait too long behind at least `at_least` others."""
        waiting = len(self.tasks)
        return waiting >= at_most or (
            waiting >= at_least and waiting * self.recent_seconds > seconds_max * self.recent_writes
        )


class LaneScheduler:
    """The queues, and whose turn it is. Times are monotonic seconds."""

    def __init__(self) -> None:
        self.requests, self.bulk, self.background = self.queues = (Queue(), Queue(), Queue())
        # The pause after the latest slice ends then.
        self._resume_s = 0.0
        # How many requests are still to run before the slice whose turn has come; None while none has.
        self._ahead: int | None = None
        # Whether a request has run since the latest slice.
        self._has_requests = False
        self._last_slice = self.background

    def __bool__(self) -> bool:
        return bool(self.requests.tasks or self.bulk.tasks or self.background.tasks)

    def is_full(self, lane: Lane) -> bool:
        """Tell whether one more task is to be rejected. Background work never is: each task has one task at a time."""
        if lane is _REQUEST:
            return self.requests.is_full(QUEUE_MAX, QUEUE_MIN, WAIT_SECONDS_MAX)
        return lane is _BULK and self.bulk.is_full(BULK_MAX, BULK_MIN, WAIT_SECONDS_MAX)

    def take_all(self) -> list[WriteTask]:
        """Return all tasks that wait, which then wait no more."""
        tasks = [task for queue in self.queues for task in queue.tasks]
        for queue in self.queues:
            queue.tasks.clear()
        return tasks

    def wait_s(self, now_s: float, *, hurry: bool = False) -> float:
        """Return the seconds until the next group may begin. In a `hurry` there are no pauses."""
        return 0.0 if hurry or self.requests.tasks else max(0.0, self._resume_s - now_s)

    def next(self, now_s: float, *, hurry: bool = False) -> Queue | None:
        """Return the queue whose turn it is; None when nothing may run now."""
        requests = self.requests if self.requests.tasks else None
        if not (self.bulk.tasks or self.background.tasks) or not (hurry or now_s >= self._resume_s):
            return requests
        if self._ahead is None:
            self._ahead = len(self.requests.tasks)
        return requests if requests is not None and self._ahead > 0 else self._slice()

    def ended(self, queue: Queue, tasks: int, *, seconds: float, now_s: float) -> None:
        """Count a group that took so many tasks of a queue, and so many seconds with its COMMIT."""
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
