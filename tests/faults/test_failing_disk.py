"""A failing disk: every request gets a response or the process ends. After a restart each has exactly one effect."""

import contextlib
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from minibill.db.connection import open_reader, open_writer
from minibill.db.sqlite import sqlite3
from minibill.integrity.checks import violations
from tests.api_client import Api, Loop
from tests.faults import vfs
from tests.faults.disk_model import Disk, Recorder, recorded, write_files
from tests.faults.load import Load, faults_of
from tests.faults.system_calls import failing_calls
from tests.service_process import Server, open_account, serving

NAME = "book.db"
ROOT = Path(__file__).parents[2]

# Number of failing operations of each kind in the short form. The long form tries every operation.
PLACES = {"read": 2, "write": 3, "sync": 4, "truncate": 1, "delete": 1, "create": 1}

# Error codes that the service may return while the disk fails.
REFUSALS = {(500, "internal_error"), (503, "not_ready")}


class Fault(NamedTuple):
    """The number of the failing operation of a kind since the book was opened. If `lasting`, all later ones fail too."""

    kind: str
    number: int
    lasting: bool


class Counter:
    """Count the operations of each kind, and make those of a fault fail."""

    def __init__(self, fault: Fault | None) -> None:
        self.counts = dict.fromkeys(vfs.ERRORS, 0)
        self.failed = 0
        self._fault = fault

    def __call__(self, kind: str, name: str) -> int:
        self.counts[kind] += 1
        fault, count = self._fault, self.counts[kind]
        if fault is None or kind != fault.kind or count < fault.number or (count > fault.number and not fault.lasting):
            return vfs.OK
        self.failed += 1
        return vfs.ERRORS[kind]


class Attempt(NamedTuple):
    """The result of a load with a fault: the faults found, and whether the process ended or failed to start."""

    wrong: list[str]
    ended: bool


def test_after_a_disk_error_and_restart_each_request_has_one_effect(
    tmp_path: Path,
    loop: Loop,
    migrated_file: Path,
    long: bool,
    record: Callable[[str], None],
) -> None:
    def attempt(name: str, counter: Counter) -> Attempt:
        folder = tmp_path / name
        (folder / "first").mkdir(parents=True)
        shutil.copyfile(migrated_file, folder / "first" / NAME)
        try:
            return try_with(counter, folder, loop)
        finally:
            shutil.rmtree(folder)

    without = Counter(None)
    assert attempt("without", without) == Attempt([], False)
    happened = ended = 0
    faults = list(places(without.counts, random.Random(5), every=long))
    for number, fault in enumerate(faults):
        counter = Counter(fault)
        result = attempt(str(number), counter)
        assert result.wrong == [], fault
        happened += bool(counter.failed)
        ended += result.ended
    assert ended and happened > len(faults) / 2
    record(f"{len(faults):,} faults, {happened:,} met, {ended:,} of them ended the process; one effect of each request")


def places(counts: dict[str, int], chance: random.Random, *, every: bool) -> Iterator[Fault]:
    for kind, count in counts.items():
        for lasting in (False, True):
            numbers = range(1, count + 1)
            yield from (
                Fault(kind, number, lasting)
                for number in (numbers if every else sorted(chance.sample(numbers, min(PLACES[kind], count))))
            )


