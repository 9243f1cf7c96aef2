"""`minibill campaign`: the commands against the real application, over a line that can be made to fail."""

import functools
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import click.testing
import httpx
import pytest

from minibill.client import Client
from minibill.client._sync import http
from minibill.client.requests import BACKOFF_S, UNMET_TRIES_MAX
from minibill.commands import campaign as commands
from minibill.commands import campaign_import
from tests.api import UNIT, Api

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
    def keys(self) -> list[str]:
        return [request.headers["Idempotency-Key"] for request in self.requests]


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
    for module in (commands, campaign_import):
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
    assert len(line.requests) == len(set(line.keys)) == 3
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
    assert [(row["line"], row["code"]) for row in as_json["failed"]] == [(2, "account_not_found"), (5, "account_not_found")]
    assert [row["line"] for row in as_json["skipped"]] == [4]
    assert as_json["duplicates"] == [{"line": 3, "status": "granted"}]
    assert as_json["totalAmountMicro"] == "0"


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
    assert as_json["granted"] == [{"firstLine": 5, "lastLine": 5}, {"firstLine": 7, "lastLine": 8}]
    assert [row["line"] for row in as_json["duplicates"]] == [2, 3, 4, 6, 9, 10]


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
    assert "large_grant_requires_force" in pay(campaign, people(1, "51"), *PERSON, exit_code=1).stderr
    pay(campaign, people(1, "51"), *PERSON, "--force")


# --- import: nothing is sent unless the whole list is good ---


def test_bad_rows_stop_the_import_before_anything_is_sent(pay: Callable[..., click.testing.Result], line: Line) -> None:
    rows = [("a", "1"), ("b", "one"), ("a", "1"), ("c", "0.0000001")]
    result = pay("camp_1", rows, exit_code=2)
    assert re.findall(r"^line (\d+): ", result.stderr, re.MULTILINE) == ["3", "4", "5"]
    assert "3 of 4 rows" in result.stderr
    assert not line.requests


def test_of_many_bad_rows_twenty_are_told_with_the_reason_and_all_by_line(
    pay: Callable[..., click.testing.Result], line: Line
) -> None:
    rows = [*people(21, "x"), ("good", "1"), *[(f"q{n}", "x") for n in range(4)]]
    result = pay("camp_1", rows, "--json", exit_code=2)
    assert [int(n) for n in re.findall(r"^line (\d+): ", result.stderr, re.MULTILINE)] == list(range(2, 22))
    assert "\nand 5 more: lines 22, 24-27\n" in result.stderr
    assert len(json.loads(result.stdout)["badRows"]) == 25
    assert not line.requests


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


def test_a_dry_run_adds_up_batches_that_each_fit_the_budget_alone(
    api: Api, pay: Callable[..., click.testing.Result]
) -> None:
    campaign = api.campaign(10 * UNIT)
    with api.unchanged():
        result = pay(campaign, people(6, "2"), *PERSON, "--batch-size", 2, "--dry-run", exit_code=1)
    assert "exceed the budget by 2 units (2000000 micro)" in result.stderr


# --- import: refusals and interruptions ---


def test_a_refused_batch_stops_the_import_and_says_what_was_paid_and_which_lines_are_to_blame(
    api: Api, pay: Callable[..., click.testing.Result], line: Line
) -> None:
    campaign = api.campaign()
    rows = [*people(3), ("q1", "1"), ("q2", "6"), ("q3", "1"), ("r1", "1")]
    result = pay(campaign, rows, *PERSON, "--batch-size", 3, exit_code=1)
    assert re.search(r"until then:\ngranted +3 ", result.stdout)
    assert "per_wallet_cap_exceeded (422)" in result.stderr
    assert "line 6, amountMicro: 6 units (6000000 micro)" in result.stderr
    assert "safe to run this again" in result.stderr
    assert len(line.requests) == 2


def test_a_refusal_for_the_budget_gives_its_figures(api: Api, pay: Callable[..., click.testing.Result]) -> None:
    result = pay(api.campaign(UNIT), people(2), *PERSON, exit_code=1)
    assert "budget_exceeded" in result.stderr
    assert "remainingMicro: 1 units (1000000 micro)" in result.stderr
    assert "Nothing new was paid" in result.stderr


def test_a_refusal_in_json_lets_a_program_find_the_lines(api: Api, pay: Callable[..., click.testing.Result]) -> None:
    campaign = api.campaign(grantFormula="proportional_loss", grantConfig={})
    rows = [*people(1), ("q", "6")]
    stopped = json.loads(pay(campaign, rows, *PERSON, "--json", exit_code=1).stdout)["stopped"]
    assert (stopped["why"], stopped["code"], stopped["linesOfGrants"]) == ("refused", "per_wallet_cap_exceeded", [2, 3])


