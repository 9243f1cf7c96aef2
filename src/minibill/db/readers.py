"""Readers: read-only connections at the newest committed state.

Pages are read on a few threads through aiosqlite, so that a long read delays no other request. A thread takes the reads
that wait in groups, because the way to a thread and back takes 100 µs. A point lookup takes 5-20 µs and runs on the event
loop.

Each read fetches all its rows, since an open SELECT would keep the write-ahead log from restarting. A `RequestReader` reads
for one request and records the ledger sequence of the same snapshot.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import aiosqlite

from minibill.core.clock import monotonic_s
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

# Reads of one way to a thread and back, unless they take this time together: the first result waits for the last.
GROUP_MAX = 8
GROUP_SECONDS_MAX = 0.001

# Rows that aiosqlite fetches at a time; every page is smaller.
_CHUNK_ROWS = 1_024


class _Reader(aiosqlite.Connection):
    """A connection on a thread of its own."""

    async def run(self, operation: Callable[[Connection], T]) -> T:
        """Run an operation of several statements with one hop to the thread instead of one for each statement."""
        result: T = await self._execute(operation, self._conn)  # type: ignore[no-untyped-call]
        return result


# The value of an operation, or its error.
_Outcome = tuple[Any, Exception | None]


class _Read(NamedTuple):
    """An operation that waits for a reader, and the future of its result."""

    operation: Callable[[Connection], Any]
    future: "asyncio.Future[Any]"


class Readers:
    """Reads at the newest committed state."""

    def __init__(self, connections: list[_Reader], direct: sqlite3.Connection) -> None:
        self._connections = connections
        self._idle = list(connections)
        self._direct = direct
        self._waiting: deque[_Read] = deque()
        self._working: set[asyncio.Task[None]] = set()

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
        if len(self._waiting) >= WAITING_MAX:
            raise Overloaded("too many reads are waiting; try again")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Read(operation, future))
        if self._idle:
            work = asyncio.create_task(self._work(self._idle.pop()))
            self._working.add(work)
            work.add_done_callback(self._working.discard)
        return await future

    async def _work(self, reader: _Reader) -> None:
        """Run the waiting reads in groups until none is left."""
        waiting = self._waiting
        try:
            while waiting:
                group = [waiting.popleft() for _ in range(min(len(waiting), GROUP_MAX))]
                try:
                    outcomes = await reader.run(partial(_run_group, [read.operation for read in group]))
                except Exception as failure:
                    # The connection is closed.
                    outcomes = [(None, failure) for _ in group]
                # A group ends early when it takes long; other readers may run the rest.
                waiting.extendleft(reversed(group[len(outcomes) :]))
                for read, (value, error) in zip(group, outcomes, strict=False):
                    if read.future.done():
                        continue
                    if error is None:
                        read.future.set_result(value)
                    else:
                        read.future.set_exception(error)
        finally:
            self._idle.append(reader)

    def query_now(self, query: Query, **named: Any) -> list[Row]:
        """Return every row of a query that reads a few rows by key, on the event loop."""
        return query.all(self._direct, **named)

    def point_read(self, operation: Callable[[Connection], T]) -> T:
        """Run an operation that reads a few rows by key, on the event loop, and return its result."""
        return operation(self._direct)

    async def close(self) -> None:
        """Close every connection."""
        await asyncio.gather(*self._working)
        self._direct.close()
        for connection in self._connections:
            await connection.close()


def _run_group(operations: list[Callable[[Connection], Any]], conn: Connection) -> list[_Outcome]:
    """Run operations until the time of a group is over, at least one; return their values or errors."""
    outcomes: list[_Outcome] = []
    began_s = monotonic_s()
    for operation in operations:
        try:
            outcomes.append((operation(conn), None))
        except Exception as error:
            outcomes.append((None, error))
        if monotonic_s() - began_s > GROUP_SECONDS_MAX:
            break
    return outcomes


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
