"""One write after the other: mints and pairs of a single caller, compared with the commits of the same disk.

The speed of a disk moves within seconds. So turns are short, and each compares its writes with its own commits.
"""

import asyncio
import itertools
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import minibill
from bench import servers, spending
from bench.machine import on_server_core
from bench.report import Table, number, require_whole
from bench.singles import mint_requests
from bench.sizes import Sizes
from bench.spending import ACCOUNT, CEILING_MICRO, HTTP_ACCOUNTS, OPERATOR, Recorder, Spending
from minibill.api.types import Micro
from minibill.audit import log as audit_log
from minibill.book import Book
from minibill.client._async.methods import AsyncMethods
from minibill.core.write_result import NOWHERE
from minibill.db.connection import CHECKPOINT_PAGES, open_writer
from minibill.db.queries import queries
from minibill.db.sqlite import sqlite3
from minibill.ledger.mint import mint
from minibill.ledger.schemas import MintBody

# Turns of a round, and the part of a round's commits in a turn.
TURNS_A_ROUND = 20
TURN_PART = 50

# What a disk makes on which the origin makes 750 pairs: one after the other, in process.
ORIGIN_PAIRS = 750
ORIGIN_COMMITS = 4_600

# The aims: part of the disk's commits, and times the origin's pairs.
MINT_SHARE_MIN = 0.75
PAIR_TIMES_MIN = 2.0

DISK = "the disk: one bare row a COMMIT"
BARE_MINT = "mint: its statements alone, one COMMIT each"
MINT, MINT_EMBEDDED, MINT_HTTP = "mint: `Book.write`", "mint: `minibill.open`", "mint: HTTP, one connection"
PAIR, PAIR_EMBEDDED, PAIR_HTTP = "pair: `Book.write`", "pair: `minibill.open`", "pair: HTTP, one connection"
KINDS = (DISK, BARE_MINT, MINT, MINT_EMBEDDED, MINT_HTTP, PAIR, PAIR_EMBEDDED, PAIR_HTTP)

# The default page size of SQLite.
PAGE_BYTES = 4096

MINT_1 = MintBody(amount_micro=Micro(1_000_000))

LEDGER = queries("ledger")
CHAIN = queries("chain")


def table(sizes: Sizes) -> Table:
    """Measure mints and pairs, in turns with single-row transactions on the same disk."""
    count, turns = sizes.commits // TURN_PART, sizes.rounds * TURNS_A_ROUND
    with TemporaryDirectory() as folder, ExitStack() as stack:
        rates = _rates(Path(folder), count, turns, stack)
        stack.close()
        for file in Path(folder).glob("book-*.db"):
            require_whole(file)
    rows: list[tuple[str, ...]] = []
    for name, found in rates.items():
        share, times = _beside(found, rates[DISK]), ""
        if name.startswith("pair"):
            times = number(share * ORIGIN_COMMITS / ORIGIN_PAIRS)
        rows.append((name, number(statistics.median(found)), number(1e6 / statistics.median(found)), number(share), times))
    about = (
        f"Medians of {turns} turns of {count} of each kind; a share is of the commits of the same turn. One caller waits "
        "for each write before the next. A mint is audited. Writes of pairs and over HTTP have an idempotency key. The log "
        "of the disk's rows has its full length, as those of the books have. "
        f"The origin makes {ORIGIN_PAIRS} pairs/s where the disk makes {ORIGIN_COMMITS:,} commits/s."
    )
    columns = ("writes", "per second", "µs each", "share of the disk's commits", "times the origin")
    return Table("One write after the other", about, columns, rows, ("writes",), _verdicts(rates))


def _verdicts(rates: dict[str, list[float]]) -> tuple[str, ...]:
    share = _beside(rates[MINT], rates[DISK])
    times = _beside(rates[PAIR], rates[DISK]) * ORIGIN_COMMITS / ORIGIN_PAIRS
    return (
        _verdict("mint to the disk's commits", share, MINT_SHARE_MIN),
        _verdict("pair to the origin", times, PAIR_TIMES_MIN),
    )


def _verdict(what: str, ratio: float, at_least: float) -> str:
    return f"{what}: {ratio:.2f}, aim at least {at_least:.2f}: {'holds' if ratio >= at_least else 'DOES NOT HOLD'}"


def _beside(found: list[float], base: list[float]) -> float:
    return statistics.median(rate / of_turn for rate, of_turn in zip(found, base, strict=True))


