"""docs/OPERATIONS.md works when it is pasted: its commands are run in order, on a folder that stands for the machine.

`sudo` runs what follows it; `systemctl` starts and stops the unit's own command with the unit's own environment file.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from minibill.db.connect import open_reader

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "OPERATIONS.md").read_text("utf-8")
BLOCKS = dict(re.findall(r"<!-- run: ([\w-]+) -->\n```sh\n(.*?)```", TEXT, re.DOTALL))
# What stands for the folders of the machine.
FOLDERS = ("/usr/local/bin", "/var/lib/minibill", "/var/backups/minibill", "/etc/minibill", "/etc/systemd/system")
ADDRESS = "127.0.0.1:8080"

SUDO = """#!/bin/sh
[ "$1" = -u ] && shift 2
exec "$@"
"""

SYSTEMCTL = """#!/usr/bin/env bash
set -euo pipefail
unit=$MACHINE/etc/systemd/system/minibill.service
said() { sed -n "s|^$1=||p" "$unit" | sed -E "s#(/usr/local/bin|/var/lib/minibill|/etc/minibill)#$MACHINE\\\\1#g"; }
stop() {
    kill "$(cat "$MACHINE/pid")"
    tail --pid="$(cat "$MACHINE/pid")" -f /dev/null
}
start() {
    mkdir -p -m 700 "$MACHINE/var/lib/minibill"
    ( set -a; . "$(said EnvironmentFile)"; set +a; exec $(said ExecStart) >> "$MACHINE/log" 2>&1 ) &
    echo $! > "$MACHINE/pid"
    for _ in $(seq 600); do
        curl -fsS "http://127.0.0.1:$MINIBILL_PORT/health/ready" > /dev/null 2>&1 && return
        kill -0 $! || exit 1
        sleep 0.1
    done
    exit 1
}
case "$*" in
    daemon-reload) test -s "$unit" ;;
    "enable --now minibill" | "start minibill") start ;;
    "stop minibill") stop ;;
    "restart minibill") stop; start ;;
    *) echo "what is systemctl $*?" >&2; exit 1 ;;
esac
"""

STANDINS = {
    "sudo": SUDO,
    "systemctl": SYSTEMCTL,
    "useradd": '#!/bin/sh\necho "$@" > $MACHINE/user\n',
    "journalctl": "#!/bin/sh\ncat $MACHINE/log\n",
}


class Box:
    """The machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.book = folder / "var/lib/minibill/book.db"
        self.env = folder / "etc/minibill/env"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        for path in ("standins", "source/dist", "usr/local/bin", "var/lib", "var/backups", "etc/systemd/system"):
            (folder / path).mkdir(parents=True)
        for name, script in STANDINS.items():
            self._program(folder / "standins" / name, script)
        # The same program as the single file, only that it is installed here already.
        self._program(folder / "source/dist/minibill", f'#!/bin/sh\nexec {sys.executable} -m minibill "$@"\n')
        (folder / "source/docs").symlink_to(ROOT / "docs")

    def run(self, name: str) -> str:
        """Pastes a block; answers what it printed."""
        script = re.sub("|".join(map(re.escape, FOLDERS)), lambda found: f"{self.folder}{found[0]}", BLOCKS[name])
        script = script.replace(ADDRESS, f"127.0.0.1:{self.port}")
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("MINIBILL_", "BILLING_"))}
        path = f"{self.folder}/standins:{self.folder}/usr/local/bin:{os.environ['PATH']}"
        environment = {**clean, "PATH": path, "MACHINE": str(self.folder), "MINIBILL_PORT": str(self.port)}
        result = subprocess.run(
            ["bash", "-c", f"set -euo pipefail\n{script}"], env=environment, cwd=self.folder / "source",
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=180,
        )  # fmt: skip
        log = self.folder / "log"
        assert result.returncode == 0, f"{name}: {result.stdout}\n{log.read_text() if log.exists() else ''}"
        return result.stdout

    def token(self, *options: str) -> str:
        """A token, signed with the secrets of now."""
        secrets = dict(line.split("=", 1) for line in self.env.read_text().splitlines())
        command = [sys.executable, "-m", "minibill", "token", *options]
        return subprocess.run(command, env=os.environ | secrets, capture_output=True, text=True, check=True).stdout.strip()

    def status(self, token: str) -> int:
        """What the service answers to this token."""
        url = f"http://127.0.0.1:{self.port}/admin/billing/campaigns"
        return httpx.get(url, headers={"Authorization": f"Bearer {token}"}, trust_env=False).status_code

    def open_account(self, name: str) -> None:
        url, headers = f"http://127.0.0.1:{self.port}/admin/billing/accounts", {"Authorization": f"Bearer {self.token()}"}
        body = {"entityType": "person", "entityId": name}
        assert httpx.post(url, json=body, headers=headers, trust_env=False).status_code == 201

    def accounts(self) -> set[str]:
        with closing(open_reader(self.book)) as conn:
            return {name for (name,) in conn.execute("SELECT entity_id FROM credit_accounts").fetchall()}

    @staticmethod
    def _program(file: Path, script: str) -> None:
        file.write_text(script)
        file.chmod(0o755)


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    for program in ("bash", "curl", "openssl"):
        if shutil.which(program) is None:
            pytest.skip(f"the commands need {program}, which this machine has not")
    box = Box(tmp_path)
    yield box
    if (tmp_path / "pid").exists():
        subprocess.run(["kill", "-9", (tmp_path / "pid").read_text().strip()], capture_output=True)


