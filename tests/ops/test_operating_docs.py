"""The commands of docs/operating work: they run in order, on a folder that stands for the machine.

Stand-ins replace the machine's programs: `sudo` runs its arguments, `systemctl` starts and stops the unit's own command with
the unit's environment file, `install` changes no owners. Litestream is the real program, with a folder as its bucket.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from minibill.db.connection import open_reader

ROOT = Path(__file__).parents[2]
TEXT = "\n".join(file.read_text("utf-8") for file in sorted((ROOT / "docs" / "operating").glob("*.md")))
BLOCKS = dict(re.findall(r"<!-- run: ([\w-]+) -->\n```sh\n(.*?)```", TEXT, re.DOTALL))
# Paths of the machine, each replaced by one below the folder.
FOLDERS = (
    "/usr/local/bin", "/var/lib/minibill", "/var/backups/minibill", "/etc/minibill", "/etc/systemd/system",
    "/etc/litestream.yml",
)  # fmt: skip
ADDRESS = "127.0.0.1:8080"
# Installed next to this Python, from the lock.
LITESTREAM = str(Path(sys.executable).with_name("litestream"))

SUDO = """#!/bin/sh
[ "$1" = -u ] && shift 2
exec "$@"
"""

SYSTEMCTL = r"""#!/usr/bin/env bash
set -euo pipefail
name=${!#}
unit=$MACHINE/etc/systemd/system/$name.service
pid=$MACHINE/$name.pid
directive() {
    sed -nE "s|^$1=-?||p" "$unit" | sed -E "s#/(usr/local/bin|var/lib/minibill|etc/minibill|etc/litestream)#$MACHINE&#g"
}
stop() {
    kill "$(cat "$pid")"
    tail --pid="$(cat "$pid")" -f /dev/null
}
start() {
    mkdir -p -m 700 "$MACHINE/var/lib/minibill"
    (
        set -a
        if test -e "$(directive EnvironmentFile)"; then . "$(directive EnvironmentFile)"; fi
        set +a
        umask "$(directive UMask)"
        exec $(directive ExecStart) >> "$MACHINE/$name.log" 2>&1
    ) &
    echo $! > "$pid"
    if test "$name" != minibill; then return; fi
    for _ in $(seq 600); do
        curl -fsS "http://127.0.0.1:$MINIBILL_PORT/health/ready" > /dev/null 2>&1 && return
        kill -0 $! || exit 1
        sleep 0.1
    done
    exit 1
}
case "$*" in
    daemon-reload) test -s "$MACHINE/etc/systemd/system/minibill.service" ;;
    "enable --now minibill" | "start minibill" | "enable --now litestream") start ;;
    "stop minibill") stop ;;
    "restart minibill") stop; start ;;
    *) echo "unexpected: systemctl $*" >&2; exit 1 ;;
esac
"""

# Files keep their owner, since there is no user minibill. The bucket is a folder.
INSTALL = r"""#!/usr/bin/env bash
set -euo pipefail
words=()
while (( $# )); do
    case $1 in
        -o | -g) test "$2" = minibill; shift 2 ;;
        *) words+=("$1"); shift ;;
    esac
done
PATH=$REAL_PATH install "${words[@]}"
case ${words[-1]} in
    *.yml) sed -i "s#/var/lib/#$MACHINE&#; s#s3://my-bucket#file://$BUCKET#" "${words[-1]}" ;;
