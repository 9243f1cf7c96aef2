"""Opening a file: its lock, and what is left open when opening fails."""

import errno
import fcntl
import threading
from pathlib import Path
from typing import Any

import pytest

from minibill.book import Book
from minibill.db import readers
from minibill.db.connect import DatabaseLocked, FileLock, open_reader
from minibill.db.sqlite import sqlite3
from tests.api import Loop


def test_a_lock_that_somebody_holds_is_told_as_such(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "book.db")
    with pytest.raises(DatabaseLocked, match="is already served by process"):
        FileLock(tmp_path / "book.db")
    lock.release()
    FileLock(tmp_path / "book.db").release()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EINTR, errno.EOPNOTSUPP])
def test_a_lock_that_can_not_be_had_is_not_told_as_somebody_elses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(code, "no locks here")

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(OSError, match="no locks here") as caught:
        FileLock(tmp_path / "book.db")
    assert caught.value.errno == code and "served" not in str(caught.value)


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_readers_that_can_not_all_be_opened_leave_none_open(
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
    # Nor is the file's lock held.
    loop.run(loop.run(Book.open(db)).close())
