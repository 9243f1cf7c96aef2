"""Creating, opening and migrating a database file, and the rights of its connections."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from minibill.db import connection, migrations, sqlite
from minibill.db.connection import APPLICATION_ID, NotABook, open_reader, open_writer
from minibill.db.file_lock import DatabaseLocked, FileLock
from minibill.db.migrations import Migration, MigrationRefused, all_migrations, migrate_file, schema_of
from minibill.db.queries import sql_folder
from minibill.db.sqlite import FLOOR, SqliteTooOld, require_floor, sqlite3

GOOD = Migration(1, "good", "CREATE TABLE good (x INTEGER) STRICT;\nINSERT INTO good VALUES (1);")

Pretend = Callable[..., None]


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Pretend:
    """Return a function that replaces the migrations of this version."""

    def pretend(*pretended: Migration) -> None:
        monkeypatch.setattr(migrations, "all_migrations", lambda: list(pretended))

    return pretend


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A writer on a new migrated file."""
    migrate_file(tmp_path / "book.db")
    conn = open_writer(tmp_path / "book.db")
    yield conn
    conn.close()


def tables(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as conn:
        return {name for (name,) in conn.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}


def one(conn: sqlite3.Connection, statement: str) -> object:
    [value] = conn.execute(statement).fetchone()
    return value


# --- migrations ---


def test_schema_sql_is_up_to_date() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "minibill.db.migrations"], capture_output=True, text=True, check=True
    ).stdout
    assert (sql_folder() / "schema.sql").read_text("utf-8") == printed, "run: make schema"


def test_schema_sql_creates_the_schema_of_a_migrated_file(migrated_file: Path) -> None:
    with closing(sqlite3.connect(":memory:")) as made, closing(open_reader(migrated_file)) as migrated:
        made.executescript((sql_folder() / "schema.sql").read_text("utf-8"))
        assert schema_of(made) == schema_of(migrated)


def test_migrations_are_numbered_from_1_without_gaps() -> None:
    assert [migration.version for migration in all_migrations()] == list(range(1, len(all_migrations()) + 1))


def test_a_new_file_gets_every_migration_once(tmp_path: Path) -> None:
    path = tmp_path / "book.db"
    assert migrate_file(path) == all_migrations()
    before = path.read_bytes()
    assert migrate_file(path) == []
    assert path.read_bytes() == before


def test_a_migrated_file_records_its_migrations(writer: sqlite3.Connection) -> None:
    assert one(writer, "PRAGMA application_id") == APPLICATION_ID
    applied = writer.execute("SELECT version, name, checksum FROM schema_migrations ORDER BY version").fetchall()
    assert applied == [(m.version, m.name, m.checksum) for m in all_migrations()]


def test_only_new_migrations_are_applied(tmp_path: Path, pretend: Pretend) -> None:
    path = tmp_path / "book.db"
    second = Migration(2, "second", "CREATE TABLE second (x INTEGER) STRICT;")
    pretend(GOOD)
    assert migrate_file(path) == [GOOD]
    pretend(GOOD, second)
    assert migrate_file(path) == [second]
    assert tables(path) == {"schema_migrations", "good", "second"}


@pytest.mark.parametrize(
    ("now_known", "message"),
    [
        ([GOOD._replace(sql=GOOD.sql + " ")], "migration 1 .good. of this database has another text"),
        ([], "the database is newer: it has migration 1 .good.; use a newer minibill"),
        ([GOOD._replace(version=2)], "the database is newer: it has migration 1"),
    ],
    ids=["changed text", "from the future", "renumbered"],
)
def test_a_file_of_other_migrations_is_rejected(
    tmp_path: Path, pretend: Pretend, now_known: list[Migration], message: str
) -> None:
    path = tmp_path / "book.db"
    pretend(GOOD)
    migrate_file(path)
    before = path.read_bytes()
    pretend(*now_known, Migration(3, "later", "CREATE TABLE later (x INTEGER) STRICT;"))
    with pytest.raises(MigrationRefused, match=message):
        migrate_file(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "rest",
    [
        "INSERT INTO half VALUES ('x');",
        "CREATE TABLE half (y);",
        "not SQL;",
        "INSERT INTO nowhere VALUES (1);",
        "SELECT RAISE(ABORT, 'x');",
        "INSERT INTO schema_migrations VALUES (2, 'bad', '', 0);",
    ],
)
def test_a_failed_migration_is_rolled_back(tmp_path: Path, pretend: Pretend, rest: str) -> None:
    path = tmp_path / "book.db"
    bad = Migration(2, "bad", f"CREATE TABLE half (x INTEGER) STRICT;\nINSERT INTO good VALUES (2);\n{rest}")
    pretend(GOOD, bad)
    with pytest.raises(sqlite3.Error):
        migrate_file(path)
    assert tables(path) == {"schema_migrations", "good"}
    with closing(open_writer(path)) as conn:
        assert conn.execute("SELECT x FROM good").fetchall() == [(1,)]
        assert conn.execute("SELECT version FROM schema_migrations").fetchall() == [(1,)]
        # The connection stays usable.
        with pytest.raises(sqlite3.Error):
            migrations.migrate(conn)
        assert not conn.in_transaction
        pretend(GOOD)
        assert migrations.migrate(conn) == []


