"""`minibill campaign import` when requests fail: errors, interruptions, lost responses and waits."""

import io
import json
import os
import re
import signal
import sys
from pathlib import Path

import httpx
import pytest

from minibill.cli.import_progress import import_progress
from minibill.client.retries import BACKOFF_S, FIRST_CONTACT_ATTEMPTS_MAX
from tests.api_client import UNIT, Api, ok
from tests.cli.faulty_transport import (
    CONNECTION_REFUSED,
    PERSON,
    RESPONSE_IS_LOST,
    URL,
    Afterwards,
    Fault,
    FaultyTransport,
    Run,
    cut,
    figures,
    one_line,
    people,
    problem,
)

# --- import: refusals and interruptions ---


def test_an_error_while_paying_reports_what_was_paid(api: Api, pay: Run, transport: FaultyTransport) -> None:
    campaign = api.campaign()
    transport.faults = [None, None, paused_meanwhile(api, campaign)]
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


def test_an_error_in_json_names_the_lines_of_its_batch(api: Api, run: Run, tmp_path: Path) -> None:
    campaign = api.campaign(grantFormula="proportional_loss", grantConfig={})
    path = tmp_path / "list.csv"
    path.write_text("who\np1\np2\n")
    columns = ("--account-column", "who", "--input-column", "wallet=who")
    stopped = json.loads(run("import", campaign, path, *columns, *PERSON, "--json", exit_code=1).stdout)["stopped"]
    assert (stopped["why"], stopped["code"], stopped["linesOfGrants"]) == ("refused", "validation_error", [2, 3])


def test_errors_of_a_request_name_lines_of_the_list(api: Api, run: Run, tmp_path: Path) -> None:
    campaign = api.campaign(grantFormula="proportional_loss", grantConfig={})
    path = tmp_path / "list.csv"
    path.write_text("who\n\np1\n")
    columns = ("--account-column", "who", "--input-column", "wallet=who")
    result = run("import", campaign, path, *columns, *PERSON, exit_code=1)
    assert "line 3, formulaInput" in result.stderr
    assert "grants[" not in result.stderr


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        (None, r"unauthorized \(401\): .*; the token may have expired; run `minibill token` for a new one"),
        (
            ("admin:ops:write",),
            "insufficient_scope .* the scope admin:[a-z]+:[a-z]+; run `minibill token` for .* --scope",
        ),
    ],
)
def test_a_rejected_token_is_one_line_that_states_what_to_do(
    run: Run,
    pay: Run,
    transport: FaultyTransport,
    claims: tuple[str, ...] | None,
    expected: str,
) -> None:
    transport.api.token = "bad" if claims is None else transport.api.sign(scopes=claims)
    for command in ("show", "activate", "stats"):
        assert re.search(expected, one_line(run(command, "camp_1", exit_code=2).stderr))
    imported = one_line(pay("camp_1", people(1), exit_code=2).stderr)
    assert re.search(rf"{expected}.*\. Nothing new was paid\. It is safe to run this again", imported)
    assert re.search(expected, one_line(pay("camp_1", people(1), "--dry-run", exit_code=2).stderr))
    assert {request.method for request in transport.requests} == {"GET", "POST"}


