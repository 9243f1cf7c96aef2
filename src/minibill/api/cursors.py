"""Cursors: a position in a list, with its path and filters, signed so that clients can't forge one.

A cursor also names the epoch of the book. A restore ends all cursors that were issued before it: a lost copy of the book may
have issued them, and at their positions the restored book has something else.
"""

import base64
import binascii
import hashlib
import hmac
from typing import Any

import msgspec

from minibill.config import Settings
from minibill.core.problems import InvalidCursor
from minibill.db.epochs import Epoch

_MAC_BYTES = 16


class Cursors:
    """Sign and read cursors. The keys derive from the admin secrets, so the first half of a rotation keeps cursors valid."""

    def __init__(self, settings: Settings) -> None:
        secrets = [s for s in (settings.admin_secret, settings.admin_secret_previous) if s is not None]
        self._keys = [hashlib.sha256(b"minibill cursor\0" + secret.encode()).digest() for secret in secrets]

    def make(self, path: str, filters: dict[str, Any], position: list[int], *, epoch: Epoch) -> str:
        """Return the cursor of the item at `position` in the list at `path`."""
        payload = msgspec.json.encode([path, filters, position, epoch.base_id])
        return base64.urlsafe_b64encode(_mac(self._keys[0], payload) + payload).decode().rstrip("=")

    def read(self, text: str, path: str, *, epoch: Epoch) -> tuple[dict[str, Any], list[int]]:
        """Return the filters and the position that `make` was given. Raises `InvalidCursor`."""
        invalid = InvalidCursor("take the cursor from nextCursor of this very list, unchanged")
        try:
            raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise invalid from None
        mac, payload = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
        # The encoding has one form only: bits beyond the last byte must be zero.
        if base64.urlsafe_b64encode(raw).decode().rstrip("=") != text:
            raise invalid
        if not any(hmac.compare_digest(_mac(key, payload), mac) for key in self._keys):
            raise invalid
        made_for, filters, position, base_id = msgspec.json.decode(payload)
        if made_for != path:
            raise invalid
        if base_id != epoch.base_id:
            raise InvalidCursor("the book was restored since this cursor was issued; begin the list again")
        return filters, position


def _mac(key: bytes, payload: bytes) -> bytes:
    return hmac.digest(key, payload, "sha256")[:_MAC_BYTES]
