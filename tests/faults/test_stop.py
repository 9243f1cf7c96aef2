"""SIGTERM under load, with clients that have sent half of a request."""

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from minibill.db.connection import open_reader
from minibill.integrity.checks import violations
from tests.faults.http_client import Line, Lost
from tests.faults.journal import Client, Journal, differences, meet
from tests.service_process import Server, serving

CLIENTS = 16
HALVES = 10
ANSWERS_MAX = 1_000

# Maximum time from the signal to the end of the process.
STOP_SECONDS_MAX = 10.0


@pytest.mark.slow
def test_a_stop_under_load_answers_every_write_it_executes(
    tmp_path: Path, long: bool, record: Callable[[str], None]
) -> None:
    db = tmp_path / "book.db"
    stops = 50 if long else 1
    rng = random.Random(f"stops {stops}")
    unanswered = 0
    with serving(db) as server:
        clients = asyncio.run(meet(db, server.port, rng, number=CLIENTS))
        journal = clients[0].journal
        slowest_s = asyncio.run(_load_until_stopped(server, clients, rng, halves=False))
    for number in range(stops):
        with serving(db) as server:
            journal.passes.renew()
            # The service waits 5 s for incomplete bodies, so the stop is slow.
            slowest_s = max(slowest_s, asyncio.run(_load_until_stopped(server, clients, rng, halves=number % 3 == 0)))
        # No acknowledged write is lost, and no write without a response was applied.
        assert differences(db, journal) == []
        unanswered += sum(client.pending is not None for client in clients)
    with closing(open_reader(db)) as conn:
        assert violations(conn) == {}
    record(
        f"{stops + 1} stops, {len(journal.sent):,} writes, {unanswered} cut off and not executed, {slowest_s:.1f} s at most"
    )


async def _load_until_stopped(server: Server, clients: list[Client], rng: random.Random, *, halves: bool) -> float:
    """Return the seconds of the stop. With `halves`, some clients never send the rest of a body."""
    journal = clients[0].journal
    answers = rng.randint(0, ANSWERS_MAX)
    enough = asyncio.Event()
    lines = [await Line.open(server.port) for _ in clients]
    crawling = [await _begin(server, journal, rng, a_body=halves and n % 2 == 0) for n in range(HALVES)]

    # Accepted before the signal, and complete only after it.
    late = journal.write("admin", "POST", "/accounts", {"entityType": "mod", "entityId": f"late-{len(journal.sent)}"})
    late_line, late_bytes = await Line.open(server.port), journal.passes.bytes_of(late)
    late_line.transport.write(late_bytes[:-1])

    async def work(client: Client, line: Line) -> None:
        nonlocal answers
        try:
            while (await client.ask_once(line)).status < 500:
                answers -= 1
                if answers <= 0:
                    enough.set()
        except Lost:
            pass

    working = [asyncio.create_task(work(client, line)) for client, line in zip(clients, lines, strict=True)]
    await enough.wait()
    began_s = time.monotonic()
    ending = asyncio.create_task(asyncio.to_thread(server.end))
    await asyncio.gather(*working)
    late.answer = await late_line.ask(late_bytes[-1:])
    assert late.done, late.answer
    assert await ending == 0
    took_s = time.monotonic() - began_s
    assert took_s < STOP_SECONDS_MAX
    for line in (late_line, *lines, *crawling):
        line.close()
    return took_s


async def _begin(server: Server, journal: Journal, rng: random.Random, *, a_body: bool) -> Line:
    """Open a connection and send a part of a request: of its headers, or of its body."""
    whole = journal.passes.request("admin", "POST", "/accounts", b'{"entityType": "person", "entityId": "half"}')
    head = whole.index(b"\r\n\r\n") + 4
    line = await Line.open(server.port)
    line.transport.write(whole[: rng.randint(head, len(whole) - 1) if a_body else rng.randint(1, head - 1)])
    return line
