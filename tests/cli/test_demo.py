"""`minibill demo` and the small commands, run as a user runs them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from minibill.db.connection import open_reader
from minibill.integrity.checks import violations
from tests.api_client import SECRETS


def minibill(*arguments: str, cwd: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MINIBILL_", "BILLING_"))}
    command = [sys.executable, "-m", "minibill", *arguments]
    return subprocess.run(command, cwd=cwd, env=clean | settings, capture_output=True, text=True, timeout=60)


def usage_error(result: subprocess.CompletedProcess[str]) -> str:
    """Return the error line of a usage error, without the reference to the help."""
    [line] = result.stderr.splitlines()
    assert result.returncode == 2
    return re.sub(r" \(see .* --help\)$", "", line)


def test_demo_pays_a_list_once_and_ends_with_a_healthy_database(tmp_path: Path) -> None:
    result = minibill("demo", "--keep", "here", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    [first, second, *_] = re.findall(r"granted\s+(\d+)", result.stdout)
    assert int(first) > 900 and second == "0"
    assert "nothing new was paid" in result.stdout and "healthy" in result.stdout
    assert re.search(r"grant_\w+ revoked\nrevoked +3\.75 units\nconsumed +1\.25 units\n", result.stdout)
    # Counts and exceptions, but neither the lines of paid rows nor amounts in two units.
    assert not re.search(r"\blines? \d|\d micro\b", result.stdout)
    assert re.search(r"grants +\d+, 1 of them revoked\naccounts +\d+, 1 of them have spent", result.stdout)
    conn = open_reader(tmp_path / "here" / "demo.db")
    assert violations(conn) == {}
    assert conn.execute("SELECT count(*) FROM credit_grants").fetchone() == (int(first),)
    conn.close()
    again = minibill("demo", "--keep", "here", cwd=tmp_path)
    assert again.returncode == 2 and "another folder" in again.stderr


def test_migrate_lists_what_it_applied_and_can_run_again(tmp_path: Path) -> None:
    assert "applied 0001 epochs" in minibill("migrate", "--db", "x.db", cwd=tmp_path).stdout
    assert "up to date" in minibill("migrate", "--db", "x.db", cwd=tmp_path).stdout
    (tmp_path / "noise.db").write_bytes(b"no database at all" * 1000)
    result = minibill("migrate", "--db", "noise.db", cwd=tmp_path)
    assert usage_error(result) == "Error: can't migrate noise.db: it is not an SQLite database"


@pytest.mark.parametrize("command", [["serve"], ["serve", "--dev"], ["migrate"]])
def test_a_missing_folder_is_a_usage_error_that_names_it(tmp_path: Path, command: list[str]) -> None:
    result = minibill(*command, "--db", "nowhere/x.db", cwd=tmp_path, **({} if "--dev" in command else SECRETS))
    expected = f"Error: there is no folder {tmp_path / 'nowhere'} for x.db: make it, or name a file elsewhere"
    assert usage_error(result) == expected
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["serve"], "can't open noise.db: it is not an SQLite database"),
        (["verify"], "can't verify noise.db: it is not an SQLite database"),
        (["backup", "copy.db"], "can't back up noise.db: it is not an SQLite database"),
    ],
)
def test_an_error_about_a_file_names_it_once(tmp_path: Path, arguments: list[str], expected: str) -> None:
    (tmp_path / "noise.db").write_bytes(b"no database at all" * 1000)
    result = minibill(*arguments, "--db", "noise.db", cwd=tmp_path, **SECRETS)
    assert usage_error(result) == f"Error: {expected}"


@pytest.mark.parametrize(
    ("command", "advice"),
    [
        ("serve", "or use --dev to have one made"),
        ("token", "or name a database of `serve --dev` with --db"),
    ],
)
def test_a_missing_secret_is_an_error_that_states_what_to_do(tmp_path: Path, command: str, advice: str) -> None:
    message = usage_error(minibill(command, cwd=tmp_path))
    assert "BILLING_ADMIN_JWT_SECRET is not set: give it a secret of 32 bytes or more" in message
    assert message.endswith(f"(openssl rand -base64 48), {advice}")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--ttl", "3601"], "3600"),
        (["--service", "--scope", "admin:*"], "no scopes"),
        (["--scope", "admin:everything"], "admin:billing:read"),
        (["--sub", " "], "--sub"),
    ],
)
def test_a_token_that_no_service_accepts_is_a_usage_error(tmp_path: Path, arguments: list[str], expected: str) -> None:
    result = minibill("token", *arguments, cwd=tmp_path, **SECRETS)
    assert result.returncode == 2 and expected in result.stderr and not result.stdout


def test_serve_warns_about_an_unknown_setting(tmp_path: Path) -> None:
    (tmp_path / "noise.db").write_bytes(b"no database at all" * 1000)
    result = minibill("serve", "--db", "noise.db", cwd=tmp_path, MINIBILL_CEILING="5", **SECRETS)
    assert result.returncode == 2
    assert (
        "warning: unknown setting MINIBILL_CEILING; run `minibill serve --help` for the list" in result.stderr
        and "can't open noise.db" in result.stderr
    )
