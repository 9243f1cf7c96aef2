"""Readers: read-only connections at the newest committed state.

Pages are read through aiosqlite, on a few threads, so that a long one holds up nobody. What finds a single row by its key is
read at once, on the event loop: that takes 5-20 µs, where a thread and back take 100.

Each read is one statement and is fetched whole: a SELECT left open would pin the WAL.
"""

import itertools
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite

from minibill.db.connect import open_reader
from minibill.db.queries import Query, Row
from minibill.db.sqlite import sqlite3
from minibill.problems import Overloaded

T = TypeVar("T")

# Reads are short; two threads keep one long page from delaying the others.
READERS = 2

# Reads that may wait for those two; one more is refused at once. At 3 ms a page the last of them waits half a second.
WAITING_MAX = 300

# Rows that aiosqlite hands over at a time; every page is smaller.
_CHUNK_ROWS = 1_024


class Readers:
    """Reads at the newest committed state."""

    def __init__(self, connections: list[aiosqlite.Connection], direct: sqlite3.Connection) -> None:
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
                connection = aiosqlite.Connection(partial(open_reader, path), iter_chunk_size=_CHUNK_ROWS)
                connections.append(await opened.enter_async_context(connection))
            readers = cls(connections, open_reader(path))
            opened.pop_all()
        return readers

    async def all(self, query: Query, **named: Any) -> list[Row]:
        """Every row of a named query; raises `Overloaded` when too many wait for theirs."""
        if self._waiting >= WAITING_MAX:
            raise Overloaded("too many reads are waiting; try again")
        self._waiting += 1
        try:
            rows: Any = await next(self._turns).execute_fetchall(query.sql, query.values(named))
        finally:
            self._waiting -= 1
        found: list[Row] = rows
        return found

    def at_once(self, query: Query, **named: Any) -> list[Row]:
        """Every row of a query that reads a few rows by key, without leaving the event loop."""
        return query.all(self._direct, **named)

    def look_up(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        """What an operation that only reads a few rows by key answers, without leaving the event loop."""
        return operation(self._direct)

    async def close(self) -> None:
        """Closes every connection."""
        self._direct.close()
        for connection in self._connections:
            await connection.close()
