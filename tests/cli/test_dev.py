"""`minibill serve --dev`: its output, `--reset` and the example database of `--seed`."""

import asyncio
import re
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from minibill.cli.dev import reset, with_dev_secrets
from minibill.cli.seed import BookNotEmpty, seed_book
from minibill.config import read_settings
from minibill.core import ids
from minibill.core.clock import US_PER_SECOND, parse_time
from minibill.db.connection import open_reader
from minibill.integrity.checks import violations
from minibill.integrity.verify import verify_file
from tests.api_client import SECRETS
from tests.service_process import SERVE, environment, open_account, serving

SETTINGS = read_settings(SECRETS)


def serve(db: Path, *options: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    """Run a service that ends by itself, with `typed` on its standard input."""
    command = [*SERVE, "--db", str(db), "--port", "0", *options]
    return subprocess.run(command, env=environment(), input=typed, capture_output=True, text=True, timeout=60)


def accounts(db: Path) -> int:
    with closing(open_reader(db)) as conn:
        count: int = conn.execute("SELECT count(*) FROM credit_accounts").fetchone()[0]
    return count


# --- output ---


def test_dev_prints_the_address_of_the_api_documentation(tmp_path: Path) -> None:
    with serving(tmp_path / "book.db") as server:
        assert server.process.stdout is not None
        lines = iter(server.process.stdout)
        page = server.http.get(next(found[0] for line in lines if (found := re.search(r"http://\S+/schema/docs", line))))
        assert page.status_code == 200 and "text/html" in page.headers["content-type"]


@pytest.mark.parametrize(("given", "expected"), [({}, 0), ({"MINIBILL_ADMIN_RATE_PER_MINUTE": "7"}, 7)])
def test_dev_has_no_rate_limit_unless_one_is_set(tmp_path: Path, given: dict[str, str], expected: int) -> None:
    assert read_settings(with_dev_secrets(tmp_path / "book.db", given)).admin_rate_per_minute == expected


# --- --reset ---


@pytest.fixture
def used(tmp_path: Path) -> Path:
    """A development database with an account in it."""
    db = tmp_path / "book.db"
    with serving(db) as server:
        open_account(server)
    return db


@pytest.mark.parametrize("option", ["--reset", "--seed"])
def test_development_options_require_dev(used: Path, option: str) -> None:
    result = serve(used, option)
    assert result.returncode == 2 and "--dev" in result.stderr
    assert accounts(used) == 1


@pytest.mark.parametrize("typed", ["n\n", "\n", ""])
def test_reset_asks_and_only_yes_deletes_the_database(used: Path, typed: str) -> None:
    result = serve(used, "--dev", "--reset", typed=typed)
    assert result.returncode == 1 and str(used) in result.stderr
    assert accounts(used) == 1


def test_reset_deletes_the_database_and_keeps_its_secrets(used: Path) -> None:
    secrets = used.with_name("book.db.secrets").read_bytes()
    with serving(used, "--reset", "--yes") as server:
        assert server.http.get("/accounts").json()["items"] == []
    assert used.with_name("book.db.secrets").read_bytes() == secrets


def test_reset_deletes_the_log_while_another_process_reads_it(used: Path) -> None:
    with serving(used) as server:
        server.http.post("/accounts", json={"entityType": "person", "entityId": "bob"})
        server.end(9)
    # The log of a killed service remains while another process has the file open.
    with closing(open_reader(used)) as reader:
        assert reader.execute("SELECT count(*) FROM credit_accounts").fetchone() == (2,)
        reset(used, is_confirmed=True)
        assert {file.name for file in used.parent.glob("book.db*")} == {"book.db.lock", "book.db.secrets"}


def test_reset_without_a_database_does_not_ask(tmp_path: Path) -> None:
    with serving(tmp_path / "book.db", "--reset") as server:
        assert server.http.get("/accounts").json()["items"] == []


def test_reset_does_not_delete_a_served_database(used: Path) -> None:
    with serving(used) as server:
        result = serve(used, "--dev", "--reset", "--yes")
        assert result.returncode == 2 and str(server.process.pid) in result.stderr
        assert len(server.http.get("/accounts").json()["items"]) == 1


def test_reset_deletes_only_minibill_databases(tmp_path: Path) -> None:
    notes, other = tmp_path / "notes.txt", tmp_path / "other.db"
    notes.write_text("not a database, and mine")
    with closing(sqlite3.connect(other)) as conn:
        conn.execute("CREATE TABLE mine (x)")
    before = other.read_bytes()
    for file in (notes, other):
        result = serve(file, "--dev", "--reset", "--yes")
        assert result.returncode == 2 and "nothing was deleted" in result.stderr and "Traceback" not in result.stderr
    assert notes.read_text() == "not a database, and mine"
    assert other.read_bytes() == before


def test_yes_requires_reset(used: Path) -> None:
    result = serve(used, "--dev", "--yes")
    assert result.returncode == 2 and "--reset" in result.stderr


# --- --seed ---


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    db = tmp_path_factory.mktemp("seeded") / "book.db"
    asyncio.run(seed_book(db, SETTINGS))
    return db


def column(db: Path, sql: str) -> list[Any]:
    with closing(open_reader(db)) as conn:
        return [value for (value,) in conn.execute(sql).fetchall()]


def test_the_example_database_is_healthy(seeded: Path) -> None:
    assert verify_file(seeded).report.status == "healthy"
    with closing(open_reader(seeded)) as conn:
        assert violations(conn) == {}


@pytest.mark.parametrize(
    ("sql", "there"),
    [
        ("SELECT DISTINCT status FROM credit_campaigns", {"draft", "active", "paused", "completed", "expired"}),
        ("SELECT DISTINCT status FROM credit_reservations", {"pending", "finalized", "released", "expired"}),
        ("SELECT DISTINCT billing_mode FROM credit_reservations", {"live", "soft", "shadow"}),
        ("SELECT DISTINCT status FROM credit_grants", {"granted", "revoked"}),
        ("SELECT DISTINCT source_type FROM credit_lots", {"deposit", "grant"}),
        ("SELECT DISTINCT original_micro > paid_micro FROM credit_debts", {0, 1}),
        (
            "SELECT DISTINCT entity_type FROM credit_accounts",
            {"person", "agent", "community", "mod", "protocol", "foundation", "commons"},
        ),
        (
            "SELECT DISTINCT entry_type FROM credit_ledger",
            {"deposit", "grant", "reserve", "finalize", "release", "expire", "revoke", "debt_incurred", "debt_paid",
             "charge", "shadow_reserve", "shadow_finalize", "shadow_charge"},
        ),
        ("SELECT DISTINCT community_id FROM credit_reservations", {"night-owls", "makers-guild", None}),
    ],
)  # fmt: skip
def test_the_example_database_has_some_of_everything(seeded: Path, sql: str, there: set[Any]) -> None:
    assert set(column(seeded, sql)) == there


def test_the_example_database_is_audited(seeded: Path) -> None:
    actions = set(column(seeded, "SELECT action FROM admin_audit_log"))
    assert {"account.open", "account.mint", "campaign.create", "campaign.grant", "grant.revoke", "tiers.replace"} <= actions


def test_the_example_database_is_the_same_every_time(seeded: Path, tmp_path: Path) -> None:
    again = tmp_path / "book.db"
    asyncio.run(seed_book(again, SETTINGS))
    for sql in (
        "SELECT json_array(id, entity_type, entity_id) FROM credit_accounts ORDER BY id",
        "SELECT json_array(id, account_id, entry_type, lot_id, reservation_id, amount_micro) FROM credit_ledger ORDER BY id",
        "SELECT json_array(id, account_id, available_micro, reserved_micro, consumed_micro) FROM credit_lots ORDER BY id",
        "SELECT json_array(seq, actor_id, action, target_id) FROM admin_audit_log ORDER BY seq",
    ):
        assert column(seeded, sql) == column(again, sql) != []


def test_the_example_month_ends_an_hour_ago(tmp_path: Path) -> None:
    with serving(tmp_path / "book.db", "--seed") as server:
        # The service's clock is neither a month behind the ledger nor waits for it.
        made = server.http.post("/accounts", json={"entityType": "person", "entityId": "ruth"})
        assert made.status_code == 201
        [last_us] = column(tmp_path / "book.db", "SELECT max(created_at_us) FROM credit_ledger")
        assert 3_500 < (parse_time(made.json()["createdAt"]) - last_us) / US_PER_SECOND < 3_700
        pending = column(tmp_path / "book.db", "SELECT id FROM credit_reservations WHERE status = 'pending'")
        names = [ids.encode(ids.RESERVATION, number) for number in pending]
        states = [server.http.get(f"/reservations/{name}").json()["status"] for name in names]
        assert states == ["pending", "pending"]


def test_seed_requires_an_empty_database(used: Path) -> None:
    before = accounts(used)
    result = serve(used, "--dev", "--seed")
    assert result.returncode == 2 and "--reset" in result.stderr
    assert accounts(used) == before
    with pytest.raises(BookNotEmpty):
        asyncio.run(seed_book(used, SETTINGS))
