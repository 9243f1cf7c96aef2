"""The wire of the book itself: its audit log, its tokens, its health and its time."""

from typing import Annotated

from msgspec import UNSET, Meta, UnsetType

from minibill.api.types import Body, ResponseBody, Subject, TimeUs

# Ten years in one step: more is a slip.
ADVANCE_SECONDS_MAX = 315_360_000


class RevokedToken(ResponseBody):
    token_id: str
    revoked_at: str


class RevokeTokensBody(Body, frozen=True):
    """Whose tokens to revoke: those that were issued before a time."""

    sub: Subject
    issued_before: TimeUs


class RevokedTokens(ResponseBody):
    """`issued_before` is the latest time that was asked for."""

    sub: str
    issued_before: str
    revoked_at: str


class AdvanceBody(Body, frozen=True):
    seconds: Annotated[int, Meta(ge=0, le=ADVANCE_SECONDS_MAX)]


class ClockHeld(ResponseBody):
    """The reason why the book's time does not follow the wall clock, with both of them."""

    reason: str
    book_time: str
    wall_time: str
    ahead_seconds: int


class Health(ResponseBody):
    """The state of the process; `clock` is there while the book's time does not follow the wall clock."""

    status: str
    clock: ClockHeld | UnsetType = UNSET


class Now(ResponseBody):
    now: str


class AcceptedClock(ResponseBody):
    """The book's time before it followed the wall clock, and since."""

    before: str
    now: str
