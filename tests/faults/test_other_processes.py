"""Other processes use the file while it is served: a second server, SQLite tools, copies, renames and deletions."""

import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from minibill.db.connection import open_reader
from minibill.db.sqlite import sqlite3
from minibill.integrity.checks import violations
from tests.api_client import Api, Loop, ok, problem_of
from tests.faults.http_client import Line
from tests.faults.journal import Client, differences, meet
from tests.service_process import SERVE, environment, serving

CLIENTS = 4

# Longer than the lock timeout of the service.
LONG_SECONDS = 6.0
SHORT_SECONDS = 0.3


# --- tools at a served file ---


def hold_the_lock(db: Path, seconds: float) -> None:
    with closing(_open(db)) as conn:
        conn.execute("BEGIN IMMEDIATE")
        time.sleep(seconds)
        conn.execute("ROLLBACK")


def hold_a_snapshot(db: Path, seconds: float) -> None:
    with closing(_open(db)) as conn:
        conn.execute("BEGIN")
        conn.execute("SELECT count(*) FROM credit_ledger").fetchone()
        time.sleep(seconds)


def write_a_row_and_take_it_back(db: Path, seconds: float) -> None:
    with closing(_open(db)) as conn:
        for _ in range(20):
            conn.execute("INSERT INTO revoked_tokens VALUES ('stray', 1)")
            conn.execute("DELETE FROM revoked_tokens WHERE token_id = 'stray'")


def write_and_be_killed(db: Path, seconds: float) -> None:
    script = (
        "import sys; from minibill.db.sqlite import sqlite3;"
        "conn = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30); conn.execute('PRAGMA cache_size = 1');"
        "conn.execute('BEGIN IMMEDIATE'); conn.execute('UPDATE credit_campaigns SET name = hex(randomblob(50))');"
        "conn.execute('CREATE TABLE stray AS SELECT * FROM credit_ledger');"
        "print('written', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(db)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        process.send_signal(signal.SIGKILL)


def checkpoint(db: Path, seconds: float) -> None:
    with closing(_open(db)) as conn:
        for _ in range(10):
            for mode in ("PASSIVE", "FULL", "RESTART", "TRUNCATE"):
                conn.execute(f"PRAGMA wal_checkpoint({mode})")


def vacuum(db: Path, seconds: float) -> None:
    with closing(_open(db)) as conn:
        conn.execute("VACUUM")


def change_the_journal_mode(db: Path, seconds: float) -> None:
    with closing(_open(db)) as conn, pytest.raises(sqlite3.OperationalError, match="locked"):
        conn.execute("PRAGMA journal_mode = DELETE")


def open_and_close(db: Path, seconds: float) -> None:
    for _ in range(20):
        with closing(_open(db)) as conn:
            conn.execute("SELECT count(*) FROM credit_accounts").fetchone()


def copy_the_files(db: Path, seconds: float) -> None:
    for suffix in ("", "-wal", "-shm"):
        shutil.copyfile(f"{db}{suffix}", f"{db}{suffix}.copied")


def serve_a_second_time(db: Path, seconds: float) -> None:
    _is_refused([*SERVE, "--dev", "--port", "0", "--db", str(db)])


def restore_over_it(db: Path, seconds: float) -> None:
    backup = db.with_name("backup.db")
    command = [sys.executable, "-m", "minibill"]
    subprocess.run(
        [*command, "backup", str(backup), "--db", str(db), "--force"], check=True, capture_output=True, timeout=60
    )
    _is_refused([*command, "restore", str(backup), "--db", str(db), "--force"])


Stray = Callable[[Path, float], None]
STRAYS: tuple[Stray, ...] = (
    hold_the_lock,
    hold_a_snapshot,
    write_a_row_and_take_it_back,
    write_and_be_killed,
    checkpoint,
    vacuum,
    change_the_journal_mode,
    open_and_close,
    copy_the_files,
    serve_a_second_time,
    restore_over_it,
)


def _open(db: Path) -> sqlite3.Connection:
    return sqlite3.connect(db, isolation_level=None, timeout=30)


def _is_refused(command: list[str]) -> None:
    found = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60)
    assert found.returncode == 2 and "already served" in found.stderr and "Traceback" not in found.stderr


