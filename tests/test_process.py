"""The service as a process: start, stop, kill, a second server, and secrets."""

import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from minibill.db.connection import open_reader
from minibill.integrity.checks import violations
from tests.api_client import SECRETS
from tests.service_process import SERVE, environment, mint, open_account, serving


def test_port_0_picks_a_free_port_and_prints_it(tmp_path: Path) -> None:
    with serving(tmp_path / "book.db") as server:
        assert re.fullmatch(r"minibill is listening on http://127\.0\.0\.1:[0-9]+", server.first_line)


def test_sigterm_ends_with_0_and_leaves_one_whole_file(tmp_path: Path) -> None:
    with serving(tmp_path / "book.db") as server:
        account = open_account(server)
        assert mint(server, account, 1) == 201
        assert server.end() == 0
    assert not (tmp_path / "book.db-wal").exists()


def test_an_incomplete_body_does_not_delay_a_stop(tmp_path: Path) -> None:
    with serving(tmp_path / "book.db") as server:
        url = server.http.base_url
        with socket.create_connection((url.host, url.port or 0)) as half:
            head = (
                f"POST {url.path}/accounts HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\nContent-Type: application/json\r\n"
            )
            token = server.http.headers["Authorization"]
            half.sendall(f"{head}Authorization: {token}\r\n\r\n{{".encode())
            time.sleep(0.1)
            began = time.monotonic()
            assert server.end() == 0
            assert time.monotonic() - began < 11


def test_kill_9_loses_no_acknowledged_write(tmp_path: Path) -> None:
    db = tmp_path / "book.db"
    with serving(db) as server:
        account = open_account(server)
        assert [mint(server, account, n) for n in range(50)] == [201] * 50
        assert server.end(signal.SIGKILL) == -signal.SIGKILL
    with serving(db) as server:
        # Retries are known; the last mint is new.
        assert [mint(server, account, n) for n in range(51)] == [200] * 50 + [201]
        assert server.http.get(f"/accounts/{account}/balance").json()["totalAvailableMicro"] == "51"
    conn = open_reader(db)
    assert violations(conn) == {}
    conn.close()


