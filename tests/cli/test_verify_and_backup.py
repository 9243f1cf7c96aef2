"""verify, backup and restore: healthy, damaged, served and foreign files."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from minibill.audit import log
from minibill.cli.main import main
from minibill.db.connection import open_reader, open_writer
from minibill.db.file_copy import copied
from minibill.db.file_lock import DatabaseLocked, FileLock
from minibill.db.snapshot import open_snapshot
from minibill.db.sqlite import sqlite3
from minibill.integrity.checks import CHECKS, violations
from minibill.integrity.verify import _checks_of
from tests.service_process import Server, mint, open_account, serving
from tests.sql.book import make_book

FILE_CHECKS = {"file_integrity", "commit_chain", "stored_responses"}


def minibill(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], env={"MINIBILL_DB": None})


@pytest.fixture
def book(migrated_file: Path, tmp_path: Path) -> Path:
    """Return the small database of tests/sql, in a folder of its own."""
    folder = tmp_path / "here"
    folder.mkdir()
    path = make_book(migrated_file, folder)
    assert [file.name for file in folder.iterdir()] == ["book.db"]
    return path


def harm(path: Path, statement: str) -> None:
    """Change a file in a way that its constraints and triggers would reject."""
    with closing(open_writer(path)) as conn:
        conn.execute("PRAGMA ignore_check_constraints = ON")
        triggers = conn.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            conn.execute(f"DROP TRIGGER {name}")
        assert conn.execute(statement).rowcount > 0
        for _, sql in triggers:
            conn.execute(sql)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def everything(conn: sqlite3.Connection) -> list[object]:
    """Return the schema and all rows of all tables."""
    schema = conn.execute("SELECT type, name, sql FROM sqlite_schema ORDER BY name").fetchall()
    return [schema, *[conn.execute(f"SELECT * FROM {name}").fetchall() for kind, name, _ in schema if kind == "table"]]


def spend_later(path: Path) -> None:
    """Add an account and an entry to a database."""
    with closing(open_writer(path)) as conn:
        conn.execute("INSERT INTO credit_accounts VALUES (5, 'person', 'eve', 1210)")
        conn.execute(
            "INSERT INTO credit_ledger"
            " VALUES (27, 3, 'gpu', 2, 'shadow_finalize', NULL, 4, NULL, 0, 0, 0, 0, 0, NULL, NULL, 1210)"
        )


# --- verify ---


def test_verify_reports_a_healthy_database_and_changes_no_file(book: Path) -> None:
    before = contents(book.parent)
    result = minibill("verify", "--db", book)
    assert result.exit_code == 0, result.output
    assert "book.db is healthy: 15 checks pass" in result.stdout
    assert all(name in result.stdout for name in CHECKS)
    assert contents(book.parent) == before


def test_verify_prints_json(book: Path) -> None:
    output = json.loads(minibill("verify", "--db", book, "--json").stdout)
    assert output.keys() == {"db", "anchored", "status", "durationMs", "checks"}
    assert output["status"] == "healthy" and output["checks"].keys() == FILE_CHECKS | CHECKS.keys()


def test_verify_names_each_violation_and_exits_1(book: Path) -> None:
    harm(book, "UPDATE credit_lots SET available_micro = 551 WHERE id = 1")
    before = contents(book.parent)
    result = minibill("verify", "--db", book)
    assert result.exit_code == 1
    assert "lot_0000000000001" in result.stdout and "lots_parts_sum_to_original" in result.stdout
    assert "1 of credit_lots break lots_parts_sum_to_original" in result.stdout
    assert "is unhealthy" in result.stdout and "lot_balance_match" in result.stdout.splitlines()[-1]
    assert contents(book.parent) == before
    output = json.loads(minibill("verify", "--db", book, "--json").stdout)
    assert output["checks"]["lot_balance_match"] == {
        "status": "fail", "checked": 9, "violations": 1, "examples": ["lot_0000000000001"],
    }  # fmt: skip
    assert output["checks"]["entry_chain"]["status"] == "pass"


def test_verify_knows_every_check_of_the_schema(book: Path) -> None:
    with closing(open_reader(book)) as conn:
        tables = conn.execute("SELECT sql FROM sqlite_schema WHERE type = 'table'").fetchall()
        checks = {name: expression for (sql,) in tables for name, expression in _checks_of(sql)}
    assert checks.keys() == {name for (sql,) in tables for name in re.findall(r"CONSTRAINT\s+(\w+)", sql)}
    assert checks["campaigns_spent_within_budget"] == "spent_micro <= budget_micro"
    assert all(expression.count("(") == expression.count(")") for expression in checks.values())


def test_verify_finds_an_index_that_differs_from_its_table(book: Path) -> None:
    with closing(sqlite3.connect(book, isolation_level=None)) as conn:
        root = conn.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'lots_by_account'").fetchone()[0]
        size = conn.execute("PRAGMA page_size").fetchone()[0]
        conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with book.open("r+b") as file:
        file.seek((root - 1) * size)
        page = file.read(size)
        # Change one of the keys at the end of the page.
        file.seek(root * size - 1)
        file.write(bytes([page[-1] ^ 0x40]))
    result = minibill("verify", "--db", book)
    assert result.exit_code == 1 and "file_integrity" in result.stdout


@pytest.mark.parametrize(
    ("statements", "named"),
    [
        (["DROP TRIGGER entries_are_never_deleted"], "trigger entries_are_never_deleted is missing"),
        (["DROP INDEX idempotency_one_per_caller_and_key"], "index idempotency_one_per_caller_and_key is missing"),
        (["CREATE INDEX mine ON credit_ledger (created_at_us)"], "index mine is not of minibill's schema"),
        (
            [
                "DROP TRIGGER entries_are_never_deleted",
                "CREATE TRIGGER entries_are_never_deleted BEFORE DELETE ON credit_ledger BEGIN SELECT 1; END",
            ],
            "trigger entries_are_never_deleted is not as minibill makes it",
        ),
    ],
)
def test_verify_names_each_difference_of_the_schema(book: Path, statements: list[str], named: str) -> None:
    with closing(open_writer(book)) as conn:
        for statement in statements:
            conn.execute(statement)
    result = minibill("verify", "--db", book, "--json")
    check = json.loads(result.stdout)["checks"]["file_integrity"]
    assert result.exit_code == 1
    assert (check["status"], check["violations"], check["examples"]) == ("fail", 1, [named])


def replicate(book: Path) -> None:
    """Add the tables that Litestream leaves in a database."""
    with closing(open_writer(book)) as conn:
        conn.execute("CREATE TABLE _litestream_seq (id INTEGER PRIMARY KEY, seq INTEGER)")
        conn.execute("CREATE TABLE _litestream_lock (id INTEGER)")
        conn.execute("INSERT INTO _litestream_seq VALUES (1, 7)")


def test_a_database_with_tables_of_litestream_can_be_restored(book: Path, tmp_path: Path) -> None:
    replicate(book)
    copy = tmp_path / "copy.db"
    assert minibill("verify", "--db", book).exit_code == 0
    assert minibill("migrate", "--db", book).exit_code == 0
    assert minibill("backup", copy, "--db", book).exit_code == 0
    for db in (book, tmp_path / "new.db"):
        assert minibill("restore", copy, "--db", db).exit_code == 0
        assert minibill("verify", "--db", db).exit_code == 0


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("CREATE TABLE _litestream_other (x)", "table _litestream_other"),
        ("CREATE INDEX mine ON _litestream_seq (seq)", "index mine"),
        (
            "CREATE TRIGGER mine AFTER UPDATE ON _litestream_seq BEGIN DELETE FROM revoked_tokens; END",
            "trigger mine",
        ),
        ("DROP TABLE _litestream_lock; CREATE VIEW _litestream_lock AS SELECT 1", "view _litestream_lock"),
    ],
)
def test_no_other_table_passes_as_one_of_litestream(book: Path, statement: str, named: str) -> None:
    replicate(book)
    with closing(open_writer(book)) as conn:
        conn.executescript(statement)
    result = minibill("verify", "--db", book, "--json")
    check = json.loads(result.stdout)["checks"]["file_integrity"]
    assert (result.exit_code, check["examples"]) == (1, [f"{named} is not of minibill's schema"])


def test_verify_accepts_the_tables_of_analyze(book: Path) -> None:
    with closing(open_writer(book)) as conn:
        conn.execute("ANALYZE")
    assert minibill("verify", "--db", book).exit_code == 0


def test_verify_reads_the_log_of_a_killed_service_and_leaves_it(book: Path, tmp_path: Path) -> None:
    killed = tmp_path / "killed"
    killed.mkdir()
    with closing(open_writer(book)) as conn:
        conn.execute("INSERT INTO credit_accounts VALUES (5, 'person', 'eve', 1210)")
        for suffix in ("", "-wal"):
            shutil.copyfile(f"{book}{suffix}", killed / f"book.db{suffix}")
    before = contents(killed)
    assert len(before["book.db-wal"]) > 0
    result = minibill("verify", "--db", killed / "book.db", "--json")
    assert result.exit_code == 0
    after = contents(killed)
    after.pop("book.db-shm")
    assert after == before
    with closing(open_reader(killed / "book.db")) as conn:
        assert conn.execute("SELECT count(*) FROM credit_accounts").fetchone() == (5,)


def test_verify_runs_next_to_a_service(tmp_path: Path) -> None:
    with serving(tmp_path / "book.db") as server:
        account = open_account(server)
        assert mint(server, account, 1) == 201
        output = json.loads(minibill("verify", "--db", tmp_path / "book.db", "--json").stdout)
        assert output["status"] == "healthy" and output["checks"]["entry_chain"]["checked"] == 1
        assert mint(server, account, 2) == 201


@pytest.mark.parametrize("command", [["verify"], ["backup", "copy.db"]])
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("missing", "does not exist"),
        ("noise", "not an SQLite database"),
        ("empty", "not a minibill database"),
        ("another program's", "not a minibill database"),
        ("newer", "use a newer minibill"),
        ("older", "minibill migrate"),
    ],
)
def test_a_file_that_is_no_current_database_is_one_error_line(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, expected: str, command: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.db"
    match kind:
        case "noise":
            path.write_bytes(b"this is not a database" * 1000)
        case "empty":
            path.touch()
        case "another program's":
            with closing(sqlite3.connect(path)) as conn:
                conn.execute("CREATE TABLE t (x)")
        case "newer" | "older":
            shutil.copyfile(book, path)
            with closing(open_writer(path)) as conn:
                newer = "INSERT INTO schema_migrations VALUES (9999, 'later', 'x', 1)"
                conn.execute(newer if kind == "newer" else "DELETE FROM schema_migrations")
    before = sorted(file.name for file in tmp_path.iterdir())
    result = minibill(*command, "--db", path)
    assert result.exit_code == 2
    assert expected in result.stderr and len(result.stderr.splitlines()) == 1
    assert sorted(file.name for file in tmp_path.iterdir()) == before


# --- backup ---


def test_a_backup_is_checked_and_has_the_same_rows(book: Path, tmp_path: Path) -> None:
    before = contents(book.parent)
    copy = tmp_path / "copies" / "monday.db"
    copy.parent.mkdir()
    result = minibill("backup", copy, "--db", book, "--json")
    assert result.exit_code == 0, result.output
    output = json.loads(result.stdout)
    assert (output["db"], output["backup"], output["status"]) == (str(book), str(copy), "healthy")
    assert output["bytes"] == copy.stat().st_size
    assert contents(book.parent) == before and [file.name for file in copy.parent.iterdir()] == ["monday.db"]
    with closing(open_reader(copy)) as one, closing(open_reader(book)) as other:
        assert everything(one) == everything(other)


def test_a_backup_pauses_while_it_copies_and_checks(book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses = list[float]()
    monkeypatch.setattr("minibill.db.pacing.time.sleep", pauses.append)
    monkeypatch.setattr("minibill.db.pacing.STEPS_BETWEEN_PAUSES", 1_000)
    monkeypatch.setattr("minibill.db.file_copy.STEP_PAGES", 10)
    with copied(book, tmp_path / "copy.db", on_pages=lambda *_: None):
        assert pauses == []
    assert minibill("backup", tmp_path / "copy.db", "--db", book).exit_code == 0
    pages = (tmp_path / "copy.db").stat().st_size // 4_096
    assert len(pauses) > 2 * pages // 10
    pauses.clear()
    # verify does not pause: no service uses the file.
    assert minibill("verify", "--db", tmp_path / "copy.db").exit_code == 0
    assert pauses == []


def test_a_backup_replaces_a_file_only_with_force(book: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    copy.write_text("precious")
    result = minibill("backup", copy, "--db", book)
    assert result.exit_code == 2 and "--force" in result.stderr and copy.read_text() == "precious"
    # A stale log of the replaced file must go.
    (tmp_path / "copy.db-wal").write_text("stale")
    assert minibill("backup", copy, "--db", book, "--force").exit_code == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == ["copy.db", "here"]
    assert minibill("verify", "--db", copy).exit_code == 0


def test_a_backup_never_replaces_its_source_or_a_served_database(book: Path, tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(book)
    before = book.read_bytes()
    for dest in (book, tmp_path / "link.db"):
        result = minibill("backup", dest, "--db", book, "--force")
        assert result.exit_code == 2 and "same file" in result.stderr
    served = tmp_path / "served.db"
    shutil.copyfile(book, served)
    lock = FileLock(served)
    result = minibill("backup", served, "--db", book, "--force")
    lock.release()
    assert result.exit_code == 2 and "already served" in result.stderr
    assert book.read_bytes() == before == served.read_bytes()


def test_an_unhealthy_database_is_not_backed_up(book: Path, tmp_path: Path) -> None:
    harm(book, "UPDATE credit_campaigns SET spent_micro = 101 WHERE id = 2")
    result = minibill("backup", tmp_path / "copy.db", "--db", book)
    assert result.exit_code == 1
    assert "camp_0000000000002" in result.stdout and "not backed up" in result.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["here"]


def test_a_backup_into_a_missing_folder_is_a_usage_error(book: Path, tmp_path: Path) -> None:
    result = minibill("backup", tmp_path / "no" / "copy.db", "--db", book)
    assert result.exit_code == 2 and "no folder" in result.stderr


def test_a_backup_under_load_has_every_write_acknowledged_before(tmp_path: Path) -> None:
    db, copy, restored = tmp_path / "book.db", tmp_path / "copy.db", tmp_path / "restored.db"
    acknowledged: list[tuple[float, int]] = []
    with serving(db) as server:
        account = open_account(server)
        stop = threading.Event()

        def load(first: int) -> None:
            number = first
            while not stop.is_set():
                assert mint(server, account, number) == 201
                acknowledged.append((time.monotonic(), number))
                number += 4

        threads = [threading.Thread(target=load, args=(first,)) for first in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(1)
        began = time.monotonic()
        result = minibill("backup", copy, "--db", db)
        ended = time.monotonic()
        time.sleep(0.2)
        stop.set()
        for thread in threads:
            thread.join()
        assert result.exit_code == 0, result.output
    assert minibill("restore", copy, "--db", restored).exit_code == 0
    before = {number for at, number in acknowledged if at < began}
    assert (
        len(before) > 50 and any(began < at < ended for at, _ in acknowledged) and any(at > ended for at, _ in acknowledged)
    )
    with closing(open_reader(restored)) as conn:
        there = {int(source.removeprefix("order-")) for (source,) in conn.execute("SELECT source_id FROM credit_lots")}
        assert violations(conn) == {}
    assert before <= there and len(there) < len(acknowledged)
    with serving(restored) as server:
        assert server.http.get(f"/accounts/{account}/balance").json()["totalAvailableMicro"] == str(len(there))
        assert mint(server, account, min(there)) == 200


# --- restore ---


def test_a_restore_creates_a_missing_file(book: Path, tmp_path: Path) -> None:
    target = tmp_path / "there" / "book.db"
    target.parent.mkdir()
    result = minibill("restore", book, "--db", target, "--json")
    assert result.exit_code == 0, result.output
    output = json.loads(result.stdout)
    assert (output["backup"], output["db"], output["replaced"]) == (str(book), str(target), False)
    assert sorted(file.name for file in target.parent.iterdir()) == ["book.db", "book.db-anchor", "book.db.lock"]
    assert minibill("verify", "--db", target).exit_code == 0


def test_a_restore_never_replaces_a_served_database(book: Path, tmp_path: Path) -> None:
    with serving(tmp_path / "served.db") as server:
        account = open_account(server)
        (tmp_path / "link.db").symlink_to(tmp_path / "served.db")
        for target in ("served.db", "link.db"):
            for force in ([], ["--force"]):
                result = minibill("restore", book, "--db", tmp_path / target, *force)
                assert result.exit_code == 2 and str(server.process.pid) in result.stderr
        assert mint(server, account, 1) == 201


def kept_of(book: Path) -> list[Path]:
    """Return the databases that restores have replaced, oldest first, without their logs and anchors."""
    files = book.parent.glob(f"{book.name}.before-restore-*")
    return sorted(file for file in files if not file.name.endswith(("-anchor", "-wal")))


def accounts_of(book: Path) -> int:
    with open_snapshot(book) as conn:
        count: int = conn.execute("SELECT count(*) FROM credit_accounts").fetchone()[0]
        return count


def test_a_restore_keeps_the_replaced_database(book: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    assert minibill("backup", copy, "--db", book).exit_code == 0
    spend_later(book)
    (tmp_path / "here" / "book.db-anchor").write_text("the anchor of it")
    newer = book.read_bytes()
    result = minibill("restore", copy, "--db", book)
    assert result.exit_code == 0, result.output
    [kept] = kept_of(book)
    assert re.fullmatch(r"book\.db\.before-restore-\d{8}T\d{6}Z", kept.name)
    assert f"kept as {kept}: 1 entry of the ledger and 0 rows of the audit log later than the backup" in result.stdout
    assert kept.read_bytes() == newer and Path(f"{kept}-anchor").read_text() == "the anchor of it"
    assert (accounts_of(book), accounts_of(kept)) == (4, 5)
    assert minibill("verify", "--db", book).exit_code == 0


def test_a_restore_overwrites_no_kept_database(book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "copy.db"
    assert minibill("backup", copy, "--db", book).exit_code == 0
    monkeypatch.setattr("minibill.cli.backup.Clock.now_us", lambda _: 1_800_000_000_123_456)
    for _ in range(3):
        assert minibill("restore", copy, "--db", book).exit_code == 0
    name = "book.db.before-restore-20270115T080000Z"
    assert [file.name for file in kept_of(book)] == [name, f"{name}-2", f"{name}-3"]


def test_a_restore_counts_what_a_diverged_database_would_lose(tmp_path: Path) -> None:
    db, copy = tmp_path / "book.db", tmp_path / "copy.db"
    with serving(db) as server:
        account = open_account(server)
        assert mint(server, account, 1) == 201
        assert minibill("backup", copy, "--db", db).exit_code == 0
        assert [mint(server, account, number) for number in (2, 3, 4)] == [201] * 3
    outputs = [json.loads(minibill("restore", copy, "--db", db, "--json").stdout)]
    with serving(db) as server:
        assert mint(server, account, 5) == 201
    outputs.append(json.loads(minibill("restore", outputs[0]["kept"], "--db", db, "--json").stdout))
    assert [(output["laterEntries"], output["laterAuditRows"]) for output in outputs] == [(3, 3), (1, 1)]
    with serving(db) as server:
        assert server.http.get(f"/accounts/{account}/balance").json()["totalAvailableMicro"] == "4"
    with serving(Path(outputs[1]["kept"])) as server:
        assert server.http.get(f"/accounts/{account}/balance").json()["totalAvailableMicro"] == "2"


# Runs a restore that is killed before its Nth change to files, counted from put_in_place.
KILLED = """
import os, signal, sys
from minibill.cli.main import main
from minibill.cli import backup

