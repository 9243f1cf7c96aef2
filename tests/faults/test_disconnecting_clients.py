"""Clients that disconnect at any time, send slowly, or never read, beside well-behaved clients."""

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from minibill.api.body import BODY_SECONDS_MAX
from minibill.db.sqlite import sqlite3
from minibill.server.connection_limits import HEADER_TIMEOUT_SECONDS, WRITE_TIMEOUT_SECONDS
from tests.faults.http_client import Line, request_bytes
from tests.faults.journal import Client, Journal, Sent, differences, meet
from tests.faults.process import open_files, rss_bytes, settled
from tests.service_process import Server, serving

BEHAVING = 4
AT_A_TIME = 50

# Maximum time from a request to its disconnect: before, during or after the service handles it.
MOMENT_SECONDS_MAX = 0.03

# Maximum response time of the well-behaved clients, on a busy machine.
ANSWER_S = 5.0


@pytest.mark.serial
def test_disconnecting_clients_leak_nothing_and_delay_nobody(
    tmp_path: Path, long: bool, record: Callable[[str], None]
) -> None:
    db = tmp_path / "book.db"
    rng = random.Random("vanishing")
    cuts = 10_000 if long else 400
    log = tmp_path / "log"
    with serving(db, log=log) as server:
        clients = asyncio.run(meet(db, server.port, rng, number=BEHAVING + 1))
        # SQLite keeps the files of a reconciliation open for the next one.
        server.http.post("/reconciliation?dryRun=true", timeout=30)
        files = open_files(server.process.pid)
        record(asyncio.run(_cut_beside_others(server, clients, rng, cuts=cuts)))
        assert settled(lambda: open_files(server.process.pid) <= files), "connections or files were left open"
        _nothing_is_held(db)
        asyncio.run(_send_again(server, clients[0].journal))
        assert server.end() == 0
    assert differences(db, clients[0].journal) == []
    assert "Traceback" not in log.read_text()


@pytest.mark.slow
def test_the_service_closes_connections_of_slow_senders(tmp_path: Path) -> None:
    """Headers or a body that arrive byte by byte, an incomplete body, and no data at all."""
    with serving(tmp_path / "book.db", MINIBILL_KEEP_ALIVE_SECONDS="5") as server:
        slowest_s = asyncio.run(_crawl(server, tmp_path / "book.db"))
        # The reaper checks every second or two.
        assert slowest_s < max(HEADER_TIMEOUT_SECONDS, BODY_SECONDS_MAX) + 3


def test_the_service_closes_connections_of_clients_that_never_read(
    tmp_path: Path, long: bool, record: Callable[[str], None]
) -> None:
    if not long:
        pytest.skip("takes half a minute; make torture runs it")
    with serving(tmp_path / "book.db") as server:
        record(asyncio.run(_take_nothing(server, tmp_path / "book.db")))


# --- disconnecting clients ---


