"""The single-file executable, if it was built: everything works on a machine without Python."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

import minibill
from minibill.db.sqlite import VERSION

ROOT = Path(__file__).parents[2]
BINARY = ROOT / "dist" / "minibill"
PATIENCE_S = 60

# Only glibc and zlib, which every such machine has.
LIBRARIES = ("libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libutil.so.1", "libz.so.1")

pytestmark = pytest.mark.skipif(not BINARY.exists(), reason="dist/minibill is not there: make binary")


class Machine:
    """Return a machine without Python: a new root with glibc if allowed, otherwise an empty PATH."""

    def __init__(self, root: Path | None, home: Path) -> None:
        self.root = root
        self.home = home
        self.program = "/minibill" if root else str(BINARY)

    def inside(self, file: Path) -> str:
        return f"/{file.relative_to(self.root)}" if self.root else str(file)

    def popen(self, *arguments: str) -> "subprocess.Popen[str]":
        command = [self.program, *arguments]
        if self.root:
            # After this, only programs in the new root can start.
            command = [shutil.which("chroot") or "chroot", str(self.root), *command]
        environment = {"PATH": "/nonexistent", "MINIBILL_ADMIN_RATE_PER_MINUTE": "0"}
        return subprocess.Popen(command, env=environment, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, *arguments: str) -> str:
        with self.popen(*arguments) as process:
            out, err = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, out + err
        return out

    @contextmanager
    def serving(self, db: Path) -> Iterator[tuple[str, str]]:
        """Start the service; yield its URL and token."""
        with self.popen("serve", "--dev", "--port", "0", "--db", self.inside(db)) as process:
            try:
                assert process.stdout is not None
                said = ""
                while not (found := re.search(r"MINIBILL_URL=(\S+)\n.*MINIBILL_TOKEN=(\S+)\n", said)):
                    line = process.stdout.readline()
                    assert line, "the service ended before it was ready"
                    said += line
                yield found[1], found[2]
                process.send_signal(signal.SIGTERM)
                process.communicate(timeout=PATIENCE_S)
                assert process.returncode == 0
            finally:
                process.kill()


@pytest.fixture(params=["no path", "nothing but libc"])
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    if request.param == "no path":
        return Machine(None, tmp_path)
    if os.geteuid() != 0 or shutil.which("chroot") is None:
        pytest.skip("only root can make a root of its own")
    root = tmp_path / "root"
    loader = Path("/lib64/ld-linux-x86-64.so.2")
    found = [next((file for file in Path("/lib").glob(f"*-linux-gnu/{name}")), None) for name in LIBRARIES]
    if not loader.exists() or found[0] is None:
        pytest.skip("the glibc of this machine is not where it usually is")
    for folder in ("lib64", "lib", "tmp", "home", "dev"):
        (root / folder).mkdir(parents=True)
    shutil.copy(loader, root / "lib64")
    for file in filter(None, found):
        shutil.copy(file, root / "lib")
    shutil.copy(BINARY, root / "minibill")
    return Machine(root, root / "home")


def test_the_binary_prints_version_commit_and_sqlite(machine: Machine) -> None:
    said = machine.run("--version")
    assert re.fullmatch(
        rf"minibill, version {minibill.__version__}, commit [0-9a-f]{{12}}(-dirty)?, SQLite {VERSION}\n", said
    )


def test_the_binary_serves_imports_verifies_and_backs_up(machine: Machine) -> None:
    db, losses, copy = machine.home / "book.db", machine.home / "losses.csv", machine.home / "copy.db"
    losses.write_text("User,Lost\nada,1.5\nbob,0.25\n")
    with machine.serving(db) as (url, token):
        with httpx.Client(base_url=f"{url}/admin/billing", headers={"Authorization": f"Bearer {token}"}) as http:
            body = {
                "name": "Made whole", "campaignType": "reverse_airdrop", "budgetMicro": "10000000",
                "grantFormula": "proportional_loss", "grantConfig": {},
            }  # fmt: skip
            campaign = http.post("/campaigns", json=body).json()["id"]
            assert http.post(f"/campaigns/{campaign}/activate").status_code == 200
            machine.run(
                "campaign", "import", campaign, machine.inside(losses), "--url", url, "--token", token,
                "--entity-type", "person", "--account-column", "User", "--input-column", "lossMicro=Lost",
            )  # fmt: skip
            assert http.get(f"/campaigns/{campaign}").json()["spentMicro"] == "1750000"
            # Modules that are imported late: the metrics, and the OpenAPI document and its page.
            for path in ("/metrics", "/schema", "/schema/docs", "/health/ready"):
                assert http.get(f"{url}{path}").status_code == 200
        machine.run("backup", machine.inside(copy), "--db", machine.inside(db))
    machine.run("verify", "--db", machine.inside(copy))
    machine.run("restore", machine.inside(copy), "--db", machine.inside(machine.home / "restored.db"))
    assert "healthy" in machine.run("verify", "--db", machine.inside(machine.home / "restored.db"))


def test_the_demo_of_the_binary_starts_the_service(machine: Machine) -> None:
    assert "healthy" in machine.run("demo")
