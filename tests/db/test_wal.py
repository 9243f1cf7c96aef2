"""The log: what is made lasting before anything is read from it, and what a COMMIT that failed has left in it."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from minibill.db import wal
from minibill.db.connection import open_writer
from minibill.db.sqlite import sqlite3
from minibill.db.wal import is_for_lack_of_room, may_hold_a_failed_commit, resync_wal
from tests.faults import vfs
from tests.faults.disk_model import Recorder, recorded

NAME = "notes.db"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Recorder]:
    with recorded(tmp_path) as recorder:
        yield recorder


@pytest.fixture
def conn(disk: Recorder) -> Iterator[sqlite3.Connection]:
    conn = open_writer(disk.folder / NAME)
    conn.execute("CREATE TABLE notes (text TEXT NOT NULL) STRICT")
    yield conn
    disk.fault = lambda kind, name: vfs.OK
    conn.close()


def failed_commit(conn: sqlite3.Connection, disk: Recorder, kind: str, number: int) -> bool:
    """Commits a few pages, and the operation of this kind and number, from 0, fails; false when there was none such."""
    seen = iter(range(1_000))
    conn.execute("BEGIN IMMEDIATE")
    conn.execute("INSERT INTO notes VALUES (?)", ("x" * 20_000,))
    disk.fault = lambda own, name: vfs.ERRORS[kind] if own == kind and next(seen) == number else vfs.OK
    try:
        conn.execute("COMMIT")
    except sqlite3.OperationalError:
        return True
    finally:
        disk.fault = lambda kind, name: vfs.OK
    return False


def test_a_commit_of_which_a_write_failed_is_not_in_the_log(conn: sqlite3.Connection, disk: Recorder) -> None:
    path, number = disk.folder / NAME, 0
    while failed_commit(conn, disk, "write", number):
        assert not may_hold_a_failed_commit(conn, path), number
        number += 1
    # A header and a page each.
    assert number > 10


def test_a_commit_of_which_the_sync_failed_may_be_in_the_log(conn: sqlite3.Connection, disk: Recorder) -> None:
    assert failed_commit(conn, disk, "sync", 0)
    assert may_hold_a_failed_commit(conn, disk.folder / NAME)


def test_a_log_that_began_anew_holds_older_frames_that_count_for_nothing(conn: sqlite3.Connection, disk: Recorder) -> None:
    path = disk.folder / NAME
    for _ in range(3):
        conn.execute("INSERT INTO notes VALUES (?)", ("y" * 50_000,))
    conn.execute("PRAGMA wal_checkpoint(RESTART)")
    conn.execute("INSERT INTO notes VALUES ('z')")
    assert not may_hold_a_failed_commit(conn, path)
    assert failed_commit(conn, disk, "write", 3)
    assert not may_hold_a_failed_commit(conn, path)
    assert failed_commit(conn, disk, "sync", 0)
    assert may_hold_a_failed_commit(conn, path)


def test_an_empty_log_holds_nothing(conn: sqlite3.Connection, disk: Recorder) -> None:
    conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert not may_hold_a_failed_commit(conn, disk.folder / NAME)


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_what_another_file_has_no_room_for_either_is_for_lack_of_room(
    conn: sqlite3.Connection, disk: Recorder, reason: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr("minibill.db.wal.os.pwrite", refuse)
    assert is_for_lack_of_room(sqlite_error(wal.SQLITE_IOERR), disk.folder / NAME)


@pytest.mark.parametrize("reason", [errno.EIO, errno.EROFS, errno.EACCES, errno.EMFILE])
def test_what_fails_otherwise_is_not(
    conn: sqlite3.Connection, disk: Recorder, reason: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> Any:
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr("minibill.db.wal.tempfile.TemporaryFile", refuse)
    assert not is_for_lack_of_room(sqlite_error(wal.SQLITE_IOERR), disk.folder / NAME)


def test_a_failure_beside_which_there_is_room_is_a_broken_disk_and_leaves_no_file(
    conn: sqlite3.Connection, disk: Recorder
) -> None:
    before = sorted(disk.folder.iterdir())
    assert not is_for_lack_of_room(sqlite_error(wal.SQLITE_IOERR), disk.folder / NAME)
    assert is_for_lack_of_room(sqlite_error(sqlite3.SQLITE_FULL), disk.folder / NAME)
    assert not is_for_lack_of_room(sqlite_error(sqlite3.SQLITE_CORRUPT), disk.folder / NAME)
    assert sorted(disk.folder.iterdir()) == before


def test_what_the_log_holds_is_written_anew_and_synced(conn: sqlite3.Connection, disk: Recorder) -> None:
    log = disk.folder / f"{NAME}-wal"
    before, done = log.read_bytes(), len(disk.steps)
    resync_wal(conn, disk.folder / NAME)
    assert [(step.kind, step.name) for step in disk.steps[done:]] == [("write", log.name), ("sync", log.name)]
    assert log.read_bytes() == before and not conn.in_transaction


def test_of_an_empty_log_nothing_is_written(conn: sqlite3.Connection, disk: Recorder) -> None:
    conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    done = len(disk.steps)
    resync_wal(conn, disk.folder / NAME)
    assert disk.steps[done:] == []


def test_what_another_program_is_writing_is_not_written_over(conn: sqlite3.Connection, disk: Recorder) -> None:
    conn.execute("PRAGMA busy_timeout = 0")
    other = sqlite3.connect(disk.folder / NAME, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            resync_wal(conn, disk.folder / NAME)
    finally:
        other.close()


def sqlite_error(code: int) -> sqlite3.Error:
    error = sqlite3.OperationalError("a fault made by the test")
    error.sqlite_errorcode = code
    return error
