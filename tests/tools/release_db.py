"""A small database of each released version, dumped as SQL, for upgrade tests.

`python -m tests.tools.release_db` writes the dump of the next version; `make schema` runs it. After the release the dump is
frozen. It holds the checksums of its migrations, so a test fails when somebody edits a released migration.
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
    """Return each version of the changelog, the newest first, with True if it is released.

    `[Unreleased]` is the version of this source tree, until that version has a heading of its own.
    """
    headings = re.findall(r"^## \[([^\]]+)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    released = {version: True for version in headings if version != "Unreleased"}
    return released if minibill.__version__ in released else {minibill.__version__: False, **released}


def dump_of(version: str) -> Path:
    return FOLDER / f"{version}.sql"


def dump_now() -> str:
    """Dump a database with rows of every kind, made by this source tree."""
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
        # The time of a migration would differ from dump to dump.
        values = ", ".join("0" if column == "applied_at_us" else f"quote({column})" for column in columns)
        for row in conn.execute(f"SELECT {values} FROM {name} ORDER BY {', '.join(columns)}").fetchall():
            yield f"INSERT INTO {name} VALUES ({', '.join(map(str, row))});"
    # Triggers come after the rows, which they would reject or count a second time.
    yield from (f"{sql};" for kind, _, sql in objects if kind != "table")


def load(version: str, path: Path) -> None:
    """Create the database of a released version from its dump."""
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        conn.executescript(dump_of(version).read_text("utf-8"))


if __name__ == "__main__":
    if changelog()[minibill.__version__]:
        raise SystemExit(
            f"{minibill.__version__} is released and its database is frozen; add the next version to CHANGELOG.md"
        )
    FOLDER.mkdir(exist_ok=True)
    dump_of(minibill.__version__).write_text(dump_now(), "utf-8")
