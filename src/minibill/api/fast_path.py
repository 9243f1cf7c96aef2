"""What the server that `minibill serve` runs offers beside ASGI: a body that is whole, and an answer written in one piece.

Almost every request comes and goes in one packet. Waiting for its body as if it could come in parts, and sending its answer
in parts that are each looked through, was a fifth of a reserve's time outside of the ledger. Other servers offer nothing
here, and everything goes the way of ASGI.
"""

from collections.abc import Iterable
from typing import Any

from litestar.types import Scope

# In the scope: uvicorn's own record of the request that is under way.
CYCLE = "minibill.cycle"

_STATUS_LINES = {200: b"HTTP/1.1 200 OK\r\n", 201: b"HTTP/1.1 201 Created\r\n"}


def whole_body(scope: Scope) -> bytes | None:
    """The body of a request, if all of it is there already."""
    cycle: Any = scope.get(CYCLE)
    if cycle is None or cycle.more_body or cycle.waiting_for_100_continue:
        return None
    return bytes(cycle.body)


def write_response_directly(scope: Scope, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> bool:
    """Writes the answer of a success, and says whether it did: otherwise it is to be sent as usual.

    The server would look through each header for what breaks an answer apart, and for what it has to do itself. These are
    our own, and hold nothing but what web.py and the gate let in.
    """
    cycle: Any = scope.get(CYCLE)
    line = _STATUS_LINES.get(status)
    if (
        cycle is None
        or line is None
        or cycle.response_started
        or cycle.disconnected
        or cycle.flow.write_paused
        or not cycle.keep_alive
    ):
        return False
    lines = [b"%b: %b\r\n" % header for header in (*cycle.default_headers, *headers)]
    cycle.transport.write(b"%b%b\r\n%b" % (line, b"".join(lines), body))
    cycle.response_started = cycle.response_complete = True
    cycle.on_response()
    forget_server(scope)
    return True


def forget_server(scope: Scope) -> None:
    """Once a request is answered: the record holds the scope, too, a circle that only the garbage collector would find.

    Each request left 40 objects to it, and it took 7 % of the time, in stops of 15 ms.
    """
    scope.pop(CYCLE, None)  # type: ignore[misc]
