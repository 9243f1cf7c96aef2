"""`minibill campaign`: the commands against the real application, over a line that can be made to fail."""

import functools
import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import click.testing
import httpx
import pytest

from minibill.cli import campaign as commands
from minibill.cli import campaign_import, service
from minibill.client import Client
from minibill.client._sync import http
from minibill.client.retries import BACKOFF_S, UNMET_TRIES_MAX
from tests.api_client import UNIT, Api, ok

URL = "http://minibill.test"

Fault = Callable[[], httpx.Response | None]


@dataclass
class Line(httpx.BaseTransport):
    """Carries requests to the application, but for the faults that are lined up: one for each request, None for no fault.

    A fault that returns a response answers in the service's place; one that raises cuts the line before the request
    arrives, or, wrapped in `afterwards`, when the service has done its work.
    """

    api: Api
    faults: list[Fault | None] = field(default_factory=list)
    requests: list[httpx.Request] = field(default_factory=list)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        fault = self.faults.pop(0) if self.faults else None
        if isinstance(fault, Afterwards):
            self._forward(request)
        if fault is not None and (answer := fault()):
            return answer
        return self._forward(request)

    def _forward(self, request: httpx.Request) -> httpx.Response:
        path = request.url.raw_path.decode()
        sending = self.api.http.request(request.method, path, headers=request.headers, content=request.content)
        answer = self.api.loop.run(sending)
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)

    @property
    def posts(self) -> list[httpx.Request]:
        return [request for request in self.requests if request.method == "POST"]

    @property
    def keys(self) -> list[str]:
        return [request.headers["Idempotency-Key"] for request in self.posts]


class Afterwards:
    """A fault that comes when the service has done what it was asked."""

    def __init__(self, fault: Fault) -> None:
        self._fault = fault

    def __call__(self) -> httpx.Response | None:
        return self._fault()


def cut(error: BaseException) -> Fault:
    def fault() -> httpx.Response | None:
        raise error

    return fault


def problem(status: int, code: str, **headers: str) -> Fault:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda: httpx.Response(
        status,
        headers={"Content-Type": "application/problem+json", **named},
        content=json.dumps({"status": status, "code": code, "detail": "not now"}),
    )


NO_ONE_LISTENS = cut(httpx.ConnectError("[Errno 111] Connection refused"))
ANSWER_IS_LOST = Afterwards(cut(httpx.ReadError("")))


@pytest.fixture
def line(api: Api) -> Line:
    return Line(api)


@pytest.fixture
def waits() -> list[float]:
    """The seconds that were waited for, had anyone really waited."""
    return []


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, line: Line, waits: list[float]) -> Callable[..., click.testing.Result]:
    """Runs `minibill campaign …` to its end: `run("show", campaign, exit_code=1)`."""
    for module in (service, campaign_import):
        monkeypatch.setattr(module, "Client", functools.partial(Client, transport=line))
    monkeypatch.setattr(http, "time", SimpleNamespace(sleep=waits.append))

    def run(*arguments: object, exit_code: int = 0, stdin: bytes | None = None) -> click.testing.Result:
        access = ["--url", URL, "--token", line.api.token]
        result = click.testing.CliRunner().invoke(commands.campaign, [*map(str, arguments), *access], input=stdin)
        assert result.exit_code == exit_code, result.output
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result

    return run


@pytest.fixture
def pay(run: Callable[..., click.testing.Result], tmp_path: Path) -> Callable[..., click.testing.Result]:
    """Imports rows of (account, amount): `pay(campaign, rows, "--dry-run")`."""

    def pay(campaign: str, rows: list[tuple[str, str]], *options: object, exit_code: int = 0) -> click.testing.Result:
        path = tmp_path / "list.csv"
        path.write_text("who,amount\n" + "".join(f"{who},{amount}\n" for who, amount in rows))
        columns = ("--account-column", "who", "--amount-column", "amount")
        return run("import", campaign, path, *columns, *options, exit_code=exit_code)

    return pay


def people(count: int, amount: str = "1") -> list[tuple[str, str]]:
    return [(f"p{n}", amount) for n in range(count)]


PERSON = ("--entity-type", "person")


def figures(report: str) -> str:
    """A report without the lines of the file that are told below each figure."""
    return re.sub(r"^ +\S.*\n", "", report, flags=re.MULTILINE)


# --- create, change, show ---


def test_create_quiet_prints_the_id_and_nothing_else(api: Api, run: Callable[..., click.testing.Result]) -> None:
    result = run("create", "Summer", "--type", "loyalty", "--budget", 5, "--quiet")
    shown = api.get(f"/campaigns/{result.stdout.strip()}")
    assert (shown["name"], shown["campaignType"], shown["budgetMicro"]) == ("Summer", "loyalty", "5")
    assert result.stderr == ""


def test_create_sends_every_option(api: Api, run: Callable[..., click.testing.Result]) -> None:
    options: dict[str, object] = {
        "--type": "reverse_airdrop",
        "--budget": 9223372036854775807,
        "--formula": "proportional_loss",
        "--config": '{"ratioBps": 5000}',
        "--pool": "gpu",
        "--cap": 7,
        "--starts-at": "2998-01-01T00:00:00Z",
        "--expires-at": "2999-01-01T00:00:00Z",
        "--grant-ttl": 60,
        "--description": "for people",
    }
    flat = [part for option in options.items() for part in option]
    made = json.loads(run("create", "Summer", *flat, "--json").stdout)
    assert made == api.get(f"/campaigns/{made['id']}")
    assert made["grantConfig"] == {"ratioBps": 5000}
    names = ("budgetMicro", "perWalletCapMicro", "poolId", "grantTtlSeconds", "description")
    assert [made[name] for name in names] == ["9223372036854775807", "7", "gpu", 60, "for people"]
    assert made["startsAt"].startswith("2998-01-01T00:00:00")
    assert made["expiresAt"].startswith("2999-01-01T00:00:00")


