"""Copies of a database file: made from a snapshot while it is served, and put in place whole or not at all."""

import errno
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from stat import S_IMODE
from types import FrameType

from minibill.db.connect import DatabaseLocked, NotABook, open_writer
from minibill.db.files import sync
from minibill.db.snapshot import open_snapshot
from minibill.db.sqlite import sqlite3

# Pages between two words of progress: a few milliseconds.
STEP_PAGES = 2_000

_COMPANIONS = ("-wal", "-shm", "-journal", "-anchor")

# What a file comes to that is no database, or no longer.
_UNREADABLE = (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)


@contextmanager
def copied(source: Path, beside: Path, *, on_pages: Callable[[int, int], None]) -> Iterator[Path]:
    """A copy of a book as it is now, under another name in the folder of `beside`; deleted afterwards if it is still there.

    The service that writes the book waits for nothing meanwhile. `on_pages` hears how many pages of how many are copied.
    Raises what `open_snapshot` raises.
    """
    with _ended_by_sigterm():
        # Only its owner may read it: what it takes the place of may be closed to others.
        descriptor, name = tempfile.mkstemp(prefix=f".{beside.name}.", suffix=".tmp", dir=beside.parent)
        os.close(descriptor)
        copy = Path(name)
        try:
            with open_snapshot(source) as conn, closing(sqlite3.connect(copy, isolation_level=None)) as target:
                # Nobody reads it before it is whole and synced.
                target.execute("PRAGMA journal_mode = OFF")
                target.execute("PRAGMA synchronous = OFF")
                conn.backup(target, pages=STEP_PAGES, progress=lambda _, left, total: on_pages(total - left, total))
            yield copy
        finally:
            remove(copy)


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM ends the process as SIGINT does, with all that is open closed and cleaned up; a second one is not heard."""

    def end(signum: int, _: FrameType | None) -> None:
        signal.signal(signum, signal.SIG_IGN)
        raise SystemExit(128 + signum)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def put_in_place(copy: Path, path: Path, *, source: Path, replaces: bool, force: bool) -> None:
    """Makes a checked copy of `source` the file at `path`, and what was there before disappear, at one moment.

    It gets the mode and, where that is allowed, the owner of what was there; else the mode of `source`. What it
    `replaces` must be locked where it could be served. Raises `FileExistsError` when it replaces nothing and something came
    to be there meanwhile, `DatabaseLocked` when another process has the old file open, and what SQLite raises when its log
    can't be folded into it; with `force` what can't be read as a database has no log to fold.
    """
    # All that is slow or may fail comes first, so that the old file is whole until the new one is there.
    _take_on(copy, path if replaces else source, owner=replaces)
    sync(copy)
    if replaces:
        _fold_log(path, force=force)
    elif path.exists():
        raise _is_there(path)
    # A log that belongs to another file would be read as if it were this one's, and an anchor be compared with it.
    _remove_companions(path)
    sync(path.parent)
    if replaces:
        copy.replace(path)
    else:
        _move_where_nothing_is(copy, path)
    sync(path.parent)


def _move_where_nothing_is(copy: Path, path: Path) -> None:
    try:
        os.link(copy, path)
    except FileExistsError:
        raise _is_there(path) from None
    except OSError:
        # A file system without links, or one that refuses the other way too.
        if path.exists():
            raise _is_there(path) from None
        copy.replace(path)
    else:
        copy.unlink()


def _is_there(path: Path) -> FileExistsError:
    return FileExistsError(errno.EEXIST, "was made meanwhile, and is not replaced", str(path))


def _take_on(copy: Path, other: Path, *, owner: bool) -> None:
    stat = other.stat()
    if owner:
        with suppress(PermissionError):
            os.chown(copy, stat.st_uid, stat.st_gid)
    copy.chmod(S_IMODE(stat.st_mode))


def _fold_log(path: Path, *, force: bool) -> None:
    """Folds what a killed service left in its log into the file, which is then whole without the log."""
    try:
        with closing(open_writer(path)) as conn:
            busy, *_ = conn.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except (NotABook, sqlite3.DatabaseError) as error:
        if force and (isinstance(error, NotABook) or error.sqlite_errorcode in _UNREADABLE):
            return
        raise
    log = path.with_name(f"{path.name}-wal")
    if busy or (log.exists() and log.stat().st_size > 0):
        raise DatabaseLocked(f"{path} is open in another process; try again when that has ended")


def remove(path: Path) -> None:
    """Deletes a database file with its log. It must be locked where it could be served."""
    path.unlink(missing_ok=True)
    _remove_companions(path)


def _remove_companions(path: Path) -> None:
    for suffix in _COMPANIONS:
        path.with_name(path.name + suffix).unlink(missing_ok=True)
