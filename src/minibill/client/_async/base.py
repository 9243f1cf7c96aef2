"""Common parts of all clients: build an operation, send it, and decode its response."""

import uuid
from collections.abc import AsyncIterator
from typing import Any, TypeVar

from minibill.api.types import PAGE_ITEMS_MAX
from minibill.auth.callers import CallerKind
from minibill.client.operation import Json, Operation, PageOf, decode, make_operation

T = TypeVar("T")


class AsyncBaseClient:
    """Base of all clients. A subclass implements `send`, the transport."""

    # The caller kind of all operations but those that spend.
    _kind: CallerKind = "admin"
    # The caller kind of those: services may also name an entity, and their writes are not audited.
    _spending: CallerKind = "admin"

    async def send(self, operation: Operation) -> bytes:
        """Run an operation and return the body of its success. Raises the `Problem` of an error response."""
        raise NotImplementedError

    def _new_key(self) -> str | None:
        """Return the idempotency key for a write without one."""
        return uuid.uuid4().hex

    def _operation(self, method: str, route: str, segments: Json, **options: Any) -> Operation:
        """Return an operation as the kind of this client, unless `kind` is another."""
        return make_operation(method, route, segments, **{"kind": self._kind, **options})

    async def _read(self, expected: type[T], route: str, segments: Json, **query: Any) -> T:
        return self._decode(await self.send(self._operation("GET", route, segments, query=query)), expected)

    async def _write(
        self, expected: type[T], method: str, route: str, segments: Json, body: Json, key: str | None, **options: Any
    ) -> T:
        operation = self._operation(method, route, segments, body=body, key=key or self._new_key(), **options)
        return self._decode(await self.send(operation), expected)

    async def _pages(self, expected: type[T], route: str, segments: Json, **query: Any) -> AsyncIterator[T]:
        cursor = None
        while True:
            page = await self._read(PageOf[expected], route, segments, limit=PAGE_ITEMS_MAX, cursor=cursor, **query)  # type: ignore[valid-type]
            for item in page.items:
                yield item
            cursor = page.next_cursor
            if cursor is None:
                return

    def _decode(self, body: bytes, expected: type[T]) -> T:
        return decode(body, expected)
