"""Resources of a service: memory at rest and under load, and its start time on an existing book."""

import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import servers, spending
from bench.load import Connection, request_bytes, run_load
from bench.machine import on_server_core
from bench.report import Table, Unfit, number, require_whole
from bench.sizes import Sizes

CONNECTIONS = 64

# Consecutive load runs, to show growing memory.
LOADS = 4

READY = request_bytes("GET", "/health/ready")


def table(sizes: Sizes) -> Table:
    """Measure the start time, and the resident memory at rest and after each load run."""
    rows: list[tuple[str, ...]] = []
    with TemporaryDirectory() as folder:
        db = Path(folder, "book.db")
        with on_server_core():
            asyncio.run(spending.make_book(db, accounts=spending.HTTP_ACCOUNTS, live=1, spent=0))
        starts_s = [start_to_ready_s(db) for _ in range(sizes.rounds)]
        imports_s = [_python_s("import minibill.server.process") for _ in range(sizes.rounds)]
        rows.append(("Python, started and ended", _ms(_python_s("") for _ in range(sizes.rounds)), ""))
        rows.append(("the same with all that minibill imports", _ms(imports_s), ""))
        rows.append(("minibill serve, start to ready", _ms(starts_s), ""))
        with servers.running(db) as server:
            _require_ready(server.port)
            rows.append(("at rest", "", number(_resident_mib(server.pid))))
            requests = spending.Spending().requests(CONNECTIONS)
            for count in range(1, LOADS + 1):
                load = run_load(server.port, requests, connections=CONNECTIONS, seconds=sizes.seconds * sizes.rounds)
                rows.append((f"after load {count} ({load.requests:,} requests)", "", number(_resident_mib(server.pid))))
        require_whole(db)
    about = f"Medians of {sizes.rounds} starts; a load is reserve and finalize at {CONNECTIONS} connections."
    return Table("Start and memory", about, ("what", "ms", "MiB resident"), rows, ("what",))


def _ms(seconds: Iterable[float]) -> str:
    return number(statistics.median(seconds) * 1000)


def _python_s(program: str) -> float:
    began_s = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True)
    return time.perf_counter() - began_s


def start_to_ready_s(db: Path, *, program: tuple[str, ...] = servers.INSTALLED) -> float:
    """Return the seconds from the start of the process to its first ready response."""
    began_s = time.perf_counter()
    with servers.running(db, program=program) as server:
        _require_ready(server.port)
        return time.perf_counter() - began_s


def _require_ready(port: int) -> None:
    connection = Connection(port)
    answer = connection.ask(READY)
    connection.close()
    if answer.status != 200:
        raise Unfit(f"not ready: {answer.status} {answer.body.decode(errors='replace')}")


def _resident_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text("ascii")
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024
