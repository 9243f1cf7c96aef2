"""`minibill campaign import`: payments, limits and reports, with the real application."""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.api_client import UNIT, Api, ok
from tests.cli.faulty_transport import (
    PERSON,
    FaultyTransport,
    Run,
    figures,
    one_line,
    people,
)

# --- import: what is paid, and what the report says ---


def test_import_pays_a_list_in_batches_and_each_account_once(api: Api, pay: Run, transport: FaultyTransport) -> None:
    campaign = api.campaign()
    first = pay(campaign, people(7, "0.5"), *PERSON, "--batch-size", 3)
    assert "granted     7 (3.5 units)" in first.stdout
    assert [request.method for request in transport.requests] == ["GET", "POST", "POST", "POST"]
    assert len(set(transport.keys)) == 3
    again = pay(campaign, people(8, "0.5"), *PERSON, "--batch-size", 3)
    assert re.search(r"granted +1 .*\nduplicates +7\n", figures(again.stdout))
    assert len(set(transport.keys)) == 6
    assert "nothing new was paid" not in again.stdout
    assert "nothing new was paid" in pay(campaign, people(8), *PERSON).stdout
    assert api.get(f"/campaigns/{campaign}")["spentMicro"] == str(4 * UNIT)


def test_import_reads_standard_input(api: Api, run: Run) -> None:
    campaign, columns = api.campaign(), ("--account-column", "who", "--amount-column", "amount", "--delimiter", ";")
    run("import", campaign, "-", *columns, *PERSON, stdin=b"who;amount\np1;1\n")
    assert api.get(f"/campaigns/{campaign}")["grantCount"] == 1


def test_failed_and_skipped_rows_are_reported_by_reason_and_line(api: Api, pay: Run) -> None:
    campaign, account = api.campaign(), api.account()
    rows = [("acct_none", "1"), (account, "1"), (api.account(), "0"), ("acct_no", "1")]
    report = pay(campaign, rows, exit_code=1).stdout
    assert "account_not_found: lines 2, 5" in report
    assert re.search(r"skipped +1 \(1 \w+\)", report)
    assert api.available(account) == UNIT
    as_json = json.loads(pay(campaign, rows, "--json", exit_code=1).stdout)
    found = [(row["line"], row["status"], row["reason"]) for row in as_json["rows"]]
    assert found == [
        (2, "failed", "account_not_found"), (3, "duplicate", None), (4, "skipped", "amount_is_zero"),
        (5, "failed", "account_not_found"),
    ]  # fmt: skip
    totals = ("totalGranted", "totalDuplicates", "totalSkipped", "totalFailed", "totalAmountMicro")
    assert [as_json[name] for name in totals] == [0, 1, 1, 2, "0"]


def test_the_summary_lists_the_lines_of_each_figure_as_ranges(api: Api, pay: Run) -> None:
    campaign = api.campaign()
    first = [(f"p{n}", "0" if n in (3, 5, 6) else "1") for n in range(9)]
    assert pay(campaign, first, *PERSON, "--batch-size", 2).stdout == (
        "granted     6 (6 units)\n"
        "            lines 2-4, 6, 9-10\n"
        "duplicates  0\n"
        "skipped     3 (3 amount_is_zero)\n"
        "            amount_is_zero: lines 5, 7-8\n"
        "failed      0\n"
        "remaining   94 units\n"
    )
    [one] = [grant["grantId"] for grant in api.get(f"/campaigns/{campaign}/grants", limit=2)["items"][1:]]
    api.post(f"/campaigns/{campaign}/grants/{one}/revoke", {"reason": "not a person"})
    more = [(who, "1") for who, _ in first]
    assert pay(campaign, more, *PERSON, "--dry-run").stdout == (
        "dry run, nothing was paid; a real run would result in:\n"
        "granted     3 (3 units)\n"
        "            lines 5, 7-8\n"
        "duplicates  6 (1 of them revoked; they stay revoked)\n"
        "            granted: lines 2, 4, 6, 9-10\n"
        "            revoked: line 3\n"
        "skipped     0\n"
        "failed      0\n"
        "remaining   92 units\n"
    )
    as_json = json.loads(pay(campaign, more, *PERSON, "--batch-size", 4, "--json").stdout)
    granted = {row["line"]: row["amountMicro"] for row in as_json["rows"] if row["status"] == "granted"}
    assert granted == {5: "1000000", 7: "1000000", 8: "1000000"}
    assert [row["line"] for row in as_json["rows"] if row["status"] == "duplicate"] == [2, 4, 6, 9, 10]
    assert [row["line"] for row in as_json["rows"] if row["status"] == "revoked"] == [3]


