"""The real Litestream beside a served book: both are killed, and the replica is restored on an empty machine."""

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from minibill.db.connection import open_reader
from minibill.db.migrations import LITESTREAM_TABLES
from tests.service_process import Server, mint, open_account, serving

# Installed next to this Python, with the other programs for the tests.
LITESTREAM = str(Path(sys.executable).with_name("litestream"))
CONFIGURATION = Path(__file__).parents[2] / "docs" / "deploy" / "litestream.yml"
SECONDS_MAX = 30


class Machine:
    """A folder with a book, and the Litestream configuration of the documentation."""

    def __init__(self, folder: Path) -> None:
        (folder / "machine").mkdir()
        self.db = folder / "machine" / "book.db"
        self.configuration = folder / "litestream.yml"
        configuration = yaml.safe_load(CONFIGURATION.read_text("utf-8"))
        [database] = configuration["dbs"]
        database["path"] = str(self.db)
        database["replica"]["url"] = f"file://{folder / 'bucket'}"
        self.configuration.write_text(yaml.safe_dump(configuration))

    @contextlib.contextmanager
    def replicating(self) -> Iterator["subprocess.Popen[bytes]"]:
        command = [LITESTREAM, "replicate", "-config", str(self.configuration)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                yield process
            finally:
                process.kill()

    def restore_replica(self, copy: Path) -> bool:
        command = [LITESTREAM, "restore", "-force", "-config", str(self.configuration), "-o", str(copy), str(self.db)]
        return subprocess.run(command, capture_output=True, timeout=60).returncode == 0


def minted(db: Path) -> list[int]:
    """Return the numbers of the mints in a book, in the order of their entries."""
    with closing(open_reader(db)) as conn:
        rows = conn.execute("SELECT source_id FROM credit_lots ORDER BY id").fetchall()
    return [int(source.removeprefix("order-")) for (source,) in rows]


def minibill(*arguments: object) -> dict[str, object]:
    command = [sys.executable, "-m", "minibill", *map(str, arguments), "--json"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    said: dict[str, object] = json.loads(result.stdout)
    return said


def wait_until_replicated(machine: Machine, number: int, folder: Path) -> None:
    looked_at = folder / "looked-at.db"
    until_s = time.monotonic() + SECONDS_MAX
    while not (machine.restore_replica(looked_at) and number in minted(looked_at)):
        assert time.monotonic() < until_s, "the replica never had the write"
        time.sleep(0.1)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def used(server: Server, account: str, first: int, last: int) -> None:
    assert [mint(server, account, number) for number in range(first, last)] == [201] * (last - first)


def test_a_replica_is_restored_after_both_were_killed(machine: Machine, tmp_path: Path) -> None:
    replica, restored = tmp_path / "replica.db", tmp_path / "empty" / "book.db"
    restored.parent.mkdir()
    with serving(machine.db, MINIBILL_CHECKPOINT_PAGES="0") as server, machine.replicating() as litestream:
        account = open_account(server)
        used(server, account, 0, 40)
        wait_until_replicated(machine, 39, tmp_path)
        used(server, account, 40, 80)
        litestream.kill()
        server.end(signal.SIGKILL)
    assert machine.restore_replica(replica)
    assert minibill("restore", replica, "--db", restored)["status"] == "healthy"
    assert minibill("verify", "--db", restored)["anchored"] is True
    # All replicated mints, and a prefix of the later ones.
    there = minted(restored)
    assert there == list(range(len(there))) and 40 <= len(there) <= 80
    with serving(restored) as server:
        # Clients repeat their requests; none is applied twice.
        assert [mint(server, account, number) for number in range(80)] == [200] * len(there) + [201] * (80 - len(there))
        assert server.http.get(f"/accounts/{account}/balance").json()["totalAvailableMicro"] == "80"


def test_a_replicated_book_can_be_verified_and_backed_up(machine: Machine, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    with serving(machine.db, MINIBILL_CHECKPOINT_PAGES="0") as server, machine.replicating() as litestream:
        account = open_account(server)
        used(server, account, 0, 20)
        wait_until_replicated(machine, 19, tmp_path)
        for command in (["verify"], ["backup", copy]):
            assert minibill(*command, "--db", machine.db)["status"] == "healthy"
        litestream.kill()
        server.end(signal.SIGKILL)
    with closing(open_reader(machine.db)) as conn:
        tables = conn.execute("SELECT type, name FROM sqlite_schema WHERE name LIKE '\\_litestream%' ESCAPE '\\'").fetchall()
    assert set(tables) == set(LITESTREAM_TABLES)
    assert minibill("verify", "--db", machine.db)["status"] == "healthy"
    # Both restart on the same files, and later writes are replicated too.
    with serving(machine.db, MINIBILL_CHECKPOINT_PAGES="0") as server, machine.replicating():
        used(server, account, 20, 40)
        wait_until_replicated(machine, 39, tmp_path)
    assert minibill("restore", copy, "--db", machine.db)["laterEntries"] == 20
    assert minted(machine.db) == list(range(20))
