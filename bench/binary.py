"""The single-file executable compared with the installed package: start time and throughput."""

import asyncio
import statistics
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import servers, spending
from bench.load import run_load
from bench.machine import on_server_core
from bench.report import Table, number, require_whole
from bench.singles import WARM_UP_SECONDS
from bench.sizes import Sizes
from bench.upkeep import start_to_ready_s

BINARY = Path(__file__).parents[1] / "dist" / "minibill"
PROGRAMS = {"the installed package": servers.INSTALLED, "dist/minibill": (str(BINARY),)}
CONNECTIONS = 64
COLD_START_SECONDS_MAX = 1.5


def table(sizes: Sizes) -> Table:
    """Measure starts and loads in turns, each load on its own service."""
    starts: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    rates: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    with TemporaryDirectory() as folder:
        for turn in range(sizes.rounds):
            for name, program in PROGRAMS.items():
                db = Path(folder, f"{turn}-{len(program)}.db")
                with on_server_core():
                    asyncio.run(spending.make_book(db, accounts=spending.HTTP_ACCOUNTS, live=1, spent=0))
                starts[name].append(start_to_ready_s(db, program=program))
                requests = spending.Spending().requests(CONNECTIONS)
                with servers.running(db, program=program) as server:
                    run_load(server.port, requests, connections=CONNECTIONS, seconds=WARM_UP_SECONDS)
                    load = run_load(server.port, requests, connections=CONNECTIONS, seconds=sizes.seconds)
                    rates[name].append(load.requests_per_s)
                require_whole(db)
    rows: list[tuple[str, ...]] = [
        (
            name, number(statistics.median(starts[name]) * 1000), number(min(starts[name]) * 1000),
            number(statistics.median(rates[name])), number(max(rates[name])),
        )
        for name in PROGRAMS
    ]  # fmt: skip
    about = (
        f"Medians and bests of {sizes.rounds} turns: a start to ready, then reserve and finalize at {CONNECTIONS} "
        f"connections for {sizes.seconds} s. The file: {number(BINARY.stat().st_size / 1e6)} MB, unpacked by each start."
    )
    started_s = statistics.median(starts["dist/minibill"])
    aim = f"dist/minibill, start to ready: {started_s:.2f} s, aim at most {COLD_START_SECONDS_MAX} s: "
    verdict = aim + ("holds" if started_s <= COLD_START_SECONDS_MAX else "DOES NOT HOLD")
    columns = ("what", "start ms", "best", "requests/s", "best")
    return Table("The single-file executable", about, columns, rows, ("what",), (verdict,))