esac
"""

STANDINS = {
    "sudo": SUDO,
    "systemctl": SYSTEMCTL,
    "install": INSTALL,
    "useradd": '#!/bin/sh\necho "$@" > $MACHINE/user\n',
    "journalctl": "#!/bin/sh\ncat $MACHINE/minibill.log\n",
}


def accounts_of(book: Path) -> set[str]:
    with closing(open_reader(book)) as conn:
        return {name for (name,) in conn.execute("SELECT entity_id FROM credit_accounts").fetchall()}


class Box:
    """A machine: a folder with stand-ins for its programs."""

    def __init__(self, folder: Path, bucket: Path) -> None:
        self.folder = folder
        self.bucket = bucket
        self.book = folder / "var/lib/minibill/book.db"
        self.env = folder / "etc/minibill/env"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        for path in ("standins", "source/dist", "usr/local/bin", "var/lib", "var/backups", "etc/systemd/system"):
            (folder / path).mkdir(parents=True)
        for name, script in STANDINS.items():
            self._program(folder / "standins" / name, script)
        # A script in place of the single-file executable.
        self._program(folder / "source/dist/minibill", f'#!/bin/sh\nexec {sys.executable} -m minibill "$@"\n')
        (folder / "source/docs").symlink_to(ROOT / "docs")
        (folder / "usr/local/bin/litestream").symlink_to(LITESTREAM)

    def run(self, name: str) -> str:
        """Run a block of commands and return its output."""
        script = re.sub("|".join(map(re.escape, FOLDERS)), lambda found: f"{self.folder}{found[0]}", BLOCKS[name])
        script = script.replace(ADDRESS, f"127.0.0.1:{self.port}")
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("MINIBILL_", "BILLING_"))}
        path = f"{self.folder}/standins:{self.folder}/usr/local/bin:{os.environ['PATH']}"
        environment = {
            **clean, "PATH": path, "REAL_PATH": os.environ["PATH"], "MACHINE": str(self.folder), "BUCKET": str(self.bucket),
            "MINIBILL_PORT": str(self.port),
        }  # fmt: skip
        result = subprocess.run(
            ["bash", "-c", f"set -euo pipefail\n{script}"], env=environment, cwd=self.folder / "source",
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=180,
        )  # fmt: skip
        logs = "".join(log.read_text() for log in self.folder.glob("*.log"))
        assert result.returncode == 0, f"{name}: {result.stdout}\n{logs}"
        return result.stdout

    def token(self, *options: str) -> str:
        """Sign a token with the current secrets."""
        secrets = dict(line.split("=", 1) for line in self.env.read_text().splitlines())
        command = [sys.executable, "-m", "minibill", "token", *options]
        return subprocess.run(command, env=os.environ | secrets, capture_output=True, text=True, check=True).stdout.strip()

    def status(self, token: str) -> int:
        """Return the status of a request with this token."""
        url = f"http://127.0.0.1:{self.port}/admin/billing/campaigns"
        return httpx.get(url, headers={"Authorization": f"Bearer {token}"}, trust_env=False).status_code

    def open_account(self, name: str) -> None:
        url, headers = f"http://127.0.0.1:{self.port}/admin/billing/accounts", {"Authorization": f"Bearer {self.token()}"}
        body = {"entityType": "person", "entityId": name}
        assert httpx.post(url, json=body, headers=headers, trust_env=False).status_code == 201

    def accounts(self) -> set[str]:
        return accounts_of(self.book)

    def kill(self) -> None:
        """Kill every service, as the loss of a machine does."""
        for file in self.folder.glob("*.pid"):
            subprocess.run(["kill", "-9", file.read_text().strip()], capture_output=True)

    @staticmethod
    def _program(file: Path, script: str) -> None:
        file.write_text(script)
        file.chmod(0o755)


@pytest.fixture
def new_box(tmp_path: Path) -> Iterator[Callable[[str], Box]]:
    """Return a function that sets up machines, each in a folder of its own, with one bucket."""
    for program in ("bash", "curl", "openssl"):
        if shutil.which(program) is None:
            pytest.skip(f"the commands need {program}, which this machine does not have")
    boxes: list[Box] = []

    def new_box(name: str) -> Box:
        boxes.append(Box(tmp_path / name, tmp_path / "bucket"))
        return boxes[-1]

    yield new_box
    for box in boxes:
        box.kill()


@pytest.fixture
def box(new_box: Callable[[str], Box]) -> Box:
    return new_box("machine")


@pytest.mark.slow
def test_the_commands_of_the_operating_pages_work(box: Box) -> None:
    assert '"ready"' in box.run("install")
    assert "minibill" in (box.folder / "user").read_text()
    assert oct(box.env.stat().st_mode & 0o777) == "0o600" and len(set(box.env.read_text().split())) == 2
    assert '"items":[]' in box.run("token")

    box.open_account("before the upgrade")
    output = box.run("upgrade")
    assert "healthy" in output and "up to date" in output and '"ready"' in output and "minibill, version" in output
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
    output = box.run("restore")
    assert '"ready"' in output and "1 row of the audit log later" in output
    assert box.accounts() == {"before the upgrade"}
    [kept] = box.book.parent.glob("book.db.before-restore-*Z")
    with closing(open_reader(kept)) as conn:
        assert conn.execute("SELECT count(*) FROM credit_accounts").fetchone() == (2,)

    assert re.search(r"^minibill_ready 1(\.0)?$", box.run("disk"), re.MULTILINE)
    box.run("litestream")
    box.open_account("after litestream")
    assert "started" in box.run("log")
    wait_for(box, "after litestream")
    assert "is healthy" in box.run("litestream-drill")
    files = [*box.book.parent.glob("book.db*"), *(box.folder / "var/backups/minibill").iterdir()]
    assert len(files) > 5 and {oct(file.stat().st_mode & 0o777) for file in files} == {"0o600"}


def wait_for(box: Box, account: str) -> None:
    """Wait until an account is in the bucket."""
    replica = box.folder / "replica.db"
    for _ in range(100):
        command = [LITESTREAM, "restore", "-force", "-config", str(box.folder / "etc/litestream.yml"), "-o", str(replica)]
        restored = subprocess.run([*command, str(box.book)], capture_output=True, timeout=60)
        if restored.returncode == 0 and account in accounts_of(replica):
            return
        time.sleep(0.1)
    pytest.fail(f"{account} is not in the bucket")


@pytest.mark.slow
@pytest.mark.parametrize("copy", ["rescue-backup", "rescue-replica"])
def test_a_lost_machine_is_restored_on_an_empty_one(new_box: Callable[[str], Box], copy: str) -> None:
    lost, empty = new_box("lost"), new_box("empty")
    lost.run("install")
    if copy == "rescue-replica":
        lost.run("litestream")
    lost.open_account("before the loss")
    token = lost.token()
    rescued = empty.folder / "source/rescued"
    rescued.mkdir()
    shutil.copyfile(lost.env, rescued / "env")
    if copy == "rescue-backup":
        lost.run("backup")
        [backup] = (lost.folder / "var/backups/minibill").glob("*.db")
        shutil.copyfile(backup, rescued / "book.db")
    else:
        wait_for(lost, "before the loss")
    lost.kill()
    empty.run("empty-machine")
    empty.run(copy)
    output = empty.run("rescue-start")
    assert output.count("is healthy") == 2 and '"ready"' in output
    assert empty.accounts() == {"before the loss"}
    # The secrets are the same, so existing tokens are valid.
    assert empty.status(token) == 200
    empty.open_account("after the loss")
    assert {oct(file.stat().st_mode & 0o777) for file in empty.book.parent.glob("book.db*")} == {"0o600"}


def test_every_command_is_run_or_has_a_reason() -> None:
    marked = re.findall(r"<!-- (run: [\w-]+|not run: [^>]+) -->\n```sh\n", TEXT)
    assert len(marked) == len(re.findall(r"^```sh$", TEXT, re.MULTILINE))
    assert len(BLOCKS) == sum(mark.startswith("run: ") for mark in marked)
    source = Path(__file__).read_text("utf-8")
    assert [name for name in BLOCKS if f'"{name}"' not in source] == []


def test_the_figures_of_size_add_up() -> None:
    [account], [lot], [reserved], [charged] = (
        re.findall(rf"^\| {what}[^|]*\| \d \| (\d+) \|", TEXT, re.MULTILINE)
        for what in ("an account is opened", "credits are minted", "a reservation is made", "a usage record is charged")
    )
    for spend in (reserved, charged):
        book_gb = 100_000 * (int(account) + 2 * int(lot) + 50 * int(spend)) / 1e9
        assert f"about {book_gb:.1f} GB" in TEXT
