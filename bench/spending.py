"""Spending: pairs of reserve and finalize, in process and over HTTP, on accounts with few and with many lots."""

import asyncio
import itertools
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from bench import bare, servers
from bench.load import Load, request_bytes, run_load
from bench.machine import on_server_core
from bench.report import Table, Unfit, number, require_whole
from bench.singles import CONNECTIONS, NOOP_POST, WARM_UP_SECONDS
from bench.sizes import Sizes
from minibill.api import idempotency
from minibill.api.idempotency import Key
from minibill.api.types import Entity, Micro, encode
from minibill.auth.tokens import Caller
from minibill.book import Book
from minibill.core import ids
from minibill.core.write_result import NOWHERE, WriteResult
from minibill.db.cache import OperationCache
from minibill.db.connection import open_writer
from minibill.db.lanes import QUEUE_MAX
from minibill.db.queries import queries
from minibill.db.sqlite import sqlite3
from minibill.db.write_operation import bind
from minibill.ledger.accounts import open_account
from minibill.ledger.finalize import finalize
from minibill.ledger.limits import LOTS_PER_SPEND_MAX
from minibill.ledger.mint import mint
from minibill.ledger.reservations import reserve
from minibill.ledger.schemas import AdminFinalizeBody, MintBody, ReserveBody

LEDGER = queries("ledger")

CALLER = Caller("service", "bench", None, frozenset())
# An admin makes the book: mints of a service are not possible, and a book without audit rows fails a check.
OPERATOR = Caller("admin", "bench", None, frozenset())
ACCOUNT = ids.encode(ids.ACCOUNT, 1)
CEILING_MICRO = 10**15

# Concurrent callers in process: as many as the connections of the largest load.
SPENDERS = 64

# Live and spent lots of an account.
LOTS = ((1, 0), (100, 0), (10_000, 0), (1, 10_000))

# Accounts over HTTP: enough that the writes of a group are on different accounts.
HTTP_ACCOUNTS = 64

# The bodies of a pair: 100 are reserved, 60 charged.
RESERVE_100 = ReserveBody(amount_micro=Micro(100))
FINALIZE_60 = AdminFinalizeBody(actual_cost_micro=Micro(60))


def in_process(sizes: Sizes) -> Table:
    """Measure pairs in process, compared with single-row transactions on the same disk."""
    rows: list[tuple[str, ...]] = []
    with TemporaryDirectory() as folder, on_server_core():
        commits = [bare.commits_per_s(Path(folder, f"bare-{n}.db"), sizes.commits) for n in range(sizes.rounds)]
        commits_per_s = statistics.median(commits)
        rates: dict[tuple[int, int], list[float]] = {lots: [] for lots in LOTS}
        for turn in range(sizes.rounds):
            for live, spent in LOTS:
                db = Path(folder, f"{turn}-{live}-{spent}.db")
                rates[live, spent].append(asyncio.run(_pairs_per_s(db, live=live, spent=spent, pairs=sizes.pairs)))
                require_whole(db)
        floors = [_bare_pairs_per_s(Path(folder, f"bare-pairs-{n}.db"), pairs=sizes.pairs) for n in range(sizes.rounds)]
    first = statistics.median(rates[LOTS[0]])
    rows.append(("the disk: one bare row a COMMIT", "", "", number(commits_per_s), "1.00", ""))
    floor = statistics.median(floors)
    rows.append(("bare: the same statements, same groups", "1", "0", number(floor), number(floor / commits_per_s), ""))
    for (live, spent), found in rates.items():
        rate = statistics.median(found)
        share = number(rate / commits_per_s)
        rows.append((f"{SPENDERS} spenders, grouped", f"{live:,}", f"{spent:,}", number(rate), share, number(first / rate)))
    columns = ("pairs", "live lots", "spent lots", "pairs/s", "times the disk's rate", "cost beside one lot")
    about = (
        f"Medians of {sizes.rounds} books of {sizes.pairs:,} pairs each: reserve 100, finalize 60, every write with an "
        "idempotency key, on one account, on disk before it is answered. Bare are the statements that such pairs ran, run "
        f"again on a copy of the book, {SPENDERS} requests a transaction, with nothing decided, encoded or awaited."
    )
    return Table("Reserve and finalize in process", about, columns, rows, ("pairs",))


