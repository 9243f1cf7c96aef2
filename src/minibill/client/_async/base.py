"""How an operation is asked for and its answer read. How it gets there is a subclass's business."""

import uuid
from collections.abc import AsyncIterator
from typing import Any, TypeVar

from minibill.api.types import PAGE_ITEMS_MAX
from minibill.auth.callers import CallerKind
from minibill.client.operation import Json, Operation, PageOf, read, to_ask

T = TypeVar("T")


class AsyncAsking:
    """What the methods are made of."""

    # Whose door reservations are made at: services may also name an entity, and are not audited.
    _spending: CallerKind = "admin"

    async def send(self, ask: Operation) -> bytes:
        """The way of every operation: the JSON of its success; raises the `Problem` of a refusal."""
        raise NotImplementedError

    def _new_key(self) -> str | None:
        """The idempotency key of a write that the caller gave none."""
        return uuid.uuid4().hex

    async def _read(self, expected: type[T], route: str, segments: Json, **query: Any) -> T:
        return self._understood(await self.send(to_ask("GET", route, segments, query=query)), expected)

    async def _write(
        self, expected: type[T], method: str, route: str, segments: Json, body: Json, key: str | None, **how: Any
    ) -> T:
        ask = to_ask(method, route, segments, body=body, key=key or self._new_key(), **how)
        return self._understood(await self.send(ask), expected)

    async def _pages(self, expected: type[T], route: str, segments: Json, **query: Any) -> AsyncIterator[T]:
        cursor = None
        while True:
            page = await self._read(PageOf[expected], route, segments, limit=PAGE_ITEMS_MAX, cursor=cursor, **query)  # type: ignore[valid-type]
            for item in page.items:
                yield item
            cursor = page.next_cursor
            if cursor is None:
                return

    def _understood(self, answer: bytes, expected: type[T]) -> T:
        return read(answer, expected)