def _rates(folder: Path, count: int, turns: int, stack: ExitStack) -> dict[str, list[float]]:
    """Return the rates of each kind, by turn."""
    written, embedded, served = (folder / f"book-{name}.db" for name in ("written", "embedded", "served"))
    # The writers' threads inherit the core.
    with on_server_core():
        for db, accounts in ((written, 1), (embedded, 1), (served, HTTP_ACCOUNTS)):
            asyncio.run(spending.make_book(db, accounts=accounts, live=1, spent=0))
        disk = stack.enter_context(closing(_BareRows(folder)))
        bare_mints = stack.enter_context(closing(_BareMints(folder, (turns + 1) * count)))
        runner = stack.enter_context(asyncio.Runner())
        book = runner.run(Book.open(written))
        stack.callback(lambda: runner.run(book.close()))
        opened = minibill.open(embedded)
        client = runner.run(opened.__aenter__())
        stack.callback(lambda: runner.run(opened.__aexit__(None, None, None)))
    http = stack.enter_context(servers.Client(stack.enter_context(servers.minibill(served))))
    requests = {MINT_HTTP: mint_requests(http, [ACCOUNT]), PAIR_HTTP: Spending().requests(1)}
    pairs, names = count // 2, map(str, itertools.count())
    rates: dict[str, list[float]] = {name: [] for name in KINDS}

    def measure(name: str, run: Callable[[], object], writes: int) -> None:
        began_s = time.perf_counter()
        run()
        rates[name].append(writes / (time.perf_counter() - began_s))

    for _ in range(turns + 1):
        with on_server_core():
            measure(DISK, lambda: disk.run(count), count)
            measure(BARE_MINT, lambda: bare_mints.run(count), count)
            measure(MINT, lambda: runner.run(_mints(book, count)), count)
            measure(MINT_EMBEDDED, lambda: runner.run(_embedded_mints(client, count)), count)
            measure(PAIR, lambda: runner.run(_pairs(book, pairs, names)), pairs)
            measure(PAIR_EMBEDDED, lambda: runner.run(_embedded_pairs(client, pairs, names)), pairs)
        for name, writes in ((MINT_HTTP, count), (PAIR_HTTP, pairs)):
            # Made before: making them would take time between two writes.
            made = list(itertools.islice(requests[name], count))
            measure(name, partial(_send, http, made), writes)
    # The first turn warms up.
    return {name: found[1:] for name, found in rates.items()}


def _send(http: servers.Client, requests: list[bytes]) -> None:
    for request in requests:
        http.sent(request)


async def _mints(book: Book, count: int) -> None:
    for _ in range(count):
        await spending.write(book, mint, None, account_id=ACCOUNT, body=MINT_1, ceiling_micro=CEILING_MICRO)


async def _embedded_mints(client: AsyncMethods, count: int) -> None:
    for _ in range(count):
        await client.mint(ACCOUNT, int(MINT_1.amount_micro))


async def _pairs(book: Book, count: int, names: Iterator[str]) -> None:
    for name in itertools.islice(names, count):
        reservation_id = await spending.reserve_amount(book, 100, f"r{name}")
        await spending.finalize_cost(book, reservation_id, 60, f"f{name}")


async def _embedded_pairs(client: AsyncMethods, count: int, names: Iterator[str]) -> None:
    for name in itertools.islice(names, count):
        reserved = await client.reserve(ACCOUNT, 100, key=f"r{name}")
        await client.finalize(reserved.reservation_id, 60, key=f"f{name}")


class _BareRows:
    """Single-row transactions in one file."""

    def __init__(self, folder: Path) -> None:
        self._conn = open_writer(folder / "disk.db")
        self._conn.execute("CREATE TABLE one_row (number INTEGER PRIMARY KEY) STRICT")
        # Each sync is slower while the log grows. The logs of the books reach their full length in the first turns.
        self._conn.execute("CREATE TABLE filler (content BLOB NOT NULL) STRICT")
        self._conn.execute("INSERT INTO filler VALUES (zeroblob(?))", (CHECKPOINT_PAGES * PAGE_BYTES,))
        self._conn.execute("PRAGMA wal_checkpoint(RESTART)")

    def run(self, count: int) -> None:
        for _ in range(count):
            self._conn.execute("BEGIN IMMEDIATE")
            self._conn.execute("INSERT INTO one_row DEFAULT VALUES")
            self._conn.execute("COMMIT")

    def close(self) -> None:
        self._conn.close()


class _BareMints:
    """The statements of mints, run again on a copy of their book with nothing decided or encoded."""

    def __init__(self, folder: Path, count: int) -> None:
        made, copy = folder / "recorded.db", folder / "book-bare.db"
        asyncio.run(spending.make_book(made, accounts=1, live=1, spent=0))
        shutil.copyfile(made, copy)
        conn = open_writer(made)
        recorder = Recorder(conn)
        for _ in range(count):
            _mint_once(recorder)  # type: ignore[arg-type]
        conn.close()
        self._conn = open_writer(copy)
        self._statements = iter([(run(self._conn), sql, values) for run, sql, values in recorder.ran])
        self._a_mint = len(recorder.ran) // count

    def run(self, count: int) -> None:
        for run, sql, values in itertools.islice(self._statements, count * self._a_mint):
            run(sql, values).fetchone()

    def close(self) -> None:
        self._conn.close()


def _mint_once(conn: sqlite3.Connection) -> None:
    conn.execute("BEGIN IMMEDIATE")
    now_us = LEDGER.newest_time.one(conn)
    assert now_us is not None
    result = mint(conn, now_us[0], account_id=ACCOUNT, body=MINT_1, ceiling_micro=CEILING_MICRO)
    audit_log.append(conn, result, actor_id=OPERATOR.sub, origin=NOWHERE, now_us=now_us[0])
    CHAIN.count_commit.run(conn)
    conn.execute("COMMIT")
