"""Files beside a book: private, and never behind a link, pipe or hard link of another user."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from minibill.book import Book
from minibill.cli.dev import dev_secrets, reset
from minibill.cli.main import main
from minibill.cli.output import UsageError
from minibill.config import ConfigurationError
from minibill.db.connection import open_writer
from minibill.db.file_lock import FileLock
from minibill.db.files import COMPANIONS, UnsafeFile, create, open_own, open_to_read, resolve
from tests.api_client import SECRETS
from tests.service_process import SERVE, environment, mint, open_account, serving

SUFFIXES = (*COMPANIONS, ".lock")
NOBODY = 65_534


def minibill(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], env={"MINIBILL_DB": None})


def modes(folder: Path) -> dict[str, str]:
    return {file.name: oct(file.stat().st_mode & 0o777) for file in folder.iterdir()}


@pytest.fixture
def backup(migrated_file: Path, tmp_path: Path) -> Path:
    path = tmp_path / "backup" / "monday.db"
    path.parent.mkdir()
    assert minibill("backup", path, "--db", migrated_file).exit_code == 0
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder in which another user plants files."""
    path = tmp_path / "here"
    path.mkdir()
    return path


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder outside of the command's scope, with a file that must not change."""
    path = tmp_path / "outside"
    path.mkdir()
    (path / "precious").write_text("not yours")
    return path


def is_untouched(outside: Path) -> bool:
    return [(file.name, file.read_text()) for file in outside.iterdir()] == [("precious", "not yours")]


# Each command that writes beside a file, for an existing and for a missing file.
def migrate(db: Path, backup: Path) -> str:
    return refusal(minibill("migrate", "--db", db))


def restore(db: Path, backup: Path) -> str:
    return refusal(minibill("restore", backup, "--db", db, "--force"))


def back_up_over_it(db: Path, backup: Path) -> str:
    return refusal(minibill("backup", db, "--db", backup, "--force"))


def reset_it(db: Path, backup: Path) -> str:
    with pytest.raises(UsageError) as caught:
        reset(db, is_confirmed=True)
    return caught.value.message


def open_it(db: Path, backup: Path) -> str:
    with pytest.raises(UnsafeFile) as caught:
        asyncio.run(Book.open(db))
    return str(caught.value)


def refusal(result: Result) -> str:
    assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1, result.output
    return result.stderr


COMMANDS = (migrate, restore, back_up_over_it, reset_it, open_it)


@pytest.mark.parametrize("victim", ["precious", "not there"])
@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_follows_a_planted_link_beside_a_book(
    folder: Path, outside: Path, backup: Path, command: Callable[[Path, Path], str], victim: str
) -> None:
    db = folder / "book.db"
    shutil.copyfile(backup, db)
    for suffix in SUFFIXES:
        planted = folder / f"book.db{suffix}"
        planted.symlink_to(outside / victim)
        before = db.read_bytes()
        assert "symbolic link" in command(db, backup), suffix
        assert is_untouched(outside) and planted.is_symlink() and db.read_bytes() == before
        planted.unlink()
        # Of the command's own files only an empty lock file may be new.
        assert {file.name for file in folder.iterdir()} <= {"book.db", "book.db.lock"}


def test_serve_rejects_a_planted_link_in_one_line(folder: Path, outside: Path) -> None:
    (folder / "book.db.lock").symlink_to(outside / "precious")
    command = [*SERVE, "--db", str(folder / "book.db"), "--port", "0"]
    result = subprocess.run(command, env=environment(**SECRETS), capture_output=True, text=True, timeout=30)
    assert result.returncode == 2 and len(result.stderr.splitlines()) == 1
    assert "book.db.lock is a symbolic link" in result.stderr and is_untouched(outside)