def test_a_failed_first_migration_leaves_an_empty_file(tmp_path: Path, pretend: Pretend) -> None:
    path = tmp_path / "book.db"
    pretend(Migration(1, "bad", "CREATE TABLE half (x INTEGER) STRICT; not SQL;"))
    with pytest.raises(sqlite3.Error):
        migrate_file(path)
    assert tables(path) == set()
    with closing(sqlite3.connect(path)) as conn:
        assert one(conn, "PRAGMA application_id") == 0
    pretend(GOOD)
    assert migrate_file(path) == [GOOD]


def test_a_migration_has_a_plain_name(tmp_path: Path, pretend: Pretend) -> None:
    pretend(GOOD._replace(name="it's"))
    with pytest.raises(ValueError, match="a migration's name"):
        migrate_file(tmp_path / "book.db")
    assert tables(tmp_path / "book.db") == set()


# --- other files ---


@pytest.mark.parametrize("content", [b"hello", b"a,b\n1,2\n" * 1000, bytes(4096), b"SQLite format 2\0" + bytes(4080)])
def test_a_file_that_is_not_sqlite_is_rejected(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "list.csv"
    path.write_bytes(content)
    with pytest.raises(NotABook, match=r"list\.csv is not an SQLite database"):
        open_writer(path)
    assert path.read_bytes() == content
    assert [file.name for file in tmp_path.iterdir()] == ["list.csv"]


@pytest.mark.parametrize(
    "made_by",
    [
        "CREATE TABLE theirs (x); INSERT INTO theirs VALUES (1);",
        "PRAGMA application_id = 1;",
        "PRAGMA application_id = 1; CREATE TABLE t (x);",
    ],
)
def test_a_database_of_another_program_is_rejected_unchanged(tmp_path: Path, made_by: str) -> None:
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as conn:
        conn.executescript(made_by)
    before = path.read_bytes()
    with pytest.raises(NotABook, match="of another program"):
        migrate_file(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["other.db"]


def test_an_empty_file_is_migrated(tmp_path: Path) -> None:
    path = tmp_path / "book.db"
    path.touch()
    assert migrate_file(path) == all_migrations()


def test_a_lock_is_exclusive_also_through_a_link(tmp_path: Path) -> None:
    path, link = tmp_path / "book.db", tmp_path / "link.db"
    migrate_file(path)
    link.symlink_to(path)
    lock = FileLock(path)
    with pytest.raises(DatabaseLocked, match="is already served by process"):
        FileLock(link)
    lock.release()
    FileLock(link).release()


# --- the library ---


def test_the_sqlite_library_has_the_minimum_version() -> None:
    require_floor()
    with closing(sqlite3.connect(":memory:")) as conn:
        version = str(one(conn, "SELECT sqlite_version()"))
    assert tuple(map(int, version.split("."))) >= FLOOR
    assert version == sqlite.VERSION


def test_an_older_sqlite_library_opens_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    major, minor, patch = sqlite3.sqlite_version_info
    monkeypatch.setattr(sqlite, "FLOOR", (major, minor, patch + 1))
    with pytest.raises(SqliteTooOld, match=rf"is below {major}\.{minor}\.{patch + 1}.*pip install"):
        open_writer(tmp_path / "book.db")
    assert list(tmp_path.iterdir()) == []


# --- connections ---


@pytest.mark.parametrize(
    ("pragma", "value"),
    [
        ("journal_mode", "wal"),
        ("synchronous", 2),
        ("foreign_keys", 1),
        ("recursive_triggers", 1),
        ("trusted_schema", 0),
        ("busy_timeout", connection.BUSY_TIMEOUT_MS),
        ("ignore_check_constraints", 0),
    ],
)
def test_the_writer_has_the_safe_settings(writer: sqlite3.Connection, pragma: str, value: object) -> None:
    assert one(writer, f"PRAGMA {pragma}") == value


def test_the_writer_starts_no_implicit_transaction(writer: sqlite3.Connection) -> None:
    writer.execute("INSERT INTO revoked_tokens VALUES ('token', 1)")
    assert not writer.in_transaction


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO revoked_tokens VALUES ('token', 1)",
        "DELETE FROM revoked_tokens",
        "CREATE TABLE mine (x)",
        "DROP TRIGGER entries_are_never_deleted",
        "PRAGMA application_id = 1",
    ],
)
def test_a_reader_can_not_write(writer: sqlite3.Connection, tmp_path: Path, statement: str) -> None:
    writer.execute("INSERT INTO revoked_tokens VALUES ('first', 1)")
    with closing(open_reader(tmp_path / "book.db")) as reader:
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            reader.execute(statement)
        assert reader.execute("SELECT token_id FROM revoked_tokens").fetchall() == [("first",)]
        assert one(reader, "PRAGMA application_id") == APPLICATION_ID


def test_a_reader_does_not_checkpoint(writer: sqlite3.Connection, tmp_path: Path) -> None:
    with closing(open_reader(tmp_path / "book.db")) as reader:
        assert one(reader, "PRAGMA wal_autocheckpoint") == 0
        assert one(reader, "PRAGMA query_only") == 1


def test_a_reader_sees_only_committed_rows(writer: sqlite3.Connection, tmp_path: Path) -> None:
    with closing(open_reader(tmp_path / "book.db")) as reader:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("INSERT INTO revoked_tokens VALUES ('token', 1)")
        assert one(reader, "SELECT count(*) FROM revoked_tokens") == 0
        writer.execute("COMMIT")
        assert one(reader, "SELECT count(*) FROM revoked_tokens") == 1
