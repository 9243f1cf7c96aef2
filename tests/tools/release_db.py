"""A small database of each released version, as SQL: what an upgrade begins with.

`python -m tests.tools.release_db` writes that of the version to come.

A dump holds the checksums of the migrations that made it. So once a version is released, a migration of it that is edited
is found out by every database of that version, and the dump is never written again; until then it is kept the same as what
the migrations make, and `make schema` writes it anew.
"""

import re
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import minibill
from minibill.db.connection import APPLICATION_ID, open_reader
from minibill.db.migrations import migrate_file
from minibill.db.sqlite import sqlite3
from tests.sql.book import make_book

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "tests" / "released"


def changelog() -> dict[str, bool]:
    """Return each version of the changelog, the newest first, and whether it is released.

    `[Unreleased]` is the version of this source tree, until that version has a heading of its own.
    """
    headings = re.findall(r"^## \[([^\]]+)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    released = {version: True for version in headings if version != "Unreleased"}
    return released if minibill.__version__ in released else {minibill.__version__: False, **released}


def dump_of(version: str) -> Path:
    return FOLDER / f"{version}.sql"


def dump_now() -> str:
    """A book with some of everything, as this source tree makes it."""
    with tempfile.TemporaryDirectory() as folder:
        empty = Path(folder, "empty.db")
        migrate_file(empty)
        with closing(open_reader(make_book(empty, Path(folder)))) as conn:
            return "\n".join([f"PRAGMA application_id = {APPLICATION_ID};", "BEGIN;", *_statements(conn), "COMMIT;", ""])


def _statements(conn: sqlite3.Connection) -> Iterator[str]:
    objects = conn.execute(
        "SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%' ORDER BY rowid"
    ).fetchall()
    tables = [(name, sql) for kind, name, sql in objects if kind == "table"]
    for _, sql in tables:
        yield f"{sql};"
    for name, _ in tables:
        columns = [row[1] for row in conn.execute(f"PRAGMA table_info({name})").fetchall()]
        # When a migration was applied is the one thing that differs from dump to dump.
        values = ", ".join("0" if column == "applied_at_us" else f"quote({column})" for column in columns)
        for row in conn.execute(f"SELECT {values} FROM {name} ORDER BY {', '.join(columns)}").fetchall():
            yield f"INSERT INTO {name} VALUES ({', '.join(map(str, row))});"
    # After the rows: triggers are about what happens to a book, and this has happened.
    yield from (f"{sql};" for kind, _, sql in objects if kind != "table")


def load(version: str, path: Path) -> None:
    """Makes the database of a released version."""
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        conn.executescript(dump_of(version).read_text("utf-8"))


if __name__ == "__main__":
    if changelog()[minibill.__version__]:
        raise SystemExit(
            f"{minibill.__version__} is released: its database stays as it is. Give the next version its heading"
        )
    FOLDER.mkdir(exist_ok=True)
    dump_of(minibill.__version__).write_text(dump_now(), "utf-8")