@pytest.mark.parametrize("victim", ["precious", "not there"])
@pytest.mark.parametrize("command", [migrate, restore, open_it])
def test_no_command_creates_a_book_beside_a_planted_link(
    folder: Path, outside: Path, backup: Path, command: Callable[[Path, Path], str], victim: str
) -> None:
    for suffix in SUFFIXES:
        planted = folder / f"book.db{suffix}"
        planted.symlink_to(outside / victim)
        assert "symbolic link" in command(folder / "book.db", backup), suffix
        assert is_untouched(outside) and not (folder / "book.db").exists()
        planted.unlink()


def test_a_backup_deletes_planted_links_but_not_their_targets(folder: Path, outside: Path, backup: Path) -> None:
    for suffix in COMPANIONS:
        (folder / f"copy.db{suffix}").symlink_to(outside / "precious")
    assert minibill("backup", folder / "copy.db", "--db", backup).exit_code == 0
    assert is_untouched(outside) and modes(folder) == {"copy.db": "0o600"}


@pytest.mark.parametrize("victim", ["precious", "not there"])
@pytest.mark.parametrize("suffix", ["", "-wal", "-anchor"])
def test_a_replaced_book_is_kept_under_a_name_without_a_link(
    folder: Path, outside: Path, backup: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, victim: str
) -> None:
    db = folder / "book.db"
    shutil.copyfile(backup, db)
    (folder / "book.db-anchor").write_text("what was said of it")
    monkeypatch.setattr("minibill.cli.backup.Clock.now_us", lambda _: 1_800_000_000_123_456)
    name = "book.db.before-restore-20270115T080000Z"
    (folder / f"{name}{suffix}").symlink_to(outside / victim)
    assert minibill("restore", backup, "--db", db).exit_code == 0
    assert is_untouched(outside) and (folder / f"{name}-2").read_bytes() == backup.read_bytes()


def test_a_hard_link_is_not_used_as_a_lock_file(folder: Path, outside: Path, backup: Path) -> None:
    (folder / "book.db.lock").hardlink_to(outside / "precious")
    for command in (migrate, restore, open_it):
        assert "more than one name" in command(folder / "book.db", backup)
    assert is_untouched(outside)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_command_blocks_on_a_planted_pipe(folder: Path, backup: Path, suffix: str) -> None:
    db = folder / "book.db"
    shutil.copyfile(backup, db)
    os.mkfifo(f"{db}{suffix}")
    assert "not a regular file" in migrate(db, backup)
    if suffix == "-anchor":
        assert "not a regular file" in refusal(minibill("verify", "--db", db))
    with pytest.raises(UnsafeFile, match="not a regular file"):
        open_to_read(Path(f"{db}{suffix}"))


def test_no_command_blocks_on_a_pipe_in_place_of_a_book(folder: Path, backup: Path) -> None:
    os.mkfifo(folder / "pipe.db")
    for command in (["verify"], ["backup", folder / "copy.db"]):
        assert "not a regular file" in refusal(minibill(*command, "--db", folder / "pipe.db"))
    assert "not a regular file" in refusal(minibill("restore", folder / "pipe.db", "--db", folder / "book.db"))
    assert "not a regular file" in migrate(folder / "pipe.db", backup)


@pytest.mark.parametrize("victim", ["precious", "not there"])
@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-journal"])
def test_reading_a_book_writes_nothing_through_a_planted_link(
    folder: Path, outside: Path, backup: Path, tmp_path: Path, suffix: str, victim: str
) -> None:
    # With a log, so that SQLite has to create its index.
    db = folder / "book.db"
    shutil.copyfile(backup, db)
    with closing(open_writer(db)) as conn:
        conn.execute("INSERT INTO revoked_tokens VALUES ('token-2', 1000)")
        log = Path(f"{db}-wal").read_bytes()
    shutil.copyfile(backup, db)
    Path(f"{db}-wal").write_bytes(log)
    Path(f"{db}{suffix}").unlink(missing_ok=True)
    Path(f"{db}{suffix}").symlink_to(outside / victim)
    for command in (["verify"], ["backup", tmp_path / "copy.db"]):
        minibill(*command, "--db", db)
        assert is_untouched(outside)


