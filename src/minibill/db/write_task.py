"""What the writer was asked to do, a write at a time, and what a group of them is told when its transaction is gone."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from minibill.core.problems import InternalError, StorageFull
from minibill.db.ledger_sequence import SequenceTracker
from minibill.db.sqlite import Connection

T = TypeVar("T")
Operation = Callable[[Connection], T]


class WriteTask:
    """An operation that was taken on, and later what it came to."""

    __slots__ = ("error", "future", "keep", "observed", "operation", "sequence", "value")

    def __init__(
        self, operation: Operation[Any], keep: bool, observed: SequenceTracker | None, future: asyncio.Future[Any]
    ) -> None:
        self.operation = operation
        self.keep = keep
        self.observed = observed
        self.future = future
        self.value: Any = None
        self.error: BaseException | None = None
        # How far the ledger was for it; None when nobody asked, or when the transaction is gone.
        self.sequence: int | None = None

    def fail(self, error: BaseException) -> None:
        """What it came to is gone."""
        self.value, self.error, self.sequence = None, error, None


def neighbor_error(error: BaseException | None) -> Exception:
    """What the neighbours of an operation are told when it took the whole transaction with it."""
    return error if isinstance(error, StorageFull) else InternalError()


def unknown_outcome() -> InternalError:
    """What a group is told whose COMMIT may have happened."""
    return InternalError("the outcome of this write is unknown; send it again with the same idempotency key")


def fail_group(group: list[WriteTask], error: Exception) -> None:
    """What a group is answered whose transaction is gone: refusals too, since they may rest on a neighbour's lost work."""
    for job in group:
        job.fail(error)
