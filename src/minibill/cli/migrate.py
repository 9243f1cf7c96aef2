"""`minibill migrate`: bring a database file to the schema of this version."""

from pathlib import Path

import click

from minibill.cli.help import Command
from minibill.cli.options import database_option, json_option, require_folder
from minibill.cli.output import print_json
from minibill.db.connection import NotABook
from minibill.db.file_lock import DatabaseLocked, FileLock
from minibill.db.files import reason_of
from minibill.db.migrations import MigrationRefused, migrate_file
from minibill.db.sqlite import DatabaseError, SqliteTooOld


@click.command(
    cls=Command,
    short_help="Create or upgrade a database file",
    examples="minibill migrate --db /var/lib/credits.db",
)
@database_option
@json_option
def migrate(*, db: Path, as_json: bool) -> None:
    """Create a database file, or bring it to the schema of this version.

    `minibill serve` does the same when it starts. The command does not run while a service uses the file.
    """
    require_folder(db)
    try:
        lock = FileLock(db, create=True)
        try:
            applied = migrate_file(lock.path)
        finally:
            lock.release()
    except (DatabaseLocked, NotABook, MigrationRefused, SqliteTooOld, DatabaseError, OSError) as error:
        raise click.UsageError(f"can't migrate {db}: {reason_of(error, db)}") from None
    if as_json:
        print_json({"db": str(db), "applied": [f"{migration.version:04d} {migration.name}" for migration in applied]})
        return
    for migration in applied:
        click.echo(f"applied {migration.version:04d} {migration.name}")
    if not applied:
        click.echo(f"{db} is up to date")
