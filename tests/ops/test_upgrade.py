"""Upgrades: the database of each release migrates to this version, with all of its data."""

from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import minibill
from minibill.cli.main import main
from minibill.db.connection import open_reader
from minibill.db.migrations import all_migrations, schema_differences
from minibill.db.sqlite import sqlite3
from minibill.integrity.verify import verify_file
from tests.api_client import Api, Loop, ok
from tests.tools import release_db

VERSIONS = release_db.changelog()


def migrate(db: Path) -> Result:
    return CliRunner().invoke(main, ["migrate", "--db", str(db)])


def rows(db: Path) -> dict[str, int]:
    with closing(open_reader(db)) as conn:
        tables = conn.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name <> 'schema_migrations'"
        ).fetchall()
        return {name: conn.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for (name,) in tables}


@pytest.fixture(params=VERSIONS)
def released(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return the database of a release, before the upgrade."""
    db = tmp_path / "book.db"
    release_db.load(request.param, db)
    return db


def test_a_database_of_each_release_migrates_to_this_version(released: Path) -> None:
    before = rows(released)
    assert before["credit_ledger"] > 0 and before["admin_audit_log"] > 0
    assert migrate(released).exit_code == 0
    after = rows(released)
    assert {name: after.get(name) for name in before} == before
    with closing(open_reader(released)) as conn:
        assert schema_differences(conn) == []
        applied = conn.execute("SELECT version FROM schema_migrations ORDER BY version").fetchall()
    assert [version for (version,) in applied] == [migration.version for migration in all_migrations()]


def test_a_migrated_database_reconciles_and_takes_writes(released: Path, loop: Loop) -> None:
    assert migrate(released).exit_code == 0
    assert verify_file(released).report.status == "healthy"
    api = Api(released, loop, {})
    try:
        account = api.get("/accounts", limit=1)["items"][0]["id"]
        # The book's clock goes on from its newest entry, at which reservations are about to expire; none outlives a day.
        api.pass_time(86_400)
        loop.run(api.book.sweep())
        before = api.available(account)
        api.mint(account, 500)
        assert api.available(account) == before + 500
        assert ok(api.post("/reconciliation"))["status"] == "healthy"
    finally:
        api.stop()


def test_released_migrations_are_unchanged(released: Path) -> None:
    with closing(sqlite3.connect(released, isolation_level=None)) as conn:
        conn.execute("UPDATE schema_migrations SET checksum = 'of another text' WHERE version = 1")
    result = migrate(released)
    assert result.exit_code == 2 and "another text" in result.output


def test_each_version_of_the_changelog_has_a_database() -> None:
    assert {file.stem for file in release_db.FOLDER.glob("*.sql")} == set(VERSIONS)
    assert next(iter(VERSIONS)) == minibill.__version__


def test_the_database_of_the_next_version_is_current() -> None:
    """If this fails after a change of the schema, run `make schema`, unless that version is released."""
    for version, is_released in VERSIONS.items():
        if not is_released:
            assert release_db.dump_of(version).read_text("utf-8") == release_db.dump_now()
