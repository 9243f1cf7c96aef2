"""What an operation that writes comes to: its answer, and what the audit log says of it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec


class Outcome(NamedTuple):
    """`status` and `answer` are for the caller; the rest is the audit row of its transaction when the caller is an admin.

    `details` is called for that row alone, before anything else is written.
    """

    status: int
    answer: msgspec.Struct
    action: str
    target_type: str
    target_id: str
    details: Callable[[], dict[str, Any]]
    # Where there is more to do than one transaction may hold: the arguments with which the operation goes on in another one.
    # `answer` is then nobody's; the audit row is that of this transaction.
    more: dict[str, Any] | None = None