def test_long_lists_of_lines_are_wrapped_between_numbers(api: Api, pay: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    report = pay(api.campaign(), [(f"p{n}", str(n % 2)) for n in range(60)], *PERSON).stdout
    assert max(map(len, report.splitlines())) <= 60
    lines = re.findall(r"^ {12}(?:lines )?([0-9, ]+)$", report.partition("duplicates")[0], re.MULTILINE)
    assert ", ".join(line.rstrip(", ") for line in lines) == ", ".join(str(line) for line in range(3, 62, 2))


def test_a_revoked_grant_is_a_duplicate_and_reported_as_revoked(api: Api, pay: Run) -> None:
    campaign = api.campaign()
    pay(campaign, people(1), *PERSON)
    api.post(f"/campaigns/{campaign}/revoke", {"reason": "not a person"})
    assert "duplicates  1 (1 of them revoked; they stay revoked)" in pay(campaign, people(1), *PERSON).stdout


def test_input_columns_feed_the_formula(api: Api, run: Run, tmp_path: Path) -> None:
    campaign = api.campaign(grantFormula="proportional_loss", grantConfig={"ratioBps": 5000})
    path = tmp_path / "losses.csv"
    path.write_text("who,ETH to recover\np1,1.5000001\n")
    inputs = ("--input-column", "lossMicro=ETH to recover", "--input-column", "wallet=who", "--round", "down")
    run("import", campaign, path, "--account-column", "who", *PERSON, *inputs)
    [grant] = api.get(f"/campaigns/{campaign}/grants")["items"]
    assert grant["amountMicro"] == "750000"
    assert grant["formulaInput"] == {"lossMicro": "1500000", "wallet": "p1"}


def test_force_is_passed_on(api: Api, pay: Run) -> None:
    campaign = api.campaign(budget_micro=200 * UNIT, perWalletCapMicro=str(100 * UNIT))
    assert "large_grant_requires_force: line 2" in pay(campaign, people(1, "51"), *PERSON, exit_code=1).stdout
    pay(campaign, people(1, "51"), *PERSON, "--force")


# --- import: nothing is sent unless the whole list is good ---


def test_bad_rows_stop_the_import_before_anything_is_sent(pay: Run, transport: FaultyTransport) -> None:
    rows = [("a", "1"), ("b", "one"), ("a", "1"), ("c", "0.0000001")]
    result = pay("camp_1", rows, exit_code=2)
    assert re.findall(r"^line (\d+): ", result.stderr, re.MULTILINE) == ["3", "4", "5"]
    assert "3 of 4 rows" in result.stderr
    assert not transport.requests


def test_rows_with_the_same_error_share_one_line(pay: Run, transport: FaultyTransport) -> None:
    rows = [*people(1000, "x"), ("good", "1"), *[(f"q{n}", "") for n in range(4)], ("r", "0.0000001")]
    result = pay("camp_1", rows, "--json", exit_code=2)
    assert result.stderr.splitlines() == [
        "lines 2-1001: column 'amount': expected a plain decimal number, not (the first: 'x')",
        "lines 1003-1006: column 'amount': expected a number, found nothing",
        "line 1007: column 'amount': more than 6 decimal places (--round down cuts them off): '0.0000001'",
        "Error: nothing was paid: 1005 of 1006 rows can't be paid; correct them, or pay the others with --skip-bad-rows",
    ]
    output = json.loads(result.stdout)
    assert (output["totalBad"], output["totalNotPaid"], output["stopped"]["why"]) == (1005, 1, "bad_rows")
    assert [row["status"] for row in output["rows"]] == ["bad"] * 1000 + ["not_paid"] + ["bad"] * 5
    assert not transport.requests


def test_the_number_of_listed_errors_is_limited(pay: Run) -> None:
    rows = [(f"a{'b' * n}{chr(0x200B + n % 4)}", "1") for n in range(25)]
    lines = pay("camp_1", rows, *PERSON, exit_code=2).stderr.splitlines()
    assert len(lines) == 22
    assert lines[-2] == "and 5 more rows with other errors; --report lists them all"


def test_skip_bad_rows_pays_the_other_rows_and_exits_1(api: Api, pay: Run) -> None:
    campaign = api.campaign()
    result = pay(campaign, [("a", "1"), ("b", "one"), ("a", "2")], *PERSON, "--skip-bad-rows", exit_code=1)
    assert "left out    2\n            lines 3-4\n" in result.stdout
    assert api.get(f"/campaigns/{campaign}")["spentMicro"] == str(UNIT)


def test_a_list_without_a_row_to_pay_is_a_usage_error(pay: Run, transport: FaultyTransport) -> None:
    assert "no rows" in pay("camp_1", [], exit_code=2).stderr
    pay("camp_1", people(1, "x"), "--skip-bad-rows", exit_code=2)
    assert not transport.requests


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--account-column", "who"), "--amount-column"),
        (("--account-column", "who", "--amount-column", "sum"), "no column 'sum'; its columns are 'who', 'amount'"),
        (("--account-column", "who", "--input-column", "lossMicro"), "KEY=COLUMN"),
        (("--account-column", "who", "--input-column", "a=who", "--input-column", "a=amount"), "twice"),
        (("--account-column", "who", "--amount-column", "amount", "--delimiter", ";;"), "one character"),
        (("--amount-column", "amount"), "--account-column"),
    ],
)
def test_wrong_columns_are_a_usage_error(
    run: Run, transport: FaultyTransport, tmp_path: Path, options: tuple[str, ...], named: str
) -> None:
    path = tmp_path / "list.csv"
    path.write_text("who,amount\na,1\n")
    assert named in run("import", "camp_1", path, *options, exit_code=2).stderr
    assert not transport.requests


