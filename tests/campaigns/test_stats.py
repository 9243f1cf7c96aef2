"""Statistics of a campaign, as of now. See docs/concepts/campaigns.md."""

import pytest

from minibill.core.clock import US_PER_SECOND, format_time, parse_time
from tests.api_client import Api, Json, ok, problem_of
from tests.fake_clocks import set_time

DAY_SECONDS = 86_400
PARTS = ("granted", "consumed", "reserved", "available", "expired", "revoked")


def stats(api: Api, campaign: str) -> Json:
    found = api.get(f"/campaigns/{campaign}/stats")
    parts = {part: int(found[f"{part}Micro"]) for part in PARTS}
    # The parts add up to the granted amount; the spent amount is the part that is not revoked.
    assert parts["granted"] == sum(parts[part] for part in PARTS[1:])
    assert int(found["spentMicro"]) == parts["granted"] - parts["revoked"]
    assert sum(day["grants"] for day in found["perDay"]) == found["accounts"] == sum(found["grantsByStatus"].values())
    assert sum(int(day["grantedMicro"]) for day in found["perDay"]) == parts["granted"]
    assert sum(int(day["consumedMicro"]) for day in found["perDay"]) == parts["consumed"]
    return found


def parts_of(found: Json) -> dict[str, int]:
    return {part: int(found[f"{part}Micro"]) for part in PARTS if found[f"{part}Micro"] != "0"}


def test_a_campaign_without_grants_has_empty_statistics(api: Api) -> None:
    campaign = api.draft(1_000)
    assert stats(api, campaign) == {
        "campaignId": campaign, "budgetMicro": "1000", "spentMicro": "0", **{f"{part}Micro": "0" for part in PARTS},
        "grantsByStatus": {"granted": 0, "revoked": 0}, "accounts": 0, "accountsThatSpent": 0, "perDay": [],
    }  # fmt: skip


def test_statistics_count_only_credits_of_the_campaign(api: Api) -> None:
    campaign, other, account = api.campaign(1_000), api.campaign(1_000), api.account(500)
    ok(api.batch(other, (account, 30)))
    ok(api.batch(campaign, (account, 100)))
    # Drawn in the order of creation: the minted lot, then the grant of the other campaign.
    ok(api.finalize(api.reserve(account, 550), 540))
    assert parts_of(stats(api, other)) == {"granted": 30, "consumed": 30}
    assert parts_of(stats(api, campaign)) == {"granted": 100, "consumed": 10, "available": 90}
    assert stats(api, campaign)["accountsThatSpent"] == 1


def test_statistics_count_overdue_items_before_and_after_the_sweep(api: Api) -> None:
    campaign = api.campaign(10_000, grantTtlSeconds=100)
    plain, overdue, late, revoked = (api.account() for _ in range(4))
    paid = ok(api.batch(campaign, *[(account, 100) for account in (plain, overdue, late, revoked)]))["grants"]
    api.reserve(overdue, 60, ttlSeconds=50)
    api.reserve(late, 70, ttlSeconds=150)
    api.reserve(revoked, 80, ttlSeconds=150)
    ok(api.post(f"/campaigns/{campaign}/grants/{paid[3]['grantId']}/revoke", {"reason": "x"}))
    expected = [
        (0, {"granted": 400, "reserved": 210, "available": 170, "revoked": 20}),
        (50, {"granted": 400, "reserved": 150, "available": 230, "revoked": 20}),
        (50, {"granted": 400, "reserved": 150, "expired": 230, "revoked": 20}),
        (50, {"granted": 400, "expired": 300, "revoked": 100}),
    ]
    for seconds, parts in expected:
        with api.unchanged():
            api.pass_time(seconds)
            assert parts_of(stats(api, campaign)) == parts
            assert api.get(f"/campaigns/{campaign}")["spentMicro"] == stats(api, campaign)["spentMicro"]
    before = stats(api, campaign)
    api.advance(0)
    assert stats(api, campaign) == before
    assert api.get(f"/campaigns/{campaign}")["spentMicro"] == before["spentMicro"] == "300"


def test_a_day_has_its_grants_and_its_consumption_in_utc(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    midnight_us = parse_time("2040-03-01T00:00:00Z")
    set_time(monkeypatch, lambda: midnight_us - 1)
    campaign, first, second = api.campaign(1_000), api.account(), api.account()
    ok(api.batch(campaign, (first, 100)))
    ok(api.finalize(api.reserve(first, 10), 10))
    set_time(monkeypatch, lambda: midnight_us)
    ok(api.batch(campaign, (second, 50)))
    ok(api.finalize(api.reserve(first, 20), 15))
    later_us = midnight_us + 3 * DAY_SECONDS * US_PER_SECOND
    set_time(monkeypatch, lambda: later_us)
    ok(api.finalize(api.reserve(second, 5), 5))
    assert format_time(later_us).startswith("2040-03-04")
    found = stats(api, campaign)
    assert [tuple(day.values()) for day in found["perDay"]] == [
        ("2040-02-29", 1, "100", "10"), ("2040-03-01", 1, "50", "15"), ("2040-03-04", 0, "0", "5"),
    ]  # fmt: skip
    assert found["accountsThatSpent"] == 2


def test_a_grant_that_pays_a_debt_is_consumed_at_once(api: Api) -> None:
    campaign, account = api.campaign(1_000), api.account()
    ok(api.finalize(api.reserve(account, 1, billingMode="soft"), 30))
    ok(api.batch(campaign, (account, 100)))
    found = stats(api, campaign)
    assert parts_of(found) == {"granted": 100, "consumed": 30, "available": 70}
    assert (found["accountsThatSpent"], found["perDay"][0]["consumedMicro"]) == (1, "30")


def test_statistics_of_an_unknown_campaign_are_not_found(api: Api) -> None:
    problem_of(api.call("GET", "/campaigns/camp_none/stats"), 404, "campaign_not_found")
