"""Copies of a database file: made from a snapshot while it is served, and put in place whole or not at all."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from minibill.db.connect import FileLock, NotABook, open_writer
from minibill.db.snapshot import open_snapshot
from minibill.db.sqlite import sqlite3

# Pages between two words of progress: a few milliseconds.
STEP_PAGES = 2_000

_COMPANIONS = ("-wal", "-shm", "-journal")


@contextmanager
def copied(source: Path, beside: Path, *, on_pages: Callable[[int, int], None]) -> Iterator[Path]:
    """A copy of a book as it is now, under another name in the folder of `beside`; deleted afterwards if it is still there.

    The service that writes the book waits for nothing meanwhile. `on_pages` hears how many pages of how many are copied.
    Raises what `open_snapshot` raises.
    """
    copy = beside.with_name(f".{beside.name}.{os.getpid()}.tmp")
    try:
        with open_snapshot(source) as conn:
            # One that was left behind by a killed process of the same number.
            _remove(copy)
            target = sqlite3.connect(copy, isolation_level=None)
            try:
                # Nobody reads it before it is whole and synced.
                target.execute("PRAGMA journal_mode = OFF")
                target.execute("PRAGMA synchronous = OFF")
                conn.backup(target, pages=STEP_PAGES, progress=lambda _, left, total: on_pages(total - left, total))
            finally:
                target.close()
        shutil.copymode(source, copy)
        yield copy
    finally:
        _remove(copy)


def put_in_place(copy: Path, path: Path, *, lock: FileLock | None) -> None:
    """Makes a checked copy the file at `path`, and what was there before disappear, at one moment.

    What is there must be locked, so that nobody serves it meanwhile; `lock` is None where there is nothing.
    """
    if lock is not None:
        _fold_log(path)
    # A log that belongs to another file would be read as if it were this one's.
    _remove_companions(path)
    _sync(copy)
    copy.replace(path)
    _sync(path.parent)


def _fold_log(path: Path) -> None:
    """Folds what a killed service left in its log into the file: the old book is whole until the moment it is gone."""
    if path.exists():
        with suppress(sqlite3.Error, NotABook):
            open_writer(path).close()


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    _remove_companions(path)


def _remove_companions(path: Path) -> None:
    for suffix in _COMPANIONS:
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
