"""Output of the commands: safe text on terminals, quiet on a closed pipe, one error line on a full device."""

import csv
import io
import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from minibill.cli.grants_csv import ListRow
from minibill.cli.import_report import Report, write_report
from minibill.cli.import_rows import Result, Rows
from minibill.cli.output import escaped, escaped_json, money, units

MINIBILL = [sys.executable, "-m", "minibill"]


def run(folder: Path, *arguments: str, stdout: int | None = subprocess.PIPE) -> tuple[int, str, str]:
    """Return exit code, stdout and stderr of a command."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MINIBILL_", "BILLING_"))}
    environment["BILLING_ADMIN_JWT_SECRET"] = "x" * 32
    result = subprocess.run(
        [*MINIBILL, *arguments], env=environment, cwd=folder, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=60
    )
    return result.returncode, result.stdout or "", result.stderr


# --- text from the database ---


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 山 😀", "plain é 山 😀"), ("a\x1b[31mb", r"a\x1b[31mb"),
        ("a\nb\tc", r"a\nb\tc"), ("\x9b2J\x07", r"\x9b2J\x07"),
        ("\u202eabc", r"\u202eabc"), ("a\u200bb", r"a\u200bb"), ("\U000e0041", r"\U000e0041"),
    ],
)  # fmt: skip
def test_characters_that_change_a_terminal_are_escaped(text: str, shown: str) -> None:
    assert escaped(text) == shown


def test_escaped_json_has_visible_characters_and_the_same_meaning() -> None:
    members = {"name": "a\x1b[31m\u202e\x9b\U000e0041\n", "plain": "é"}
    text = escaped_json(members)
    assert text.isprintable()
    assert "é" in text
    assert json.loads(text) == members


@pytest.mark.parametrize(("amount_micro", "text"), [(0, "0"), (1, "0.000001"), (1_500_000, "1.5"), (10_000_000, "10")])
def test_units_are_plain_decimals(amount_micro: int, text: str) -> None:
    assert units(amount_micro) == text


@pytest.mark.parametrize(
    ("amount_micro", "text"),
    [
        (0, "0 units"),
        (1, "0.000001 units"),
        (1_000_000, "1 unit"),
        (-1_500_000, "-1.5 units"),
        (1_234_500_000, "1,234.5 units"),
    ],
)
def test_money_is_exact_and_in_units(amount_micro: int, text: str) -> None:
    assert money(amount_micro) == text


# --- where the output goes ---


COMMANDS = [
    ["--help"],
    ["--version"],
    ["serve", "--help"],
    ["completion", "bash"],
    ["token"],
    ["token", "--json"],
    ["migrate"],
]


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_closed_pipe_is_quiet_and_a_full_device_is_one_error_line(tmp_path: Path, arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    assert run(tmp_path, *arguments, stdout=writer) == (0, "", "")
    os.close(writer)
    with Path("/dev/full").open("w") as full:
        code, _, stderr = run(tmp_path, *arguments, stdout=full.fileno())
    assert code == 2
    assert stderr == "Error: the output can't be written: No space left on device; is there room where it goes?\n"


def test_a_closed_pipe_keeps_the_exit_code_of_the_work(tmp_path: Path) -> None:
    (tmp_path / "noise.db").write_bytes(b"this is not a database" * 1000)
    reader, writer = os.pipe()
    os.close(reader)
    expected = run(tmp_path, "verify", "--db", "noise.db", "--json")[0]
    assert expected != 0
    assert run(tmp_path, "verify", "--db", "noise.db", "--json", stdout=writer)[0] == expected
    os.close(writer)


def test_a_service_that_cannot_print_its_address_does_not_start(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        code, _, stderr = run(tmp_path, "serve", "--dev", "--port", "0", stdout=full.fileno())
    assert code == 2
    assert "the output can't be written" in stderr
    assert "Traceback" not in stderr


# --- values ---


@pytest.mark.parametrize(
    "arguments",
    [
        ["serve", "--dev", "--db", ""],
        ["serve", "--dev", "--host="],
        ["token", "--sub", ""],
        ["campaign", "show", "x", "--url", ""],
    ],
    ids=" ".join,
)
def test_an_empty_option_value_is_a_usage_error(tmp_path: Path, arguments: list[str]) -> None:
    code, stdout, stderr = run(tmp_path, *arguments)
    option = (arguments[-1] or arguments[-2]).rstrip("=")
    assert (code, stdout, stderr) == (2, "", f"Error: {option} is empty: give a value, or leave it out\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [":memory:", "file:book.db?mode=memory"])
@pytest.mark.parametrize(
    "command", [["serve", "--dev"], ["migrate"], ["verify"], ["token"], ["backup", "copy.db"], ["restore", "x.db"]]
)
def test_a_name_that_is_no_file_name_is_a_usage_error(tmp_path: Path, command: list[str], name: str) -> None:
    code, _, stderr = run(tmp_path, *command, "--db", name)
    assert code == 2
    assert f"{name!r} is no file name" in stderr
    assert not list(tmp_path.iterdir())


# --- memory ---


def test_the_memory_of_an_import_does_not_grow_with_the_list(tmp_path: Path) -> None:
    count = 20_000

    def rows_of_a_list() -> Iterator[ListRow]:
        for line in range(2, count + 2):
            yield ListRow(line, f"0x{line:040x}", 1_000_000, b'{"wallet":"x"}', None)

    report = Report(campaign_id="camp_1", dry_run=False, by_entity=True)
    path = tmp_path / "report.csv"
    tracemalloc.start()
    with Rows() as rows, path.open("w") as table:
        rows.add(rows_of_a_list(), sum_rows=False)
        last_line = 0
        while items := rows.to_send(after_line=last_line, count=1000):
            rows.record(Result(item.line, "granted", 1_000_000, f"acct_{item.line}", f"grant_{item.line}") for item in items)
            last_line = items[-1].line
        write_report(rows, report, table=table, as_json=False)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(1 for _ in csv.reader(io.StringIO(path.read_text()))) == count + 1
    # A batch of 1,000 with its results. The whole list would take ten times as much memory.
    assert peak_bytes < 2_000_000