steps, put_in_place = int(sys.argv.pop(1)), backup.put_in_place

def count(event, arguments):
    global steps
    changes = event in ("os.chown", "os.rename", "os.remove", "os.link") or (event == "open" and arguments[2] & os.O_WRONLY)
    if changes and str(arguments[0]).startswith(FOLDER):
        steps -= 1
        if steps == -1:
            os.kill(os.getpid(), signal.SIGKILL)

def put(*arguments, **options):
    sys.addaudithook(count)
    put_in_place(*arguments, **options)

FOLDER, backup.put_in_place = sys.argv[-1].rpartition("/")[0], put
main()
"""


def test_a_killed_restore_leaves_the_old_or_the_restored_database(book: Path, tmp_path: Path) -> None:
    copy, step, replaced = tmp_path / "copy.db", 0, 0
    assert minibill("backup", copy, "--db", book).exit_code == 0
    (tmp_path / "here" / "book.db-anchor").write_text("the anchor of it")
    # The newer row is in the log, as a killed service leaves it.
    with closing(open_writer(book)) as conn:
        conn.execute("INSERT INTO credit_accounts VALUES (5, 'person', 'eve', 1210)")
        before = contents(book.parent)
    code = -signal.SIGKILL
    while code == -signal.SIGKILL:
        folder = tmp_path / f"killed-{step}"
        folder.mkdir()
        for suffix in ("", "-wal", "-anchor"):
            (folder / f"book.db{suffix}").write_bytes(before[f"book.db{suffix}"])
        db = folder / "book.db"
        command = [sys.executable, "-c", KILLED, str(step), "restore", str(copy), "--db", str(db)]
        code = subprocess.run(command, capture_output=True).returncode
        step += 1
        # A service could open the file.
        FileLock(db).release()
        kept = kept_of(db)
        assert [accounts_of(file) for file in kept] in ([], [5])
        assert accounts_of(db) in ([4, 5] if kept else [5])
        replaced += accounts_of(db) == 4
    assert code == 0
    assert step > 15 and step > replaced > 1


def test_a_database_of_another_history_is_replaced_only_with_force(book: Path, tmp_path: Path, migrated_file: Path) -> None:
    other = tmp_path / "other.db"
    shutil.copyfile(migrated_file, other)
    row = (1, 1, "op", "campaign.create", "campaign", "camp_1", "{}", None, None, None, None, 100)
    with closing(open_writer(other)) as conn:
        hashed = (*row, log.NO_HASH, log.row_hash(row, log.NO_HASH))
        conn.execute(f"INSERT INTO admin_audit_log VALUES ({', '.join('?' * 14)})", hashed)
    before = other.read_bytes()
    result = minibill("restore", book, "--db", other)
    assert result.exit_code == 2 and "another database" in result.stderr and "--force" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert other.read_bytes() == before and kept_of(other) == []
    output = json.loads(minibill("restore", book, "--db", other, "--force", "--json").stdout)
    assert output["laterEntries"] is None and Path(output["kept"]).read_bytes() == before


def test_a_restore_counts_and_replaces_the_log_of_a_killed_service(tmp_path: Path) -> None:
    db, copy = tmp_path / "book.db", tmp_path / "copy.db"
    server = Server(db)
    account = open_account(server)
    assert minibill("backup", copy, "--db", db).exit_code == 0
    assert mint(server, account, 1) == 201
    server.end(signal.SIGKILL)
    assert (tmp_path / "book.db-wal").stat().st_size > 0
    output = json.loads(minibill("restore", copy, "--db", db, "--json").stdout)
    assert (output["laterEntries"], output["laterAuditRows"]) == (1, 1)
    assert not (tmp_path / "book.db-wal").exists() and not (tmp_path / "book.db-shm").exists()
    with open_snapshot(Path(output["kept"])) as conn:
        assert conn.execute("SELECT available_micro FROM credit_balances").fetchone() == (1,)
    with serving(db) as server:
        assert server.http.get(f"/accounts/{account}/balance").json()["totalAvailableMicro"] == "0"


def test_a_log_without_its_database_is_deleted_only_with_force(book: Path, tmp_path: Path) -> None:
    folder = tmp_path / "there"
    folder.mkdir()
    (folder / "book.db-wal").write_bytes(b"acknowledged writes")
    before = contents(folder)
    result = minibill("restore", book, "--db", folder / "book.db")
    assert result.exit_code == 2
    assert "book.db-wal does, with acknowledged writes" in result.stderr and result.stderr.count("\n") == 1
    assert {name: content for name, content in contents(folder).items() if name != "book.db.lock"} == before
    assert minibill("restore", book, "--db", folder / "book.db", "--force").exit_code == 0
    assert not (folder / "book.db-wal").exists()


@pytest.mark.parametrize("harmed", ["a row", "a page", "a half", "noise"])
def test_a_damaged_backup_changes_nothing(book: Path, tmp_path: Path, harmed: str) -> None:
    copy = tmp_path / "copy.db"
    shutil.copyfile(book, copy)
    match harmed:
        case "a row":
            harm(copy, "UPDATE credit_lots SET revoked_micro = 1, available_micro = 69 WHERE id = 6")
        case "a page":
            with closing(sqlite3.connect(copy)) as conn:
                root = conn.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'credit_ledger'").fetchone()[0]
            with copy.open("r+b") as file:
                file.seek((root - 1) * 4096)
                file.write(os.urandom(4096))
        case "a half":
            os.truncate(copy, copy.stat().st_size // 8192 * 4096)
        case "noise":
            copy.write_bytes(os.urandom(50_000))
    before = contents(book.parent)
    for force in ([], ["--force"]):
        result = minibill("restore", copy, "--db", book, *force)
        assert result.exit_code in (1, 2) and result.stderr and result.exception is not None
        assert isinstance(result.exception, SystemExit), result.exception
    after = contents(book.parent)
    after.pop("book.db.lock")
    assert after == before


def test_an_unreadable_file_is_replaced_only_with_force_and_kept(book: Path, tmp_path: Path) -> None:
    target = tmp_path / "target.db"
    target.write_bytes(b"no database at all" * 1000)
    (tmp_path / "target.db-wal").write_text("the log of it")
    result = minibill("restore", book, "--db", target)
    assert result.exit_code == 2 and "--force" in result.stderr
    assert minibill("restore", book, "--db", target, "--force").exit_code == 0
    assert minibill("verify", "--db", target).exit_code == 0
    [kept] = kept_of(target)
    assert kept.read_bytes() == b"no database at all" * 1000
    assert Path(f"{kept}-wal").read_text() == "the log of it" and not (tmp_path / "target.db-wal").exists()


def test_a_database_whose_log_can_not_be_checkpointed_is_not_replaced(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy.db"
    assert minibill("backup", copy, "--db", book).exit_code == 0
    monkeypatch.setattr("minibill.db.connection.BUSY_TIMEOUT_MS", 50)
    with closing(open_writer(book)) as writer:
        writer.execute("UPDATE reconciliations SET reconciled_at_us = reconciled_at_us + 1")
        with open_snapshot(book):
            before = contents(book.parent)
            assert len(before["book.db-wal"]) > 0
            for force in ([], ["--force"]):
                result = minibill("restore", copy, "--db", book, *force)
                assert result.exit_code == 2 and "open in another process" in result.stderr
                assert len(result.stderr.splitlines()) == 1
            after = contents(book.parent)
    assert after["book.db-wal"] == before["book.db-wal"] and after.keys() == {*before, "book.db.lock"}
    assert minibill("verify", "--db", book).exit_code == 0


def test_a_restore_on_a_full_disk_changes_nothing(book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "copy.db"
    assert minibill("backup", copy, "--db", book).exit_code == 0

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with closing(open_writer(book)) as writer:
        writer.execute("UPDATE reconciliations SET reconciled_at_us = reconciled_at_us + 1")
        before = contents(book.parent)
        monkeypatch.setattr("minibill.db.file_copy.sync", full)
        result = minibill("restore", copy, "--db", book, "--force")
        assert result.exit_code == 2 and "No space left" in result.stderr
        assert {name: contents(book.parent)[name] for name in ("book.db", "book.db-wal")} == {
            name: before[name] for name in ("book.db", "book.db-wal")
        }


def test_a_database_without_a_readable_schema_is_replaced_with_force(book: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    assert minibill("backup", copy, "--db", book).exit_code == 0
    with book.open("r+b") as file:
        # The root page of the schema, after the header.
        file.seek(100)
        file.write(b"\xff" * 3_900)
    assert "can't be compared" in minibill("restore", copy, "--db", book).stderr
    result = minibill("restore", copy, "--db", book, "--force")
    assert result.exit_code == 0, result.output


def test_a_restore_from_a_missing_file_or_onto_itself_fails(book: Path, tmp_path: Path) -> None:
    result = minibill("restore", tmp_path / "nowhere.db", "--db", book)
    assert result.exit_code == 2 and "does not exist" in result.stderr
    result = minibill("restore", book, "--db", book, "--force")
    assert result.exit_code == 2 and "same file" in result.stderr


# --- the file that is written ---


def on_progress(monkeypatch: pytest.MonkeyPatch, do: Callable[[], object]) -> None:
    """Call a function whenever a command reports progress."""

    @contextmanager
    def bar() -> Iterator[Callable[[str, int, int], None]]:
        def report(*_: object) -> None:
            do()

        yield report

    monkeypatch.setattr("minibill.cli.backup.progress_bar", bar)


def test_a_copy_is_readable_by_its_owner_only(book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[int] = set()
    on_progress(monkeypatch, lambda: seen.update(file.stat().st_mode & 0o777 for file in tmp_path.glob(".copy.db.*.tmp")))
    book.chmod(0o664)
    assert minibill("backup", tmp_path / "copy.db", "--db", book).exit_code == 0
    assert seen == {0o600}
    assert (tmp_path / "copy.db").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("command", ["backup", "restore"])
def test_a_file_created_during_the_copy_is_not_replaced(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    target = tmp_path / "x.db"
    on_progress(monkeypatch, lambda: target.write_text("precious"))
    arguments = (target, "--db", book) if command == "backup" else (book, "--db", target)
    result = minibill(command, *arguments)
    assert result.exit_code == 2 and "x.db was made meanwhile" in result.stderr
    assert target.read_text() == "precious" and not list(tmp_path.glob(".*.tmp"))


def test_a_backup_works_without_hard_links(book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("os.link", no_links)
    assert minibill("backup", tmp_path / "copy.db", "--db", book).exit_code == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == ["copy.db", "here"]


def test_a_file_can_not_be_served_while_a_backup_replaces_it(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, rejected = tmp_path / "copy.db", 0
    shutil.copyfile(book, target)

    def serve() -> None:
        nonlocal rejected
        with pytest.raises(DatabaseLocked, match="already served"):
            FileLock(target)
        rejected += 1

    on_progress(monkeypatch, serve)
    assert minibill("backup", target, "--db", book, "--force").exit_code == 0
    assert rejected > 1
    FileLock(target).release()


def test_a_terminated_backup_leaves_no_file(book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unexpected(*_: object) -> None:
        raise AssertionError("SIGTERM reached the previous handler")

    on_progress(monkeypatch, lambda: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.signal(signal.SIGTERM, unexpected)
    try:
        result = minibill("backup", tmp_path / "copy.db", "--db", book)
        assert signal.getsignal(signal.SIGTERM) is unexpected
    finally:
        signal.signal(signal.SIGTERM, before)
    assert result.exit_code == 128 + signal.SIGTERM
    assert [file.name for file in tmp_path.iterdir()] == ["here"]


# --- for programs ---


def test_migrate_and_token_print_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BILLING_ADMIN_JWT_SECRET", "a" * 32)
    monkeypatch.setenv("BILLING_INTERNAL_JWT_SECRET", "b" * 32)
    first, second = (json.loads(minibill("migrate", "--db", tmp_path / "x.db", "--json").stdout) for _ in range(2))
    assert first["applied"][0] == "0001 epochs" and second["applied"] == []
    signed = json.loads(minibill("token", "--sub", "ada", "--ttl", "60", "--json").stdout)
    assert (signed["sub"], signed["scopes"], signed["ttl"]) == ("ada", ["admin:*"], 60)
    assert signed["token"].count(".") == 2
