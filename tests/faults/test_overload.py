"""Overload: ten times more clients than the service can handle, which ignore Retry-After."""

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import NamedTuple

import pytest

from minibill.db.connection import open_reader
from minibill.integrity.checks import violations
from tests.faults.http_client import Line, ResponseBody, request_bytes
from tests.faults.journal import Journal, Passes, open_campaign
from tests.faults.process import rss_bytes, settled
from tests.service_process import Server, serving

# A batch is the most expensive request: a core handles about 20 per second.
GRANTS = 1_000
FEW = 16
MANY = 10 * FEW

# Rejections come before the body is read, after one turn of the event loop at most.
REFUSAL_SECONDS_MAX = 2.0

# Minimum throughput under overload, as a part of the throughput for few clients. The machine is shared.
SERVED_MIN = 0.4


# Time until the first rejection, also on a slow machine.
REFUSED_SECONDS_MAX = 60.0


class After(NamedTuple):
    """The end of a load: after this time, and after this number of rejections or the maximum time."""

    seconds: float
    refused: int = 0


class Served(NamedTuple):
    """The response times of a load in seconds, sorted."""

    per_s: float
    taken_s: list[float]
    refused_s: list[float]


@pytest.mark.serial
@pytest.mark.slow
def test_overload_rejects_batches_at_once_and_pays_the_others(
    tmp_path: Path, long: bool, record: Callable[[str], None]
) -> None:
    db = tmp_path / "book.db"
    few, many = list[Served](), list[Served]()
    with serving(db, MINIBILL_LOG="error") as server:
        journal, campaign = asyncio.run(_open(server, db))
        numbers = count()
        if long:
            for _ in range(5):
                few.append(asyncio.run(_pay(server, journal, campaign, numbers, clients=FEW, until=After(20.0))))
                many.append(asyncio.run(_pay(server, journal, campaign, numbers, clients=MANY, until=After(20.0))))
        else:
            many.append(asyncio.run(_pay(server, journal, campaign, numbers, clients=300, until=After(0.0, refused=50))))
        rss = rss_bytes(server.process.pid)
        assert server.end() == 0
    with closing(open_reader(db)) as conn:
        assert violations(conn) == {}
        paid = conn.execute("SELECT count(*) FROM credit_grants").fetchone()[0]
        assert paid == GRANTS * sum(len(served.taken_s) for served in (*few, *many))
    refused_s = sorted(s for served in many for s in served.refused_s)
    assert refused_s[len(refused_s) // 2] < REFUSAL_SECONDS_MAX
    if long:
        before_per_s, per_s = (sum(served.per_s for served in part) / len(part) for part in (few, many))
        assert per_s > SERVED_MIN * before_per_s
        slowest_s = max(served.taken_s[-1] for served in many)
        record(
            f"{MANY} clients with batches of {GRANTS:,}: {per_s:.1f} paid a second ({before_per_s:.1f} with {FEW} clients), "
            f"in {slowest_s:.1f} s at most; {len(refused_s):,} refused, in {_ms(refused_s, 0.5)} "
            f"(p99 {_ms(refused_s, 0.99)}); RSS {rss / 2**20:.0f} MiB"
        )


@pytest.mark.serial
def test_connections_over_the_limit_are_rejected_with_retry_after(tmp_path: Path) -> None:
    with serving(tmp_path / "book.db", files_max=300) as server:
        refused, served = asyncio.run(_connect(server, 200))
        assert [answer.status for answer in served] == [200] * 150
        assert [answer.status for answer in refused] == [503] * 50
        for answer in refused:
            assert json.loads(answer.body)["code"] == "overloaded"
            assert (answer.header("retry-after"), answer.header("connection")) == ("1", "close")
        # The service accepts connections again once the others are closed.
        assert settled(lambda: server.http.get("/campaigns").status_code == 200)


async def _connect(server: Server, number: int) -> tuple[list[ResponseBody], list[ResponseBody]]:
    """Return the responses on that many open connections: the rejections, then the others."""
    lines = [await Line.open(server.port) for _ in range(number)]
    answers = [await line.ask(request_bytes("GET", "/health/live")) for line in reversed(lines)]
    for line in lines:
        line.close()
    return answers[: number - 150], answers[number - 150 :]


def _ms(sorted_s: list[float], part: float) -> str:
    return f"{sorted_s[int(len(sorted_s) * part)] * 1000:.0f} ms"


async def _open(server: Server, db: Path) -> tuple[Journal, str]:
    journal = Journal(Passes(db))
    line = await Line.open(server.port)
    campaign = await open_campaign(journal, line)
    line.close()
    return journal, campaign


async def _pay(
    server: Server, journal: Journal, campaign: str, numbers: "count[int]", *, clients: int, until: After
) -> Served:
    grants = [{"entity": {"entityType": "person", "entityId": f"@@-{n}"}} for n in range(GRANTS)]
    body = json.dumps({"grants": grants}).encode()
    taken_s, refused_s = list[float](), list[float]()
    began_s = time.monotonic()

    async def pay() -> None:
        line = await Line.open(server.port)
        while (now_s := time.monotonic() - began_s) < until.seconds or (
            len(refused_s) < until.refused and now_s < REFUSED_SECONDS_MAX
        ):
            batch = body.replace(b"@@", b"%d" % next(numbers))
            path = f"/campaigns/{campaign}/grants/batch"
            asked_s = time.monotonic()
            answer = await line.ask(journal.passes.request("admin", "POST", path, batch), seconds_max=120)
            took_s = time.monotonic() - asked_s
            if answer.status == 201:
                taken_s.append(took_s)
                continue
            assert (answer.status, json.loads(answer.body)["code"]) == (503, "overloaded"), answer
            assert answer.header("retry-after") == "1"
            refused_s.append(took_s)
            # Shorter than Retry-After, but long enough that the client does not use up the machine.
            await asyncio.sleep(0.1)
        line.close()

    await asyncio.gather(*[pay() for _ in range(clients)])
    return Served(len(taken_s) / (time.monotonic() - began_s), sorted(taken_s), sorted(refused_s))