def test_create_dry_run_makes_no_campaign_and_prints_no_id(api: Api, run: Callable[..., click.testing.Result]) -> None:
    with api.unchanged():
        result = run("create", "Summer", "--type", "loyalty", "--budget", 5, "--dry-run", "--quiet")
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--budget", "1.5"),
        ("--budget", "-1"),
        ("--budget", "1_000"),
        ("--config", "{"),
        ("--config", "[1]"),
        ("--type", "raffle"),
    ],
)
def test_an_option_that_makes_no_sense_is_wrong_usage_and_nothing_is_sent(
    run: Callable[..., click.testing.Result], line: Line, option: str, value: str
) -> None:
    options = {"--type": "loyalty", "--budget": "5"} | {option: value}
    result = run("create", "Summer", *[part for pair in options.items() for part in pair], exit_code=2)
    assert option in result.stderr
    assert not line.requests


def test_a_campaign_is_activated_paused_and_completed(api: Api, run: Callable[..., click.testing.Result]) -> None:
    campaign = api.draft()
    for verb, status in (("activate", "active"), ("pause", "paused"), ("complete", "completed")):
        assert status in run(verb, campaign).stdout
        assert api.get(f"/campaigns/{campaign}")["status"] == status
    assert "invalid_transition (409)" in run("activate", campaign, exit_code=1).stderr


