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

# Pages between two progress reports: less than a millisecond, after which a backup pauses.
STEP_PAGES = 250

# The files beside a database that have content while no process has it open.
_KEPT_COMPANIONS = ("-wal", "-journal", "-anchor")

# Error codes of a file that is not a database, or no longer.
_UNREADABLE = (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)


@contextmanager
def copied(source: Path, beside: Path, *, on_pages: Callable[[int, int], None]) -> Iterator[Path]:
    """Copy a book to a temporary file in the folder of `beside`; the file is deleted afterwards unless it was moved.

    A service that writes the book does not wait. `on_pages` receives the pages copied so far and in all. Raises what
    `open_snapshot` raises.
    """
    with _sigterm_as_exit(), _temporary_file(beside) as copy:
        with open_snapshot(source) as conn, closing(sqlite3.connect(copy, isolation_level=None)) as target:
            # No process reads the copy before it is complete and synced.
            target.execute("PRAGMA journal_mode = OFF")
            target.execute("PRAGMA synchronous = OFF")
            conn.backup(target, pages=STEP_PAGES, progress=lambda _, left, total: on_pages(total - left, total))
        yield copy


@contextmanager
def _temporary_file(beside: Path) -> Iterator[Path]:
    """Create an empty file in the folder of `beside`; it is deleted afterwards unless it was moved."""
    # Private from the start, since it keeps its mode when it is moved into place.
    file = beside.with_name(f".{beside.name}.{secrets.token_hex(8)}.tmp")
    os.close(create(file))
    try:
        yield file
    finally:
        remove(file)


@contextmanager
def _sigterm_as_exit() -> Iterator[None]:
    """Let SIGTERM end the process as SIGINT does, with cleanup; a second SIGTERM is ignored."""

    def end(signum: int, _: FrameType | None) -> None:
        signal.signal(signum, signal.SIG_IGN)
        raise SystemExit(128 + signum)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def put_in_place(copy: Path, path: Path, *, replaces: bool, force: bool, keep_as: Path | None = None) -> None:
    """Move a checked copy to `path` atomically; only its owner may read it.

    A file that it `replaces` must be locked. `keep_as` names a second file that keeps the replaced one, with its anchor and
    the write-ahead log of a killed service, byte for byte.

    Raises `FileExistsError` when a file has appeared at `path`, unless it replaces one, or at `keep_as`. Raises
    `DatabaseLocked` when another process has the old file open, and SQLite's error when its checkpoint fails. With `force` a
    file that is not readable as a database needs no checkpoint.
    """
    # All that is slow or may fail comes first, so that the old file stays complete until the new one is in place.
    sync(copy)
    if keep_as is not None:
        _keep(path, keep_as)
    if replaces:
        try:
            _checkpoint(path, force=force)
        except BaseException:
            if keep_as is not None:
                remove(keep_as)
            raise
    elif os.path.lexists(path):
        raise _file_exists(path)
    # SQLite would apply the log of the other file to this one, and minibill would compare the wrong anchor.
    _remove_companions(path)
    sync(path.parent)
    if replaces:
        copy.replace(path)
    else:
        _move_without_replacing(copy, path)
    sync(path.parent)


def is_taken(path: Path) -> bool:
    """Return true if this name, or that of a file beside it, is in use."""
    return any(os.path.lexists(file) for file in (path, *companions_of(path)))


def _keep(path: Path, kept: Path) -> None:
    """Copy a file that no process has open; the copy is complete and on disk when this returns.

    A hard link would be cheaper. But if this process is killed before the first name is replaced, the file has two names,
    and minibill does not serve a file with two names.
    """
    with _temporary_file(path) as copy:
        copy_to(path, open_own(copy, os.O_WRONLY))
        # The files beside it first, as they are: opening the database drops the unreadable part of its log.
        for suffix in _KEPT_COMPANIONS:
            companion = path.with_name(path.name + suffix)
            if companion.exists() and companion.stat().st_size > 0:
                copy_to(companion, create(kept.with_name(kept.name + suffix)))
        _move_without_replacing(copy, kept)
    sync(kept.parent)


def _move_without_replacing(copy: Path, path: Path) -> None:
    try:
        os.link(copy, path)
    except FileExistsError:
        raise _file_exists(path) from None
    except OSError:
        # The file system has no links, or rejects the write for another reason.
        if os.path.lexists(path):
            raise _file_exists(path) from None
        copy.replace(path)
    else:
        copy.unlink()


def _file_exists(path: Path) -> FileExistsError:
    return FileExistsError(errno.EEXIST, "was made meanwhile, and is not replaced", str(path))


def _checkpoint(path: Path, *, force: bool) -> None:
    """Run a checkpoint of the log that a killed service left, so that the file is complete without the log."""
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
    """Delete a database file with the files beside it. The caller holds its lock."""
    path.unlink(missing_ok=True)
    _remove_companions(path)


def _remove_companions(path: Path) -> None:
    for file in companions_of(path):
        file.unlink(missing_ok=True)
