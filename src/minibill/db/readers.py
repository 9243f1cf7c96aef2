"""Readers: read-only connections at the newest committed state.

Pages are read on a few threads through aiosqlite, so that a long read delays no other request. A point lookup runs on the
event loop: it takes 5-20 µs, and the way to a thread and back takes 100 µs.

Each read fetches all its rows, since an open SELECT would keep the write-ahead log from restarting. A `RequestReader` reads
for one request and records the ledger sequence of the same snapshot.
"""

import itertools
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite

from minibill.core.problems import Overloaded
from minibill.db.connection import open_reader
from minibill.db.ledger_sequence import SequenceTracker, in_one_snapshot
from minibill.db.queries import Query, Row
from minibill.db.sqlite import Connection, sqlite3

T = TypeVar("T")

# Reads are short. With two threads one long page does not delay the others.
READERS = 2

# Reads that may wait for a thread; one more is rejected. At 3 ms per page the last of them waits half a second.
WAITING_MAX = 300

# Rows that aiosqlite fetches at a time; every page is smaller.
_CHUNK_ROWS = 1_024


class _Reader(aiosqlite.Connection):
    """A connection on a thread of its own."""

    async def run(self, operation: Callable[[Connection], T]) -> T:
        """Run an operation of several statements with one hop to the thread instead of one for each statement."""
        result: T = await self._execute(operation, self._conn)  # type: ignore[no-untyped-call]
        return result


class Readers:
    """Reads at the newest committed state."""

    def __init__(self, connections: list[_Reader], direct: sqlite3.Connection) -> None:
        self._connections = connections
        self._turns = itertools.cycle(connections)
        self._direct = direct
        self._waiting = 0

    @classmethod
    async def open(cls, path: Path) -> "Readers":
        """Open the connections to a migrated file."""
        # The thread of each ends when it is closed. A connection left open would keep a process that failed to start alive.
        async with AsyncExitStack() as opened:
            connections = []
            for _ in range(READERS):
                connection = _Reader(partial(open_reader, path), iter_chunk_size=_CHUNK_ROWS)
                await opened.enter_async_context(connection)
                connections.append(connection)
            readers = cls(connections, open_reader(path))
            opened.pop_all()
        return readers

    async def all(self, query: Query, **named: Any) -> list[Row]:
        """Return every row of a named query. Raises `Overloaded` when too many reads wait."""
        return await self.run(partial(query.all, **named))

    async def run(self, operation: Callable[[Connection], T]) -> T:
        """Run a read-only operation on a thread and return its result. Raises `Overloaded` when too many reads wait."""
        if self._waiting >= WAITING_MAX:
            raise Overloaded("too many reads are waiting; try again")
        self._waiting += 1
        try:
            return await next(self._turns).run(operation)
        finally:
            self._waiting -= 1

    def query_now(self, query: Query, **named: Any) -> list[Row]:
        """Return every row of a query that reads a few rows by key, on the event loop."""
        return query.all(self._direct, **named)

    def point_read(self, operation: Callable[[Connection], T]) -> T:
        """Run an operation that reads a few rows by key, on the event loop, and return its result."""
        return operation(self._direct)

    async def close(self) -> None:
        """Close every connection."""
        self._direct.close()
        for connection in self._connections:
            await connection.close()


class RequestReader:
    """The reads of one request, each in its own snapshot, whose ledger sequence it records."""

    __slots__ = ("_observed", "_readers")

    def __init__(self, readers: Readers, observed: SequenceTracker) -> None:
        self._readers = readers
        self._observed = observed

    async def all(self, query: Query, **named: Any) -> list[Row]:
        """Return every row of a named query."""
        return await self.run(partial(query.all, **named))

    async def run(self, operation: Callable[[Connection], T]) -> T:
        """Run a read-only operation in one snapshot and return its result."""
        found, sequence = await self._readers.run(partial(in_one_snapshot, operation=operation))
        self._observed.note(sequence)
        return found

    def query_now(self, query: Query, **named: Any) -> list[Row]:
        """Return every row of a query that reads a few rows by key, on the event loop."""
        found, sequence = self._readers.point_read(partial(in_one_snapshot, operation=partial(query.all, **named)))
        self._observed.note(sequence)
        return found

    def query_now_with_sequence(self, query: Query, **named: Any) -> list[Row]:
        """Return every row of a query whose first row, if any, begins with NULL and ends with the ledger sequence.

        One statement is its own snapshot, at half the cost of a transaction.
        """
        rows = self._readers.query_now(query, **named)
        if rows and rows[0][0] is None:
            self._observed.note(rows[0][-1])
        return rows