def test_a_demo_overwrites_no_list_and_follows_no_link(folder: Path, outside: Path) -> None:
    (folder / "losses.csv").symlink_to(outside / "not there")
    assert "losses.csv exists already" in minibill("demo", "--keep", folder).stderr
    assert is_untouched(outside)


# --- owners ---


def belong_to_somebody_else(monkeypatch: pytest.MonkeyPatch, *paths: Path) -> None:
    """Give files to another user than root, who runs the command; simulated where the tests are not root."""
    if os.geteuid() == 0:
        for path in paths:
            os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 0)


@pytest.mark.parametrize("command", [migrate, restore, back_up_over_it, reset_it])
def test_root_does_not_write_into_the_folder_of_a_service(
    folder: Path, backup: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[[Path, Path], str]
) -> None:
    db = folder / "book.db"
    shutil.copyfile(backup, db)
    belong_to_somebody_else(monkeypatch, folder)
    said = command(db, backup)
    assert re.search(r"here belongs to (\S+), and this command runs as root; run it as \1: sudo -u \1 minibill …", said)
    assert [file.name for file in folder.iterdir()] == ["book.db"] and db.read_bytes() == backup.read_bytes()


@pytest.mark.parametrize("suffix", ["", *SUFFIXES])
def test_a_file_of_another_user_is_not_written_or_locked(
    folder: Path, backup: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    db = folder / "book.db"
    shutil.copyfile(backup, db)
    planted = folder / f"book.db{suffix}"
    planted.touch()
    before = planted.read_bytes()
    own = os.geteuid()
    belong_to_somebody_else(monkeypatch, planted)
    monkeypatch.setattr("minibill.db.file_lock.require_own_folder", lambda _: None)
    assert own == 0 or os.geteuid() != own
    assert "belongs to" in migrate(db, backup)
    assert planted.read_bytes() == before


def test_a_link_of_another_user_is_not_followed_to_a_book(
    folder: Path, outside: Path, backup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, target in (("book.db", outside / "new.db"), ("sub", outside)):
        (folder / name).symlink_to(target)
    belong_to_somebody_else(monkeypatch, folder / "book.db", folder / "sub")
    for db in (folder / "book.db", folder / "sub" / "book.db"):
        for command in (migrate, restore):
            assert "symbolic link that belongs to" in command(db, backup)
    assert is_untouched(outside)


def test_an_own_link_is_resolved_once(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (folder / "one").symlink_to("../real")
    (folder / "two.db").symlink_to("one/../real/book.db")
    (folder / "round").symlink_to("round")
    assert resolve(folder / "two.db") == (tmp_path / "real" / "book.db").resolve()
    assert resolve(folder / "missing" / ".." / "x.db") == (folder / "x.db").resolve()
    with pytest.raises(OSError, match="symbolic links"):
        resolve(folder / "round" / "x.db")
    lock = FileLock(folder / "two.db", create=True)
    assert lock.path == (tmp_path / "real" / "book.db").resolve()
    lock.release()
    assert modes(tmp_path / "real") == {"book.db": "0o600", "book.db.lock": "0o600"}


def test_a_file_exchanged_between_check_and_open_is_rejected(
    folder: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = outside / "precious"
    monkeypatch.setattr("minibill.db.files.require_own", lambda _: None)
    (folder / "link").symlink_to(victim)
    with pytest.raises(UnsafeFile, match="symbolic link"):
        open_own(folder / "link", os.O_RDWR)
    (folder / "second").hardlink_to(victim)
    with pytest.raises(UnsafeFile, match="more than one name"):
        open_own(folder / "second", os.O_RDWR)
    (folder / "nowhere").symlink_to(outside / "nowhere")
    with pytest.raises(FileExistsError):
        create(folder / "nowhere")
    assert victim.read_text() == "not yours"


# --- modes ---


# With no umask, and with one that removes too many rights.
@pytest.mark.parametrize("umask", ["000", "022", "777"])
def test_every_file_of_a_book_is_private_from_the_start(folder: Path, umask: str) -> None:
    db, copy = folder / "book.db", folder / "copy.db"
    loose = ["sh", "-c", f'umask {umask}; exec "$@"', "sh"]
    minibill = [*loose, sys.executable, "-m", "minibill"]
    with serving(db, serve=[*loose, *SERVE]) as server:
        account = open_account(server)
        subprocess.run([*minibill, "backup", str(copy), "--db", str(db)], check=True, capture_output=True)
        assert mint(server, account, 1) == 201
        names = {"", "-wal", "-shm", "-anchor", ".lock", ".secrets"}
        assert modes(folder) == {f"book.db{name}": "0o600" for name in names} | {"copy.db": "0o600"}
        server.end(9)
    command = [*minibill, "restore", str(copy), "--db", str(db), "--json"]
    kept = Path(json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["kept"]).name
    after = modes(folder)
    assert set(after.values()) == {"0o600"}
    assert {kept, f"{kept}-wal", f"{kept}-anchor", "book.db", "book.db-anchor"} <= after.keys()
    subprocess.run([*minibill, "migrate", "--db", str(folder / "new.db")], check=True)
    assert set(modes(folder).values()) == {"0o600"}


def test_a_start_warns_of_files_that_other_users_may_open(folder: Path, tmp_path: Path) -> None:
    db, log = folder / "book.db", tmp_path / "log"
    with serving(db):
        pass
    db.chmod(0o640)
    folder.chmod(0o777)
    with serving(db, log=log):
        pass
    [line] = [line for line in log.read_text().splitlines() if "other users may open" in line]
    assert f"chmod 600 {db}" in line and "book.db.lock" not in line
    [line] = [line for line in log.read_text().splitlines() if "other users may exchange" in line]
    assert f"chmod o-w {folder}" in line
    log.unlink()
    db.chmod(0o600)
    folder.chmod(0o1777)
    with serving(db, log=log):
        pass
    assert "other users" not in log.read_text()


# --- secrets ---


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_secrets_that_other_users_may_read_are_rejected(folder: Path, mode: int) -> None:
    db = folder / "book.db"
    made = dev_secrets(db, ("BILLING_ADMIN_JWT_SECRET",))
    file = folder / "book.db.secrets"
    assert modes(folder) == {"book.db.secrets": "0o600"} and dev_secrets(db) == made
    file.chmod(mode)
    for command in (["serve", "--dev", "--port", "0"], ["token"]):
        result = subprocess.run(
            [sys.executable, "-m", "minibill", *command, "--db", str(db)],
            env=environment(), capture_output=True, text=True, timeout=30,
        )  # fmt: skip
        assert result.returncode == 2 and len(result.stderr.splitlines()) == 1
        assert f"its mode {mode:04o}" in result.stderr and "chmod 600" in result.stderr
        assert next(iter(made.values())) not in result.stderr
    assert not db.exists()


@pytest.mark.parametrize("planted", ["link", "another user's", "pipe", "second name"])
def test_secrets_of_another_user_are_rejected(
    folder: Path, outside: Path, monkeypatch: pytest.MonkeyPatch, planted: str
) -> None:
    file = folder / "book.db.secrets"
    (outside / "precious").chmod(0o600)
    match planted:
        case "link":
            file.symlink_to(outside / "precious")
        case "another user's":
            os.close(create(file))
            belong_to_somebody_else(monkeypatch, file)
        case "pipe":
            os.mkfifo(file, 0o600)
        case "second name":
            file.hardlink_to(outside / "precious")
    with pytest.raises(ConfigurationError, match=r"can't use .*book\.db\.secrets"):
        dev_secrets(folder / "book.db", ("BILLING_ADMIN_JWT_SECRET",))
    assert is_untouched(outside)