async def _cut_beside_others(server: Server, clients: list[Client], rng: random.Random, *, cuts: int) -> str:
    """Return a line about the response times of the other clients."""
    victim, *behaving = clients
    over = asyncio.Event()
    taken_s: list[float] = []

    async def behave(client: Client) -> None:
        line = await Line.open(server.port)
        while not over.is_set():
            began_s = time.monotonic()
            answer = await client.ask_once(line)
            taken_s.append(time.monotonic() - began_s)
            assert answer.status < 500, answer
        line.close()

    left = iter(range(cuts))

    async def vanish() -> None:
        for number in left:
            await _ask_and_vanish(server.port, victim, rng)
            if number == cuts // 2:
                half.append(rss_bytes(server.process.pid))

    half: list[int] = []
    async with asyncio.TaskGroup() as group:
        for client in behaving:
            group.create_task(behave(client))
        await asyncio.gather(*[vanish() for _ in range(AT_A_TIME)])
        over.set()
    taken_s.sort()
    assert taken_s[-1] < ANSWER_S
    p99_ms = taken_s[len(taken_s) * 99 // 100] * 1000
    grown = rss_bytes(server.process.pid) / half[0] - 1
    beside = f"{len(taken_s):,} writes with a p99 of {p99_ms:.0f} ms"
    return f"{cuts:,} cut, beside them {beside}; memory of the second half {grown:+.1%}"


async def _ask_and_vanish(port: int, client: Client, rng: random.Random) -> None:
    line = await Line.open(port)
    [ask] = rng.choices(list(WAYS), list(WAYS.values()))
    ask(line, client, rng)
    # No wait, time for the service to begin, or time for it to finish.
    await asyncio.sleep(rng.choice((0, rng.uniform(0, MOMENT_SECONDS_MAX))))
    if rng.random() < 0.5:
        line.cut()
    else:
        line.close()
    await line.ended


def _say_nothing(line: Line, client: Client, rng: random.Random) -> None:
    pass


def _send_a_part(line: Line, client: Client, rng: random.Random) -> None:
    body = b'{"entityType": "person", "entityId": "nobody"}'
    whole = client.journal.passes.request("admin", "POST", "/accounts", body, key="never whole")
    line.transport.write(whole[: rng.randint(1, len(whole) - 1)])


def _send_a_write(line: Line, client: Client, rng: random.Random) -> None:
    line.transport.write(client.journal.passes.bytes_of(_mint(client)))


def _send_many(line: Line, client: Client, rng: random.Random) -> None:
    line.transport.write(b"".join(client.journal.passes.bytes_of(_mint(client)) for _ in range(rng.randint(2, 10))))


def _send_a_batch(line: Line, client: Client, rng: random.Random) -> None:
    grants = [{"entity": {"entityType": "person", "entityId": f"v-{rng.randint(1, 5000)}"}} for _ in range(100)]
    grants = [grant for n, grant in enumerate(grants) if grant not in grants[:n]]
    path = f"/campaigns/{client.campaign}/grants/batch"
    line.transport.write(client.journal.passes.bytes_of(client.journal.write("admin", "POST", path, {"grants": grants})))


def _read_much_and_take_nothing(line: Line, client: Client, rng: random.Random) -> None:
    line.transport.pause_reading()
    page = client.journal.passes.request("admin", "GET", f"/accounts/{client.account}/history?limit=100")
    line.transport.write(page * rng.randint(1, 4))


def _reconcile(line: Line, client: Client, rng: random.Random) -> None:
    line.transport.write(client.journal.passes.request("admin", "POST", "/reconciliation?dryRun=true"))


WAYS = {
    _say_nothing: 10,
    _send_a_part: 30,
    _send_a_write: 30,
    _send_many: 10,
    _send_a_batch: 5,
    _read_much_and_take_nothing: 10,
    _reconcile: 1,
}


def _mint(client: Client) -> Sent:
    return client.journal.write("admin", "POST", f"/accounts/{client.account}/mint", {"amountMicro": "3"})


def _nothing_is_held(db: Path) -> None:
    """Assert that no read or write transaction is open."""
    with closing(sqlite3.connect(db, isolation_level=None, timeout=5)) as stray:
        stray.execute("BEGIN IMMEDIATE")
        stray.execute("ROLLBACK")
        # A requested reconciliation may still be reading.
        assert settled(lambda: stray.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0)


async def _send_again(server: Server, journal: Journal) -> None:
    """Send the abandoned writes again with their keys, so that each is applied."""
    journal.passes.renew()
    line = await Line.open(server.port)
    for sent in journal.sent:
        if sent.answer is None:
            sent.answer = await sent.by(line, journal.passes)
            assert sent.done, sent.answer
    line.close()


# --- slow senders ---


async def _crawl(server: Server, db: Path) -> float:
    """Return the seconds until the service closed the last connection."""
    [client] = await meet(db, server.port, random.Random("crawling"), number=1)
    body = b'{"entityType": "person", "entityId": "nobody"}'
    whole = client.journal.passes.request("admin", "POST", "/accounts", body)
    head, line = whole[: whole.index(b"\r\n\r\n") + 4], request_bytes("GET", "/health/live")[:20]
    ways = [(line, b"x" * 1000), (line, b""), (head, body[:-1]), (head, b""), (b"", b"")]
    return max(await asyncio.gather(*[_seconds_until_ended(server, *way) for way in ways * 20]))


async def _seconds_until_ended(server: Server, at_once: bytes, slowly: bytes) -> float:
    line = await Line.open(server.port)
    began_s = time.monotonic()
    line.transport.write(at_once)
    for n in range(len(slowly)):
        if line.ended.done():
            break
        line.transport.write(slowly[n : n + 1])
        await asyncio.wait([line.ended], timeout=0.2)
    await asyncio.wait_for(line.ended, 60)
    return time.monotonic() - began_s


async def _take_nothing(server: Server, db: Path) -> str:
    [client] = await meet(db, server.port, random.Random("slow"), number=1)
    line = await Line.open(server.port)
    for _ in range(200):
        await client.ask_once(line)
    files = open_files(server.process.pid)
    page = client.journal.passes.request("admin", "GET", f"/accounts/{client.account}/history?limit=100")
    lines = [await Line.open(server.port) for _ in range(50)]
    for slow in lines:
        slow.transport.pause_reading()
        # More than the system buffers for a connection.
        slow.transport.write(page * 500)
    began_s, slowest_s = time.monotonic(), 0.0
    while open_files(server.process.pid) > files:
        asked_s = time.monotonic()
        assert (await client.ask_once(line)).status < 500
        slowest_s = max(slowest_s, time.monotonic() - asked_s)
        assert time.monotonic() - began_s < WRITE_TIMEOUT_SECONDS + 15
    for each in (line, *lines):
        each.cut()
    return f"50 ended after {time.monotonic() - began_s:.0f} s, another waited {slowest_s * 1000:.0f} ms at most"
