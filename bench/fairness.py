"""Fairness: reserve requests on a large book, alone and during each kind of background work, in turns."""

import asyncio
import itertools
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import msgspec

from bench import payers, servers
from bench.load import Load, request_bytes, run_load
from bench.machine import on_every_core, on_server_core
from bench.reconciling import ENTRIES_AN_ACCOUNT, make_book
from bench.report import Table, Unfit, number, require_whole
from bench.singles import WARM_UP_SECONDS
from bench.sizes import Sizes
from minibill.api.types import Entity, Micro
from minibill.auth.tokens import Caller, sign_token
from minibill.book import Book
from minibill.config import read_settings
from minibill.core import ids
from minibill.core.write_result import NOWHERE
from minibill.db.write_operation import bind
from minibill.ledger.accounts import open_account
from minibill.ledger.mint import mint
from minibill.ledger.reservations import reserve
from minibill.ledger.schemas import MintBody, ReserveBody

CONNECTIONS = 8

# Reservations of the load outlive the run. Those that expire together do so within the seconds by which the clock moves.
LOAD_TTL_SECONDS = 86_400
EXPIRING_TTL_SECONDS = 7_200
# Later: reservations of two accounts with the maximum number each, while requests on them are rejected.
CROWDED_TTL_SECONDS = 36_000
CROWDED_ACCOUNTS = 2

# The campaign of `make_book`, with one grant per account.
CAMPAIGN = ids.encode(ids.CAMPAIGN, 1)

RUN_SECONDS_MAX = 600

# Tokens of the load are replaced after this time, before they expire.
TOKEN_SECONDS = 120.0

AIM_RATE, AIM_P99 = 0.5, 3.0

CALLER = Caller("service", "bench", None, frozenset())


class Beside(NamedTuple):
    """A kind of background work: its name, a function that does it and returns its seconds, and its aims."""

    name: str
    work: Callable[[int, Path], float]
    # Expiry that a request waits for is part of that request, and its clients take their share of the rate.
    has_aims: bool = True


def table(sizes: Sizes) -> Table:
    """Reserve on all accounts with 8 connections, during each kind of work and without work."""
    accounts = sizes.reconcile_entries // ENTRIES_AN_ACCOUNT
    rows: list[tuple[str, ...]] = []
    verdicts: list[str] = []
    with TemporaryDirectory() as folder:
        db = Path(folder, "book.db")
        with on_server_core():
            make_book(db, sizes.reconcile_entries)
            asyncio.run(_reserve_many(db, accounts=accounts, count=sizes.expiring))
            crowded = asyncio.run(_crowd(db, sizes.crowded))
            require_whole(db)
        kinds = (
            Beside(f"a sweep of {sizes.expiring:,} reservations", _sweep),
            Beside(
                f"{CROWDED_ACCOUNTS * sizes.crowded:,} overdue on {CROWDED_ACCOUNTS} accounts, 402s",
                partial(_reject, crowded),
                has_aims=False,
            ),
            Beside(f"the revoke of {accounts:,} grants", _revoke),
            Beside("a reconciliation", _reconcile),
            Beside("an online backup", _back_up),
            Beside(f"an import of {sizes.imported:,} rows", lambda port, _: _import(port, sizes.imported)),
        )
        with servers.running(db, options=("--test-clock",), settings={"MINIBILL_RECONCILE_SECONDS": "0"}) as server:
            requests = _reserves(accounts)
            run_load(server.port, requests, connections=CONNECTIONS, seconds=WARM_UP_SECONDS)
            for name, work, has_aims in kinds:
                alone, beside, work_s = _turn(server.port, requests, sizes, partial(work, server.port, db))
                rows.append(_row(name, alone, beside, work_s))
                verdicts += _verdicts(name, alone, beside) if has_aims else []
        require_whole(db)
    columns = ("beside", "alone/s", "beside/s", "ratio", "p50 alone", "p50", "p99 alone", "p99", "ratio", "work s")
    about = (
        f"{CONNECTIONS} connections reserve over {accounts:,} accounts of a book of {sizes.reconcile_entries:,} entries. "
        f"Before and after each work they run alone for {sizes.alone_seconds} s, and that is what it is compared with. "
        "Times in ms; the work's own in s."
    )
    return Table("Reserving beside background work", about, columns, rows, ("beside",), tuple(verdicts))