# --- import: dry run ---


def test_a_dry_run_changes_nothing_and_prints_the_result(api: Api, pay: Run) -> None:
    campaign = api.campaign(10 * UNIT)
    with api.unchanged():
        report = pay(campaign, people(5, "2"), *PERSON, "--batch-size", 2, "--dry-run").stdout
    assert "nothing was paid" in report
    assert re.search(r"granted +5 \(10 units\)\n(.*\n)*remaining +0 units", report)


def test_a_dry_run_checks_the_whole_list_against_the_budget(
    api: Api, pay: Run, transport: FaultyTransport, tmp_path: Path
) -> None:
    campaign = api.campaign(10 * UNIT)
    pay(campaign, [("old", "2")], *PERSON)
    report = tmp_path / "report.csv"
    rows = [*people(3, "3"), ("old", "2"), ("zero", "0"), ("p9", "4.5")]
    with api.unchanged():
        # Batches that fit the budget alone, and one that does not.
        for size in (1, 2, 1000):
            result = pay(campaign, rows, *PERSON, "--batch-size", size, "--dry-run", "--report", report, exit_code=2)
            assert "5.5 units more than the remaining" in result.stderr
            assert re.search(r"granted +4 \(13\.5 units\)\nduplicates +1\nskipped +1 ", figures(result.stdout))
            assert len(report.read_text().splitlines()) == 7
        partial = pay(campaign, rows, *PERSON, "--dry-run", "--partial", exit_code=1)
        assert "5.5 units more than the remaining" in partial.stderr


# --- import: limits are checked before anything is paid ---


def test_a_list_over_the_budget_stops_before_anything_is_paid(api: Api, pay: Run, transport: FaultyTransport) -> None:
    campaign = api.campaign(10 * UNIT)
    with api.unchanged():
        result = pay(campaign, people(6, "2"), *PERSON, "--batch-size", 2, exit_code=2)
    assert one_line(result.stderr).startswith("Error: nothing was paid: the new grants add up to 12 units")
    assert "2 units more than the remaining" in result.stderr
    stopped = json.loads(pay(campaign, people(6, "2"), *PERSON, "--json", exit_code=2).stdout)
    assert (stopped["missingMicro"], stopped["stopped"]["why"]) == ("2000000", "over_budget")
    assert {row["status"] for row in stopped["rows"]} == {"not_paid"}


