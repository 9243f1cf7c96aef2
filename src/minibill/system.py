"""The process over HTTP: health, metrics, and the test clock."""

import asyncio
from collections.abc import Callable
from functools import cache, partial

from minibill.clock import ADVANCE_MAX_US, US_PER_SECOND, format_time
from minibill.db.sqlite import sqlite3
from minibill.outcome import Outcome
from minibill.problems import NotFound, NotReady
from minibill.schema.describe import describe
from minibill.structs import AdvanceBody, Health, Now
from minibill.totals import Sums
from minibill.web import Call, Reply, Service
from minibill.wire import Decoder, Query

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_ADVANCE = Decoder(AdvanceBody)


@describe(Health)
async def live(call: Call) -> Reply:
    """200 once the process runs."""
    return call.answer(Health("live"))


@describe(Health, refusals=(NotReady,))
async def ready(call: Call) -> Reply:
    """200 when the book is migrated and takes writes, else 503 with the reason."""
    hindrance = call.service.book.writer.hindrance
    if hindrance is not None:
        raise NotReady(hindrance)
    return call.answer(Health("ready"))


@describe(str, media_type=METRICS_TYPE)
async def show_metrics(call: Call) -> Reply:
    """What the process counted, as Prometheus text."""
    sums = await call.service.book.totals.sums()
    text = await asyncio.to_thread(_exposition, call.service, sums)
    return Reply(200, text, media_type=METRICS_TYPE.encode())


def _exposition(service: Service, sums: Sums) -> bytes:
    # Imported on the thread, when it is first needed: a start does without it.
    from minibill.exposition import exposition

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


def _require_test_clock(call: Call) -> None:
    if not call.service.has_test_clock:
        raise NotFound("nothing is at this path")
