"""CORS: the origins that may read responses in a browser, and the headers for them.

Requests carry a token and no cookies, so no response allows credentials.
"""

import re
from collections.abc import Iterable

# `localhost`, 127.0.0.0/8 and `[::1]` with any port, as browsers write an origin.
_OCTET = rb"(?:25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])"
_LOOPBACK = re.compile(rb"https?://(?:localhost|127(?:\." + _OCTET + rb"){3}|\[::1\])(?::[0-9]{1,5})?")

_VARY = (b"vary", b"Origin")

# Response headers that a page may read, besides those that the standard always allows.
_EXPOSED_NAMES = (
    "Idempotency-Replayed", "Ledger-Sequence", "Location", "RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset",
    "Retry-After", "WWW-Authenticate", "X-Correlation-Id", "X-Request-Id",
)  # fmt: skip
_EXPOSED = (b"access-control-expose-headers", ", ".join(_EXPOSED_NAMES).encode())

# A browser may reuse one preflight for ten minutes.
_PREFLIGHT = (
    (b"access-control-allow-methods", b"DELETE, GET, HEAD, PATCH, POST, PUT"),
    (b"access-control-allow-headers", b"Authorization, Content-Type, Idempotency-Key, X-Correlation-Id"),
    (b"access-control-max-age", b"600"),
)


class Cors:
    """The allowed origins, and the headers for them."""

    def __init__(self, origins: Iterable[bytes], *, loopback: bool) -> None:
        """`loopback` also allows the origins of this machine."""
        self._origins = frozenset(origins)
        self._loopback = loopback

    def headers(self, origin: bytes | None, *, preflight: bool) -> list[tuple[bytes, bytes]]:
        """Return the headers of a response to this origin. None stands for a repeated header, which is not allowed."""
        if origin is None or not (origin in self._origins or (self._loopback and _LOOPBACK.fullmatch(origin))):
            return [_VARY]
        allowed = (b"access-control-allow-origin", origin)
        return [_VARY, allowed, *(_PREFLIGHT if preflight else (_EXPOSED,))]
