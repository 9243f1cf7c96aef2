"""The process over HTTP: health, metrics, and the test clock."""

import asyncio
from collections.abc import Callable
from functools import cache, partial

from msgspec import UNSET, UnsetType

from minibill.api.context import Call, Reply, Service
from minibill.api.openapi.operation import describe
from minibill.api.schemas import AcceptedClock, AdvanceBody, ClockHeld, Health, Now
from minibill.api.types import Decoder, NoBody, Query
from minibill.core.clock import ADVANCE_MAX_US, US_PER_SECOND, Clock, format_time
from minibill.core.problems import NotFound, NotReady
from minibill.core.write_result import Outcome
from minibill.db.sqlite import sqlite3
from minibill.metrics.totals import Sums

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_ADVANCE, _NOTHING = Decoder(AdvanceBody), Decoder(NoBody)


@describe(Health)
async def live(call: Call) -> Reply:
    """200 once the process runs."""
    return call.answer(Health("live"))


@describe(Health, refusals=(NotReady,))
async def ready(call: Call) -> Reply:
    """200 when the book is migrated and takes writes, else 503 with the reason.

    `clock` says why the book's time does not follow the wall clock. The service stays ready meanwhile: its time goes on.
    """
    hindrance = call.service.book.writer.hindrance
    if hindrance is not None:
        raise NotReady(hindrance)
    return call.answer(Health("ready", clock_held(call.service.book.clock)))


def clock_held(clock: Clock) -> ClockHeld | UnsetType:
    """Return why the book's time does not follow the wall clock; nothing while it does."""
    state = clock.state()
    if not state.is_held:
        return UNSET
    ahead_seconds = state.ahead_us // US_PER_SECOND
    reason = (
        f"the wall clock is {ahead_seconds} s ahead of the book's time, which follows {clock.jump_max_seconds} s at most: "
        "set the wall clock right, or run `minibill clock accept` if it is"
    )
    return ClockHeld(reason, format_time(state.time_us), format_time(state.wall_us), ahead_seconds)


@describe(str, media_type=METRICS_TYPE)
async def show_metrics(call: Call) -> Reply:
    """What the process counted, as Prometheus text."""
    sums = await call.service.book.totals.sums()
    text = await asyncio.to_thread(_exposition, call.service, sums)
    return Reply(200, text, media_type=METRICS_TYPE.encode())


def _exposition(service: Service, sums: Sums) -> bytes:
    # Imported on the thread, when it is first needed: a start does without it.
    from minibill.metrics.prometheus import exposition

    return exposition(service, sums)


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