def test_the_commands_work_when_they_are_pasted(box: Box) -> None:
    assert '"ready"' in box.run("install")
    assert "minibill" in (box.folder / "user").read_text()
    assert oct(box.env.stat().st_mode & 0o777) == "0o600" and len(set(box.env.read_text().split())) == 2
    assert '"items":[]' in box.run("token")

    box.open_account("before the upgrade")
    said = box.run("upgrade")
    assert "healthy" in said and "up to date" in said and '"ready"' in said and "minibill, version" in said
    assert box.accounts() == {"before the upgrade"}

    old = box.token()
    assert box.status(old) == 200
    box.run("rotate-1")
    new = box.token()
    assert (box.status(old), box.status(new)) == (200, 200)
    assert box.run("rotate-2").strip() in box.env.read_text()
    box.run("rotate-3")
    assert (box.status(old), box.status(new)) == (401, 200)
    assert oct(box.env.stat().st_mode & 0o777) == "0o600" and "PREV" not in box.env.read_text()

    assert "healthy" in box.run("backup")
    box.open_account("after the backup")
    assert box.run("drill").count("healthy") == 2
    assert box.accounts() == {"before the upgrade", "after the backup"}
    said = box.run("restore")
    assert '"ready"' in said and "1 row of the audit log later" in said
    assert box.accounts() == {"before the upgrade"}
    [kept] = box.book.parent.glob("book.db.before-restore-*Z")
    with closing(open_reader(kept)) as conn:
        assert conn.execute("SELECT count(*) FROM credit_accounts").fetchone() == (2,)

    assert re.search(r"^minibill_ready 1(\.0)?$", box.run("disk"), re.MULTILINE)
    box.run("litestream")
    box.open_account("after litestream")
    assert "started" in box.run("log")


def test_every_command_is_run_or_says_why_not() -> None:
    marked = re.findall(r"<!-- (run: [\w-]+|not run: [^>]+) -->\n```sh\n", TEXT)
    assert len(marked) == len(re.findall(r"^```sh$", TEXT, re.MULTILINE))
    assert len(BLOCKS) == sum(mark.startswith("run: ") for mark in marked)
    source = Path(__file__).read_text("utf-8")
    assert [name for name in BLOCKS if f'box.run("{name}")' not in source] == []


def test_the_figures_of_size_are_of_the_bench_and_add_up() -> None:
    [account], [lot], [charge] = (
        re.findall(rf"^\| {what}[^|]*\| \d \| (\d+) \|", TEXT, re.MULTILINE)
        for what in ("an account is opened", "credits are minted", "a reservation is made")
    )
    book_gb = 100_000 * (int(account) + 2 * int(lot) + 50 * int(charge)) / 1e9
    assert f"about {book_gb:.1f} GB" in TEXT