def test_a_formula_counts_towards_the_budget_before_anything_is_paid(api: Api, run: Run, tmp_path: Path) -> None:
    campaign = api.campaign(3 * UNIT, grantFormula="proportional_loss", grantConfig={"ratioBps": 5000})
    path = tmp_path / "list.csv"
    columns = ("--account-column", "who", "--input-column", "lossMicro=loss", *PERSON)
    path.write_text("who,loss\na,4\nb,4\n")
    with api.unchanged():
        assert "1 unit more than the remaining" in run("import", campaign, path, *columns, exit_code=2).stderr
    path.write_text("who,loss\na,4\nb,2\n")
    run("import", campaign, path, *columns)
    # The paid amount is compared with the current result of the formula.
    path.write_text("who,loss\na,4\nb,1\n")
    assert "line 3: b was paid 1 before; the list says 0.5" in run("import", campaign, path, *columns).stderr


def test_grants_that_were_paid_before_count_towards_no_limit(api: Api, pay: Run) -> None:
    campaign = api.campaign(10 * UNIT)
    rows = people(4, "2")
    pay(campaign, rows, *PERSON)
    pay(campaign, [*rows, ("new", "2")], *PERSON)
    assert api.get(f"/campaigns/{campaign}")["spentMicro"] == str(10 * UNIT)
    again = pay(campaign, [*rows, ("new", "2")], *PERSON).stdout
    assert "duplicates  5\n" in again
    assert "nothing new was paid" in again
    # An amount over the limits is no error if the account is not paid again.
    pay(campaign, [*people(3, "2"), ("p3", "500")], *PERSON)


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_partial_pays_in_list_order_until_a_row_does_not_fit(api: Api, pay: Run, size: int) -> None:
    campaign = api.campaign(10 * UNIT)
    pay(campaign, [("p6", "1")], *PERSON)
    rows = [*people(5, "2"), ("small", "0.5"), ("p6", "1")]
    result = pay(campaign, rows, *PERSON, "--partial", "--batch-size", size, exit_code=1)
    assert "line 6 does not fit: the campaign has 1 unit remaining" in result.stderr
    assert re.search(r"until then:\ngranted +4 \(8 units", result.stdout)
    assert "budget_exceeded: lines 6-7" in result.stdout
    assert "duplicates  1" in result.stdout
    # A larger budget pays the rest.
    ok(api.call("PATCH", f"/campaigns/{campaign}", {"budgetMicro": str(12 * UNIT)}))
    assert re.search(r"granted +2 \(2\.5 units", pay(campaign, rows, *PERSON, "--partial").stdout)


def test_all_rows_over_a_limit_are_listed_before_anything_is_paid(api: Api, pay: Run, tmp_path: Path) -> None:
    campaign = api.campaign()
    rows = [*people(150, "6"), ("q1", "1"), ("q2", "7")]
    with api.unchanged():
        for options in ((), ("--dry-run",)):
            result = pay(campaign, rows, *PERSON, *options, exit_code=1)
            assert "per_wallet_cap_exceeded: lines 2-151, 153\n" in result.stdout
            assert "151 rows are over a limit" in result.stderr


def test_batches_are_cut_to_the_ceiling_of_one_request(
    start: Callable[..., Api], pay: Run, transport: FaultyTransport
) -> None:
    transport.api = api = start(MINIBILL_CEILING_MICRO=str(10 * UNIT))
    campaign = api.campaign(10 * UNIT, perWalletCapMicro=str(40 * UNIT))
    ok(api.call("PATCH", f"/campaigns/{campaign}", {"budgetMicro": str(90 * UNIT)}))
    pay(campaign, people(20, "3"), *PERSON)
    assert api.get(f"/campaigns/{campaign}")["grantCount"] == 20
    # The first batch is too large, and its error states the ceiling. Later batches are cut to it.
    assert len(transport.posts) == 1 + 7
    result = pay(campaign, [("small", "1"), ("large", "11")], *PERSON, "--dry-run", exit_code=1)
    assert "amount_too_large: line 3" in result.stdout


