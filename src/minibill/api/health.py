"""Health over HTTP: liveness and readiness."""

from msgspec import UNSET, UnsetType

from minibill.api.openapi.operation import operation
from minibill.api.request import Request
from minibill.api.response import Response
from minibill.api.schemas import ClockHeld, Health
from minibill.core.clock import US_PER_SECOND, Clock, format_time
from minibill.core.problems import NotReady


@operation(Health)
async def live(request: Request) -> Response:
    """200 while the process runs."""
    return request.answer(Health("live"))


@operation(Health, problems=(NotReady,))
async def ready(request: Request) -> Response:
    """200 while the book accepts writes, else 503 with the reason.

    `clock` is there while the book's time does not follow the wall clock. The service stays ready, since its time goes on.
    """
    last_error = request.state.book.writer.last_error
    if last_error is not None:
        raise NotReady(last_error)
    return request.answer(Health("ready", clock_held(request.state.book.clock)))


def clock_held(clock: Clock) -> ClockHeld | UnsetType:
    """Return the reason why the book's time does not follow the wall clock; `UNSET` while it does."""
    state = clock.state()
    if not state.is_held:
        return UNSET
    ahead_seconds = state.ahead_us // US_PER_SECOND
    reason = (
        f"the wall clock is {ahead_seconds} s ahead of the book's time, which follows {clock.jump_max_seconds} s at most: "
        "set the wall clock right, or run `minibill clock accept` if it is"
    )
    return ClockHeld(reason, format_time(state.time_us), format_time(state.wall_us), ahead_seconds)
