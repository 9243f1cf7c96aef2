"""The process is killed under load repeatedly, and its clients repeat the requests without a response."""

import asyncio
import json
import random
import signal
from collections.abc import Callable
from pathlib import Path

from minibill.db.connection import open_reader
from minibill.integrity.checks import violations
from tests.faults.http_client import Line, Lost
from tests.faults.journal import Client, Journal, differences, meet, torn_batches
from tests.service_process import Server, serving

CLIENTS = 16

# Responses between a start and the kill. Three of four kills come with a response, which must then be on disk already. Few
# clients run then, because the first response of a group shows most. The other kills come a little later, during or between
# commits.
ANSWERS_MAX = 1_000
ANSWERS_OF_FEW_MAX = 50
FEW = 4
MOMENT_SECONDS_MAX = 0.02


def test_a_kill_under_load_loses_and_doubles_nothing(tmp_path: Path, long: bool, record: Callable[[str], None]) -> None:
    db = tmp_path / "book.db"
    kills = 200 if long else 4
    rng = random.Random(f"kills {kills}")
    with serving(db) as server:
        clients = asyncio.run(meet(db, server.port, rng, number=CLIENTS))
        journal = clients[0].journal
        sent_again = asyncio.run(_load_until_killed(server, clients, rng, at_once=True))
    for number in range(1, kills):
        assert torn_batches(db, clients) == []
        with serving(db) as server:
            journal.passes.renew()
            sent_again += asyncio.run(_load_until_killed(server, clients, rng, at_once=number % 4 != 3))
    with serving(db) as server:
        journal.passes.renew()
        asyncio.run(_settle(server, clients))
        assert asyncio.run(_answered_otherwise(server, journal)) == []
        assert server.end() == 0
    assert differences(db, journal) == []
    conn = open_reader(db)
    assert violations(conn) == {}
    conn.close()
    record(f"{kills} kills, {len(journal.sent):,} writes, {sent_again} unanswered and sent again: 0 lost, 0 doubled")


async def _load_until_killed(server: Server, clients: list[Client], rng: random.Random, *, at_once: bool) -> int:
    """Return the number of writes without a response after the kill."""
    answers = rng.randint(0, ANSWERS_OF_FEW_MAX if at_once else ANSWERS_MAX)
    working = rng.sample(clients, FEW) if at_once else clients
    lines = [await Line.open(server.port) for _ in working]
    enough = asyncio.Event()

    async def work(client: Client, line: Line) -> None:
        nonlocal answers
        try:
            while True:
                answer = await client.ask_once(line)
                assert answer.status < 500, answer
                answers -= 1
                if answers <= 0:
                    if at_once:
                        server.process.kill()
                    enough.set()
        except Lost:
            enough.set()

    async with asyncio.TaskGroup() as group:
        for client, line in zip(working, lines, strict=True):
            group.create_task(work(client, line))
        await enough.wait()
        await asyncio.sleep(rng.uniform(0, MOMENT_SECONDS_MAX))
        assert server.end(signal.SIGKILL) == -signal.SIGKILL
    return sum(client.pending is not None for client in clients)


async def _settle(server: Server, clients: list[Client]) -> None:
    """Repeat the writes without a response."""
    line = await Line.open(server.port)
    for client in clients:
        if client.pending is not None:
            await client.ask_once(line)
    line.close()


async def _answered_otherwise(server: Server, journal: Journal) -> list[str]:
    """Return the paths of the requests whose replay differs from the first response, or that charged again."""
    lines = [await Line.open(server.port) for _ in range(CLIENTS)]
    wrong: list[str] = []
    journal.passes.renew()
    left = iter(journal.done)

    async def ask_again(line: Line) -> None:
        for sent in left:
            again, first = await sent.by(line, journal.passes), sent.answer
            assert first is not None
            if sent.key is None:
                is_same = _charge_ids(again.body) == _charge_ids(first.body) and not _charged_now(again.body)
            else:
                replayed = again.header("idempotency-replayed") == "true"
                is_same = (again.status, again.body) == (first.status, first.body) and replayed
            if not is_same:
                wrong.append(sent.path)

    await asyncio.gather(*[ask_again(line) for line in lines])
    for line in lines:
        line.close()
    return wrong


def _charge_ids(body: bytes) -> list[str | None]:
    said = json.loads(body)
    return [charged["chargeId"] for charged in said.get("charges", [said])]


def _charged_now(body: bytes) -> bool:
    said = json.loads(body)
    return bool(said.get("totalCharged", not said.get("duplicate")))
