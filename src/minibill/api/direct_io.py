"""A hook past ASGI: a server may offer the whole body of a request, and take its whole response in one piece.

`minibill serve` puts a `DirectExchange` into the scope of each request. With other servers ASGI messages do the same work.
The gain is measured in docs/internals/decisions/0032-direct-exchange.md.
"""

from collections.abc import Iterable
from typing import Any, Protocol

from litestar.types import Scope

# The keys of the scope: the exchange, and a mark on requests whose connection is over the server's limit.
DIRECT = "minibill.direct"
OVER_LIMIT = "minibill.over_limit"


class DirectExchange(Protocol):
    """One request of the server, to be read and answered without ASGI messages."""

    def received_body(self) -> bytes | None:
        """Return the body if all of it has arrived, else None."""

    def write_response(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> bool:
        """Write a whole response. Return False if it has to be sent as ASGI messages instead."""


def detach(scope: Scope) -> None:
    """Remove the exchange from a scope; ASGI messages do the rest.

    The exchange refers to its scope. Each request would leave a cycle of 40 objects to the garbage collector.
    """
    holder: dict[str, Any] = scope  # type: ignore[assignment]
    holder.pop(DIRECT, None)