@pytest.mark.parametrize("link", ["same name", "symbolic link", "another directory"])
def test_a_second_server_on_the_same_file_does_not_start(tmp_path: Path, link: str) -> None:
    db = tmp_path / "book.db"
    with serving(db) as server:
        other = db
        if link == "symbolic link":
            other = tmp_path / "link.db"
            other.symlink_to(db)
        elif link == "another directory":
            (tmp_path / "elsewhere").symlink_to(tmp_path, target_is_directory=True)
            other = tmp_path / "elsewhere" / "book.db"
        second = subprocess.run(
            [*SERVE, "--db", str(other), "--port", "0"],
            env=environment(**SECRETS),
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert second.returncode == 2
        assert str(server.process.pid) in second.stderr and "Traceback" not in second.stderr
        assert mint(server, open_account(server), 1) == 201


def test_a_server_on_a_hard_link_does_not_start(tmp_path: Path) -> None:
    db, other = tmp_path / "book.db", tmp_path / "hard.db"
    with serving(db):
        other.hardlink_to(db)
        second = subprocess.run(
            [*SERVE, "--db", str(other), "--port", "0"],
            env=environment(**SECRETS),
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert second.returncode == 2 and "Traceback" not in second.stderr


def serve_elsewhere(other: Path, *prefix: str) -> subprocess.CompletedProcess[str]:
    command = [*prefix, *SERVE, "--db", str(other), "--port", "0"]
    return subprocess.run(command, env=environment(**SECRETS), capture_output=True, text=True, timeout=30)


def command_prefix(db: Path, other: Path) -> list[str]:
    """Give a file another name, with a lock file of its own; return the command prefix for a server there.

    The name is a mount of the file alone if the tests may mount; else the file is renamed.
    """
    script = 'touch "$2" && mount --bind "$1" "$2" && shift 2 && exec "$@"'
    prefix = ["unshare", "--mount", "sh", "-c", script, "sh", str(db), str(other)]
    if shutil.which("unshare") and subprocess.run([*prefix, "true"], capture_output=True).returncode == 0:
        return prefix
    other.unlink(missing_ok=True)
    db.rename(other)
    return []


@pytest.mark.parametrize("way", ["a mount", "a rename"])
def test_a_second_server_on_another_name_does_not_start(tmp_path: Path, way: str) -> None:
    db, other = tmp_path / "book.db", tmp_path / "elsewhere" / "other.db"
    other.parent.mkdir()
    with serving(db) as server:
        account = open_account(server)
        assert [mint(server, account, number) for number in range(30)] == [201] * 30
        prefix = command_prefix(db, other) if way == "a mount" else []
        if not prefix and db.exists():
            db.rename(other)
        second = serve_elsewhere(other, *prefix)
        assert second.returncode == 2 and len(second.stderr.splitlines()) == 1, second.stderr
        assert "it is already served under another name or mount of the same file" in second.stderr
        if not prefix:
            other.rename(db)
        server.end(signal.SIGKILL)
    with serving(db) as server:
        assert server.http.get(f"/accounts/{account}/balance").json()["totalAvailableMicro"] == "30"


def test_a_server_on_a_mounted_file_logs_a_warning(tmp_path: Path) -> None:
    table, log = tmp_path / "mountinfo", tmp_path / "log"
    table.write_text(f"1 1 0:1 / / rw - ext4 disk rw\n2 1 0:1 /x {tmp_path / 'book.db'} rw - ext4 disk rw\n")
    script = "import sys; from pathlib import Path; from minibill.db import mounts; from minibill.cli.main import main\n"
    script += "mounts.MOUNTS = Path(sys.argv.pop(1)); main()"
    with serving(tmp_path / "book.db", serve=[sys.executable, "-c", script, str(table), "serve"], log=log):
        pass
    assert "mount its folder" in log.read_text()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "BILLING_ADMIN_JWT_SECRET"),
        ({**SECRETS, "BILLING_INTERNAL_JWT_SECRET": "x" * 31}, "32 bytes"),
        ({**SECRETS, "MINIBILL_CEILING_MICRO": "1e12"}, "MINIBILL_CEILING_MICRO"),
        ({**SECRETS, "MINIBILL_MAX_BODY_BYTES": "0"}, "MINIBILL_MAX_BODY_BYTES"),
        ({**SECRETS, "MINIBILL_ADMIN_JWT_ISSUER": " "}, "MINIBILL_ADMIN_JWT_ISSUER"),
        ({**SECRETS, "MINIBILL_TRUSTED_PROXIES": "10.0.0.1,10.0.0.999"}, "10.0.0.999"),
    ],
)
def test_a_wrong_setting_stops_the_start_with_one_line(tmp_path: Path, settings: dict[str, str], said: str) -> None:
    command = [*SERVE, "--db", str(tmp_path / "book.db"), "--port", "0"]
    clean = {k: v for k, v in environment().items() if not k.startswith("MINIBILL_")}
    result = subprocess.run(command, env=clean | settings, capture_output=True, text=True, timeout=30)
    assert result.returncode == 2
    assert said in result.stderr and len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "book.db").exists()


def test_a_signal_during_the_start_stops_the_service(tmp_path: Path) -> None:
    for _ in range(3):
        command = [*SERVE, "--db", str(tmp_path / "book.db"), "--port", "0", "--dev"]
        with subprocess.Popen(
            command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert "listening" in process.stdout.readline()
            process.terminate()
            assert process.wait(15) == 0


def test_development_secrets_are_kept_private(tmp_path: Path) -> None:
    db = tmp_path / "book.db"
    with serving(db) as server:
        first = server.http.headers["Authorization"]
    secrets = tmp_path / "book.db.secrets"
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o600
    with serving(db) as server:
        assert server.http.get("/campaigns", headers={"Authorization": first}).status_code == 200
