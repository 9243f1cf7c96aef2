"""Opening a file: its locks, and the cleanup when opening fails."""

import errno
import fcntl
import os
import re
import shutil
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from minibill.book import Book
from minibill.cli.main import main
from minibill.db import file_lock, readers
from minibill.db.connection import open_reader, open_writer
from minibill.db.file_lock import DatabaseLocked, FileLock
from minibill.db.sqlite import sqlite3
from tests.api_client import Loop


def test_a_second_lock_on_a_book_is_rejected(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "book.db")
    with pytest.raises(DatabaseLocked, match="is already served by process"):
        FileLock(tmp_path / "book.db")
    lock.release()
    FileLock(tmp_path / "book.db").release()


# Another process tries to lock a file under another name and prints the result.
TRY_TO_LOCK = """
import sys
from pathlib import Path
from minibill.db.file_lock import DatabaseLocked, FileLock
try:
    FileLock(Path(sys.argv[1]))
except DatabaseLocked as error:
    print(error)
else:
    print("locked")
"""


def try_to_lock(path: Path) -> str:
    command = [sys.executable, "-c", TRY_TO_LOCK, str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()


def test_a_file_stays_locked_under_later_names(db: Path, tmp_path: Path) -> None:
    lock = FileLock(db)
    # First a second name that the lock does not know, then the only name.
    (tmp_path / "moved.db").hardlink_to(db)
    assert "hard links" in try_to_lock(tmp_path / "moved.db")
    db.rename(tmp_path / "elsewhere.db")
    (tmp_path / "elsewhere.db").unlink()
    assert "already served under another name" in try_to_lock(tmp_path / "moved.db")
    with pytest.raises(DatabaseLocked, match="already served under another name"):
        FileLock(tmp_path / "moved.db")
    lock.release()
    assert try_to_lock(tmp_path / "moved.db") == "locked"
    (tmp_path / "moved.db").rename(db)


def test_the_lock_on_a_file_outlives_other_descriptors_of_it(db: Path, tmp_path: Path, loop: Loop) -> None:
    book = loop.run(Book.open(db))
    with db.open("rb") as file:
        file.read(100)
    open_reader(db).close()
    # With another lock file, as if the database were mounted elsewhere.
    db.with_name("book.db.lock").unlink()
    assert "already served under another name" in try_to_lock(db)
    loop.run(book.close())
    assert try_to_lock(db) == "locked"


def test_a_rejected_lock_keeps_the_locks_of_sqlite(db: Path) -> None:
    lock = FileLock(db)
    with closing(open_writer(db)) as conn:
        conn.execute("BEGIN IMMEDIATE")
        db.with_name("book.db.lock").unlink()
        with pytest.raises(DatabaseLocked):
            FileLock(db)
        # The kernel lists POSIX locks: among them is the shared lock that keeps the file in WAL mode.
        assert sqlite_holds_locks(db)
        conn.execute("ROLLBACK")
    lock.release()


def sqlite_holds_locks(db: Path) -> bool:
    pattern = rf"POSIX +ADVISORY +\w+ {os.getpid()} [0-9a-f:]+:{db.stat().st_ino} "
    return re.search(pattern, Path("/proc/locks").read_text()) is not None


def test_a_system_without_file_locks_warns_and_uses_the_lock_file(
    db: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(file_lock, "HAS_FILE_LOCKS", False)
    lock = FileLock(db)
    assert "only its lock file" in caplog.text
    with pytest.raises(DatabaseLocked, match="is already served by process"):
        FileLock(db)
    lock.release()


def test_commands_reject_another_name_of_a_served_book(db: Path, tmp_path: Path) -> None:
    copy, moved = tmp_path / "copy.db", tmp_path / "moved.db"
    shutil.copyfile(db, copy)
    lock = FileLock(db)
    db.rename(moved)
    for arguments in (["migrate", "--db", moved], ["restore", copy, "--db", moved], ["backup", moved, "--db", copy]):
        command = [str(argument) for argument in (*arguments, *(["--force"] if arguments[0] != "migrate" else []))]
        result = CliRunner().invoke(main, command)
        assert result.exit_code == 2 and "already served under another name" in result.stderr, result.output
    lock.release()
    moved.rename(db)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EINTR, errno.EOPNOTSUPP])
def test_a_failing_lock_is_not_reported_as_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def fail(*_: Any) -> None:
        raise OSError(code, "no locks here")

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(OSError, match="no locks here") as caught:
        FileLock(tmp_path / "book.db")
    assert caught.value.errno == code and "served" not in str(caught.value)


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_a_reader_that_fails_to_open_leaves_nothing_open(
    db: Path, loop: Loop, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    opened: list[sqlite3.Connection] = []

    def opening(path: Path) -> sqlite3.Connection:
        if len(opened) == failing - 1:
            raise sqlite3.OperationalError("unable to open database file")
        opened.append(open_reader(path))
        return opened[-1]

    before = set(threading.enumerate())
    with monkeypatch.context() as patched:
        patched.setattr(readers, "open_reader", opening)
        with pytest.raises(sqlite3.OperationalError, match="unable to open"):
            loop.run(Book.open(db))
    for conn in opened:
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            conn.execute("SELECT 1")
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
        assert not thread.is_alive()
    # The lock of the file is released too.
    loop.run(loop.run(Book.open(db)).close())
