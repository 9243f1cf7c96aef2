"""Readers: read-only connections at the newest committed state.

Pages are read through aiosqlite, on a few threads, so that a long one holds up nobody. What finds a single row by its key is
read at once, on the event loop: that takes 5-20 µs, where a thread and back take 100.

Each read fetches all its rows: a SELECT left open would pin the WAL. A `RequestReader` reads for one request and records the
ledger sequence of the same snapshot.
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

# Reads are short; two threads keep one long page from delaying the others.
READERS = 2

# Reads that may wait for those two; one more is refused at once. At 3 ms a page the last of them waits half a second.
WAITING_MAX = 300

# Rows that aiosqlite hands over at a time; every page is smaller.
_CHUNK_ROWS = 1_024


class _Reader(aiosqlite.Connection):
    """A connection on a thread of its own."""

    async def run(self, operation: Callable[[Connection], T]) -> T:
        """What an operation of several statements answers, for one hop to the thread instead of one for each."""
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
        """Opens the connections; the file must have been migrated."""
        # Each has a thread that ends when it is closed: one left open would keep a process that can't start from ending.
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
        """Every row of a named query; raises `Overloaded` when too many wait for theirs."""
        return await self.run(partial(query.all, **named))

    async def run(self, operation: Callable[[Connection], T]) -> T:
        """What an operation that only reads answers; it runs on a thread. Raises `Overloaded` when too many wait."""
        if self._waiting >= WAITING_MAX:
            raise Overloaded("too many reads are waiting; try again")
        self._waiting += 1
        try:
            return await next(self._turns).run(operation)
        finally:
            self._waiting -= 1

    def query_now(self, query: Query, **named: Any) -> list[Row]:
        """Every row of a query that reads a few rows by key, without leaving the event loop."""
        return query.all(self._direct, **named)

    def point_read(self, operation: Callable[[Connection], T]) -> T:
        """What an operation that only reads a few rows by key answers, without leaving the event loop."""
        return operation(self._direct)

    async def close(self) -> None:
        """Closes every connection."""
        self._direct.close()
        for connection in self._connections:
            await connection.close()


class RequestReader:
    """The reads of one request: each in a snapshot of its own, whose place in the ledger's sequence is noted."""

    __slots__ = ("_readers", "_seen")

    def __init__(self, readers: Readers, observed: SequenceTracker) -> None:
        self._readers = readers
        self._seen = observed

    async def all(self, query: Query, **named: Any) -> list[Row]:
        """Every row of a named query."""
        return await self.run(partial(query.all, **named))

    async def run(self, operation: Callable[[Connection], T]) -> T:
        """What an operation that only reads answers: all of it from one snapshot."""
        found, sequence = await self._readers.run(partial(in_one_snapshot, operation=operation))
        self._seen.note(sequence)
        return found

    def query_now(self, query: Query, **named: Any) -> list[Row]:
        """Every row of a query that reads a few rows by key, without leaving the event loop."""
        found, sequence = self._readers.point_read(partial(in_one_snapshot, operation=partial(query.all, **named)))
        self._seen.note(sequence)
        return found

    def at_once_with_sequence(self, query: Query, **named: Any) -> list[Row]:
        """The same of a query whose first row, where it is there, begins with NULL and ends with the sequence.

        One statement is a snapshot, and half the cost.
        """
        rows = self._readers.query_now(query, **named)
        if rows and rows[0][0] is None:
            self._seen.note(rows[0][-1])
        return rows
