"""The headers of a request, as they were sent."""

from collections.abc import Iterable

Headers = list[tuple[bytes, bytes]]


class SentHeaders:
    """The headers of a request: names in lower case, of each the first value."""

    __slots__ = ("_all", "_first", "get")

    def __init__(self, sent: Iterable[tuple[bytes, bytes]]) -> None:
        self._all = list(sent)
        self._first = dict(reversed(self._all))
        self.get = self._first.get

    def only(self, name: bytes) -> bytes | None:
        """The value of a header that must not be repeated; None where there is none, or more than one."""
        if len(self._first) < len(self._all) and sum(own == name for own, _ in self._all) > 1:
            return None
        return self.get(name)
