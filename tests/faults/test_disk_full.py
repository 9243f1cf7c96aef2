"""A full disk, a file size limit, a quota, a read-only folder: nothing is lost, and no outcome is unknown."""

import contextlib
import os
import resource
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from minibill.db.connection import open_reader
from minibill.db.file_lock import lock_file
from minibill.integrity.checks import violations
from tests.api_client import SECRETS, problem_of
from tests.faults.system_calls import failing_calls
from tests.service_process import SERVE, Server, environment, open_account, serving

NAME = "book.db"

# More mints than any of these limits allows.
MINTS_MAX = 2_000

# Makes file modes apply to a server that root runs: PR_CAPBSET_DROP of CAP_DAC_OVERRIDE.
_BOUND = "import ctypes, os, sys; ctypes.CDLL(None).prctl(24, 1); os.execv(sys.argv[1], sys.argv[1:])"
SERVE_BOUND = [sys.executable, "-c", _BOUND, *SERVE] if os.geteuid() == 0 else SERVE


def test_a_file_size_limit_is_storage_full_until_it_is_raised(tmp_path: Path) -> None:
    with serving(tmp_path / NAME) as server:
        account = open_account(server)
        pid = server.process.pid
        limit, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)

        def fill() -> None:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (wal_bytes(tmp_path) + 100_000, hard))

        stays_up_without_room(
            server, account, fill=fill, empty=lambda: resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit, hard))
        )
        assert server.end() == 0
    assert_whole(tmp_path / NAME)


@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace, which makes system calls fail")
def test_an_exceeded_quota_is_storage_full_until_there_is_room(tmp_path: Path) -> None:
    with serving(tmp_path / NAME) as server, contextlib.ExitStack() as stack:
        account = open_account(server)

        def fill() -> None:
            stack.enter_context(failing_calls(server, "pwrite64:error=EDQUOT"))

        stays_up_without_room(server, account, fill=fill, empty=stack.close)
        assert server.end() == 0
    assert_whole(tmp_path / NAME)


def test_a_full_disk_is_storage_full_until_there_is_room(small_disk: Path) -> None:
    filler = small_disk / "filler"
    with serving(small_disk / NAME) as server:
        account = open_account(server)

        def fill() -> None:
            with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
                while file.write(bytes(65_536)):
                    pass
            # Some writes still fit, so the disk becomes full during one.
            os.truncate(filler, filler.stat().st_size - 100_000)

        stays_up_without_room(server, account, fill=fill, empty=filler.unlink)
        assert server.end() == 0
    assert_whole(small_disk / NAME)


def stays_up_without_room(server: Server, account: str, *, fill: Callable[[], object], empty: Callable[[], object]) -> None:
    """Mint until the disk is full: writes are rejected, none is lost, reads succeed. With space, writes succeed again."""
    fill()
    done = 0
    while (answer := mint(server, account, done)).status_code == 201 and done < MINTS_MAX:
        done += 1
    for number in (done, done + 1, done):
        problem_of(answer, 503, "storage_full")
        assert int(answer.headers["Retry-After"]) > 0
        problem_of(charge(server, account), 503, "storage_full")
        assert available(server, account) == done
        answer = mint(server, account, number)
    assert ready(server) == 503
    empty()
    assert mint(server, account, done).status_code == 201
    assert (mint(server, account, done).headers["Idempotency-Replayed"], mint(server, account, 0).status_code) == (
        "true",
        201,
    )
    assert available(server, account) == done + 1
    assert [charge(server, account).status_code for _ in range(2)] == [201, 200]
    assert ready(server) == 200


@contextlib.contextmanager
def read_only(place: Path) -> Iterator[None]:
    before = stat.S_IMODE(place.stat().st_mode)
    place.chmod(before & ~0o222)
    try:
        yield
    finally:
        place.chmod(before)


@pytest.mark.parametrize("place", ["the folder of a new file", "the folder", "the file"])
def test_a_start_in_a_read_only_place_fails_with_one_line(tmp_path: Path, migrated_file: Path, place: str) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    db = folder / NAME
    if place != "the folder of a new file":
        # A database that a service has closed.
        shutil.copyfile(migrated_file, db)
        lock_file(db).touch()
    with read_only(db if place == "the file" else folder):
        refused_to_start(db)


def test_a_running_service_survives_a_read_only_folder(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    db = folder / NAME
    with serving(db, serve=SERVE_BOUND) as server:
        account = open_account(server)
        with read_only(folder):
            assert [mint(server, account, number).status_code for number in range(3)] == [201] * 3
            assert available(server, account) == 3
            assert server.end() == 0
            refused_to_start(db)
    with serving(db) as server:
        assert available(server, account) == 3
        assert mint(server, account, 2).headers["Idempotency-Replayed"] == "true"


def refused_to_start(db: Path) -> None:
    result = subprocess.run(
        [*SERVE_BOUND, "--db", str(db), "--port", "0"],
        env=environment(**SECRETS),
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1), result.stderr
    assert f"can't open {db}" in result.stderr and str(db.parent) in result.stderr.partition(":")[2]


def mint(server: Server, account: str, number: int) -> httpx.Response:
    body = {"amountMicro": "1", "metadata": {"filler": "x" * 2_000}}
    return server.http.post(f"/accounts/{account}/mint", json=body, headers={"Idempotency-Key": f"key-{number}"})


def charge(server: Server, account: str) -> httpx.Response:
    """Charge nothing without a key: only the source prevents a second charge."""
    body = {"costMicro": "0", "sourceId": "call-1", "metadata": {"filler": "x" * 2_000}}
    return server.http.post(f"/accounts/{account}/charges", json=body)


def available(server: Server, account: str) -> int:
    return int(server.http.get(f"/accounts/{account}/balance").raise_for_status().json()["totalAvailableMicro"])


def ready(server: Server) -> int:
    return server.http.get(server.http.base_url.join("/health/ready")).status_code


def wal_bytes(folder: Path) -> int:
    return (folder / f"{NAME}-wal").stat().st_size


def assert_whole(db: Path) -> None:
    with closing(open_reader(db)) as conn:
        assert violations(conn) == {}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a separate file system of a few MB in memory."""
    folder = tmp_path / "small"
    folder.mkdir()
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("needs root, to mount a small file system")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], check=False, capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"can't mount a small file system: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
