"""Network file systems are rejected by name."""

import subprocess
from pathlib import Path

import pytest

from minibill.book import Book
from minibill.db import mounts
from minibill.db.files import UnsafeFile
from minibill.db.mounts import Mount, is_mounted_by_itself, mount_of, refuse_network
from tests.api_client import SECRETS, Loop
from tests.service_process import SERVE, environment

TABLE = r"""
21 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
22 21 0:20 / /proc rw - proc proc rw
30 21 0:40 / /mnt/nfs rw,relatime shared:9 master:1 - nfs4 server:/export rw,vers=4.2
31 30 254:1 / /mnt/nfs/local rw,relatime - xfs /dev/vdb rw
32 21 0:41 / /mnt/with\040blank rw - cifs //server/share rw
33 21 0:42 / /mnt/twice rw - ext4 /dev/vdc rw
34 33 0:43 / /mnt/twice rw - fuse.sshfs host: rw
35 21 254:0 /books/a.db /srv/a.db rw - ext4 /dev/vda rw
half a line
"""


@pytest.mark.parametrize(
    ("path", "mount"),
    [
        ("/var/lib/book.db", Mount(Path("/"), "ext4")),
        ("/mnt/nfs/book.db", Mount(Path("/mnt/nfs"), "nfs4")),
        ("/mnt/nfs/local/book.db", Mount(Path("/mnt/nfs/local"), "xfs")),
        ("/mnt/nfsx/book.db", Mount(Path("/"), "ext4")),
        ("/mnt/with blank/book.db", Mount(Path("/mnt/with blank"), "cifs")),
        ("/mnt/twice/book.db", Mount(Path("/mnt/twice"), "fuse.sshfs")),
        ("/srv/a.db", Mount(Path("/srv/a.db"), "ext4")),
    ],
)
def test_a_path_lies_in_the_innermost_and_newest_mount(path: str, mount: Mount) -> None:
    assert mount_of(Path(path), TABLE) == mount


def test_a_mount_table_without_the_path_has_no_result() -> None:
    assert mount_of(Path("/var/lib/book.db"), "") is None
    assert mount_of(Path("/var/lib/book.db"), "30 21 0:40 / /mnt rw - nfs4 server:/export rw") is None


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The mount table that this process reads."""
    table = tmp_path / "mountinfo"
    table.write_text(TABLE)
    monkeypatch.setattr(mounts, "MOUNTS", table)
    return table


@pytest.mark.parametrize(
    "kind", ["nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "afs", "lustre", "fuse.sshfs", "fuse.glusterfs", "glusterfs"]
)
def test_a_book_on_a_network_file_system_is_rejected(tmp_path: Path, table: Path, loop: Loop, kind: str) -> None:
    folder = tmp_path / "share"
    folder.mkdir()
    table.write_text(f"{TABLE.strip()}\n40 21 0:50 / {folder} rw - {kind} server:/x rw\n")
    with pytest.raises(UnsafeFile, match=rf"book\.db is on a network file system \({kind} at .*share\)"):
        loop.run(Book.open(folder / "book.db"))
    assert list(folder.iterdir()) == []


def test_local_file_systems_and_unreadable_tables_are_accepted(table: Path) -> None:
    refuse_network(Path("/mnt/nfs/local/book.db"))
    assert is_mounted_by_itself(Path("/srv/a.db")) and not is_mounted_by_itself(Path("/srv/b.db"))
    table.unlink()
    refuse_network(Path("/mnt/nfs/book.db"))
    assert not is_mounted_by_itself(Path("/srv/a.db"))


def test_serve_rejects_a_network_file_system_in_one_line(tmp_path: Path, table: Path) -> None:
    table.write_text(f"40 21 0:50 / {tmp_path} rw - nfs4 server:/x rw\n")
    script = "import sys; from pathlib import Path; from minibill.db import mounts; from minibill.cli.main import main\n"
    script += "mounts.MOUNTS = Path(sys.argv.pop(1)); main()"
    command = [SERVE[0], "-c", script, str(table), "serve", "--db", str(tmp_path / "book.db"), "--port", "0"]
    result = subprocess.run(command, env=environment(**SECRETS), capture_output=True, text=True, timeout=30)
    assert result.returncode == 2 and len(result.stderr.splitlines()) == 1
    assert "it is on a network file system (nfs4 at" in result.stderr and "local disk" in result.stderr
