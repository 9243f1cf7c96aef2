"""A write that the writer has accepted, and the errors of a group whose transaction is lost."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from minibill.core.problems import InternalError, StorageFull
from minibill.db.ledger_sequence import SequenceTracker
from minibill.db.sqlite import Connection

T = TypeVar("T")
Operation = Callable[[Connection], T]


class WriteTask:
    """An accepted operation, and its result once it has run."""

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
        # The newest entry at the end of the operation; None when nobody observes it, or when the transaction is lost.
        self.sequence: int | None = None

    def fail(self, error: BaseException) -> None:
        """Replace the result by an error."""
        self.value, self.error, self.sequence = None, error, None


def neighbor_error(error: BaseException | None) -> Exception:
    """Return the error of the other operations of a group when one operation has lost the whole transaction."""
    return error if isinstance(error, StorageFull) else InternalError()


def unknown_outcome() -> InternalError:
    """Return the error of a group whose COMMIT may have happened."""
    return InternalError("the outcome of this write is unknown; send it again with the same idempotency key")


def fail_group(group: list[WriteTask], error: Exception) -> None:
    """Fail all tasks of a lost transaction, rejected ones too: a rejection may rest on the lost work of a neighbor."""
    for task in group:
        task.fail(error)