def test_a_wrong_url_exits_2_and_a_missing_campaign_exits_1(
    api: Api,
    run: Run,
    pay: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for result in (run("show", "camp_none", exit_code=1), pay("camp_none", people(1), exit_code=1)):
        assert "campaign_not_found (404)" in result.stderr
    nope = f"{URL}/nope"
    monkeypatch.setattr("tests.cli.conftest.URL", nope)
    for result in (run("show", "camp_none", exit_code=2), pay("camp_none", people(1), exit_code=2)):
        text = one_line(result.stderr)
        assert f"not_found (404): nothing is at this path; check the URL: {nope} should be the address of minibill" in text


def test_a_terminated_import_ends_with_a_report(api: Api, pay: Run, transport: FaultyTransport, tmp_path: Path) -> None:
    campaign, report = api.campaign(), tmp_path / "report.csv"
    before = signal.getsignal(signal.SIGTERM)
    transport.faults = [None, None, Afterwards(terminate)]
    result = pay(campaign, people(6), *PERSON, "--batch-size", 2, "--report", report, exit_code=143)
    assert "lines 4 to 5 were in flight and may have been paid" in result.stderr
    assert [row.split(",")[3] for row in report.read_text().splitlines()[1:]] == [
        "granted", "granted", "unknown", "unknown", "not_paid", "not_paid",
    ]  # fmt: skip
    assert signal.getsignal(signal.SIGTERM) == before


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_names_from_the_database_are_escaped(api: Api, run: Run) -> None:
    hidden = "red\x1b[31m \u202ereversed\x9b"
    campaign = api.draft(name=hidden, description=hidden)
    for arguments in (("show", campaign), ("show", campaign, "--json"), ("activate", campaign), ("pause", campaign)):
        assert not set("\x1b\u202e\x9b") & set(run(*arguments).stdout)
    assert json.loads(run("show", campaign, "--json").stdout)["name"] == hidden


def test_an_interrupted_import_ends_with_a_report_and_can_run_again(api: Api, pay: Run, transport: FaultyTransport) -> None:
    campaign = api.campaign()
    transport.faults = [None, None, Afterwards(cut(KeyboardInterrupt()))]
    result = pay(campaign, people(6), *PERSON, "--batch-size", 2, exit_code=130)
    assert re.search(r"until then:\ngranted +2 ", result.stdout)
    assert "lines 4 to 5 were in flight and may have been paid" in result.stderr
    assert "safe to run this again" in result.stderr
    again = pay(campaign, people(6), *PERSON)
    assert re.search(r"granted +2 .*\nduplicates +4\n", figures(again.stdout))


@pytest.mark.parametrize(
    "response",
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
def test_another_program_at_the_url_is_one_error_line(
    pay: Run, transport: FaultyTransport, response: httpx.Response
) -> None:
    transport.faults = [lambda: response]
    result = pay("camp_1", people(1), exit_code=2)
    assert "does not respond like minibill" in result.stderr
    assert len(transport.requests) == 1


# --- waiting and sending again ---


def test_a_batch_with_a_lost_response_is_retried_with_its_key(api: Api, pay: Run, transport: FaultyTransport) -> None:
    campaign = api.campaign()
    transport.faults = [None, RESPONSE_IS_LOST]
    result = pay(campaign, people(2), *PERSON)
    assert len(transport.posts) == 2
    assert len(set(transport.keys)) == 1
    assert transport.posts[0].content == transport.posts[1].content
    assert re.search(r"granted +2 .*\nduplicates +0\n", figures(result.stdout))
    assert api.get(f"/campaigns/{campaign}")["spentMicro"] == str(2 * UNIT)


def test_the_client_waits_for_the_rate_limit_as_told_by_retry_after(
    api: Api, pay: Run, transport: FaultyTransport, waits: list[float]
) -> None:
    campaign = api.campaign()
    transport.faults = [None, None, problem(429, "rate_limited", Retry_After="37"), None]
    assert re.search(r"granted +3 ", pay(campaign, people(3), *PERSON, "--batch-size", 1).stdout)
    assert waits == [37]
    assert transport.keys[1] == transport.keys[2] != transport.keys[0]


@pytest.mark.parametrize("is_terminal", [True, False])
def test_the_progress_bar_shows_waits_and_needs_a_terminal(monkeypatch: pytest.MonkeyPatch, is_terminal: bool) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: is_terminal)
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    with import_progress(3, dry_run=False) as bar:
        bar.advance(1)
        bar.wait(37, "rate limit")
    assert ("waiting 37 s (rate limit)" in screen.getvalue()) is is_terminal
    assert ("1/3" in screen.getvalue()) is is_terminal


def test_an_import_waits_for_a_service_that_restarts(
    api: Api, pay: Run, transport: FaultyTransport, waits: list[float]
) -> None:
    campaign = api.campaign()
    transport.faults = [
        None,
        None,
        RESPONSE_IS_LOST,
        CONNECTION_REFUSED,
        CONNECTION_REFUSED,
        problem(503, "not_ready"),
        None,
    ]
    result = pay(campaign, people(2), *PERSON, "--batch-size", 1)
    assert re.search(r"granted +2 .*\nduplicates +0\n", figures(result.stdout))
    assert waits == list(BACKOFF_S[:4])


def test_an_unreachable_service_is_given_up_after_a_few_attempts(
    pay: Run, transport: FaultyTransport, waits: list[float]
) -> None:
    transport.faults = [CONNECTION_REFUSED] * 100
    result = pay("camp_1", people(2), exit_code=2)
    assert f"Error: can't reach {URL}: [Errno 111] Connection refused" in one_line(result.stderr)
    assert "may have been paid" not in result.stderr
    assert "Nothing new was paid" in result.stderr
    assert (len(transport.requests), sum(waits)) == (
        FIRST_CONTACT_ATTEMPTS_MAX,
        sum(BACKOFF_S[: FIRST_CONTACT_ATTEMPTS_MAX - 1]),
    )


def test_a_service_that_goes_away_leaves_the_last_batch_in_doubt(api: Api, pay: Run, transport: FaultyTransport) -> None:
    campaign = api.campaign()
    transport.faults = [None, None, RESPONSE_IS_LOST, *[CONNECTION_REFUSED] * 100]
    result = pay(campaign, people(4), *PERSON, "--batch-size", 2, exit_code=2)
    assert re.search(r"granted +2 ", result.stdout)
    assert "(lines 4 to 5 were in flight and may have been paid). It is safe" in one_line(result.stderr)
    assert len(transport.posts) == 1 + len(BACKOFF_S) + 1


def test_an_error_after_a_lost_response_leaves_the_batch_in_doubt(api: Api, pay: Run, transport: FaultyTransport) -> None:
    campaign = api.campaign()
    for lost in (RESPONSE_IS_LOST, Afterwards(lambda: httpx.Response(504))):
        transport.faults = [None, lost, problem(401, "unauthorized")]
        result = pay(campaign, people(2), *PERSON, exit_code=2)
        assert "lines 2 to 3 were in flight and may have been paid" in result.stderr
        assert "Nothing new was paid" not in result.stderr
