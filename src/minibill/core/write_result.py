"""The result of a write operation, and where its request came from."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import msgspec

# Actions and target types of the audit log, whose filters accept these words only.
Action = Literal[
    "account.charge", "account.mint", "account.open", "campaign.activate", "campaign.complete", "campaign.create",
    "campaign.edit", "campaign.grant", "campaign.pause", "campaign.revoke", "clock.accept", "clock.advance", "debt.forgive",
    "grant.revoke", "membership.delete", "membership.put", "reconciliation.run", "reservation.finalize",
    "reservation.release", "reservation.reserve", "thresholds.replace", "tiers.replace", "token.revoke", "webhook.create",
    "webhook.delete", "webhook.edit", "webhook.replay", "webhook.rotate_secret",
]  # fmt: skip
TargetType = Literal[
    "account", "book", "campaign", "clock", "community", "debt", "grant", "reservation", "subject",
    "token", "webhook",
]  # fmt: skip


class WriteResult(msgspec.Struct, frozen=True):
    """The response body of a write, and its row of the audit log.

    `created` is true if the write created its target. `details` is called only for the audit row of an admin's write, in the
    same transaction.
    """

    body: msgspec.Struct
    action: Action
    target_type: TargetType
    target_id: str
    details: Callable[[], dict[str, Any]]
    created: bool = False
    # The next transaction, if the work does not fit in one: a `WriteOperation`. `body` is then not sent.
    continuation: Callable[..., "WriteResult"] | None = None
    # The time of the audit row, if the operation moved the book's clock; None for the time at which it began.
    at_us: int | None = None


class Origin(NamedTuple):
    """The client address, headers and token id of a request, for the audit log."""

    ip: str | None
    user_agent: str | None
    correlation_id: str | None
    token_id: str | None


# The origin of a write that did not come over HTTP.
NOWHERE = Origin(None, None, None, None)
