"""`minibill backup` and `minibill restore`: a book as it was at one moment, checked before it counts."""

import re
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import click

from minibill.cli.backup_history import Divergence, are_one_book, later
from minibill.cli.options import database_option, existing_database_option, file_path, require_folder
from minibill.cli.output import UsageError, print_json
from minibill.cli.verification import (
    ProgressCallback,
    cli_errors,
    force_option,
    json_option,
    print_checks,
    progress_bar,
    summary,
    verdict_json,
    verified,
)
from minibill.core.clock import Clock, format_time
from minibill.db.anchor import begin_anchor, mark_of
from minibill.db.connection import NotABook, open_writer
from minibill.db.epochs import FIRST, Epoch, begin_epoch, issued
from minibill.db.file_copy import copied, is_taken, put_in_place
from minibill.db.file_lock import FileLock
from minibill.db.files import require_own_folder, resolve
from minibill.db.migrations import MigrationRefused
from minibill.db.pacing import pause
from minibill.db.snapshot import open_snapshot
from minibill.db.sqlite import sqlite3
from minibill.integrity.verify import Verified

path_argument = click.Path(path_type=Path, dir_okay=False)


@click.command(
    epilog="""\b
Examples:
  minibill backup /backups/credits-monday.db --db /var/lib/credits.db
  minibill backup copy.db --json | jq -r .status

Exit codes: 0 the backup is there and healthy; 1 the book is not healthy, so there is none; 2 it can't be made."""
)
@click.argument("dest", type=path_argument, callback=file_path)
@existing_database_option
@force_option
@json_option
def backup(*, dest: Path, db: Path, force: bool, as_json: bool) -> None:
    """Copy a book to DEST, whether or not it is being served, and check the copy before it is called done.

    The copy holds every write that was answered before the backup began. The service waits for nothing meanwhile, and the
    backup pauses after less than a millisecond of work, to leave the core to it.
    """  # fmt: skip
    with cli_errors("back up", db), ExitStack() as stack:
        dest = _place(dest)
        replaces = dest.exists()
        if replaces:
            _refuse_the_same(db, dest)
            if not force:
                raise UsageError(f"{dest} is there already; name another file, or replace it with --force")
            # Only what was served once has a lock file; nobody begins to serve it while it is replaced.
            stack.callback(FileLock(dest, only_if_served=True).release)
        say = stack.enter_context(progress_bar())

        def on_pages(done: int, total: int) -> None:
            say("copying", done, total)
            pause()

        copy = stack.enter_context(copied(db, dest, on_pages=on_pages))
        found = _healthy(copy, f"{db} was not backed up", say, as_json=as_json, paced=True)
        put_in_place(copy, dest, replaces=replaces, force=force)
    _tell({"db": str(db), "backup": str(dest)}, dest, found, f"{db} is backed up", as_json=as_json)


@click.command(
    epilog="""\b
Examples:
  minibill restore /backups/credits-monday.db --db /var/lib/credits.db
  minibill restore /backups/credits-monday.db --db rehearsal.db

Exit codes: 0 restored; 1 the backup is not healthy, and nothing was changed; 2 it can't be or must not be restored."""
)
@click.argument("src", type=path_argument, callback=file_path)
@database_option
@click.option(
    "--force",
    is_flag=True,
    help="Replace another book than the backup is of, one that can't be read, or the log of one that was moved away.",
)
@json_option
def restore(*, src: Path, db: Path, force: bool, as_json: bool) -> None:
    """Put the backup SRC in the place of a database file, once it is checked.

    It begins a new epoch: no id that the book issues from then on was ever issued before.

    What is replaced is kept beside it, whole, as FILE.before-restore-TIME; to restore that undoes this. Nothing is changed
    unless all of it succeeds. A file that is being served is never replaced, and another book only with --force.
    """  # fmt: skip
    with cli_errors("restore", src), ExitStack() as stack:
        if not src.exists():
            raise UsageError(f"can't restore {src}: it is not there")
        db = _place(db)
        _refuse_the_same(src, db)
        stack.callback(FileLock(db).release)
        replaces = db.exists()
        if not replaces and not force:
            _refuse_orphans(db)
        lacks = _compared(db, src, force=force) if replaces else None
        issued_here = _issued(db) if replaces else FIRST
        kept = _name_to_keep(db) if replaces else None
        say = stack.enter_context(progress_bar())
        copy = stack.enter_context(copied(src, db, on_pages=lambda done, total: say("copying", done, total)))
        found = _healthy(copy, f"{src} was not restored, and nothing was changed", say, as_json=as_json)
        with closing(open_writer(copy)) as conn:
            epoch = begin_epoch(conn, "restored", beside=issued_here)
            mark = mark_of(conn)
        put_in_place(copy, db, replaces=replaces, force=force, keep_as=kept)
        begin_anchor(db, mark)
    named = {
        "backup": str(src),
        "db": str(db),
        "replaced": replaces,
        "kept": None if kept is None else str(kept),
        "laterEntries": None if lacks is None else lacks.entries,
        "laterAuditRows": None if lacks is None else lacks.audit_rows,
        "epoch": epoch.number,
    }
    _tell(named, db, found, f"{src} is restored", as_json=as_json)
    if not as_json:
        click.echo(f"began epoch {epoch.number}: ids issued from now on differ from any issued before")
        if kept is not None:
            click.echo(f"what it replaces is kept as {kept}{_in_words(lacks)}")


