"""The book's clock over HTTP: read it, advance it in tests, and accept the wall clock."""

from collections.abc import Callable
from functools import cache, partial

from minibill.api.decoding import Decoder
from minibill.api.openapi.operation import operation
from minibill.api.request import Request
from minibill.api.response import Response
from minibill.api.schemas import AcceptedClock, AdvanceBody, Now
from minibill.api.types import NoBody, Query
from minibill.core.clock import ADVANCE_MAX_US, US_PER_SECOND, Clock, format_time
from minibill.core.problems import NotFound
from minibill.core.write_result import WriteResult
from minibill.db.sqlite import Connection
from minibill.db.write_operation import bind

_ADVANCE, _NOTHING = Decoder(AdvanceBody), Decoder(NoBody)


@operation(Now, problems=(NotFound,))
async def show_clock(request: Request) -> Response:
    """The book's time; 404 without --test-clock."""
    _require_test_clock(request)
    request.parameters(Query)
    return request.answer(Now(format_time(request.state.book.clock.now_us())))


@operation(Now, body=AdvanceBody, problems=(NotFound,))
async def advance_clock(request: Request) -> Response:
    """Advance the book's time and expire overdue items; 404 without --test-clock."""
    _require_test_clock(request)
    body = await request.read(_ADVANCE)
    book = request.state.book
    # The writer may run the operation again, and the clock must move once.
    move = cache(partial(book.clock.advance, body.seconds))
    reply = await request.write(bind(advance, seconds=body.seconds, move=None if request.is_dry_run else move))
    if not request.is_dry_run:
        await book.sweep()
    return reply


def advance(_: Connection, now_us: int, *, seconds: int, move: Callable[[], int] | None) -> WriteResult:
    """Advance the clock. No rollback moves it back, so a dry run passes no `move` and only computes the time."""
    after_us = min(now_us + seconds * US_PER_SECOND, ADVANCE_MAX_US) if move is None else move()
    answer = Now(format_time(after_us))
    return WriteResult(
        answer, "clock.advance", "clock", "book", lambda: {"before": format_time(now_us), "after": answer.now}
    )


@operation(AcceptedClock, body=NoBody)
async def accept_clock(request: Request) -> Response:
    """Let the book's time follow the wall clock again, however far that is ahead."""
    await request.read(_NOTHING)
    # The writer may run the operation again, and the clock must move once.
    move = cache(partial(_follow_wall_clock, request.state.book.clock, is_dry_run=request.is_dry_run))
    return await request.write(bind(accept, move=move))


def _follow_wall_clock(clock: Clock, *, is_dry_run: bool) -> tuple[int, int]:
    state = clock.state()
    if not state.is_held:
        return state.time_us, state.time_us
    return state.time_us, state.wall_us if is_dry_run else clock.accept()


def accept(_: Connection, now_us: int, *, move: Callable[[], tuple[int, int]]) -> WriteResult:
    """Move the clock, which no rollback moves back. The audit row has the new time, with which a restart continues."""
    before_us, after_us = move()
    answer = AcceptedClock(format_time(before_us), format_time(after_us))
    details = lambda: {"before": answer.before, "after": answer.now}
    return WriteResult(answer, "clock.accept", "clock", "book", details, at_us=max(now_us, after_us))


def _require_test_clock(request: Request) -> None:
    if not request.state.has_test_clock:
        raise NotFound("nothing is at this path")
