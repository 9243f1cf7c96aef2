"""Copies of a database file: made from a snapshot while it is served, and put in place whole or not at all."""

import errno
import os
import secrets
import signal
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType

from minibill.db.connection import NotABook, open_writer
from minibill.db.file_lock import DatabaseLocked
from minibill.db.files import companions_of, copy_to, create, open_own, sync
from minibill.db.snapshot import open_snapshot
from minibill.db.sqlite import sqlite3

# Pages between two words of progress: less than a millisecond, after which a backup pauses.
STEP_PAGES = 250

# Of the files beside a database, those that hold something while nobody has it open.
_KEPT_COMPANIONS = ("-wal", "-journal", "-anchor")

# What a file comes to that is no database, or no longer.
_UNREADABLE = (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)


@contextmanager
def copied(source: Path, beside: Path, *, on_pages: Callable[[int, int], None]) -> Iterator[Path]:
    """A copy of a book as it is now, under another name in the folder of `beside`; deleted afterwards if it is still there.

    The service that writes the book waits for nothing meanwhile. `on_pages` hears how many pages of how many are copied.
    Raises what `open_snapshot` raises.
    """
    with _ended_by_sigterm(), _named_for_now(beside) as copy:
        with open_snapshot(source) as conn, closing(sqlite3.connect(copy, isolation_level=None)) as target:
            # Nobody reads it before it is whole and synced.
            target.execute("PRAGMA journal_mode = OFF")
            target.execute("PRAGMA synchronous = OFF")
            conn.backup(target, pages=STEP_PAGES, progress=lambda _, left, total: on_pages(total - left, total))
        yield copy


@contextmanager
def _named_for_now(beside: Path) -> Iterator[Path]:
    """An empty file in the folder of `beside`; deleted afterwards if it is still there."""
    # Only its owner may read it, now and when it is in place.
    file = beside.with_name(f".{beside.name}.{secrets.token_hex(8)}.tmp")
    os.close(create(file))
    try:
        yield file
    finally:
        remove(file)


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


def put_in_place(copy: Path, path: Path, *, replaces: bool, force: bool, keep_as: Path | None = None) -> None:
    """Makes a checked copy the file at `path`, and what was there before disappear, at one moment.

    Only its owner may read it, whatever the mode of what was there. What it `replaces` must be locked where it could be
    served; it is kept as another file where a name for that is given, with its anchor and, byte for byte, the log that a
    killed service left. Raises `FileExistsError` when something came to be there meanwhile, where it replaces nothing or
    under that name, `DatabaseLocked` when another process has the old file open, and what SQLite raises when its log can't
    be folded into it; with `force` what can't be read as a database has none to fold.
    """
    # All that is slow or may fail comes first, so that the old file is whole until the new one is there.
    sync(copy)
    if keep_as is not None:
        _keep(path, keep_as)
    if replaces:
        try:
            _fold_log(path, force=force)
        except BaseException:
            if keep_as is not None:
                remove(keep_as)
            raise
    elif os.path.lexists(path):
        raise _is_there(path)
    # A log that belongs to another file would be read as if it were this one's, and an anchor be compared with it.
    _remove_companions(path)
    sync(path.parent)
    if replaces:
        copy.replace(path)
    else:
        _move_where_nothing_is(copy, path)
    sync(path.parent)


def is_taken(path: Path) -> bool:
    """Whether a file has this name, or one that belongs beside it."""
    return any(os.path.lexists(file) for file in (path, *companions_of(path)))


def _keep(path: Path, kept: Path) -> None:
    """Makes a second file of one that nobody has open; it is whole and on disk when this returns.

    A second name of the same file would cost nothing. But were this process killed before the first name is another file's,
    the file would have two, and with two it is not served.
    """
    with _named_for_now(path) as copy:
        copy_to(path, open_own(copy, os.O_WRONLY))
        # First what lies beside it, as it is: to open the file is to drop what can't be read of its log.
        for suffix in _KEPT_COMPANIONS:
            companion = path.with_name(path.name + suffix)
            if companion.exists() and companion.stat().st_size > 0:
                copy_to(companion, create(kept.with_name(kept.name + suffix)))
        _move_where_nothing_is(copy, kept)
    sync(kept.parent)


def _move_where_nothing_is(copy: Path, path: Path) -> None:
    try:
        os.link(copy, path)
    except FileExistsError:
        raise _is_there(path) from None
    except OSError:
        # A file system without links, or one that refuses the other way too.
        if os.path.lexists(path):
            raise _is_there(path) from None
        copy.replace(path)
    else:
        copy.unlink()


def _is_there(path: Path) -> FileExistsError:
    return FileExistsError(errno.EEXIST, "was made meanwhile, and is not replaced", str(path))


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
    for file in companions_of(path):
        file.unlink(missing_ok=True)
