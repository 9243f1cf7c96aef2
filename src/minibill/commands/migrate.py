"""`minibill migrate`: brings a database file to this version's schema."""

from pathlib import Path

import click

from minibill.commands.database import database_option
from minibill.db.connect import DatabaseLocked, FileLock, NotABook
from minibill.db.migrate import MigrationRefused, migrate_file
from minibill.db.sqlite import SqliteTooOld, sqlite3


@click.command(epilog="\b\nExample:\n  minibill migrate --db /var/lib/credits.db")
@database_option
def migrate(*, db: Path) -> None:
    """Make a database file, or bring it to this version's schema.

    `serve` does the same when it starts. The file must not be served meanwhile.
    """  # fmt: skip
    try:
        lock = FileLock(db)
        try:
            applied = migrate_file(db)
        finally:
            lock.release()
    except (DatabaseLocked, NotABook, MigrationRefused, SqliteTooOld, sqlite3.Error, OSError) as error:
        raise click.UsageError(f"can't migrate {db}: {error}") from None
    for migration in applied:
        click.echo(f"applied {migration.version:04d} {migration.name}")
    if not applied:
        click.echo(f"{db} is up to date")
