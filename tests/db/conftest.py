"""A small database on a disk whose operations tests record and make fail."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from minibill.db.connection import open_writer
from minibill.db.sqlite import sqlite3
from tests.faults import vfs
from tests.faults.disk_model import Recorder, recorded

NOTES = "notes.db"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Recorder]:
    with recorded(tmp_path) as recorder:
        yield recorder


@pytest.fixture
def conn(disk: Recorder) -> Iterator[sqlite3.Connection]:
    conn = open_writer(disk.folder / NOTES)
    conn.execute("CREATE TABLE notes (text TEXT NOT NULL) STRICT")
    yield conn
    disk.fault = lambda kind, name: vfs.OK
    conn.close()
