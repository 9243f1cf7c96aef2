"""`minibill migrate`: brings a database file to this version's schema."""

from pathlib import Path

import click

from minibill.cli.options import database_option, require_folder
from minibill.cli.output import print_json
from minibill.db.connection import NotABook
from minibill.db.file_lock import DatabaseLocked, FileLock
from minibill.db.files import reason_of
from minibill.db.migrations import MigrationRefused, migrate_file
from minibill.db.sqlite import SqliteTooOld, sqlite3


@click.command(epilog="\b\nExample:\n  minibill migrate --db /var/lib/credits.db")
@database_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def migrate(*, db: Path, as_json: bool) -> None:
    """Make a database file, or bring it to this version's schema.

    `serve` does the same when it starts. The file must not be served meanwhile.
    """  # fmt: skip
    require_folder(db)
    try:
        lock = FileLock(db, create=True)
        try:
            applied = migrate_file(lock.path)
        finally:
            lock.release()
    except (DatabaseLocked, NotABook, MigrationRefused, SqliteTooOld, sqlite3.Error, OSError) as error:
        raise click.UsageError(f"can't migrate {db}: {reason_of(error, db)}") from None
    if as_json:
        print_json({"db": str(db), "applied": [f"{migration.version:04d} {migration.name}" for migration in applied]})
        return
    for migration in applied:
        click.echo(f"applied {migration.version:04d} {migration.name}")
    if not applied:
        click.echo(f"{db} is up to date")
