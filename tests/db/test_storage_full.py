"""A full disk beside a broken one, and the commits that a failed COMMIT leaves in the write-ahead log."""

import errno
import os
from typing import Any

import pytest

from minibill.db.constraint_errors import SQLITE_FULL
from minibill.db.sqlite import sqlite3
from minibill.db.storage_full import SQLITE_IOERR, is_storage_full, may_hold_failed_commit
from tests.db.conftest import NOTES
from tests.faults import vfs
from tests.faults.disk_model import Recorder


def failed_commit(conn: sqlite3.Connection, disk: Recorder, kind: str, number: int) -> bool:
    """Commit a few pages while the disk operation of this kind and number fails; false when there was none such."""
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


def test_the_log_holds_no_commit_of_which_a_write_failed(conn: sqlite3.Connection, disk: Recorder) -> None:
    path, number = disk.folder / NOTES, 0
    while failed_commit(conn, disk, "write", number):
        assert not may_hold_failed_commit(conn, path), number
        number += 1
    # A header and a page each.
    assert number > 10


def test_the_log_may_hold_a_commit_whose_sync_failed(conn: sqlite3.Connection, disk: Recorder) -> None:
    assert failed_commit(conn, disk, "sync", 0)
    assert may_hold_failed_commit(conn, disk.folder / NOTES)


def test_older_frames_of_a_restarted_log_do_not_count(conn: sqlite3.Connection, disk: Recorder) -> None:
    path = disk.folder / NOTES
    for _ in range(3):
        conn.execute("INSERT INTO notes VALUES (?)", ("y" * 50_000,))
    conn.execute("PRAGMA wal_checkpoint(RESTART)")
    conn.execute("INSERT INTO notes VALUES ('z')")
    assert not may_hold_failed_commit(conn, path)
    assert failed_commit(conn, disk, "write", 3)
    assert not may_hold_failed_commit(conn, path)
    assert failed_commit(conn, disk, "sync", 0)
    assert may_hold_failed_commit(conn, path)


def test_an_empty_log_holds_no_commit(conn: sqlite3.Connection, disk: Recorder) -> None:
    conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert not may_hold_failed_commit(conn, disk.folder / NOTES)


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_disk_that_has_no_room_for_a_trial_write_is_full(
    conn: sqlite3.Connection, disk: Recorder, reason: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reject(*_: object) -> int:
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr("minibill.db.storage_full.os.pwrite", reject)
    path = disk.folder / NOTES
    assert is_storage_full(sqlite_error(SQLITE_IOERR), path)


@pytest.mark.parametrize("reason", [errno.EIO, errno.EROFS, errno.EACCES, errno.EMFILE])
def test_a_trial_write_that_fails_otherwise_shows_no_full_disk(
    conn: sqlite3.Connection, disk: Recorder, reason: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reject(**_: object) -> Any:
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr("minibill.db.storage_full.tempfile.TemporaryFile", reject)
    assert not is_storage_full(sqlite_error(SQLITE_IOERR), disk.folder / NOTES)


def test_a_failure_on_a_disk_with_room_is_a_broken_disk(conn: sqlite3.Connection, disk: Recorder) -> None:
    path, before = disk.folder / NOTES, sorted(disk.folder.iterdir())
    assert not is_storage_full(sqlite_error(SQLITE_IOERR), path)
    assert is_storage_full(sqlite_error(SQLITE_FULL), path)
    assert not is_storage_full(sqlite_error(sqlite3.SQLITE_CORRUPT), path)
    # The trial leaves no file behind.
    assert sorted(disk.folder.iterdir()) == before


def sqlite_error(code: int) -> sqlite3.Error:
    error = sqlite3.OperationalError("a fault made by the test")
    error.sqlite_errorcode = code
    return error
