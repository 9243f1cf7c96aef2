"""What an operation that writes comes to: its answer, and what the audit log says of it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec


class Outcome(NamedTuple):
    """`status` and `answer` are for the caller; the rest is one audit row when the caller is an admin.

    `details` is called for that row alone, before anything else is written.
    """

    status: int
    answer: msgspec.Struct
    action: str
    target_type: str
    target_id: str
    details: Callable[[], dict[str, Any]]
