"""The process over HTTP: health, and the test clock."""

from typing import Annotated

from msgspec import Meta

from minibill.clock import ADVANCE_MAX_US, US_PER_SECOND, Clock, format_time
from minibill.db.sqlite import sqlite3
from minibill.outcome import Outcome
from minibill.problems import NotFound, NotReady
from minibill.web import Call, Reply
from minibill.wire import Answer, Body, Decoder, Query

# Ten years in one step: more is a slip.
ADVANCE_SECONDS_MAX = 315_360_000


class AdvanceBody(Body, frozen=True):
    seconds: Annotated[int, Meta(ge=0, le=ADVANCE_SECONDS_MAX)]


class Health(Answer):
    status: str


class Now(Answer):
    now: str


_ADVANCE = Decoder(AdvanceBody)


async def live(call: Call) -> Reply:
    """200 once the process runs."""
    return call.answer(Health("live"))


async def ready(call: Call) -> Reply:
    """200 when the book is migrated and takes writes, else 503 with the reason."""
    hindrance = call.service.book.writer.hindrance
    if hindrance is not None:
        raise NotReady(hindrance)
    return call.answer(Health("ready"))


async def show_clock(call: Call) -> Reply:
    """The time that the book goes by; 404 without --test-clock."""
    _require_test_clock(call)
    call.parameters(Query)
    return call.answer(Now(format_time(call.service.book.clock.now_us())))


async def advance_clock(call: Call) -> Reply:
    """Moves the book's time forward and settles what falls due; 404 without --test-clock."""
    _require_test_clock(call)
    body = await call.read(_ADVANCE)
    book = call.service.book
    reply = await call.write(advance, clock=book.clock, seconds=body.seconds, really=not call.is_dry_run)
    if not call.is_dry_run:
        await book.sweep()
    return reply


def advance(_: sqlite3.Connection, *, clock: Clock, seconds: int, really: bool, now_us: int) -> Outcome:
    """Moves the clock, which no rollback would move back: a dry run only says where it would be."""
    after_us = clock.advance(seconds) if really else min(now_us + seconds * US_PER_SECOND, ADVANCE_MAX_US)
    answer = Now(format_time(after_us))
    return Outcome(
        200, answer, "clock.advance", "clock", "book", lambda: {"before": format_time(now_us), "after": answer.now}
    )


def _require_test_clock(call: Call) -> None:
    if not call.service.has_test_clock:
        raise NotFound("nothing is at this path")
