"""Values that operations keep on the writer's connection, so that the next operation need not read them again.

Every operation that writes evicts them. An operation that keeps them right calls `keep_cache` once it has written.
"""

from typing import TYPE_CHECKING, Any

from minibill.db.sqlite import Connection

if TYPE_CHECKING:
    from minibill.db.new_ids import NextIds


class OperationCache:
    """The cached values, by feature, and the next ids. The writer evicts and clears them.

    `is_kept` is true once the operation under way has put right what it changed of the values.
    """

    __slots__ = ("ids", "is_kept", "values")

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.ids: NextIds | None = None
        self.is_kept = False

    def evict(self) -> None:
        """Drop the values after an operation that wrote. The ids stay: each INSERT moves them on."""
        self.values.clear()

    def clear(self) -> None:
        """Drop everything, since the book may not be as the operations left it."""
        self.values.clear()
        self.ids = None


def cache_of(conn: Connection) -> OperationCache | None:
    """Return the cache of the writer's connection; None on any other connection."""
    cache: OperationCache | None = getattr(conn, "cache", None)
    return cache


def keep_cache(conn: Connection) -> None:
    """Keep the cached values after this operation, which has put right what it changed of them."""
    # Inline, as in the next two places: a call of `cache_of` for each is 0.5 % of a reserve and finalize.
    cache: OperationCache | None = getattr(conn, "cache", None)
    if cache is not None:
        cache.is_kept = True
