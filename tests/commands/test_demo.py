"""`minibill demo` and the small commands, as a user runs them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from minibill.db.connect import open_reader
from minibill.invariants import violations
from tests.api import SECRETS


def minibill(*arguments: str, cwd: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MINIBILL_", "BILLING_"))}
    command = [sys.executable, "-m", "minibill", *arguments]
    return subprocess.run(command, cwd=cwd, env=clean | settings, capture_output=True, text=True, timeout=60)


def test_the_demo_pays_a_list_once_and_ends_with_a_whole_book(tmp_path: Path) -> None:
    result = minibill("demo", "--keep", "here", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    [first, second, *_] = re.findall(r"granted\s+(\d+)", result.stdout)
    assert int(first) > 900 and second == "0"
    assert "nothing new was paid" in result.stdout and "healthy" in result.stdout
    assert re.search(r"grant_\w+ revoked\ntaken back +3\.75 units .*\nconsumed +1\.25 units", result.stdout)
    assert re.search(r"grants +\d+, 1 of them revoked\naccounts +\d+, 1 of them have spent", result.stdout)
    conn = open_reader(tmp_path / "here" / "demo.db")
    assert violations(conn) == {}
    assert conn.execute("SELECT count(*) FROM credit_grants").fetchone() == (int(first),)
    conn.close()
    again = minibill("demo", "--keep", "here", cwd=tmp_path)
    assert again.returncode == 2 and "another folder" in again.stderr


def test_migrate_says_what_it_did_and_a_second_time_that_there_is_nothing_to_do(tmp_path: Path) -> None:
    assert "applied 0001 book" in minibill("migrate", "--db", "x.db", cwd=tmp_path).stdout
    assert "up to date" in minibill("migrate", "--db", "x.db", cwd=tmp_path).stdout
    (tmp_path / "noise.db").write_bytes(b"no database at all" * 1000)
    refused = minibill("migrate", "--db", "noise.db", cwd=tmp_path)
    assert refused.returncode == 2 and "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--ttl", "3601"], "3600"),
        (["--service", "--scope", "admin:*"], "no scopes"),
        (["--scope", "admin:everything"], "admin:billing:read"),
        (["--sub", " "], "--sub"),
    ],
)
def test_a_token_that_no_service_would_take_is_wrong_usage(tmp_path: Path, arguments: list[str], said: str) -> None:
    result = minibill("token", *arguments, cwd=tmp_path, **SECRETS)
    assert result.returncode == 2 and said in result.stderr and not result.stdout


def test_a_setting_that_does_not_exist_is_warned_about(tmp_path: Path) -> None:
    (tmp_path / "noise.db").write_bytes(b"no database at all" * 1000)
    result = minibill("serve", "--db", "noise.db", cwd=tmp_path, MINIBILL_CEILING="5", **SECRETS)
    assert result.returncode == 2
    assert "MINIBILL_CEILING is no setting" in result.stderr and "can't open noise.db" in result.stderr