def test_batches_are_cut_to_the_largest_accepted_body(
    start: Callable[..., Api], pay: Run, transport: FaultyTransport
) -> None:
    transport.api = api = start(MINIBILL_MAX_BODY_BYTES="4096")
    campaign = api.campaign()
    pay(campaign, people(200, "0.1"), *PERSON)
    assert api.get(f"/campaigns/{campaign}")["grantCount"] == 200


def test_an_amount_that_changed_is_listed_with_both_amounts(api: Api, pay: Run) -> None:
    campaign = api.campaign()
    pay(campaign, [("a", "1.25"), ("b", "2")], *PERSON)
    again = pay(campaign, [("a", "3.75"), ("b", "2")], *PERSON)
    assert "line 2: a was paid 1.25 before; the list says 3.75\n" in again.stderr
    output = json.loads(pay(campaign, [("a", "3.75"), ("b", "2")], *PERSON, "--json", "--strict", exit_code=1).stdout)
    assert output["totalDifferent"] == 1
    assert [(row["amountMicro"], row["reason"]) for row in output["rows"]] == [
        ("1250000", "paid 1.25 before; the list says 3.75"), ("2000000", None)
    ]  # fmt: skip
    pay(campaign, [("a", "1.25"), ("b", "2")], *PERSON, "--strict")
    assert api.get(f"/campaigns/{campaign}")["spentMicro"] == "3250000"


def test_a_token_that_may_pay_but_not_read_is_enough(api: Api, pay: Run, transport: FaultyTransport) -> None:
    campaign = api.campaign(10 * UNIT)
    api.token = api.sign(scopes=("admin:grants:write",))
    pay(campaign, people(3, "2"), *PERSON)
    assert "2 units more than the remaining" in pay(campaign, people(6, "2"), *PERSON, exit_code=2).stderr


# --- import: several rows of one account, and the report ---


def test_sum_adds_up_the_rows_of_an_account(api: Api, pay: Run, tmp_path: Path) -> None:
    campaign, report = api.campaign(), tmp_path / "report.csv"
    rows = [("a", "1.5"), ("b", "1"), ("a", "0.25"), ("0x" + "aB" * 20, "1"), ("0X" + "Ab" * 20, "1")]
    result = pay(campaign, rows, *PERSON, exit_code=2)
    assert "lines 4, 6: names the account of an earlier row (the first: 'a' of line 2)" in result.stderr
    pay(campaign, rows, *PERSON, "--sum", "--report", report)
    paid = {grant["entityId"]: grant["amountMicro"] for grant in api.get(f"/campaigns/{campaign}/grants")["items"]}
    assert paid == {"a": "1750000", "b": "1000000", "0x" + "ab" * 20: "2000000"}
    lines = [line.split(",") for line in report.read_text().splitlines()[1:]]
    assert [(row[3], row[4], row[6]) for row in lines] == [
        ("granted", "1.75", ""), ("granted", "1", ""), ("summed", "", "added to line 2"), ("granted", "2", ""),
        ("summed", "", "added to line 5"),
    ]  # fmt: skip
    assert lines[0][5] == lines[2][5]


def test_sum_adds_up_formula_inputs_and_keeps_the_first_evidence(api: Api, run: Run, tmp_path: Path) -> None:
    campaign = api.campaign(grantFormula="proportional_loss", grantConfig={"ratioBps": 5000})
    path = tmp_path / "list.csv"
    path.write_text("who,loss,note\na,4,one\na,2,two\n")
    inputs = ("--input-column", "lossMicro=loss", "--input-column", "note=note")
    run("import", campaign, path, "--account-column", "who", *PERSON, *inputs, "--sum")
    [grant] = api.get(f"/campaigns/{campaign}/grants")["items"]
    assert (grant["amountMicro"], grant["formulaInput"]) == ("3000000", {"lossMicro": "6000000", "note": "one"})


@pytest.mark.parametrize("rows", [[("a", "1"), ("a", "x"), ("b", "1")], [("a", "x"), ("a", "1"), ("b", "1")]])
def test_sum_does_not_pay_an_account_with_a_bad_row(api: Api, pay: Run, rows: list[tuple[str, str]]) -> None:
    campaign = api.campaign()
    pay(campaign, rows, *PERSON, "--sum", "--skip-bad-rows", exit_code=1)
    assert [grant["entityId"] for grant in api.get(f"/campaigns/{campaign}/grants")["items"]] == ["b"]