def test_errors_of_a_request_are_named_by_line(api: Api, run: Callable[..., click.testing.Result], tmp_path: Path) -> None:
    campaign = api.campaign(grantFormula="proportional_loss", grantConfig={})
    path = tmp_path / "list.csv"
    path.write_text("who\n\np1\n")
    columns = ("--account-column", "who", "--input-column", "wallet=who")
    result = run("import", campaign, path, *columns, *PERSON, exit_code=1)
    assert "line 3, formulaInput" in result.stderr
    assert "grants[" not in result.stderr


def one_line(stderr: str) -> str:
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
        assert re.search(said, one_line(run(command, "camp_1", exit_code=2).stderr))
    imported = one_line(pay("camp_1", people(1), exit_code=2).stderr)
    assert re.search(rf"{said}.*\. Nothing new was paid\. It is safe to run this again", imported)
    assert re.search(said, one_line(pay("camp_1", people(1), "--dry-run", exit_code=2).stderr))
    assert len(line.requests) == 5


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
        said = one_line(answered.stderr)
        assert f"not_found (404): nothing is at this path; is the URL right? {nope} should be where minibill" in said


def test_an_interrupted_import_says_what_was_paid_and_what_is_in_doubt_and_can_be_run_again(
    api: Api, pay: Callable[..., click.testing.Result], line: Line
) -> None:
    campaign = api.campaign()
    line.faults = [None, Afterwards(cut(KeyboardInterrupt()))]
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
    line.faults = [ANSWER_IS_LOST]
    result = pay(campaign, people(2), *PERSON)
    assert len(line.requests) == 2
    assert len(set(line.keys)) == 1
    assert line.requests[0].content == line.requests[1].content
    assert re.search(r"granted +2 .*\nduplicates +0\n", figures(result.stdout))
    assert api.get(f"/campaigns/{campaign}")["spentMicro"] == str(2 * UNIT)


def test_the_rate_limit_is_waited_for_as_long_as_the_service_says(
    api: Api, pay: Callable[..., click.testing.Result], line: Line, waits: list[float]
) -> None:
    campaign = api.campaign()
    line.faults = [None, problem(429, "rate_limited", Retry_After="37"), None]
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
    line.faults = [None, ANSWER_IS_LOST, NO_ONE_LISTENS, NO_ONE_LISTENS, problem(503, "not_ready"), None]
    result = pay(campaign, people(2), *PERSON, "--batch-size", 1)
    assert re.search(r"granted +2 .*\nduplicates +0\n", figures(result.stdout))
    assert waits == list(BACKOFF_S[:4])


def test_a_service_that_was_never_there_is_given_up_soon_and_in_one_line(
    pay: Callable[..., click.testing.Result], line: Line, waits: list[float]
) -> None:
    line.faults = [NO_ONE_LISTENS] * 100
    result = pay("camp_1", people(2), exit_code=2)
    assert f"Error: {URL} can't be reached: [Errno 111] Connection refused" in one_line(result.stderr)
    assert "may have been paid" not in result.stderr
    assert "Nothing new was paid" in result.stderr
    assert (len(line.requests), sum(waits)) == (UNMET_TRIES_MAX, sum(BACKOFF_S[: UNMET_TRIES_MAX - 1]))


def test_a_service_that_goes_away_for_good_leaves_the_last_batch_in_doubt(
    api: Api, pay: Callable[..., click.testing.Result], line: Line
) -> None:
    campaign = api.campaign()
    line.faults = [None, ANSWER_IS_LOST, *[NO_ONE_LISTENS] * 100]
    result = pay(campaign, people(4), *PERSON, "--batch-size", 2, exit_code=2)
    assert re.search(r"granted +2 ", result.stdout)
    assert "(lines 4 to 5 were on their way and may have been paid). It is safe" in one_line(result.stderr)
    assert len(line.requests) == 1 + len(BACKOFF_S) + 1


def test_a_refusal_after_a_lost_answer_leaves_the_batch_in_doubt(
    api: Api, pay: Callable[..., click.testing.Result], line: Line
) -> None:
    campaign = api.campaign()
    for lost in (ANSWER_IS_LOST, Afterwards(lambda: httpx.Response(504))):
        line.faults = [lost, problem(401, "unauthorized")]
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