def test_show_says_what_is_spent_in_units_and_micro(api: Api, run: Callable[..., click.testing.Result]) -> None:
    campaign = api.campaign(4 * UNIT, name="Shown [by] name")
    api.batch(campaign, (api.account(), UNIT + UNIT // 2))
    shown = run("show", campaign).stdout
    assert shown.startswith("Shown [by] name\n")
    assert re.search(r"spent +1\.5 units \(1500000 micro\), 37 %", shown)
    assert re.search(r"grants +1\n", shown)
    assert json.loads(run("show", campaign, "--json").stdout) == api.get(f"/campaigns/{campaign}")


def test_revoke_takes_back_one_grant_or_all(api: Api, run: Callable[..., click.testing.Result]) -> None:
    campaign, accounts = api.campaign(), [api.account() for _ in range(3)]
    paid = api.batch(campaign, *[(account, UNIT) for account in accounts]).json()["grants"]
    api.finalize(api.reserve(accounts[0], 10), 10)
    reason = ("--reason", "not a person")
    one = run("revoke", campaign, "--grant", paid[0]["grantId"], *reason).stdout
    assert one.startswith(f"{paid[0]['grantId']} revoked\n")
    assert re.search(r"taken back +0\.99999 units \(999990 micro\)\nconsumed +0\.00001 units", one)
    assert api.available(accounts[0]) == 0 and api.available(accounts[1]) == UNIT
    with api.unchanged():
        dry = run("revoke", campaign, *reason, "--dry-run").stdout
    assert f"dry run: 3 grants of {campaign} would be revoked" in dry
    answer = json.loads(run("revoke", campaign, *reason, "--json").stdout)
    assert (answer["totalRevoked"], answer["revokedMicro"]) == (3, str(3 * UNIT - 10))
    assert {grant["revokeReason"] for grant in api.get(f"/campaigns/{campaign}/grants")["items"]} == {"not a person"}
    assert "grant_not_found (404)" in run("revoke", campaign, "--grant", "grant_none", *reason, exit_code=1).stderr


def test_a_revocation_wants_a_reason_and_a_grant_id_that_can_be_one(
    run: Callable[..., click.testing.Result], line: Line
) -> None:
    run("revoke", "camp_0000000000001", exit_code=2)
    run("revoke", "camp_0000000000001", "--grant", "../../..", "--reason", "x", exit_code=2)
    assert not line.requests


def test_stats_say_what_became_of_the_credits(api: Api, run: Callable[..., click.testing.Result]) -> None:
    campaign, account = api.campaign(), api.account()
    api.batch(campaign, (account, UNIT), (api.account(), UNIT))
    api.finalize(api.reserve(account, UNIT // 2), UNIT // 4)
    shown = run("stats", campaign).stdout
    assert re.search(r"grants +2, 0 of them revoked\naccounts +2, 1 of them have spent\n", shown)
    assert re.search(r"consumed +0\.25 units \(250000 micro\)\n", shown)
    assert re.search(r"\d{4}-\d\d-\d\d +2 grants, granted 2 units", shown)
    assert json.loads(run("stats", campaign, "--json").stdout) == api.get(f"/campaigns/{campaign}/stats")


@pytest.mark.parametrize("campaign", ["../accounts", "..", "camp_1/activate", "camp_1?dryRun=true", ""])
def test_what_is_no_campaign_id_never_gets_into_a_path(
    run: Callable[..., click.testing.Result], line: Line, campaign: str
) -> None:
    run("show", campaign, exit_code=2)
    assert not line.requests


# --- import: what is paid, and what the report says ---


def test_import_pays_a_list_in_batches_and_each_account_once(
    api: Api, pay: Callable[..., click.testing.Result], line: Line
) -> None:
    campaign = api.campaign()
    first = pay(campaign, people(7, "0.5"), *PERSON, "--batch-size", 3)
    assert "granted     7 (3.5 units (3500000 micro))" in first.stdout
    assert [request.method for request in line.requests] == ["GET", "POST", "POST", "POST"]
    assert len(set(line.keys)) == 3
    again = pay(campaign, people(8, "0.5"), *PERSON, "--batch-size", 3)
    assert re.search(r"granted +1 .*\nduplicates +7\n", figures(again.stdout))
    assert len(set(line.keys)) == 6
    assert "nothing new was paid" not in again.stdout
    assert "nothing new was paid" in pay(campaign, people(8), *PERSON).stdout
    assert api.get(f"/campaigns/{campaign}")["spentMicro"] == str(4 * UNIT)


def test_import_reads_standard_input(api: Api, run: Callable[..., click.testing.Result]) -> None:
    campaign, columns = api.campaign(), ("--account-column", "who", "--amount-column", "amount", "--delimiter", ";")
    run("import", campaign, "-", *columns, *PERSON, stdin=b"who;amount\np1;1\n")
    assert api.get(f"/campaigns/{campaign}")["grantCount"] == 1


def test_failed_rows_are_reported_by_code_and_line_and_skipped_ones_by_reason(
    api: Api, pay: Callable[..., click.testing.Result]
) -> None:
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


def test_the_report_tells_the_lines_of_whatever_became_of_a_row_as_ranges(
    api: Api, pay: Callable[..., click.testing.Result]
) -> None:
    campaign = api.campaign()
    first = [(f"p{n}", "0" if n in (3, 5, 6) else "1") for n in range(9)]
    assert pay(campaign, first, *PERSON, "--batch-size", 2).stdout == (
        "granted     6 (6 units (6000000 micro))\n"
        "            lines 2-4, 6, 9-10\n"
        "duplicates  0\n"
        "skipped     3 (3 amount_is_zero)\n"
        "            amount_is_zero: lines 5, 7-8\n"
        "failed      0\n"
        "remaining   94 units (94000000 micro)\n"
    )
    [one] = [grant["grantId"] for grant in api.get(f"/campaigns/{campaign}/grants", limit=2)["items"][1:]]
    api.post(f"/campaigns/{campaign}/grants/{one}/revoke", {"reason": "not a person"})
    more = [(who, "1") for who, _ in first]
    assert pay(campaign, more, *PERSON, "--dry-run").stdout == (
        "dry run, nothing was paid; it would come to:\n"
        "granted     3 (3 units (3000000 micro))\n"
        "            lines 5, 7-8\n"
        "duplicates  6 (1 of them were revoked and stay so)\n"
        "            granted: lines 2, 4, 6, 9-10\n"
        "            revoked: line 3\n"
        "skipped     0\n"
        "failed      0\n"
        "remaining   92 units (92000000 micro)\n"
    )
    as_json = json.loads(pay(campaign, more, *PERSON, "--batch-size", 4, "--json").stdout)
    granted = {row["line"]: row["amountMicro"] for row in as_json["rows"] if row["status"] == "granted"}
    assert granted == {5: "1000000", 7: "1000000", 8: "1000000"}
    assert [row["line"] for row in as_json["rows"] if row["status"] == "duplicate"] == [2, 4, 6, 9, 10]
    assert [row["line"] for row in as_json["rows"] if row["status"] == "revoked"] == [3]


def test_lines_that_fill_more_than_a_row_of_the_screen_are_wrapped_between_numbers(
    api: Api, pay: Callable[..., click.testing.Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    report = pay(api.campaign(), [(f"p{n}", str(n % 2)) for n in range(60)], *PERSON).stdout
    assert max(map(len, report.splitlines())) <= 60
    told = re.findall(r"^ {12}(?:lines )?([0-9, ]+)$", report.partition("duplicates")[0], re.MULTILINE)
    assert ", ".join(line.rstrip(", ") for line in told) == ", ".join(str(line) for line in range(3, 62, 2))


def test_a_grant_that_was_taken_back_is_a_duplicate_and_said_to_be_revoked(
    api: Api, pay: Callable[..., click.testing.Result]
) -> None:
    campaign = api.campaign()
    pay(campaign, people(1), *PERSON)
    api.post(f"/campaigns/{campaign}/revoke", {"reason": "not a person"})
    assert "duplicates  1 (1 of them were revoked and stay so)" in pay(campaign, people(1), *PERSON).stdout


def test_input_columns_feed_the_formula(api: Api, run: Callable[..., click.testing.Result], tmp_path: Path) -> None:
    campaign = api.campaign(grantFormula="proportional_loss", grantConfig={"ratioBps": 5000})
    path = tmp_path / "losses.csv"
    path.write_text("who,ETH to recover\np1,1.5000001\n")
    inputs = ("--input-column", "lossMicro=ETH to recover", "--input-column", "wallet=who", "--round", "down")
    run("import", campaign, path, "--account-column", "who", *PERSON, *inputs)
    [grant] = api.get(f"/campaigns/{campaign}/grants")["items"]
    assert grant["amountMicro"] == "750000"
    assert grant["formulaInput"] == {"lossMicro": "1500000", "wallet": "p1"}


def test_force_is_passed_on(api: Api, pay: Callable[..., click.testing.Result]) -> None:
    campaign = api.campaign(budget_micro=200 * UNIT, perWalletCapMicro=str(100 * UNIT))
    assert "large_grant_requires_force: line 2" in pay(campaign, people(1, "51"), *PERSON, exit_code=1).stdout
    pay(campaign, people(1, "51"), *PERSON, "--force")


# --- import: nothing is sent unless the whole list is good ---


def test_bad_rows_stop_the_import_before_anything_is_sent(pay: Callable[..., click.testing.Result], line: Line) -> None:
    rows = [("a", "1"), ("b", "one"), ("a", "1"), ("c", "0.0000001")]
    result = pay("camp_1", rows, exit_code=2)
    assert re.findall(r"^line (\d+): ", result.stderr, re.MULTILINE) == ["3", "4", "5"]
    assert "3 of 4 rows" in result.stderr
    assert not line.requests


def test_equal_faults_of_many_rows_are_one_line(pay: Callable[..., click.testing.Result], line: Line) -> None:
    rows = [*people(1000, "x"), ("good", "1"), *[(f"q{n}", "") for n in range(4)], ("r", "0.0000001")]
    result = pay("camp_1", rows, "--json", exit_code=2)
    assert result.stderr.splitlines() == [
        "lines 2-1001: column 'amount': expected a plain decimal number, not (the first: 'x')",
        "lines 1003-1006: column 'amount': expected a number, found nothing",
        "line 1007: column 'amount': more than 6 decimal places (--round down cuts them off): '0.0000001'",
        "Error: nothing was paid: 1005 of 1006 rows can't be paid; correct them, or pay the others with --skip-bad-rows",
    ]
    answer = json.loads(result.stdout)
    assert (answer["totalBad"], answer["totalNotPaid"], answer["stopped"]["why"]) == (1005, 1, "bad_rows")
    assert [row["status"] for row in answer["rows"]] == ["bad"] * 1000 + ["not_paid"] + ["bad"] * 5
    assert not line.requests


def test_different_faults_are_told_up_to_a_limit(pay: Callable[..., click.testing.Result]) -> None:
    rows = [(f"a{'b' * n}{chr(0x200B + n % 4)}", "1") for n in range(25)]
    told = pay("camp_1", rows, *PERSON, exit_code=2).stderr.splitlines()
    assert len(told) == 22
    assert told[-2] == "and 5 more rows with other faults; --report lists them all"


def test_bad_rows_are_left_out_when_told_to_and_the_answer_is_still_no(
    api: Api, pay: Callable[..., click.testing.Result]
) -> None:
    campaign = api.campaign()
    result = pay(campaign, [("a", "1"), ("b", "one"), ("a", "2")], *PERSON, "--skip-bad-rows", exit_code=1)
    assert "left out    2\n            lines 3-4\n" in result.stdout
    assert api.get(f"/campaigns/{campaign}")["spentMicro"] == str(UNIT)


def test_a_list_without_a_row_to_pay_is_wrong_usage(pay: Callable[..., click.testing.Result], line: Line) -> None:
    assert "no rows" in pay("camp_1", [], exit_code=2).stderr
    pay("camp_1", people(1, "x"), "--skip-bad-rows", exit_code=2)
    assert not line.requests


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--account-column", "who"), "--amount-column"),
        (("--account-column", "who", "--amount-column", "sum"), "'sum' is not in the file; its columns are 'who', 'amount'"),
        (("--account-column", "who", "--input-column", "lossMicro"), "KEY=COLUMN"),
        (("--account-column", "who", "--input-column", "a=who", "--input-column", "a=amount"), "twice"),
        (("--account-column", "who", "--amount-column", "amount", "--delimiter", ";;"), "one character"),
        (("--amount-column", "amount"), "--account-column"),
    ],
)
def test_wrong_columns_are_wrong_usage(
    run: Callable[..., click.testing.Result], line: Line, tmp_path: Path, options: tuple[str, ...], named: str
) -> None:
    path = tmp_path / "list.csv"
    path.write_text("who,amount\na,1\n")
    assert named in run("import", "camp_1", path, *options, exit_code=2).stderr
    assert not line.requests


# --- import: dry run ---


def test_a_dry_run_changes_nothing_and_says_what_it_would_come_to(
    api: Api, pay: Callable[..., click.testing.Result]
) -> None:
    campaign = api.campaign(10 * UNIT)
    with api.unchanged():
        report = pay(campaign, people(5, "2"), *PERSON, "--batch-size", 2, "--dry-run").stdout
    assert "nothing was paid" in report
    assert re.search(r"granted +5 \(10 units .*\n(.*\n)*remaining +0 units", report)


def test_a_dry_run_judges_the_whole_list_against_the_budget(
    api: Api, pay: Callable[..., click.testing.Result], line: Line, tmp_path: Path
) -> None:
    campaign = api.campaign(10 * UNIT)
    pay(campaign, [("old", "2")], *PERSON)
    report = tmp_path / "report.csv"
    rows = [*people(3, "3"), ("old", "2"), ("zero", "0"), ("p9", "4.5")]
    with api.unchanged():
        # Batches that each fit alone, and batches that do not.
        for size in (1, 2, 1000):
            result = pay(campaign, rows, *PERSON, "--batch-size", size, "--dry-run", "--report", report, exit_code=2)
            assert "5.5 units (5500000 micro) are missing" in result.stderr
            assert re.search(r"granted +4 \(13\.5 units .*\nduplicates +1\nskipped +1 ", figures(result.stdout))
            assert len(report.read_text().splitlines()) == 7
        partial = pay(campaign, rows, *PERSON, "--dry-run", "--partial", exit_code=1)
        assert "5.5 units (5500000 micro) are missing" in partial.stderr


# --- import: limits are checked before anything is paid ---


def test_a_list_over_the_budget_stops_before_anything_is_paid(
    api: Api, pay: Callable[..., click.testing.Result], line: Line
) -> None:
    campaign = api.campaign(10 * UNIT)
    with api.unchanged():
        result = pay(campaign, people(6, "2"), *PERSON, "--batch-size", 2, exit_code=2)
    assert cli_errors(result.stderr).startswith("Error: nothing was paid: the new grants come to 12 units (12000000 micro)")
    assert "2 units (2000000 micro) are missing" in result.stderr
    stopped = json.loads(pay(campaign, people(6, "2"), *PERSON, "--json", exit_code=2).stdout)
    assert (stopped["missingMicro"], stopped["stopped"]["why"]) == ("2000000", "over_budget")
    assert {row["status"] for row in stopped["rows"]} == {"not_paid"}


def test_a_formula_counts_towards_the_budget_before_anything_is_paid(
    api: Api, run: Callable[..., click.testing.Result], tmp_path: Path
) -> None:
    campaign = api.campaign(3 * UNIT, grantFormula="proportional_loss", grantConfig={"ratioBps": 5000})
    path = tmp_path / "list.csv"
    columns = ("--account-column", "who", "--input-column", "lossMicro=loss", *PERSON)
    path.write_text("who,loss\na,4\nb,4\n")
    with api.unchanged():
        assert "1 units (1000000 micro) are missing" in run("import", campaign, path, *columns, exit_code=2).stderr
    path.write_text("who,loss\na,4\nb,2\n")
    run("import", campaign, path, *columns)
    # What an account was paid is compared with what the formula comes to now.
    path.write_text("who,loss\na,4\nb,1\n")
    assert "line 3: b was paid 1 before; the list says 0.5" in run("import", campaign, path, *columns).stderr


def test_grants_that_were_paid_before_count_towards_no_limit(api: Api, pay: Callable[..., click.testing.Result]) -> None:
    campaign = api.campaign(10 * UNIT)
    rows = people(4, "2")
    pay(campaign, rows, *PERSON)
    pay(campaign, [*rows, ("new", "2")], *PERSON)
    assert api.get(f"/campaigns/{campaign}")["spentMicro"] == str(10 * UNIT)
    again = pay(campaign, [*rows, ("new", "2")], *PERSON).stdout
    assert "duplicates  5\n" in again
    assert "nothing new was paid" in again
    # An amount over the limits is no fault where the account is not paid again.
    pay(campaign, [*people(3, "2"), ("p3", "500")], *PERSON)


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_partial_pays_in_list_order_until_a_row_does_not_fit(
    api: Api, pay: Callable[..., click.testing.Result], size: int
) -> None:
    campaign = api.campaign(10 * UNIT)
    pay(campaign, [("p6", "1")], *PERSON)
    rows = [*people(5, "2"), ("small", "0.5"), ("p6", "1")]
    result = pay(campaign, rows, *PERSON, "--partial", "--batch-size", size, exit_code=1)
    assert "line 6 does not fit: the campaign has 1 units" in result.stderr
    assert re.search(r"until then:\ngranted +4 \(8 units", result.stdout)
    assert "budget_exceeded: lines 6-7" in result.stdout
    assert "duplicates  1" in result.stdout
    # With more budget the rest is paid.
    ok(api.call("PATCH", f"/campaigns/{campaign}", {"budgetMicro": str(12 * UNIT)}))
    assert re.search(r"granted +2 \(2\.5 units", pay(campaign, rows, *PERSON, "--partial").stdout)


def test_rows_over_a_limit_are_all_told_before_anything_is_paid(
    api: Api, pay: Callable[..., click.testing.Result], tmp_path: Path
) -> None:
    campaign = api.campaign()
    rows = [*people(150, "6"), ("q1", "1"), ("q2", "7")]
    with api.unchanged():
        for options in ((), ("--dry-run",)):
            result = pay(campaign, rows, *PERSON, *options, exit_code=1)
            assert "per_wallet_cap_exceeded: lines 2-151, 153\n" in result.stdout
            assert "151 rows are over a limit" in result.stderr


def test_a_row_over_the_ceiling_is_told_and_others_are_cut_to_it(
    start: Callable[..., Api], pay: Callable[..., click.testing.Result], line: Line
) -> None:
    line.api = api = start(MINIBILL_CEILING_MICRO=str(10 * UNIT))
    campaign = api.campaign(10 * UNIT, perWalletCapMicro=str(40 * UNIT))
    ok(api.call("PATCH", f"/campaigns/{campaign}", {"budgetMicro": str(90 * UNIT)}))
    pay(campaign, people(20, "3"), *PERSON)
    assert api.get(f"/campaigns/{campaign}")["grantCount"] == 20
    # The batch of all is too large, and tells the ceiling; what is left is cut to it.
    assert len(line.posts) == 1 + 7
    result = pay(campaign, [("small", "1"), ("large", "11")], *PERSON, "--dry-run", exit_code=1)
    assert "amount_too_large: line 3" in result.stdout


def test_batches_are_cut_to_the_largest_body_that_the_service_takes(
    start: Callable[..., Api], pay: Callable[..., click.testing.Result], line: Line
) -> None:
    line.api = api = start(MINIBILL_MAX_BODY_BYTES="4096")
    campaign = api.campaign()
    pay(campaign, people(200, "0.1"), *PERSON)
    assert api.get(f"/campaigns/{campaign}")["grantCount"] == 200


def test_an_amount_that_changed_is_listed_with_both_amounts(api: Api, pay: Callable[..., click.testing.Result]) -> None:
    campaign = api.campaign()
    pay(campaign, [("a", "1.25"), ("b", "2")], *PERSON)
    again = pay(campaign, [("a", "3.75"), ("b", "2")], *PERSON)
    assert "line 2: a was paid 1.25 before; the list says 3.75\n" in again.stderr
    answer = json.loads(pay(campaign, [("a", "3.75"), ("b", "2")], *PERSON, "--json", "--strict", exit_code=1).stdout)
    assert answer["totalDifferent"] == 1
    assert [(row["amountMicro"], row["reason"]) for row in answer["rows"]] == [
        ("1250000", "paid 1.25 before; the list says 3.75"), ("2000000", None)
    ]  # fmt: skip
    pay(campaign, [("a", "1.25"), ("b", "2")], *PERSON, "--strict")
    assert api.get(f"/campaigns/{campaign}")["spentMicro"] == "3250000"


def test_a_token_that_may_pay_but_not_read_is_enough(api: Api, pay: Callable[..., click.testing.Result], line: Line) -> None:
    campaign = api.campaign(10 * UNIT)
    api.token = api.sign(scopes=("admin:grants:write",))
    pay(campaign, people(3, "2"), *PERSON)
    assert "2 units (2000000 micro) are missing" in pay(campaign, people(6, "2"), *PERSON, exit_code=2).stderr


# --- import: several rows of one account, and the report ---


def test_sum_adds_up_the_rows_of_an_account(api: Api, pay: Callable[..., click.testing.Result], tmp_path: Path) -> None:
    campaign, report = api.campaign(), tmp_path / "report.csv"
    rows = [("a", "1.5"), ("b", "1"), ("a", "0.25"), ("0x" + "aB" * 20, "1"), ("0X" + "Ab" * 20, "1")]
    result = pay(campaign, rows, *PERSON, exit_code=2)
    assert "lines 4, 6: names the account of an earlier row (the first: 'a' of line 2)" in result.stderr
    pay(campaign, rows, *PERSON, "--sum", "--report", report)
    paid = {grant["entityId"]: grant["amountMicro"] for grant in api.get(f"/campaigns/{campaign}/grants")["items"]}
    assert paid == {"a": "1750000", "b": "1000000", "0x" + "ab" * 20: "2000000"}
    told = [line.split(",") for line in report.read_text().splitlines()[1:]]
    assert [(row[3], row[4], row[6]) for row in told] == [
        ("granted", "1.75", ""), ("granted", "1", ""), ("summed", "", "added to line 2"), ("granted", "2", ""),
        ("summed", "", "added to line 5"),
    ]  # fmt: skip
    assert told[0][5] == told[2][5]


def test_sum_adds_up_the_input_of_the_formula_and_keeps_the_first_evidence(
    api: Api, run: Callable[..., click.testing.Result], tmp_path: Path
) -> None:
    campaign = api.campaign(grantFormula="proportional_loss", grantConfig={"ratioBps": 5000})
    path = tmp_path / "list.csv"
    path.write_text("who,loss,note\na,4,one\na,2,two\n")
    inputs = ("--input-column", "lossMicro=loss", "--input-column", "note=note")
    run("import", campaign, path, "--account-column", "who", *PERSON, *inputs, "--sum")
    [grant] = api.get(f"/campaigns/{campaign}/grants")["items"]
    assert (grant["amountMicro"], grant["formulaInput"]) == ("3000000", {"lossMicro": "6000000", "note": "one"})


@pytest.mark.parametrize("rows", [[("a", "1"), ("a", "x"), ("b", "1")], [("a", "x"), ("a", "1"), ("b", "1")]])
def test_sum_pays_no_account_of_which_a_row_is_bad(
    api: Api, pay: Callable[..., click.testing.Result], rows: list[tuple[str, str]]
) -> None:
    campaign = api.campaign()
    pay(campaign, rows, *PERSON, "--sum", "--skip-bad-rows", exit_code=1)
    assert [grant["entityId"] for grant in api.get(f"/campaigns/{campaign}/grants")["items"]] == ["b"]


def test_the_report_has_a_line_for_each_row(api: Api, pay: Callable[..., click.testing.Result], tmp_path: Path) -> None:
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


def test_a_report_that_cannot_be_written_stops_before_anything_is_paid(
    pay: Callable[..., click.testing.Result], line: Line, tmp_path: Path
) -> None:
    for path, said in (
        (tmp_path / "list.csv", "would replace the list"),
        (tmp_path / "no" / "report.csv", "can't be written"),
    ):
        assert said in cli_errors(pay("camp_1", people(2), *PERSON, "--report", path, exit_code=2).stderr)
    assert (tmp_path / "list.csv").read_text().startswith("who,amount\n")
    assert not line.requests


def test_a_report_on_a_full_device_is_told_and_the_payments_stand(
    api: Api, pay: Callable[..., click.testing.Result]
) -> None:
    campaign = api.campaign()
    result = pay(campaign, people(2), *PERSON, "--report", "/dev/full", exit_code=2)
    assert "granted     2" in result.stdout
    assert "the report /dev/full can't be written: No space left on device" in result.stderr


def test_a_list_that_finds_no_room_is_one_line(
    pay: Callable[..., click.testing.Result], line: Line, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "no"))
    assert "is there room in TMPDIR?" in cli_errors(pay("camp_1", people(2), exit_code=2).stderr)
    assert not line.requests


def test_decimals_reads_base_units(api: Api, pay: Callable[..., click.testing.Result]) -> None:
    campaign = api.campaign()
    pay(campaign, [("a", "1500000000000000000")], *PERSON, "--decimals", 18)
    assert "more than 6 decimal places" in pay(campaign, [("b", "1")], *PERSON, "--decimals", 18, exit_code=2).stderr
    assert api.get(f"/campaigns/{campaign}")["spentMicro"] == "1500000"


# --- import: refusals and interruptions ---


def test_a_refusal_while_paying_says_what_was_paid(api: Api, pay: Callable[..., click.testing.Result], line: Line) -> None:
    campaign = api.campaign()
    line.faults = [None, None, paused_meanwhile(api, campaign)]
    result = pay(campaign, people(6), *PERSON, "--batch-size", 3, exit_code=1)
    assert re.search(r"until then:\ngranted +3 ", result.stdout)
    assert "campaign_not_active (409)" in result.stderr
    assert "safe to run this again" in result.stderr
    assert "campaign_not_active" in pay(campaign, people(6), *PERSON, "--dry-run", exit_code=1).stderr


def paused_meanwhile(api: Api, campaign: str) -> Fault:
    """Somebody pauses the campaign between two batches."""

    def fault() -> None:
        ok(api.post(f"/campaigns/{campaign}/pause"))

    return fault


def test_a_refusal_in_json_lets_a_program_find_the_lines(
    api: Api, run: Callable[..., click.testing.Result], tmp_path: Path
) -> None:
    campaign = api.campaign(grantFormula="proportional_loss", grantConfig={})
    path = tmp_path / "list.csv"
    path.write_text("who\np1\np2\n")
    columns = ("--account-column", "who", "--input-column", "wallet=who")
    stopped = json.loads(run("import", campaign, path, *columns, *PERSON, "--json", exit_code=1).stdout)["stopped"]
    assert (stopped["why"], stopped["code"], stopped["linesOfGrants"]) == ("refused", "validation_error", [2, 3])


def test_errors_of_a_request_are_named_by_line(api: Api, run: Callable[..., click.testing.Result], tmp_path: Path) -> None:
    campaign = api.campaign(grantFormula="proportional_loss", grantConfig={})
    path = tmp_path / "list.csv"
    path.write_text("who\n\np1\n")
    columns = ("--account-column", "who", "--input-column", "wallet=who")
    result = run("import", campaign, path, *columns, *PERSON, exit_code=1)
    assert "line 3, formulaInput" in result.stderr
    assert "grants[" not in result.stderr


def cli_errors(stderr: str) -> str:
    """What stderr says, which must be one line."""
    [line] = stderr.splitlines()
    return line


@pytest.mark.parametrize(
    ("claims", "said"),
    [
        (None, r"unauthorized \(401\): .*; tokens do not live long: `minibill token` prints a new one"),
        (
            ("admin:ops:write",),
            "insufficient_scope .* the scope admin:[a-z]+:[a-z]+; `minibill token` prints one .* --scope",
        ),
    ],
)
def test_a_token_that_is_not_accepted_is_wrong_configuration_and_one_line_says_what_to_do(
    run: Callable[..., click.testing.Result],
    pay: Callable[..., click.testing.Result],
    line: Line,
    claims: tuple[str, ...] | None,
    said: str,
) -> None:
    line.api.token = "bad" if claims is None else line.api.sign(scopes=claims)
    for command in ("show", "activate", "stats"):
        assert re.search(said, cli_errors(run(command, "camp_1", exit_code=2).stderr))
    imported = cli_errors(pay("camp_1", people(1), exit_code=2).stderr)
    assert re.search(rf"{said}.*\. Nothing new was paid\. It is safe to run this again", imported)
    assert re.search(said, cli_errors(pay("camp_1", people(1), "--dry-run", exit_code=2).stderr))
    assert {request.method for request in line.requests} == {"GET", "POST"}


def test_a_url_where_there_is_no_minibill_is_wrong_usage_and_a_campaign_that_there_is_not_is_a_no(
    api: Api,
    run: Callable[..., click.testing.Result],
    pay: Callable[..., click.testing.Result],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for answered in (run("show", "camp_none", exit_code=1), pay("camp_none", people(1), exit_code=1)):
        assert "campaign_not_found (404)" in answered.stderr
    nope = f"{URL}/nope"
    monkeypatch.setattr(f"{__name__}.URL", nope)
    for answered in (run("show", "camp_none", exit_code=2), pay("camp_none", people(1), exit_code=2)):
        said = cli_errors(answered.stderr)
        assert f"not_found (404): nothing is at this path; is the URL right? {nope} should be where minibill" in said


def test_a_terminated_import_reports_as_an_interrupted_one_does(
    api: Api, pay: Callable[..., click.testing.Result], line: Line, tmp_path: Path
) -> None:
    campaign, report = api.campaign(), tmp_path / "report.csv"
    before = signal.getsignal(signal.SIGTERM)
    line.faults = [None, None, Afterwards(terminate)]
    result = pay(campaign, people(6), *PERSON, "--batch-size", 2, "--report", report, exit_code=143)
    assert "lines 4 to 5 were on their way and may have been paid" in result.stderr
    assert [row.split(",")[3] for row in report.read_text().splitlines()[1:]] == [
        "granted", "granted", "unknown", "unknown", "not_paid", "not_paid",
    ]  # fmt: skip
    assert signal.getsignal(signal.SIGTERM) == before


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_names_from_the_database_are_escaped(api: Api, run: Callable[..., click.testing.Result]) -> None:
    hidden = "red\x1b[31m \u202ereversed\x9b"
    campaign = api.draft(name=hidden, description=hidden)
    for arguments in (("show", campaign), ("show", campaign, "--json"), ("activate", campaign), ("pause", campaign)):
        assert not set("\x1b\u202e\x9b") & set(run(*arguments).stdout)
    assert json.loads(run("show", campaign, "--json").stdout)["name"] == hidden


def test_an_interrupted_import_says_what_was_paid_and_what_is_in_doubt_and_can_be_run_again(
    api: Api, pay: Callable[..., click.testing.Result], line: Line
) -> None:
    campaign = api.campaign()
    line.faults = [None, None, Afterwards(cut(KeyboardInterrupt()))]
    result = pay(campaign, people(6), *PERSON, "--batch-size", 2, exit_code=130)
    assert re.search(r"until then:\ngranted +2 ", result.stdout)
    assert "lines 4 to 5 were on their way and may have been paid" in result.stderr
    assert "safe to run this again" in result.stderr
    again = pay(campaign, people(6), *PERSON)
    assert re.search(r"granted +2 .*\nduplicates +4\n", figures(again.stdout))


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, html="<h1>It works!</h1>"),
        httpx.Response(404, text="nothing here"),
        httpx.Response(302, headers={"Location": "http://elsewhere.test"}),
        httpx.Response(200, json=[]),
        httpx.Response(200, json={}),
        httpx.Response(200, json={"totalGranted": 1, "totalAmountMicro": "1", "remainingMicro": "1", "grants": []}),
        httpx.Response(200, json={"totalGranted": 1, "totalAmountMicro": "x", "remainingMicro": "1", "grants": [{}]}),
        httpx.Response(500, json={"error": "what"}),
        httpx.Response(200, content=b"[" * 100_000),
    ],
)
def test_something_else_at_the_url_is_told_in_one_line(
    pay: Callable[..., click.testing.Result], line: Line, answer: httpx.Response
) -> None:
    line.faults = [lambda: answer]
    result = pay("camp_1", people(1), exit_code=2)
    assert "does not answer like minibill" in result.stderr
    assert len(line.requests) == 1


# --- waiting and sending again ---


def test_a_batch_whose_answer_is_lost_is_sent_again_under_its_key_and_paid_once(
    api: Api, pay: Callable[..., click.testing.Result], line: Line
) -> None:
    campaign = api.campaign()
    line.faults = [None, ANSWER_IS_LOST]
    result = pay(campaign, people(2), *PERSON)
    assert len(line.posts) == 2
    assert len(set(line.keys)) == 1
    assert line.posts[0].content == line.posts[1].content
    assert re.search(r"granted +2 .*\nduplicates +0\n", figures(result.stdout))
    assert api.get(f"/campaigns/{campaign}")["spentMicro"] == str(2 * UNIT)


def test_the_rate_limit_is_waited_for_as_long_as_the_service_says(
    api: Api, pay: Callable[..., click.testing.Result], line: Line, waits: list[float]
) -> None:
    campaign = api.campaign()
    line.faults = [None, None, problem(429, "rate_limited", Retry_After="37"), None]
    assert re.search(r"granted +3 ", pay(campaign, people(3), *PERSON, "--batch-size", 1).stdout)
    assert waits == [37]
    assert line.keys[1] == line.keys[2] != line.keys[0]


@pytest.mark.parametrize("is_terminal", [True, False])
def test_the_bar_says_that_it_waits_and_is_only_there_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, is_terminal: bool
) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: is_terminal)
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    with campaign_import._progress(3, dry_run=False) as bar:
        bar.advance(1)
        bar.wait(37, "rate limit")
    assert ("waiting 37 s (rate limit)" in screen.getvalue()) is is_terminal
    assert ("1/3" in screen.getvalue()) is is_terminal


