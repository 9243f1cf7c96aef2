"""The wire of the book itself: its audit log, its tokens, its health and its time."""

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from minibill.api.types import Answer, Body, KeptObject, PageQuery, Subject, TimeUs, one_of
from minibill.core.write_result import Action, TargetType

# Ten years in one step: more is a slip.
ADVANCE_SECONDS_MAX = 315_360_000


class AuditQuery(PageQuery, frozen=True):
    """An actor or target that no row has finds none; an action or kind of target that there is not is refused."""

    actor_id: str | None = None
    action: Action | None = None
    target_type: TargetType | None = None
    target_id: str | None = None
    from_: TimeUs | None = msgspec.field(default=None, name="from")
    to: TimeUs | None = None


class AuditRow(Answer):
    """What an admin did; `hash` is in hexadecimal digits."""

    id: str
    seq: int
    actor_id: str
    action: Annotated[str, one_of(Action)]
    target_type: Annotated[str, one_of(TargetType)]
    target_id: str
    details: KeptObject
    ip: str | None
    user_agent: str | None
    correlation_id: str | None
    token_id: str | None
    created_at: str
    hash: str


class RevokedToken(Answer):
    token_id: str
    revoked_at: str


class RevokeTokensBody(Body, frozen=True):
    """Whose tokens to revoke: those that were issued before a time."""

    sub: Subject
    issued_before: TimeUs


class RevokedTokens(Answer):
    """`issued_before` is the latest time that was asked for."""

    sub: str
    issued_before: str
    revoked_at: str


class AdvanceBody(Body, frozen=True):
    seconds: Annotated[int, Meta(ge=0, le=ADVANCE_SECONDS_MAX)]


class ClockHeld(Answer):
    """The reason why the book's time does not follow the wall clock, with both of them."""

    reason: str
    book_time: str
    wall_time: str
    ahead_seconds: int


class Health(Answer):
    """The state of the process; `clock` is there while the book's time does not follow the wall clock."""

    status: str
    clock: ClockHeld | UnsetType = UNSET


class Now(Answer):
    now: str


class AcceptedClock(Answer):
    """The book's time before it followed the wall clock, and since."""

    before: str
    now: str