def test_the_report_has_a_line_for_each_row(api: Api, pay: Run, tmp_path: Path) -> None:
    campaign, report = api.campaign(), tmp_path / "report.csv"
    pay(campaign, [("old", "1.5")], *PERSON)
    rows = [("old", "1.5"), ("new", "2"), ("bad", "x"), ("zero", "0")]
    pay(campaign, rows, *PERSON, "--skip-bad-rows", "--report", report, exit_code=1)
    grants = {grant["entityId"]: grant for grant in api.get(f"/campaigns/{campaign}/grants")["items"]}
    old, new = grants["old"], grants["new"]
    assert report.read_text().splitlines() == [
        "line,accountId,entityId,status,amount,grantId,reason",
        f"2,{old['accountId']},old,duplicate,1.5,{old['grantId']},",
        f"3,{new['accountId']},new,granted,2,{new['grantId']},",
        "4,,bad,bad,,,\"column 'amount': expected a plain decimal number, not 'x'\"",
        "5,,zero,skipped,0,,amount_is_zero",
    ]


def test_an_unwritable_report_stops_before_anything_is_paid(pay: Run, transport: FaultyTransport, tmp_path: Path) -> None:
    for path, expected in (
        (tmp_path / "list.csv", "would replace the list"),
        (tmp_path / "no" / "report.csv", "can't be written"),
    ):
        assert expected in one_line(pay("camp_1", people(2), *PERSON, "--report", path, exit_code=2).stderr)
    assert (tmp_path / "list.csv").read_text().startswith("who,amount\n")
    assert not transport.requests


def test_a_report_on_a_full_device_does_not_undo_the_payments(api: Api, pay: Run) -> None:
    campaign = api.campaign()
    result = pay(campaign, people(2), *PERSON, "--report", "/dev/full", exit_code=2)
    assert "granted     2" in result.stdout
    assert "the report /dev/full can't be written: No space left on device" in result.stderr


def test_a_missing_temporary_folder_is_one_error_line(
    pay: Run, transport: FaultyTransport, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "no"))
    assert "is there room in TMPDIR?" in one_line(pay("camp_1", people(2), exit_code=2).stderr)
    assert not transport.requests


def test_decimals_reads_base_units(api: Api, pay: Run) -> None:
    campaign = api.campaign()
    pay(campaign, [("a", "1500000000000000000")], *PERSON, "--decimals", 18)
    assert "more than 6 decimal places" in pay(campaign, [("b", "1")], *PERSON, "--decimals", 18, exit_code=2).stderr
    assert api.get(f"/campaigns/{campaign}")["spentMicro"] == "1500000"


# --- over a real socket ---


def test_a_real_service_pays_a_list_longer_than_one_batch(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MINIBILL_", "BILLING_"))}
    minibill = [sys.executable, "-m", "minibill"]
    db = tmp_path / "book.db"
    path = tmp_path / "list.csv"
    path.write_text("who,amount\n" + "".join(f"p{n},0.01\n" for n in range(1203)))
    with subprocess.Popen(
        [*minibill, "serve", "--dev", "--port", "0", "--db", db],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=tmp_path,
    ) as server:  # fmt: skip
        try:
            assert server.stdout is not None
            found = re.search(r"http://\S+", server.stdout.readline())
            assert found
            environment["MINIBILL_URL"] = found[0]

            def ask(*arguments: object) -> str:
                output = subprocess.run(
                    [*minibill, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=60
                )
                assert output.returncode == 0, output.stderr
                return output.stdout.strip()

            environment["MINIBILL_TOKEN"] = ask("token", "--db", db)
            campaign = ask("campaign", "create", "Summer", "--type", "loyalty", "--budget", 100 * UNIT, "--quiet")
            ask("campaign", "activate", campaign)
            columns = ("--account-column", "who", "--entity-type", "person", "--amount-column", "amount")
            assert "granted     1203 (12.03 units" in ask("campaign", "import", campaign, path, *columns)
            assert "nothing new was paid" in ask("campaign", "import", campaign, path, *columns)
            assert json.loads(ask("campaign", "show", campaign, "--json"))["spentMicro"] == "12030000"
        finally:
            server.terminate()