def _turn(port: int, requests: Iterator[bytes], sizes: Sizes, work: Callable[[], float]) -> tuple[Load, Load, float]:
    """The load before and after the work, the load during the work, and the seconds of the work."""
    before = run_load(port, requests, connections=CONNECTIONS, seconds=sizes.alone_seconds)
    done = threading.Event()
    took: list[float] = []

    def run() -> None:
        try:
            took.append(work())
        finally:
            done.set()

    thread = threading.Thread(target=run)
    thread.start()
    beside = run_load(port, requests, connections=CONNECTIONS, seconds=sizes.beside_seconds, is_over=done.is_set)
    thread.join()
    if not took:
        raise Unfit("the background work failed")
    after = run_load(port, requests, connections=CONNECTIONS, seconds=sizes.alone_seconds)
    alone = Load(
        (before.requests_per_s + after.requests_per_s) / 2,
        (before.p50_ms + after.p50_ms) / 2,
        (before.p99_ms + after.p99_ms) / 2,
        before.requests + after.requests,
    )
    return alone, beside, took[0]


def _row(name: str, alone: Load, beside: Load, work_s: float) -> tuple[str, ...]:
    return (
        name,
        number(alone.requests_per_s),
        number(beside.requests_per_s),
        number(beside.requests_per_s / alone.requests_per_s),
        number(alone.p50_ms),
        number(beside.p50_ms),
        number(alone.p99_ms),
        number(beside.p99_ms),
        number(beside.p99_ms / alone.p99_ms),
        number(work_s),
    )


def _verdicts(name: str, alone: Load, beside: Load) -> list[str]:
    rate = beside.requests_per_s / alone.requests_per_s
    found = [f"{name}, rate: {rate:.2f}, aim at least {AIM_RATE}: {'holds' if rate >= AIM_RATE else 'DOES NOT HOLD'}"]
    if not name.startswith("an import"):
        p99 = beside.p99_ms / alone.p99_ms
        found.append(f"{name}, p99: {p99:.2f}, aim at most {AIM_P99}: {'holds' if p99 <= AIM_P99 else 'DOES NOT HOLD'}")
    return found


# --- the load ---


def _reserves(accounts: int) -> Iterator[bytes]:
    """Reserve on all accounts in random order."""
    chosen, token, renew_s = random.Random(1), "", 0.0
    for count in itertools.count():
        if time.monotonic() >= renew_s:
            token = sign_token(read_settings(servers.ENVIRONMENT), "service", sub="bench", scopes=[], ttl=300)
            renew_s = time.monotonic() + TOKEN_SECONDS
        account = ids.encode(ids.ACCOUNT, 1 + chosen.randrange(accounts))
        body = {"accountId": account, "amountMicro": "1", "ttlSeconds": LOAD_TTL_SECONDS}
        headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": f"load-{count}"}
        yield request_bytes("POST", "/api/internal/billing/reservations", headers=headers, body=msgspec.json.encode(body))


async def _reserve_many(db: Path, *, accounts: int, count: int) -> None:
    """Create the reservations that will expire together, on accounts in random order."""
    book = await Book.open(db)
    try:
        chosen = random.Random(2).sample(range(accounts), count)
        for begin in range(0, count, 256):
            await asyncio.gather(
                *[
                    _hold(book, ids.encode(ids.ACCOUNT, 1 + account), EXPIRING_TTL_SECONDS)
                    for account in chosen[begin : begin + 256]
                ]
            )
    finally:
        await book.close()


