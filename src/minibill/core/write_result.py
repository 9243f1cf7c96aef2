"""What an operation that writes comes to: its answer, and what the audit log says of it."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import msgspec

# What admins do, and what they do it to: the audit log can be asked for these words and no others.
Action = Literal[
    "account.mint", "account.open", "campaign.activate", "campaign.complete", "campaign.create", "campaign.edit",
    "campaign.grant", "campaign.pause", "campaign.revoke", "clock.accept", "clock.advance", "debt.forgive", "grant.revoke",
    "membership.delete", "membership.put", "reconciliation.run", "reservation.finalize", "reservation.release",
    "reservation.reserve", "thresholds.replace", "tiers.replace", "token.revoke", "webhook.create", "webhook.delete",
    "webhook.edit", "webhook.replay", "webhook.rotate_secret",
]  # fmt: skip
TargetType = Literal[
    "account", "book", "campaign", "clock", "community", "debt", "grant", "reservation", "subject",
    "token", "webhook",
]  # fmt: skip


class WriteResult(msgspec.Struct, frozen=True):
    """`status` and `answer` are for the caller; the rest is the audit row of its transaction when the caller is an admin.

    `details` is called for that row alone, before anything else is written.
    """

    status: int
    answer: msgspec.Struct
    action: Action
    target_type: TargetType
    target_id: str
    details: Callable[[], dict[str, Any]]
    # Where there is more to do than one transaction may hold: the arguments with which the operation goes on in another one.
    # `answer` is then nobody's; the audit row is that of this transaction.
    more: dict[str, Any] | None = None
    # The time of the audit row, where the operation itself moved the book's time; None: the time at which it began.
    at_us: int | None = None


class Origin(NamedTuple):
    """Where a request came from."""

    ip: str | None
    user_agent: str | None
    correlation_id: str | None
    token_id: str | None


# Of a write that came over no wire, or of which the log is told nothing.
NOWHERE = Origin(None, None, None, None)
