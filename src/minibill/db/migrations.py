"""Migrations: `sql/migrations/NNNN_name.sql`, forward only, each in one transaction with its record and checksum.

`python -m minibill.db.migrations` prints the schema that they result in: sql/schema.sql.
"""

import hashlib
import re
import time
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import NamedTuple

from minibill.db.connection import APPLICATION_ID
from minibill.db.queries import sql_folder
from minibill.db.sqlite import Connection, sqlite3

_TABLE = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    version       INTEGER PRIMARY KEY,
    name          TEXT NOT NULL,
    checksum      TEXT NOT NULL,
    applied_at_us INTEGER NOT NULL
) STRICT;
"""

# Tables that Litestream creates in every database that it replicates. They are not part of the book.
# https://litestream.io/how-it-works
LITESTREAM_TABLES = (("table", "_litestream_seq"), ("table", "_litestream_lock"))


class Migration(NamedTuple):
    """One file of sql/migrations."""

    version: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


class MigrationRefused(Exception):
    """The migrations of the file differ from those of this version."""


def all_migrations() -> list[Migration]:
    """Return the migrations of this version of minibill, in order."""
    found = []
    for file in sorted((sql_folder() / "migrations").glob("*.sql")):
        version, _, name = file.stem.partition("_")
        found.append(Migration(int(version), name, file.read_text("utf-8")))
    return found


def migrate(conn: sqlite3.Connection) -> list[Migration]:
    """Migrate the file to the schema of this version; return the migrations that were applied now.

    Raises `MigrationRefused` when the file has a migration that this version lacks, or has with another text.
    """
    known, applied = all_migrations(), _applied(conn)
    _refuse_others(known, applied)
    pending = [migration for migration in known if migration.version not in applied]
    for migration in pending:
        _apply(conn, migration)
    return pending


def require_current(conn: Connection) -> None:
    """Raise `MigrationRefused` when the schema of the file is not that of this version."""
    known, applied = all_migrations(), _applied(conn)
    _refuse_others(known, applied)
    if len(applied) < len(known):
        missing = next(migration for migration in known if migration.version not in applied)
        raise MigrationRefused(
            f"the database is older: it lacks migration {missing.version} ({missing.name}); bring it up to date with "
            "`minibill migrate --db FILE`"
        )


def schema_of(conn: Connection) -> str:
    """Return the statements of the schema in the order of their creation, with their comments."""
    statements = conn.execute(
        "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%' ORDER BY rowid"
    ).fetchall()
    return "".join(f"{sql};\n\n" for (sql,) in statements)


def schema_differences(conn: Connection) -> list[str]:
    """Return the differences between a file's schema and that of the migrations; empty when there are none.

    Litestream's own tables are ignored.
    """
    expected, found = _expected_objects(), _objects(conn)
    missing = [f"{kind} {name} is missing" for kind, name in expected if (kind, name) not in found]
    foreign = [
        f"{kind} {name} is not of minibill's schema"
        for kind, name in found
        if (kind, name) not in expected and (kind, name) not in LITESTREAM_TABLES
    ]
    changed = [
        f"{kind} {name} is not as minibill makes it"
        for (kind, name), sql in found.items()
        if expected.get((kind, name), sql) != sql
    ]
    return [*missing, *foreign, *changed]


@cache
def _expected_objects() -> dict[tuple[str, str], str]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as fresh:
        migrate(fresh)
        return _objects(fresh)


def _objects(conn: Connection) -> dict[tuple[str, str], str]:
    """Return the statement of each table, index, trigger and view, by its kind and name."""
    rows = conn.execute(
        "SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%' ORDER BY rowid"
    ).fetchall()
    return {(kind, name): sql for kind, name, sql in rows}


def _refuse_others(known: list[Migration], applied: dict[int, tuple[str, str]]) -> None:
    for version, (name, checksum) in applied.items():
        mine = next((migration for migration in known if migration.version == version), None)
        if mine is None:
            raise MigrationRefused(f"the database is newer: it has migration {version} ({name}); use a newer minibill")
        if mine.checksum != checksum:
            raise MigrationRefused(f"migration {version} ({name}) of this database has another text than this minibill's")


def _applied(conn: Connection) -> dict[int, tuple[str, str]]:
    there = conn.execute("SELECT 1 FROM sqlite_schema WHERE name = 'schema_migrations'").fetchone()
    if not there:
        return {}
    rows = conn.execute("SELECT version, name, checksum FROM schema_migrations ORDER BY version").fetchall()
    return {version: (name, checksum) for version, name, checksum in rows}


def _apply(conn: sqlite3.Connection, migration: Migration) -> None:
    # executescript commits an open transaction first, so the transaction is part of its text. The time of a migration is
    # that of the machine, not of the book: nothing in the book depends on it.
    applied_at_us = time.time_ns() // 1000
    record = (
        f"INSERT INTO schema_migrations VALUES ({migration.version}, '{_plain(migration.name)}', "
        f"'{migration.checksum}', {applied_at_us});"
    )
    script = f"BEGIN IMMEDIATE;\n{_TABLE}\nPRAGMA application_id = {APPLICATION_ID};\n{migration.sql}\n{record}\nCOMMIT;"
    try:
        conn.executescript(script)
    except BaseException:
        if conn.in_transaction:
            conn.rollback()
        raise


def _plain(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9_]+", name):
        raise ValueError(f"a migration's name is lower-case letters, digits and underscores, not {name!r}")
    return name


def migrate_file(path: Path) -> list[Migration]:
    """Open, migrate and close a file; create it if it is missing."""
    from minibill.db.connection import open_writer

    conn = open_writer(path)
    try:
        return migrate(conn)
    finally:
        conn.close()


def _print_schema() -> None:
    conn = sqlite3.connect(":memory:", isolation_level=None)
    migrate(conn)
    print("-- Generated from sql/migrations by `make schema`: what a database of this version holds.\n")
    print(schema_of(conn).rstrip())


if __name__ == "__main__":
    _print_schema()
