"""The write-ahead log: its content is on disk before anything is read from it."""

import pytest

from minibill.db.sqlite import sqlite3
from minibill.db.wal import resync_wal
from tests.db.conftest import NOTES
from tests.faults.disk_model import Recorder


def test_resync_writes_the_log_again_and_syncs_it(conn: sqlite3.Connection, disk: Recorder) -> None:
    log = disk.folder / f"{NOTES}-wal"
    before, done = log.read_bytes(), len(disk.steps)
    resync_wal(conn, disk.folder / NOTES)
    assert [(step.kind, step.name) for step in disk.steps[done:]] == [("write", log.name), ("sync", log.name)]
    assert log.read_bytes() == before and not conn.in_transaction


def test_resync_of_an_empty_log_writes_nothing(conn: sqlite3.Connection, disk: Recorder) -> None:
    conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    done = len(disk.steps)
    resync_wal(conn, disk.folder / NOTES)
    assert disk.steps[done:] == []


def test_resync_fails_while_another_program_writes(conn: sqlite3.Connection, disk: Recorder) -> None:
    conn.execute("PRAGMA busy_timeout = 0")
    other = sqlite3.connect(disk.folder / NOTES, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            resync_wal(conn, disk.folder / NOTES)
    finally:
        other.close()
