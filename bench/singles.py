"""Single requests over HTTP under load: mints, balances and history pages, compared with a no-op."""

import itertools
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import msgspec

from bench import bare, servers
from bench.load import Load, request_bytes, run_load
from bench.machine import on_server_core
from bench.payers import InProcess, accounts_paid, new_entities, to_accounts
from bench.report import Table, Unfit, number
from bench.sizes import Sizes
from minibill.db.connection import open_reader

CONNECTIONS = (1, 8, 64)

# Warm-up: connections, token verification, prepared statements.
WARM_UP_SECONDS = 0.2

MINT_ACCOUNTS = 1_000

COLUMNS = ("connections", "request", "requests/s", "p50 ms", "p99 ms", "share of the no-op's rate")

NOOP_POST = request_bytes("POST", "/small", body=b'{"amountMicro":"1000000","sourceType":"deposit"}')
NOOP_GET = request_bytes("GET", "/small")


class Target(NamedTuple):
    """The target of one kind of request, and its expected status."""

    name: str
    port: int
    requests: Iterator[bytes]
    status: int


def mints(sizes: Sizes) -> Table:
    """Measure mints of one lot each."""
    with TemporaryDirectory() as folder:
        db = Path(folder, "book.db")
        with on_server_core(), InProcess(db) as payer:
            accounts = accounts_paid(payer.pay(payer.campaign(), new_entities(MINT_ACCOUNTS), "accounts").answer)
        lots_before = _lots(db)
        with servers.noop() as noop_port, servers.minibill(db) as port, servers.Client(port) as client:
            noop = Target("no-op POST", noop_port, itertools.repeat(NOOP_POST), 200)
            mint = Target("mint", port, mint_requests(client, accounts), 201)
            rows, sent = compare([noop, mint], sizes)
        if _lots(db) - lots_before != sent["mint"]:
            raise Unfit(f"{sent['mint']} mints were answered and {_lots(db) - lots_before} lots are there")
        with on_server_core():
            commits = [bare.commits_per_s(Path(folder, f"bare-{n}.db"), sizes.commits) for n in range(sizes.rounds)]
    rows.append(("1", "the disk: one bare row a COMMIT", number(statistics.median(commits)), "", "", ""))
    return Table(
        "Single mints over HTTP",
        f"Medians of {sizes.rounds} runs of {sizes.seconds} s of each kind, taken in turns. Every mint has an idempotency "
        f"key, goes to one of {MINT_ACCOUNTS:,} accounts in turn, is audited, and is on disk before it is answered.",
        COLUMNS,
        rows,
        ("request",),
    )


def reads(sizes: Sizes) -> Table:
    """Measure balances and first pages of histories."""
    with TemporaryDirectory() as folder:
        db = Path(folder, "book.db")
        with on_server_core():
            accounts = _book_with_history(db, sizes)
        with servers.noop() as noop_port, servers.minibill(db) as port, servers.Client(port) as client:
            balances = [client.request("GET", f"/accounts/{account}/balance") for account in accounts]
            pages = [client.request("GET", f"/accounts/{account}/history") for account in accounts]
            page_bytes = len(client.sent(pages[0]))
            rows, _ = compare(
                [
                    Target("no-op GET", noop_port, itertools.repeat(NOOP_GET), 200),
                    Target("balance", port, itertools.cycle(balances), 200),
                    Target("history page", port, itertools.cycle(pages), 200),
                ],
                sizes,
            )
    return Table(
        "Balance and history over HTTP",
        f"Medians of {sizes.rounds} runs of {sizes.seconds} s of each kind, taken in turns, over {sizes.read_accounts:,} "
        f"accounts of {sizes.read_entries} entries each. A history page is the newest 50 of them, {page_bytes:,} bytes.",
        COLUMNS,
        rows,
        ("request",),
    )


def compare(targets: list[Target], sizes: Sizes) -> tuple[list[tuple[str, ...]], dict[str, int]]:
    """Return a row per number of connections and target, the first as baseline, and the requests of each target."""
    rows: list[tuple[str, ...]] = []
    sent = dict.fromkeys((target.name for target in targets), 0)
    for connections in CONNECTIONS:
        runs: dict[str, list[Load]] = {target.name: [] for target in targets}
        for target in targets:
            sent[target.name] += _load(target, connections, WARM_UP_SECONDS).requests
        for _ in range(sizes.rounds):
            for target in targets:
                load = _load(target, connections, sizes.seconds)
                sent[target.name] += load.requests
                runs[target.name].append(load)
        base = _median(runs[targets[0].name], lambda load: load.requests_per_s)
        for name, loads in runs.items():
            rate = _median(loads, lambda load: load.requests_per_s)
            p50_ms, p99_ms = _median(loads, lambda load: load.p50_ms), _median(loads, lambda load: load.p99_ms)
            rows.append((str(connections), name, number(rate), number(p50_ms), number(p99_ms), number(rate / base)))
    return rows, sent


def _load(target: Target, connections: int, seconds: float) -> Load:
    return run_load(target.port, target.requests, connections=connections, seconds=seconds, status=target.status)


def _median(loads: list[Load], of: Callable[[Load], float]) -> float:
    return statistics.median(of(load) for load in loads)


def mint_requests(client: servers.Client, accounts: list[str]) -> Iterator[bytes]:
    """Prepare mints to these accounts in turn, each with a key of its own."""
    body = msgspec.json.encode({"amountMicro": "1000000", "sourceType": "deposit"})
    # One prepared request per account; only the key changes, because making requests takes the generator's time.
    place = "#" * 12
    made = [client.request("POST", f"/accounts/{account}/mint", body, key=place) for account in accounts]
    split = [request.split(place.encode()) for request in made]
    for count, (head, tail) in enumerate(itertools.cycle(split)):
        yield b"%b%012d%b" % (head, count, tail)


def _lots(db: Path) -> int:
    conn = open_reader(db)
    try:
        count: int = conn.execute("SELECT count(*) FROM credit_lots").fetchone()[0]
        return count
    finally:
        conn.close()


def _book_with_history(db: Path, sizes: Sizes) -> list[str]:
    """Make a book with that many entries per account; return the accounts."""
    with InProcess(db) as payer:
        accounts = accounts_paid(payer.pay(payer.campaign(), new_entities(sizes.read_accounts), "accounts").answer)
        body = to_accounts(accounts)
        for count in range(1, sizes.read_entries):
            payer.pay(payer.campaign(), body, f"grants-{count}")
    return accounts