def over_http(sizes: Sizes) -> Table:
    """Measure alternating reserve and finalize requests, compared with a no-op of the same framework and server."""
    rows: list[tuple[str, ...]] = []
    with TemporaryDirectory() as folder:
        db = Path(folder, "book.db")
        with on_server_core():
            asyncio.run(make_book(db, accounts=HTTP_ACCOUNTS, live=1, spent=0))
        with servers.noop() as noop_port, servers.minibill(db) as port:
            spending = Spending()
            for connections in CONNECTIONS:
                noops, spends = [], []
                requests = spending.requests(connections)
                run_load(port, requests, connections=connections, seconds=WARM_UP_SECONDS)
                for _ in range(sizes.rounds):
                    noop = itertools.repeat(NOOP_POST)
                    noops.append(run_load(noop_port, noop, connections=connections, seconds=sizes.seconds))
                    spends.append(run_load(port, requests, connections=connections, seconds=sizes.seconds))
                base = statistics.median(load.requests_per_s for load in noops)
                rows += [_row(connections, "no-op POST", noops, base), _row(connections, "reserve, finalize", spends, base)]
    columns = ("connections", "request", "requests/s", "p50 ms", "p99 ms", "share of the no-op's rate")
    about = (
        f"Medians of {sizes.rounds} runs of {sizes.seconds} s of each kind, taken in turns. Each request has a token and an "
        f"idempotency key; {HTTP_ACCOUNTS} accounts; synchronous=FULL."
    )
    return Table("Reserve and finalize over HTTP", about, columns, rows, ("request",))


def _row(connections: int, name: str, loads: list[Load], base: float) -> tuple[str, ...]:
    rate, p50_ms, p99_ms = (
        statistics.median(values) for values in zip(*[(x.requests_per_s, x.p50_ms, x.p99_ms) for x in loads], strict=True)
    )
    return str(connections), name, number(rate), number(p50_ms), number(p99_ms), number(rate / base)


class Spending:
    """Alternating reserve and finalize requests.

    Ids of reservations are consecutive and there is no other client. So a finalize can name a reservation without parsing
    responses.
    """

    def __init__(self) -> None:
        self._headers = {"Authorization": f"Bearer {servers.service_token()}"}
        self._reserved = self._finalized = 0

    def requests(self, connections: int) -> Iterator[bytes]:
        """Prepare requests for that many connections."""
        while True:
            self._reserved += 1
            account = ids.encode(ids.ACCOUNT, 1 + self._reserved % HTTP_ACCOUNTS)
            yield self._post("/reservations", f"r{self._reserved}", {"accountId": account, "amountMicro": "100"})
            if self._finalized + 1 <= self._reserved - connections:
                self._finalized += 1
                reservation = ids.encode(ids.RESERVATION, self._finalized)
                body = {"reservationId": reservation, "actualCostMicro": "60"}
                yield self._post("/finalize", f"f{self._finalized}", body)

    def _post(self, path: str, key: str, body: dict[str, str]) -> bytes:
        headers = self._headers | {"Idempotency-Key": key}
        return request_bytes("POST", servers.SERVICE_PREFIX + path, headers=headers, body=msgspec.json.encode(body))


async def _pairs_per_s(db: Path, *, live: int, spent: int, pairs: int) -> float:
    await make_book(db, accounts=1, live=live, spent=spent)
    book = await Book.open(db)
    numbers = iter(range(pairs))

    async def spend() -> None:
        for count in numbers:
            reserved = await reserve_amount(book, 100, f"r{count}")
            await finalize_cost(book, reserved, 60, f"f{count}")

    began_s = time.perf_counter()
    await asyncio.gather(*[spend() for _ in range(SPENDERS)])
    taken_s = time.perf_counter() - began_s
    await book.close()
    return pairs / taken_s


