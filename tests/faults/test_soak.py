"""A soak test: half an hour of mixed requests at a steady rate, with checks of memory, log and response times."""

import asyncio
import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import NamedTuple

import pytest

from minibill.core.clock import US_PER_SECOND, format_time, real_now_us
from minibill.db.connection import WAL_BYTES_KEPT, open_reader
from minibill.integrity.checks import CHECKS, violations
from tests.faults.http_client import Line, ResponseBody
from tests.faults.journal import Client, Journal, differences, meet
from tests.faults.process import open_files, rss_bytes, settled
from tests.service_process import Server, serving

CLIENTS = 32

# Requests per second of the long run: below the capacity, because the test measures steadiness, not speed.
RATE = 300
LONG_SECONDS, SHORT_SECONDS = 3_600, 4

# Shares of reads, and of lots and reservations that expire, so that the sweeps have work.
READS = 0.4
PASSING = 0.1
PAGES = (
    "/accounts/{client.account}/balance",
    "/accounts/{client.account}/lots?limit=20&state=live",
    "/accounts/{client.account}/history?limit=50",
    "/accounts/{client.account}/charges?limit=20",
    "/campaigns/{client.campaign}",
    "/campaigns/{client.campaign}/grants?limit=50",
    "/audit?limit=20",
)

# The caches of the readers and the writer fill first: docs/internals/performance.md has by how much.
WARM_UP = 0.33
GROWTH_MAX = 0.05

# The log can't restart while a reconciliation reads, so it grows by the writes of that time.
WAL_BYTES_MAX = 4 * WAL_BYTES_KEPT

# The p99 of one window may exceed that of the median window by this factor. The machine is shared.
P99_TIMES_MAX = 5


class Window(NamedTuple):
    """A part of the run: its response times, and the figures of the process at its end."""

    answers: int
    p99_ms: float
    rss: int
    wal: int
    files: int


@pytest.mark.serial
def test_memory_and_latency_stay_constant_under_load(tmp_path: Path, long: bool, record: Callable[[str], None]) -> None:
    db = tmp_path / "book.db"
    seconds = LONG_SECONDS if long else SHORT_SECONDS
    with serving(db, MINIBILL_RECONCILE_SECONDS="300" if long else "1") as server:
        clients, windows = asyncio.run(_soak(server, db, seconds=seconds))
        assert settled(lambda: _nothing_due(db)), "what was due was not swept"
        metrics = server.http.get(f"http://127.0.0.1:{server.port}/metrics").text
        assert server.end() == 0
    assert differences(db, clients[0].journal) == []
    with closing(open_reader(db)) as conn:
        assert violations(conn) == {}
    assert _metric(metrics, "minibill_sweeps_total") > 0
    assert re.findall(r"^minibill_reconciliation_violations\{.*\} (\S+)", metrics, re.MULTILINE) == ["0.0"] * len(CHECKS)
    warm = windows[int(len(windows) * WARM_UP) :]
    p99s = sorted(window.p99_ms for window in warm)
    before, after = (median(window.rss for window in part) for part in (warm[: len(warm) // 2], warm[len(warm) // 2 :]))
    wal_max = max(window.wal for window in windows)
    answers, mib = sum(window.answers for window in windows), 2**20
    record(
        f"{seconds / 60:.0f} min, {answers:,} answers ({answers / seconds:.0f} a second); RSS {before / mib:.1f} MiB in the "
        f"second third and {after / mib:.1f} in the last ({after / before - 1:+.1%}); WAL at most {wal_max / mib:.1f} MiB; "
        f"p99 by minute {p99s[0]:.0f} to {p99s[-1]:.0f} ms, median {median(p99s):.0f}"
    )
    for window in windows if long else ():
        record(str(window))
    assert wal_max <= WAL_BYTES_MAX
    if long:
        assert after / before - 1 <= GROWTH_MAX
        assert p99s[-1] <= P99_TIMES_MAX * median(p99s)
        assert warm[-1].files <= warm[0].files + 2


async def _soak(server: Server, db: Path, *, seconds: int) -> tuple[list[Client], list[Window]]:
    clients = await meet(db, server.port, random.Random("soak"), number=CLIENTS)
    taken_ms: list[float] = []
    passing = await _account(clients[0].journal, server.port)
    windows = []
    began_s = time.monotonic()
    slots = _slots(began_s, seconds)
    passes = clients[0].journal.passes

    async def work(client: Client, number: int) -> None:
        rng = random.Random(f"soak {number}")
        line = await Line.open(server.port)
        for at_s in slots:
            if (wait_s := at_s - time.monotonic()) > 0:
                await asyncio.sleep(wait_s)
            asked_s = time.monotonic()
            if line.ended.done():
                # The connection was idle for longer than the keep-alive time.
                line = await Line.open(server.port)
            if rng.random() < READS:
                answer = await line.ask(passes.request("admin", "GET", rng.choice(PAGES).format(client=client)))
            elif rng.random() < PASSING:
                answer = await _ask_what_passes(line, client, passing, rng)
            else:
                answer = await client.ask_once(line)
            taken_ms.append((time.monotonic() - asked_s) * 1000)
            assert answer.status < 500, answer
        line.close()

    async def watch() -> None:
        step_s = 60 if seconds > 60 else 1
        for n in range(1, seconds // step_s + 1):
            await asyncio.sleep(began_s + n * step_s - time.monotonic())
            passes.renew()
            now, taken_ms[:] = sorted(taken_ms), []
            pid, wal = server.process.pid, db.with_name(db.name + "-wal")
            windows.append(Window(len(now), now[len(now) * 99 // 100], rss_bytes(pid), wal.stat().st_size, open_files(pid)))

    async with asyncio.TaskGroup() as group:
        group.create_task(watch())
        for number, client in enumerate(clients):
            group.create_task(work(client, number))
    return clients, windows


def _slots(began_s: float, seconds: int) -> Iterator[float]:
    """Yield the times of the requests."""
    return (began_s + n / RATE for n in range(seconds * RATE))


async def _account(journal: Journal, port: int) -> str:
    line = await Line.open(port)
    account: str = (await journal.ask(line, "admin", "POST", "/accounts", {"entityType": "mod", "entityId": "passing"}))[
        "id"
    ]
    line.close()
    return account


async def _ask_what_passes(line: Line, client: Client, account: str, rng: random.Random) -> ResponseBody:
    if rng.random() < 0.5:
        expires_at = format_time(real_now_us() + rng.randint(1, 3) * US_PER_SECOND)
        body: dict[str, object] = {"amountMicro": "50", "expiresAt": expires_at}
        sent = client.journal.write("admin", "POST", f"/accounts/{account}/mint", body, passes=True)
    else:
        body = {"accountId": account, "amountMicro": "20", "ttlSeconds": 1}
        sent = client.journal.write("service", "POST", "/reservations", body, passes=True)
    sent.answer = await sent.by(line, client.journal.passes)
    return sent.answer


def _nothing_due(db: Path) -> bool:
    with closing(open_reader(db)) as conn:
        account = "(SELECT id FROM credit_accounts WHERE entity_type = 'mod')"
        found = conn.execute(f"SELECT available_micro, reserved_micro FROM credit_balances WHERE account_id = {account}")
        return bool(found.fetchall() == [(0, 0)])


def _metric(text: str, name: str) -> float:
    found = re.search(rf"^{name} (\S+)", text, re.MULTILINE)
    assert found is not None
    return float(found[1])
