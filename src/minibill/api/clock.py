"""The book's clock over HTTP: read, advance in tests, and accept the wall clock."""

from collections.abc import Callable
from functools import cache, partial

from minibill.api.decoding import Decoder
from minibill.api.openapi.operation import describe
from minibill.api.request import Call
from minibill.api.response import Reply
from minibill.api.schemas import AcceptedClock, AdvanceBody, Now
from minibill.api.types import NoBody, Query
from minibill.core.clock import ADVANCE_MAX_US, US_PER_SECOND, Clock, format_time
from minibill.core.problems import NotFound
from minibill.core.write_result import Outcome
from minibill.db.sqlite import sqlite3

_ADVANCE, _NOTHING = Decoder(AdvanceBody), Decoder(NoBody)


@describe(Now, refusals=(NotFound,))
async def show_clock(call: Call) -> Reply:
    """The time that the book goes by; 404 without --test-clock."""
    _require_test_clock(call)
    call.parameters(Query)
    return call.answer(Now(format_time(call.service.book.clock.now_us())))


@describe(Now, body=AdvanceBody, refusals=(NotFound,))
async def advance_clock(call: Call) -> Reply:
    """Moves the book's time forward and settles what falls due; 404 without --test-clock."""
    _require_test_clock(call)
    body = await call.read(_ADVANCE)
    book = call.service.book
    # Once, however often the operation is run.
    move = cache(partial(book.clock.advance, body.seconds))
    reply = await call.write(advance, seconds=body.seconds, move=None if call.is_dry_run else move)
    if not call.is_dry_run:
        await book.sweep()
    return reply


def advance(_: sqlite3.Connection, *, seconds: int, move: Callable[[], int] | None, now_us: int) -> Outcome:
    """Moves the clock, which no rollback would move back: a dry run has no `move` and only says where it would be."""
    after_us = min(now_us + seconds * US_PER_SECOND, ADVANCE_MAX_US) if move is None else move()
    answer = Now(format_time(after_us))
    return Outcome(
        200, answer, "clock.advance", "clock", "book", lambda: {"before": format_time(now_us), "after": answer.now}
    )


@describe(AcceptedClock, body=NoBody)
async def accept_clock(call: Call) -> Reply:
    """Makes the book's time follow the wall clock again, however far that is ahead."""
    await call.read(_NOTHING)
    # Once, however often the operation is run.
    move = cache(partial(_follow_wall_clock, call.service.book.clock, is_dry_run=call.is_dry_run))
    return await call.write(accept, move=move)


def _follow_wall_clock(clock: Clock, *, is_dry_run: bool) -> tuple[int, int]:
    state = clock.state()
    if not state.is_held:
        return state.time_us, state.time_us
    return state.time_us, state.wall_us if is_dry_run else clock.accept()


def accept(_: sqlite3.Connection, *, move: Callable[[], tuple[int, int]], now_us: int) -> Outcome:
    """Moves the clock, which no rollback would move back. The audit row has the new time: a restart goes on from there."""
    before_us, after_us = move()
    answer = AcceptedClock(format_time(before_us), format_time(after_us))
    details = lambda: {"before": answer.before, "after": answer.now}
    return Outcome(200, answer, "clock.accept", "clock", "book", details, at_us=max(now_us, after_us))


def _require_test_clock(call: Call) -> None:
    if not call.service.has_test_clock:
        raise NotFound("nothing is at this path")
