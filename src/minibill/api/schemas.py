"""Bodies of requests and responses about tokens, health and the clock."""

from typing import Annotated

from msgspec import UNSET, Meta, UnsetType

from minibill.api.types import Body, ResponseBody, Subject, TimeUs

# Ten years. A longer step is a mistake.
ADVANCE_SECONDS_MAX = 315_360_000


class RevokedToken(ResponseBody):
    token_id: str
    revoked_at: str


class RevokeTokensBody(Body, frozen=True):
    """A subject whose tokens are revoked if they were issued before a time."""

    sub: Subject
    issued_before: TimeUs


class RevokedTokens(ResponseBody):
    """`issued_before` is the latest time of all such requests for the subject."""

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
    """The state of the process. `clock` is present while the book's time does not follow the wall clock."""

    status: str
    clock: ClockHeld | UnsetType = UNSET


class Now(ResponseBody):
    now: str


class AcceptedClock(ResponseBody):
    """The book's time before and after it was set to the wall clock."""

    before: str
    now: str