async def _crowd(db: Path, count: int) -> list[str]:
    """Open accounts with many reservations that expire together; return their ids."""
    book = await Book.open(db)
    admin = CALLER._replace(kind="admin")
    crowded: list[str] = []
    try:
        for number in range(CROWDED_ACCOUNTS):
            opened = await book.write(
                bind(open_account, body=Entity("agent", f"crowded-{number}")), caller=admin, origin=NOWHERE
            )
            account = msgspec.json.decode(opened.body)["id"]
            await book.write(
                bind(
                    mint,
                    account_id=account,
                    body=MintBody(amount_micro=Micro(count), source_type="deposit"),
                    ceiling_micro=10**15,
                ),
                caller=admin,
                origin=NOWHERE,
            )
            for _ in range(count):
                await _hold(book, account, CROWDED_TTL_SECONDS)
            crowded.append(account)
    finally:
        await book.close()
    return crowded


async def _hold(book: Book, account: str, ttl_seconds: int) -> None:
    await book.write(
        bind(
            reserve,
            account_id=account,
            body=ReserveBody(amount_micro=Micro(1), ttl_seconds=ttl_seconds),
            default_billing_mode="live",
            ceiling_micro=10**15,
            created_by=CALLER.name,
        ),
        caller=CALLER,
        origin=NOWHERE,
    )


# --- the work ---


def _sweep(port: int, _: Path) -> float:
    return _post(port, "/clock/advance", b'{"seconds":%d}' % (EXPIRING_TTL_SECONDS + 1))


def _reject(accounts: list[str], port: int, _: Path) -> float:
    """Move the clock past the reservations of these accounts, while clients request more than the balance on them."""
    done = threading.Event()
    rejected: list[int] = []

    def ask(account: str) -> None:
        with servers.Client(port, answer_seconds_max=RUN_SECONDS_MAX) as client:
            request = client.request("POST", f"/accounts/{account}/reservations", b'{"amountMicro":"1000000000"}')
            while not done.is_set():
                rejected.append(client.connection.ask(request).status)

    callers = [threading.Thread(target=ask, args=(account,)) for account in accounts]
    for caller in callers:
        caller.start()
    seconds = _post(port, "/clock/advance", b'{"seconds":%d}' % (CROWDED_TTL_SECONDS - EXPIRING_TTL_SECONDS))
    done.set()
    for caller in callers:
        caller.join()
    if set(rejected) != {402}:
        raise Unfit(f"expected 402 of every caller: {sorted(set(rejected))}")
    return seconds


def _revoke(port: int, _: Path) -> float:
    return _post(port, f"/campaigns/{CAMPAIGN}/revoke", b'{"reason":"bench"}')


def _reconcile(port: int, _: Path) -> float:
    return _post(port, "/reconciliation", b"{}")


def _back_up(_: int, db: Path) -> float:
    began_s = time.perf_counter()
    command = [*servers.INSTALLED, "backup", str(db.with_name("backup.db")), "--db", str(db), "--json"]
    with on_every_core():
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    if process.wait(RUN_SECONDS_MAX) != 0:
        raise Unfit("the backup failed")
    return time.perf_counter() - began_s


def _import(port: int, count: int) -> float:
    began_s = time.perf_counter()
    with servers.Client(port, answer_seconds_max=RUN_SECONDS_MAX) as client:
        payer = payers.OverHttp(client)
        campaign = payer.campaign()
        for seed in range(count // payers.BATCH_GRANTS):
            payer.pay(campaign, payers.new_entities(payers.BATCH_GRANTS, seed=seed), f"import-{seed}")
    return time.perf_counter() - began_s


def _post(port: int, path: str, body: bytes) -> float:
    began_s = time.perf_counter()
    with servers.Client(port, answer_seconds_max=RUN_SECONDS_MAX) as client:
        client.post(path, body)
    return time.perf_counter() - began_s