class Recorder:
    """A connection that records the requests that it sent."""

    def __init__(self, conn: sqlite3.Connection) -> None:
        self._conn = conn
        self.cache = OperationCache()
        self.ran: list[tuple[Callable[[sqlite3.Connection], Callable[..., sqlite3.Cursor]], str, Sequence[Any]]] = []

    def execute(self, sql: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        self.ran.append((attrgetter("execute"), sql, values))
        return self._conn.execute(sql, values)

    def executemany(self, sql: str, rows: Sequence[Any]) -> sqlite3.Cursor:
        self.ran.append((attrgetter("executemany"), sql, rows))
        return self._conn.executemany(sql, rows)


def _bare_pairs_per_s(db: Path, *, pairs: int) -> float:
    copy = db.with_suffix(".copy")
    asyncio.run(make_book(db, accounts=1, live=1, spent=0))
    shutil.copyfile(db, copy)
    conn = open_writer(db)
    recorder = Recorder(conn)
    _run_pairs(recorder, pairs)  # type: ignore[arg-type]
    conn.close()
    conn = open_writer(copy)
    statements = [(run(conn), sql, values) for run, sql, values in recorder.ran]
    began_s = time.perf_counter()
    for run, sql, values in statements:
        run(sql, values).fetchone()
    taken_s = time.perf_counter() - began_s
    conn.close()
    require_whole(copy)
    return pairs / taken_s


def _run_pairs(conn: sqlite3.Connection, pairs: int) -> None:
    now_us = LEDGER.newest_time.one(conn)
    assert now_us is not None

    def run(operation: Callable[..., WriteResult], name: str, **arguments: object) -> Any:
        key = Key(CALLER.name, name, name.ljust(32).encode())
        assert idempotency.find_response(conn, key) is None
        result = operation(conn, now_us[0], ceiling_micro=CEILING_MICRO, **arguments)
        response = idempotency.StoredResponse(201, encode(result.body))
        idempotency.store_response(conn, key, response, uptime_us=now_us[0])
        return result.body

    for begin in range(0, pairs, SPENDERS // 2):
        conn.execute("BEGIN IMMEDIATE")
        for count in range(begin, min(begin + SPENDERS // 2, pairs)):
            reserved = run(
                reserve,
                f"r{count}",
                account_id=ACCOUNT,
                body=RESERVE_100,
                default_billing_mode="live",
                created_by=CALLER.name,
            )
            run(finalize, f"f{count}", reservation_id=reserved.reservation_id, body=FINALIZE_60, closed_by=CALLER.name)
        conn.execute("COMMIT")


async def make_book(db: Path, *, accounts: int, live: int, spent: int) -> None:
    book = await Book.open(db)
    for number_ in range(accounts):
        await write(book, open_account, None, body=Entity("person", f"spender-{number_}"))
    if spent:
        await _mints(book, ACCOUNT, amount_micro=1, count=spent)
        # Maximum number of lots of a reservation.
        for begin in range(0, spent, LOTS_PER_SPEND_MAX):
            part = min(LOTS_PER_SPEND_MAX, spent - begin)
            await finalize_cost(book, await reserve_amount(book, part, f"spend-{begin}"), part, f"spent-{begin}")
    for key in range(1, accounts + 1):
        account = ids.encode(ids.ACCOUNT, key)
        await _mints(book, account, amount_micro=10**9, count=live)
    await book.close()


async def write(book: Book, operation: object, key: str | None, **arguments: object) -> bytes:
    kept = None if key is None else Key(CALLER.name, key, key.ljust(32).encode())
    caller = OPERATOR if key is None else CALLER
    written = await book.write(bind(operation, **arguments), caller=caller, origin=NOWHERE, key=kept)  # type: ignore[arg-type]
    if written.status not in (200, 201):
        raise Unfit(f"{written.status} {written.body.decode()}")
    return written.body


async def _mints(book: Book, account_id: str, *, amount_micro: int, count: int) -> None:
    # Fewer at once than the queue holds.
    for begin in range(0, count, QUEUE_MAX):
        await asyncio.gather(*[_mint(book, account_id, amount_micro) for _ in range(begin, min(begin + QUEUE_MAX, count))])


async def _mint(book: Book, account_id: str, amount_micro: int) -> None:
    body = MintBody(amount_micro=Micro(amount_micro))
    await write(book, mint, None, account_id=account_id, body=body, ceiling_micro=CEILING_MICRO)


async def reserve_amount(book: Book, amount_micro: int, key: str) -> str:
    answer = await write(
        book, reserve, key, account_id=ACCOUNT, body=ReserveBody(amount_micro=Micro(amount_micro)),
        default_billing_mode="live", ceiling_micro=CEILING_MICRO, created_by=CALLER.name,
    )  # fmt: skip
    reservation_id: str = msgspec.json.decode(answer)["reservationId"]
    return reservation_id


async def finalize_cost(book: Book, reservation_id: str, cost_micro: int, key: str) -> None:
    await write(
        book,
        finalize,
        key,
        reservation_id=reservation_id,
        body=AdminFinalizeBody(Micro(cost_micro)),
        ceiling_micro=CEILING_MICRO,
        closed_by=CALLER.name,
    )