def _refuse_the_same(one: Path, other: Path) -> None:
    if one.exists() and other.exists() and one.samefile(other):
        raise UsageError(f"{one} and {other} are the same file")


def _place(path: Path) -> Path:
    """Where a file goes: behind links, which stay, and into a folder that must be there."""
    real = resolve(path)
    require_folder(real)
    require_own_folder(real.parent)
    return real


def _compared(db: Path, src: Path, *, force: bool) -> Divergence | None:
    """What a book has that its backup lacks; None where that can't be said, and then it is replaced by force alone."""
    with open_snapshot(src) as backup:
        try:
            with open_snapshot(db) as conn:
                if are_one_book(conn, backup):
                    return later(conn, than=backup)
            reason = "is another book than the backup is of"
        except (NotABook, MigrationRefused, sqlite3.DatabaseError) as error:
            reason = f"can't be compared with the backup: {error}"
    if not force:
        raise UsageError(f"{db} would be replaced, and {reason}; --force replaces it all the same, and keeps it")
    return None


def _issued(db: Path) -> Epoch:
    """Return what a book that is replaced has issued; one that can't be read is left to the clock."""
    try:
        with open_snapshot(db) as conn:
            return issued(conn)
    except (NotABook, MigrationRefused, sqlite3.DatabaseError):
        return FIRST


def _refuse_orphans(db: Path) -> None:
    """A log beside a file that is not there has answered writes in it, of a book that was moved away without it."""
    for log in (f"{db.name}-wal", f"{db.name}-journal"):
        if db.with_name(log).exists() and db.with_name(log).stat().st_size:
            raise UsageError(
                f"{db} is not there, but {log} is, with writes that its book lacks without it: put the book back beside it, "
                "or move it to where the book is; --force deletes it"
            )


def _name_to_keep(db: Path) -> Path:
    """A name that says what it is of, and that nothing has yet."""
    at = re.sub(r"[-:]|\..*", "", format_time(Clock().now_us()))
    name = f"{db.name}.before-restore-{at}Z"
    names = [name, *(f"{name}-{number}" for number in range(2, 100))]
    return next(path for name in names if not is_taken(path := db.with_name(name)))


def _in_words(lacks: Divergence | None) -> str:
    if lacks is None:
        return ""
    entries, rows = lacks
    return (
        f": {entries:,} {'entry' if entries == 1 else 'entries'} of the ledger and {rows:,} "
        f"{'row' if rows == 1 else 'rows'} of the audit log later than the backup"
    )


def _healthy(copy: Path, otherwise: str, say: ProgressCallback, *, as_json: bool, paced: bool = False) -> Verified:
    """The verdict on a copy that passes every check; else the command ends with 1."""
    found = verified(copy, say, paced=paced)
    if found.report.status != "healthy":
        if as_json:
            print_json(verdict_json(found.report))
        else:
            print_checks(found)
        raise click.ClickException(f"{otherwise}: the book in it is not healthy")
    return found


def _tell(named: dict[str, Any], path: Path, found: Verified, done: str, *, as_json: bool) -> None:
    size_bytes = path.stat().st_size
    if as_json:
        print_json({**named, "bytes": size_bytes, **verdict_json(found.report)})
    else:
        click.echo(f"{done}: {size_bytes:,} bytes; {summary(path, found.report)}")
