"""Reserves spread over few and over many accounts of the same book: what a cold account costs."""

import itertools
import os
import random
import statistics
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from bench import servers
from bench.load import Load, request_bytes, run_load
from bench.machine import on_server_core
from bench.payers import BATCH_GRANTS, InProcess, accounts_paid, new_entities, to_accounts
from bench.report import Table, number, require_whole
from bench.singles import WARM_UP_SECONDS
from bench.sizes import Sizes

FEW_ACCOUNTS = 64
CONNECTIONS = 64

COLUMNS = ("accounts", "reserves/s", "p50 ms", "p99 ms", "KiB written a request", "share of few accounts")


def over_http(sizes: Sizes) -> Table:
    """Measure reserves on a few accounts and on all accounts of a book, in turns."""
    with TemporaryDirectory() as folder:
        db = Path(folder, "book.db")
        with on_server_core():
            accounts = _book(db, sizes)
        chance = random.Random(1)
        loads: dict[int, list[tuple[Load, float]]] = {FEW_ACCOUNTS: [], len(accounts): []}
        with servers.running(db) as server:
            keys = itertools.count()
            for turn, (count, found) in itertools.product(range(sizes.rounds + 1), loads.items()):
                requests = _reserves(accounts[:count], keys, chance)
                seconds = sizes.spread_seconds if turn else WARM_UP_SECONDS
                written = _bytes_written(server.pid)
                load = run_load(server.port, requests, connections=CONNECTIONS, seconds=seconds)
                if turn:
                    found.append((load, (_bytes_written(server.pid) - written) / load.requests / 1024))
        require_whole(db)
    base = statistics.median(load.requests_per_s for load, _ in loads[FEW_ACCOUNTS])
    rows = [_row(count, found, base) for count, found in loads.items()]
    about = (
        f"Medians of {sizes.rounds} runs of {sizes.spread_seconds} s of each kind, taken in turns, at {CONNECTIONS} "
        f"connections, on one book of {sizes.spread_accounts:,} accounts with {sizes.spread_entries} entries each "
        "before. Each reserve goes to a random account and has an idempotency key."
    )
    return Table("Reserves over few and over many accounts", about, COLUMNS, rows, ("accounts",))


def _row(count: int, found: list[tuple[Load, float]], base: float) -> tuple[str, ...]:
    rate, p50_ms, p99_ms, written = (
        statistics.median(values)
        for values in zip(*[(load.requests_per_s, load.p50_ms, load.p99_ms, kib) for load, kib in found], strict=True)
    )
    return f"{count:,}", number(rate), number(p50_ms), number(p99_ms), number(written), number(rate / base)


def _book(db: Path, sizes: Sizes) -> list[str]:
    """Make a book with that many entries per account; return the accounts."""
    with InProcess(db) as payer:
        first = payer.campaign()
        batches = [
            accounts_paid(payer.pay(first, new_entities(BATCH_GRANTS, seed=number), f"new-{number}").answer)
            for number in range(sizes.spread_accounts // BATCH_GRANTS)
        ]
        for count in range(1, sizes.spread_entries):
            campaign = payer.campaign()
            for number, batch in enumerate(batches):
                payer.pay(campaign, to_accounts(batch), f"grants-{count}-{number}")
    return [account for batch in batches for account in batch]


def _reserves(accounts: list[str], keys: Iterator[int], chance: random.Random) -> Iterator[bytes]:
    headers = {"Authorization": f"Bearer {servers.service_token()}"}
    while True:
        body = msgspec.json.encode({"accountId": chance.choice(accounts), "amountMicro": "100"})
        with_key = headers | {"Idempotency-Key": f"r{next(keys)}"}
        yield request_bytes("POST", f"{servers.SERVICE_PREFIX}/reservations", headers=with_key, body=body)


def _bytes_written(pid: int) -> int:
    """Return the bytes that a process has sent to the disk; 0 where the system does not tell."""
    file = Path(f"/proc/{pid}/io")
    if not os.access(file, os.R_OK):
        return 0
    counts = dict(line.split(": ") for line in file.read_text().splitlines())
    return int(counts["write_bytes"])