def test_a_service_that_restarts_midway_is_waited_for(
    api: Api, pay: Callable[..., click.testing.Result], line: Line, waits: list[float]
) -> None:
    campaign = api.campaign()
    line.faults = [None, None, ANSWER_IS_LOST, NO_ONE_LISTENS, NO_ONE_LISTENS, problem(503, "not_ready"), None]
    result = pay(campaign, people(2), *PERSON, "--batch-size", 1)
    assert re.search(r"granted +2 .*\nduplicates +0\n", figures(result.stdout))
    assert waits == list(BACKOFF_S[:4])


def test_a_service_that_was_never_there_is_abandoned_soon_and_in_one_line(
    pay: Callable[..., click.testing.Result], line: Line, waits: list[float]
) -> None:
    line.faults = [NO_ONE_LISTENS] * 100
    result = pay("camp_1", people(2), exit_code=2)
    assert f"Error: {URL} can't be reached: [Errno 111] Connection refused" in cli_errors(result.stderr)
    assert "may have been paid" not in result.stderr
    assert "Nothing new was paid" in result.stderr
    assert (len(line.requests), sum(waits)) == (UNMET_TRIES_MAX, sum(BACKOFF_S[: UNMET_TRIES_MAX - 1]))


def test_a_service_that_goes_away_for_good_leaves_the_last_batch_in_doubt(
    api: Api, pay: Callable[..., click.testing.Result], line: Line
) -> None:
    campaign = api.campaign()
    line.faults = [None, None, ANSWER_IS_LOST, *[NO_ONE_LISTENS] * 100]
    result = pay(campaign, people(4), *PERSON, "--batch-size", 2, exit_code=2)
    assert re.search(r"granted +2 ", result.stdout)
    assert "(lines 4 to 5 were on their way and may have been paid). It is safe" in cli_errors(result.stderr)
    assert len(line.posts) == 1 + len(BACKOFF_S) + 1