def test_sqlite_tools_on_a_served_file_lose_nothing(tmp_path: Path, long: bool, record: Callable[[str], None]) -> None:
    db = tmp_path / "book.db"
    rounds, seconds = (10, LONG_SECONDS) if long else (1, SHORT_SECONDS)
    strays = [stray for _ in range(rounds) for stray in random.Random("strays").sample(STRAYS, len(STRAYS))]
    with serving(db) as server:
        clients = asyncio.run(meet(db, server.port, random.Random("stray"), number=CLIENTS))
        refusals = asyncio.run(_load_beside(server.port, db, clients, strays, seconds))
        # Clients only notice a process that holds the lock for longer than the service's timeout.
        assert (refusals > 0) == long
        # Acknowledged writes are in the file or its log, also if the process has no time to checkpoint.
        assert server.end(signal.SIGKILL) == -signal.SIGKILL
    with serving(db) as server:
        assert server.end() == 0
    journal = clients[0].journal
    assert differences(db, journal) == []
    with closing(open_reader(db)) as conn:
        assert violations(conn) == {}
    record(
        f"{len(strays)} strays of {len(STRAYS)} kinds beside {len(journal.sent):,} writes, {refusals} refused as overloaded"
    )


async def _load_beside(port: int, db: Path, clients: list[Client], strays: Sequence[Stray], seconds: float) -> int:
    """Return the number of rejected writes while the other processes ran, one after the other."""
    over = asyncio.Event()
    refusals = 0

    async def work(client: Client) -> None:
        nonlocal refusals
        line = await Line.open(port)
        while not over.is_set():
            answer = await client.ask_once(line)
            if answer.status >= 500:
                assert (answer.status, answer.header("retry-after")) == (503, "1"), answer
                refusals += 1
                await asyncio.sleep(0.1)
        line.close()

    async def read() -> None:
        line = await Line.open(port)
        passes = clients[0].journal.passes
        while not over.is_set():
            page = passes.request("admin", "GET", f"/accounts/{clients[0].account}/history?limit=10")
            assert (await line.ask(page, seconds_max=SHORT_SECONDS + 3)).status == 200
            await asyncio.sleep(0.02)
        line.close()

    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(work(client))
        group.create_task(read())
        for stray in strays:
            clients[0].journal.passes.renew()
            await asyncio.to_thread(stray, db, seconds)
        over.set()
    return refusals


# --- moved and deleted files ---


def _rename(file: Path) -> None:
    file.rename(f"{file}.away")


def _replace(file: Path) -> None:
    _rename(file)
    shutil.copyfile(f"{file}.away", file)


@pytest.mark.parametrize("what", [_rename, _replace, os.unlink], ids=["renamed", "replaced", "deleted"])
@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", ".lock"], ids=["file", "log", "index", "lock"])
def test_a_moved_file_ends_writes_and_loses_nothing(
    loop: Loop, tmp_path: Path, suffix: str, what: Callable[[Path], None]
) -> None:
    db = tmp_path / "book.db"
    api = Api(db, loop, {})
    account = api.account(100)
    file = db.with_name(db.name + suffix)
    what(file)
    problem = problem_of(api.post(f"/accounts/{account}/mint", {"amountMicro": "5"}, key="k"), 503, "not_ready")
    assert file.name in problem["detail"] and "same idempotency key" in problem["detail"]
    problem_of(api.post(f"/accounts/{account}/mint", {"amountMicro": "6"}), 503, "not_ready")
    problem_of(api.ask("GET", "/health/ready"), 503, "not_ready")
    # Reads continue.
    assert api.available(account) == 105
    gone = suffix == "" and what is os.unlink
    kept = Path(f"{db}.away") if suffix == "" else db
    if not gone:
        # Acknowledged writes are in the file, wherever it is, without its log. A kill now would lose nothing.
        shutil.copyfile(kept, tmp_path / "kept.db")
    api.stop()
    if gone:
        return
    api = Api(tmp_path / "kept.db", loop, {})
    ok(api.post(f"/accounts/{account}/mint", {"amountMicro": "5"}, key="k"))
    assert api.available(account) == 105
    api.stop()
    with closing(open_reader(tmp_path / "kept.db")) as conn:
        assert violations(conn) == {}
