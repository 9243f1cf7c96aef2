"""Readers: a few read-only connections, each on a thread of its own, through aiosqlite.

Each read is one statement and is fetched whole: a SELECT left open would pin the WAL.
"""

import itertools
from functools import partial
from pathlib import Path
from typing import Any

import aiosqlite

from minibill.db.connect import open_reader
from minibill.db.queries import Query, Row

# Reads are short; two threads keep one long page from delaying the others.
READERS = 2

# Rows that aiosqlite hands over at a time; every page is smaller.
_CHUNK_ROWS = 1_024


class Readers:
    """Reads at the newest committed state."""

    def __init__(self, connections: list[aiosqlite.Connection]) -> None:
        self._connections = connections
        self._turns = itertools.cycle(connections)

    @classmethod
    async def open(cls, path: Path) -> "Readers":
        """Opens the connections; the file must have been migrated."""
        connections = []
        for _ in range(READERS):
            connection = aiosqlite.Connection(partial(open_reader, path), iter_chunk_size=_CHUNK_ROWS)
            connections.append(await connection)
        return cls(connections)

    async def all(self, query: Query, **named: Any) -> list[Row]:
        """Every row of a named query."""
        rows: Any = await next(self._turns).execute_fetchall(query.sql, query.values(named))
        found: list[Row] = rows
        return found

    async def one(self, query: Query, **named: Any) -> Row | None:
        """The first row, or None."""
        rows = await self.all(query, **named)
        return rows[0] if rows else None

    async def close(self) -> None:
        """Closes every connection."""
        for connection in self._connections:
            await connection.close()
