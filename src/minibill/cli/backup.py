"""`minibill backup` and `minibill restore`: copies of a database, checked before they are put in place."""

import re
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import click

from minibill.cli.backup_history import Divergence, divergence, share_history
from minibill.cli.help import Command
from minibill.cli.options import (
    database_option,
    existing_database_option,
    file_path,
    force_option,
    json_option,
    require_folder,
)
from minibill.cli.output import UsageError, print_json
from minibill.cli.verification import (
    ProgressCallback,
    cli_errors,
    print_checks,
    progress_bar,
    report_json,
    summary,
    verify_with_progress,
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
from minibill.db.sqlite import DatabaseError
from minibill.integrity.verify import Verified

path_argument = click.Path(path_type=Path, dir_okay=False)


@click.command(
    cls=Command,
    short_help="Copy a database to a file, and check it",
    exit_codes={
        0: "backed up and healthy",
        1: "the database is not healthy; no backup was made",
        2: "no backup was possible",
    },
    examples="""
        minibill backup /backups/credits-monday.db --db /var/lib/credits.db
        minibill backup copy.db --json | jq -r .status
    """,
)
@click.argument("dest", type=path_argument, callback=file_path)
@existing_database_option
@force_option
@json_option
def backup(*, dest: Path, db: Path, force: bool, as_json: bool) -> None:
    """Copy a database to DEST and check the copy. A service may be using the database.

    The copy holds every write acknowledged before the backup began. The service does not wait: the backup pauses after
    less than a millisecond of work, to leave the core to the service.
    """
    with cli_errors("back up", db), ExitStack() as stack:
        dest = _target(dest)
        replaces = dest.exists()
        if replaces:
            _require_different_files(db, dest)
            if not force:
                raise UsageError(f"{dest} exists already; name another file, or replace it with --force")
            # Keep services from opening the file while it is replaced. Only a file that was served has a lock file.
            stack.callback(FileLock(dest, only_if_served=True).release)
        on_progress = stack.enter_context(progress_bar())

        def on_pages(done: int, total: int) -> None:
            on_progress("copying", done, total)
            pause()

        copy = stack.enter_context(copied(db, dest, on_pages=on_pages))
        verified = _require_healthy(copy, f"{db} was not backed up", on_progress, as_json=as_json, paced=True)
        put_in_place(copy, dest, replaces=replaces, force=force)
    _print_result({"db": str(db), "backup": str(dest)}, dest, verified, f"{db} is backed up", as_json=as_json)


@click.command(
    cls=Command,
    short_help="Replace a database by a backup, and check it",
    exit_codes={0: "restored", 1: "the backup is not healthy; nothing was changed", 2: "no restore was possible"},
    examples="""
        minibill restore /backups/credits-monday.db --db /var/lib/credits.db
        minibill restore /backups/credits-monday.db --db rehearsal.db
    """,
)
@click.argument("src", type=path_argument, callback=file_path)
@database_option
@click.option(
    "--force",
    is_flag=True,
    help="Also replace a database of another history, an unreadable one, or a write-ahead log without its database.",
)
@json_option
def restore(*, src: Path, db: Path, force: bool, as_json: bool) -> None:
    """Check the backup SRC and put it in the place of a database file.

    The restored database begins a new epoch: every id that it issues from then on is new.

    The replaced file is kept next to it as FILE.before-restore-TIME; restore that file to undo the restore. If any step
    fails, nothing is changed. A file that a service uses is never replaced.
    """
    with cli_errors("restore", src), ExitStack() as stack:
        if not src.exists():
            raise UsageError(f"can't restore {src}: it does not exist")
        db = _target(db)
        _require_different_files(src, db)
        stack.callback(FileLock(db).release)
        replaces = db.exists()
        if not replaces and not force:
            _require_no_orphaned_log(db)
        lost = _compare(db, src, force=force) if replaces else None
        issued_here = _issued(db) if replaces else FIRST
        kept = _name_to_keep(db) if replaces else None
        on_progress = stack.enter_context(progress_bar())
        copy = stack.enter_context(copied(src, db, on_pages=lambda done, total: on_progress("copying", done, total)))
        verified = _require_healthy(copy, f"{src} was not restored, and nothing was changed", on_progress, as_json=as_json)
        with closing(open_writer(copy)) as conn:
            epoch = begin_epoch(conn, "restored", beside=issued_here)
            mark = mark_of(conn)
        put_in_place(copy, db, replaces=replaces, force=force, keep_as=kept)
        begin_anchor(db, mark)
    members = {
        "backup": str(src),
        "db": str(db),
        "replaced": replaces,
        "kept": None if kept is None else str(kept),
        "laterEntries": None if lost is None else lost.entries,
        "laterAuditRows": None if lost is None else lost.audit_rows,
        "epoch": epoch.number,
    }
    _print_result(members, db, verified, f"{src} is restored", as_json=as_json)
    if not as_json:
        click.echo(f"began epoch {epoch.number}: ids issued from now on differ from any issued before")
        if kept is not None:
            click.echo(f"the replaced database is kept as {kept}{_lost_text(lost)}")


def _require_different_files(one: Path, other: Path) -> None:
    if one.exists() and other.exists() and one.samefile(other):
        raise UsageError(f"{one} and {other} are the same file")


def _target(path: Path) -> Path:
    """Return the file to write, behind links. Its folder must exist and belong to this user."""
    real = resolve(path)
    require_folder(real)
    require_own_folder(real.parent)
    return real


def _compare(db: Path, src: Path, *, force: bool) -> Divergence | None:
    """Count the rows that the backup lacks. With `force`, return None if the two can't be compared."""
    with open_snapshot(src) as backup:
        try:
            with open_snapshot(db) as conn:
                if share_history(conn, backup):
                    return divergence(conn, base=backup)
            reason = "it is another database than the backup's"
        except (NotABook, MigrationRefused, DatabaseError) as error:
            reason = f"it can't be compared with the backup: {error}"
    if not force:
        raise UsageError(f"{db} was not replaced: {reason}; to replace it anyway and keep it, add --force")
    return None


def _issued(db: Path) -> Epoch:
    """Return the newest ids that the replaced database has issued. Those of an unreadable one come from the clock."""
    try:
        with open_snapshot(db) as conn:
            return issued(conn)
    except (NotABook, MigrationRefused, DatabaseError):
        return FIRST


def _require_no_orphaned_log(db: Path) -> None:
    """Reject a log without its database: it holds acknowledged writes of a database that was moved away."""
    for log in (f"{db.name}-wal", f"{db.name}-journal"):
        if db.with_name(log).exists() and db.with_name(log).stat().st_size:
            raise UsageError(
                f"{db} does not exist, but {log} does, with acknowledged writes of its database: move the database back, "
                "or move the log next to it; --force deletes the log"
            )


def _name_to_keep(db: Path) -> Path:
    """Return an unused name for the replaced database."""
    at = re.sub(r"[-:]|\..*", "", format_time(Clock().now_us()))
    name = f"{db.name}.before-restore-{at}Z"
    names = [name, *(f"{name}-{number}" for number in range(2, 100))]
    return next(path for name in names if not is_taken(path := db.with_name(name)))


def _lost_text(lost: Divergence | None) -> str:
    if lost is None:
        return ""
    entries, rows = lost
    return (
        f": {entries:,} {'entry' if entries == 1 else 'entries'} of the ledger and {rows:,} "
        f"{'row' if rows == 1 else 'rows'} of the audit log later than the backup"
    )


def _require_healthy(
    copy: Path, failure: str, on_progress: ProgressCallback, *, as_json: bool, paced: bool = False
) -> Verified:
    """Check a copy. If a check fails, print the report and end the command with exit code 1."""
    verified = verify_with_progress(copy, on_progress, paced=paced)
    if verified.report.status != "healthy":
        if as_json:
            print_json(report_json(verified.report))
        else:
            print_checks(verified)
        raise click.ClickException(f"{failure}: the database in it is not healthy")
    return verified


def _print_result(members: dict[str, Any], path: Path, verified: Verified, done: str, *, as_json: bool) -> None:
    size_bytes = path.stat().st_size
    if as_json:
        print_json({**members, "bytes": size_bytes, **report_json(verified.report)})
    else:
        click.echo(f"{done}: {size_bytes:,} bytes; {summary(path, verified.report)}")