def try_with(counter: Counter, folder: Path, loop: Loop) -> Attempt:
    """Run a load with a fault, restart without it, repeat the open requests, lose power, and check the database."""
    first, second = folder / "first", folder / "second"
    with recorded(first) as recorder:
        ends: list[int] = []
        load = Load(random.Random(1), lambda: len(recorder.steps))
        recorder.fault = counter
        started = work(first, loop, load, on_unknown_outcome=lambda error: ends.append(len(recorder.steps)))
        recorder.fault = lambda kind, name: vfs.OK
        refused, load.refused = load.refused, []
        leave(recorder, load, second, ends)
        api = Api(second / NAME, loop, {})
        with closing(open_reader(second / NAME)) as conn:
            # While the process runs, an error response means that nothing happened.
            wrong = [key for key, *_ in refused if not ends and load.sent[key].count(conn)]
        load.send(api, *load.unanswered())
        with closing(open_reader(second / NAME)) as conn:
            wrong += [*faults_of(conn, load, until=len(recorder.steps)), *map(str, violations(conn).items())]
        after = len(recorder.steps)
        api.stop()
    write_files(Disk(recorder.steps[:after]).lose_power(random.Random(after)), folder / "third")
    with closing(open_writer(folder / "third" / NAME)) as conn:
        wrong += [f"after a loss of power: {fault}" for fault in faults_of(conn, load, until=after)]
    wrong += [f"refused with {answer}" for answer in refused if answer[1:] not in REFUSALS]
    return Attempt([*wrong, *map(str, load.refused)], bool(ends) or not started)


def work(folder: Path, loop: Loop, load: Load, *, on_unknown_outcome: Callable[[BaseException], None]) -> bool:
    """Serve a book under load and close it; return false if it could not be opened."""
    try:
        api = Api(folder / NAME, loop, {}, on_unknown_outcome=on_unknown_outcome)
    except (sqlite3.Error, OSError):
        return False
    api.book._conn.execute("PRAGMA wal_autocheckpoint = 20")
    load.begin(api, accounts=2)
    load.go_on(api, rounds=3, at_once=3)
    api.stop()
    return True


def leave(recorder: Recorder, load: Load, folder: Path, ends: list[int]) -> None:
    """Continue with the files of the ended process. Operations after its end do not count."""
    after = ends[0] if ends else len(recorder.steps)
    recorder.leave_for(folder, after=after)
    load.forget_answers(after=after)


# --- the process itself ---


@pytest.mark.parametrize("kind", ["sync", "write"])
def test_the_process_ends_if_a_write_has_an_unknown_outcome(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    # Skips the test where the disk can't be made to fail.
    vfs.watch(None)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    trigger = tmp_path / "fail"
    with serving(
        tmp_path / NAME, serve=[sys.executable, "-m", "tests.faults.serve_with_faults", kind, str(trigger)]
    ) as server:
        account = open_account(server)
        ends_and_is_asked_again(server, account, tmp_path / NAME, fail=trigger.touch)
    said = [line for line in capfd.readouterr().err.splitlines() if "critical" in line]
    assert len(said) == 1 and "the outcome of writes in flight is unknown" in said[0]


@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace, which makes system calls fail")
def test_the_process_ends_if_its_system_calls_fail(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(serving(tmp_path / NAME))
        account = open_account(server)

        def fail() -> None:
            stack.enter_context(failing_calls(server, "fsync:error=EIO"))

        ends_and_is_asked_again(server, account, tmp_path / NAME, fail=fail)


def ends_and_is_asked_again(server: Server, account: str, db: Path, *, fail: Callable[[], object]) -> None:
    """Call `fail`; the server must then end. A new server must have applied each write, or apply it, exactly once."""
    assert [pay(server, account, key).status_code for key in ("a", "b")] == [201, 201]
    fail()
    with pytest.raises(httpx.TransportError):
        pay(server, account, "c")
    assert server.process.wait(15) == 1
    server.end()
    with serving(db) as again:
        assert [pay(again, account, key).status_code for key in ("a", "b", "c")] == [201] * 3
        assert ["Idempotency-Replayed" in pay(again, account, key).headers for key in ("a", "b", "c")] == [True] * 3
        assert again.http.get(f"/accounts/{account}/balance").json()["totalAvailableMicro"] == "3"


def pay(server: Server, account: str, key: str) -> httpx.Response:
    """Mint 1 without a source: only the key prevents a second mint."""
    return server.http.post(f"/accounts/{account}/mint", json={"amountMicro": "1"}, headers={"Idempotency-Key": key})