def test_a_refusal_after_a_lost_answer_leaves_the_batch_in_doubt(
    api: Api, pay: Callable[..., click.testing.Result], line: Line
) -> None:
    campaign = api.campaign()
    for lost in (ANSWER_IS_LOST, Afterwards(lambda: httpx.Response(504))):
        line.faults = [None, lost, problem(401, "unauthorized")]
        result = pay(campaign, people(2), *PERSON, exit_code=2)
        assert "lines 2 to 3 were on their way and may have been paid" in result.stderr
        assert "Nothing new was paid" not in result.stderr


# --- over a real socket ---


def test_a_list_longer_than_a_batch_is_paid_by_a_service_that_runs_on_its_own(tmp_path: Path) -> None:
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
                answer = subprocess.run(
                    [*minibill, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=60
                )
                assert answer.returncode == 0, answer.stderr
                return answer.stdout.strip()

            environment["MINIBILL_TOKEN"] = ask("token", "--db", db)
            campaign = ask("campaign", "create", "Summer", "--type", "loyalty", "--budget", 100 * UNIT, "--quiet")
            ask("campaign", "activate", campaign)
            columns = ("--account-column", "who", "--entity-type", "person", "--amount-column", "amount")
            assert "granted     1203 (12.03 units" in ask("campaign", "import", campaign, path, *columns)
            assert "nothing new was paid" in ask("campaign", "import", campaign, path, *columns)
            assert json.loads(ask("campaign", "show", campaign, "--json"))["spentMicro"] == "12030000"
        finally:
            server.terminate()
