"""`minibill campaign`: create, change, show and revoke, with the real application."""

import json
import re

import pytest

from tests.api_client import UNIT, Api
from tests.cli.faulty_transport import (
    FaultyTransport,
    Run,
)

# --- create, change, show ---


def test_create_quiet_prints_the_id_and_nothing_else(api: Api, run: Run) -> None:
    result = run("create", "Summer", "--type", "loyalty", "--budget", 5, "--quiet")
    shown = api.get(f"/campaigns/{result.stdout.strip()}")
    assert (shown["name"], shown["campaignType"], shown["budgetMicro"]) == ("Summer", "loyalty", "5")
    assert result.stderr == ""


def test_create_sends_every_option(api: Api, run: Run) -> None:
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


def test_create_dry_run_makes_no_campaign_and_prints_no_id(api: Api, run: Run) -> None:
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
def test_an_invalid_option_is_a_usage_error_and_sends_nothing(
    run: Run, transport: FaultyTransport, option: str, value: str
) -> None:
    options = {"--type": "loyalty", "--budget": "5"} | {option: value}
    result = run("create", "Summer", *[part for pair in options.items() for part in pair], exit_code=2)
    assert option in result.stderr
    assert not transport.requests


def test_a_campaign_is_activated_paused_and_completed(api: Api, run: Run) -> None:
    campaign = api.draft()
    for verb, status in (("activate", "active"), ("pause", "paused"), ("complete", "completed")):
        assert status in run(verb, campaign).stdout
        assert api.get(f"/campaigns/{campaign}")["status"] == status
    assert "invalid_transition (409)" in run("activate", campaign, exit_code=1).stderr


def test_show_prints_the_spent_amount_in_units(api: Api, run: Run) -> None:
    campaign = api.campaign(4 * UNIT, name="Shown [by] name")
    api.batch(campaign, (api.account(), UNIT + UNIT // 2))
    shown = run("show", campaign).stdout
    assert shown.startswith("Shown [by] name\n")
    assert re.search(r"spent +1\.5 units, 37 %", shown)
    assert re.search(r"grants +1\n", shown)
    assert json.loads(run("show", campaign, "--json").stdout) == api.get(f"/campaigns/{campaign}")


def test_revoke_revokes_one_grant_or_all(api: Api, run: Run) -> None:
    campaign, accounts = api.campaign(), [api.account() for _ in range(3)]
    paid = api.batch(campaign, *[(account, UNIT) for account in accounts]).json()["grants"]
    api.finalize(api.reserve(accounts[0], 10), 10)
    reason = ("--reason", "not a person")
    one = run("revoke", campaign, "--grant", paid[0]["grantId"], *reason).stdout
    assert one.startswith(f"{paid[0]['grantId']} revoked\n")
    assert re.search(r"revoked +0\.99999 units\nconsumed +0\.00001 units", one)
    assert api.available(accounts[0]) == 0 and api.available(accounts[1]) == UNIT
    with api.unchanged():
        dry = run("revoke", campaign, *reason, "--dry-run").stdout
    assert f"dry run: 3 grants of {campaign} would be revoked" in dry
    output = json.loads(run("revoke", campaign, *reason, "--json").stdout)
    assert (output["totalRevoked"], output["revokedMicro"]) == (3, str(3 * UNIT - 10))
    assert {grant["revokeReason"] for grant in api.get(f"/campaigns/{campaign}/grants")["items"]} == {"not a person"}
    assert "grant_not_found (404)" in run("revoke", campaign, "--grant", "grant_none", *reason, exit_code=1).stderr


def test_revoke_requires_a_reason_and_a_valid_grant_id(run: Run, transport: FaultyTransport) -> None:
    run("revoke", "camp_0000000000001", exit_code=2)
    run("revoke", "camp_0000000000001", "--grant", "../../..", "--reason", "x", exit_code=2)
    assert not transport.requests


def test_stats_show_what_became_of_the_credits(api: Api, run: Run) -> None:
    campaign, account = api.campaign(), api.account()
    api.batch(campaign, (account, UNIT), (api.account(), UNIT))
    api.finalize(api.reserve(account, UNIT // 2), UNIT // 4)
    shown = run("stats", campaign).stdout
    assert re.search(r"grants +2, 0 of them revoked\naccounts +2, 1 of them have spent\n", shown)
    assert re.search(r"consumed +0\.25 units\n", shown)
    assert re.search(r"\d{4}-\d\d-\d\d +2 grants, granted 2 units", shown)
    assert json.loads(run("stats", campaign, "--json").stdout) == api.get(f"/campaigns/{campaign}/stats")


@pytest.mark.parametrize("campaign", ["../accounts", "..", "camp_1/activate", "camp_1?dryRun=true", ""])
def test_an_invalid_campaign_id_never_becomes_part_of_a_path(run: Run, transport: FaultyTransport, campaign: str) -> None:
    run("show", campaign, exit_code=2)
    assert not transport.requests
