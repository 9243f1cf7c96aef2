"""Campaigns: creation, transitions, and the fields that can be edited. See docs/concepts/campaigns.md."""

from collections.abc import Callable

import pytest

from minibill.core.clock import format_time, parse_time
from tests.api_client import UNIT, Api, Json, ok, problem_of
from tests.fake_clocks import set_time

MAX = 2**63 - 1


def _moved(*verbs: str) -> Callable[[Api], str]:
    def make(api: Api) -> str:
        campaign = api.draft(expiresAt=api.after(3_600))
        for verb in verbs:
            ok(api.post(f"/campaigns/{campaign}/{verb}"))
        return campaign

    return make


def _over(*verbs: str, swept: bool) -> Callable[[Api], str]:
    def make(api: Api) -> str:
        campaign = _moved(*verbs)(api)
        api.pass_time(3_600)
        if swept:
            api.advance(0)
        return campaign

    return make


# Functions that create a campaign in a status, by a name that begins with the status.
STATES: dict[str, Callable[[Api], str]] = {
    "draft": _moved(),
    "active": _moved("activate"),
    "active again": _moved("activate", "pause", "activate"),
    "paused": _moved("activate", "pause"),
    "completed": _moved("activate", "complete"),
    "completed, its end past": _over("activate", "complete", swept=True),
    "completed from paused": _moved("activate", "pause", "complete"),
    "expired from draft": _over(swept=True),
    "expired from active": _over("activate", swept=True),
    "expired from paused": _over("activate", "pause", swept=True),
    "expired from draft, unswept": _over(swept=False),
    "expired from active, unswept": _over("activate", swept=False),
    "expired from paused, unswept": _over("activate", "pause", swept=False),
}
VERBS = {"activate": "active", "pause": "paused", "complete": "completed"}
TRANSITIONS = {
    ("draft", "active"),
    ("active", "paused"),
    ("active", "completed"),
    ("paused", "active"),
    ("paused", "completed"),
}


def state_of(name: str) -> str:
    return name.replace(",", " ").split()[0]


# --- creating ---


def test_a_campaign_begins_as_a_draft_with_the_defaults(api: Api) -> None:
    made = ok(api.post("/campaigns", {"name": "Airdrop", "campaignType": "loyalty", "budgetMicro": "100"}), 201)
    assert list(made) == [
        "id", "name", "description", "campaignType", "status", "budgetMicro", "spentMicro", "remainingMicro",
        "grantFormula", "grantConfig", "poolId", "perWalletCapMicro", "startsAt", "expiresAt", "grantTtlSeconds",
        "grantCount", "createdBy", "createdAt", "updatedAt",
    ]  # fmt: skip
    assert made["id"].startswith("camp_")
    assert made == {
        "id": made["id"], "name": "Airdrop", "description": None, "campaignType": "loyalty", "status": "draft",
        "budgetMicro": "100", "spentMicro": "0", "remainingMicro": "100", "grantFormula": "fixed_amount",
        "grantConfig": None, "poolId": "general", "perWalletCapMicro": "5000000", "startsAt": None, "expiresAt": None,
        "grantTtlSeconds": None, "grantCount": 0, "createdBy": "operator", "createdAt": made["createdAt"],
        "updatedAt": made["createdAt"],
    }  # fmt: skip
    assert api.get(f"/campaigns/{made['id']}") == made
    assert api.get("/campaigns")["items"] == [made]


def test_a_campaign_returns_every_member_of_its_request(api: Api) -> None:
    given = {
        "name": "Airdrop", "description": "For what was lost", "campaignType": "referral", "budgetMicro": str(MAX),
        "grantFormula": "proportional_loss", "grantConfig": {"ratioBps": 5_000, "capMicro": "7"}, "poolId": "gpu:a.b_c-d",
        "perWalletCapMicro": "0", "startsAt": "2040-01-01T00:00:00.000000Z", "expiresAt": "2041-01-01T00:00:00.000000Z",
        "grantTtlSeconds": 1,
    }  # fmt: skip
    made = ok(api.post("/campaigns", given, token=api.sign(sub="ada")), 201)
    assert given.items() <= made.items()
    assert made["createdBy"] == "ada"


@pytest.mark.parametrize(
    ("starts", "expires"),
    [(100, 100), (100, 50), (100, 99)],
    ids=["at the start", "before the start", "just before the start"],
)
def test_a_campaign_ends_after_it_starts(api: Api, starts: int, expires: int) -> None:
    body = {"name": "x", "campaignType": "loyalty", "budgetMicro": "1", "startsAt": api.after(starts)}
    at = format_time(parse_time(body["startsAt"]) + (expires - starts) * UNIT)
    with api.unchanged():
        problem_of(api.post("/campaigns", {**body, "expiresAt": at}), 400, "validation_error", "expiresAt")


def test_an_invalid_request_is_reported_before_a_reused_key(api: Api) -> None:
    body = {"name": "x", "campaignType": "loyalty", "budgetMicro": "1"}
    campaign = ok(api.post("/campaigns", body, key="k-1"))["id"]
    invalid = {**body, "grantConfig": [1]}
    with api.unchanged():
        problem_of(api.post("/campaigns", invalid, key="k-1"), 400, "validation_error", "grantConfig")
        problem_of(api.call("PATCH", f"/campaigns/{campaign}", invalid, key="k-1"), 400, "validation_error", "grantConfig")
        batch = {"grants": [{"amountMicro": "1"}]}
        path = f"/campaigns/{campaign}/grants/batch"
        problem_of(api.post(path, batch, key="k-1"), 400, "validation_error", "grants[0]")


# --- the life cycle ---


@pytest.mark.parametrize("verb", VERBS)
def test_the_life_cycle_has_these_transitions_and_no_others(api: Api, verb: str, subtests: pytest.Subtests) -> None:
    for name in STATES:
        with subtests.test(name=name):
            campaign = STATES[name](api)
            before, after = state_of(name), VERBS[verb]
            assert api.get(f"/campaigns/{campaign}")["status"] == before
            if (before, after) in TRANSITIONS:
                answer = ok(api.post(f"/campaigns/{campaign}/{verb}"), 200)
                assert (answer["id"], answer["status"]) == (campaign, after)
                assert api.get(f"/campaigns/{campaign}") == answer
            else:
                with api.unchanged():
                    problem = problem_of(api.post(f"/campaigns/{campaign}/{verb}"), 409, "invalid_transition")
                    assert (problem["from"], problem["to"]) == (before, after)


def test_a_transition_is_audited_with_its_source_status(api: Api) -> None:
    campaign = _moved("activate", "pause")(api)
    [row] = api.audited("campaign.pause")
    assert (row["target_type"], row["target_id"], row["actor_id"]) == ("campaign", campaign, "operator")
    details = row["details"]
    assert (details["from"], details["to"]) == ("active", "paused")
    assert details["after"] == api.get(f"/campaigns/{campaign}")
    changed = {name for name, value in details["before"].items() if value != details["after"][name]}
    assert {"status"} <= changed <= {"status", "updatedAt"}


def test_a_campaign_can_be_activated_but_not_pay_before_its_start(api: Api) -> None:
    campaign, account = api.draft(startsAt=api.after(60)), api.account()
    assert ok(api.post(f"/campaigns/{campaign}/activate"))["status"] == "active"
    with api.unchanged():
        problem = problem_of(api.batch(campaign, (account, 5)), 409, "campaign_not_active")
        assert problem["startsAt"] == api.get(f"/campaigns/{campaign}")["startsAt"]
    api.pass_time(60)
    ok(api.batch(campaign, (account, 5)), 201)


def test_a_campaign_pays_from_its_start_to_its_end_to_the_microsecond(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    start_us = parse_time("2040-01-01T00:00:00Z")
    now_us = start_us - 1_000_000
    set_time(monkeypatch, lambda: now_us)
    campaign = api.campaign(startsAt=format_time(start_us), expiresAt=format_time(start_us + 10))
    accounts = [api.account() for _ in range(4)]
    for account, offset_us, status in zip(accounts, [-1, 0, 9, 10], [409, 201, 201, 409], strict=True):
        now_us = start_us + offset_us
        assert api.batch(campaign, (account, 5)).status_code == status
    assert [api.available(account) for account in accounts] == [0, 5, 5, 0]


def test_every_response_shows_an_expired_campaign_before_any_sweep(api: Api) -> None:
    campaign, account = api.campaign(expiresAt=api.after(60)), api.account()
    api.pass_time(60)
    with api.unchanged():
        assert api.get(f"/campaigns/{campaign}")["status"] == "expired"
        assert [c["status"] for c in api.get("/campaigns")["items"]] == ["expired"]
        problem = problem_of(api.batch(campaign, (account, 5)), 409, "campaign_not_active")
        assert problem["campaignStatus"] == "expired"
        problem_of(api.call("PATCH", f"/campaigns/{campaign}", {"name": "x"}), 422, "campaign_field_locked")
        problem_of(api.call("PATCH", f"/campaigns/{campaign}", {"expiresAt": api.after(60)}), 422, "campaign_field_locked")
        problem_of(api.post(f"/campaigns/{campaign}/complete"), 409, "invalid_transition")


# --- editing ---

EDITS: dict[str, Json] = {
    "name": "Another",
    "description": "Another text",
    "campaignType": "referral",
    "budgetMicro": "7",
    "grantFormula": "proportional_loss",
    "grantConfig": {"amountMicro": "3"},
    "poolId": "gpu",
    "perWalletCapMicro": "3",
    "startsAt": "2039-01-01T00:00:00.000000Z",
    "expiresAt": "2040-01-01T00:00:00.000000Z",
    "grantTtlSeconds": 60,
}
EDITABLE_ONCE_ACTIVE = {"name", "description", "budgetMicro", "expiresAt"}


@pytest.mark.parametrize("field", EDITS)
def test_the_editable_fields_depend_on_the_status(api: Api, field: str, subtests: pytest.Subtests) -> None:
    for name in STATES:
        with subtests.test(name=name):
            campaign = STATES[name](api)
            path, state = f"/campaigns/{campaign}", state_of(name)
            before = api.get(path)
            change = {field: EDITS[field]}
            if field == "startsAt":
                # Earlier than the end of the campaign.
                change = {field: format_time(parse_time(before["createdAt"]) + UNIT)}
            allowed = state == "draft" or (state in ("active", "paused") and field in EDITABLE_ONCE_ACTIVE)
            if allowed:
                answer = ok(api.call("PATCH", path, change), 200)
                expected = {**before, **change, "updatedAt": answer["updatedAt"]}
                if field == "budgetMicro":
                    expected["remainingMicro"] = "7"
                assert answer == expected == api.get(path)
            else:
                with api.unchanged():
                    problem = problem_of(api.call("PATCH", path, change), 422, "campaign_field_locked")
                    assert problem["fields"] == [field]
                    # A locked field is rejected also with others, and with its current value.
                    problem_of(api.call("PATCH", path, {**change, "name": "x"}), 422, "campaign_field_locked")
                    if before[field] is not None:
                        problem_of(api.call("PATCH", path, {field: before[field]}), 422, "campaign_field_locked")


def test_an_error_lists_every_locked_field(api: Api) -> None:
    campaign = api.campaign()
    with api.unchanged():
        response = api.call("PATCH", f"/campaigns/{campaign}", {"poolId": "gpu", "name": "x", "campaignType": "loyalty"})
        assert problem_of(response, 422, "campaign_field_locked")["fields"] == ["campaignType", "poolId"]


def test_a_budget_can_be_lowered_to_the_spent_amount_and_no_further(api: Api) -> None:
    campaign = api.campaign(100)
    ok(api.batch(campaign, (api.account(), 30)))
    path = f"/campaigns/{campaign}"
    with api.unchanged():
        for budget in ("29", "0"):
            problem = problem_of(api.call("PATCH", path, {"budgetMicro": budget}), 422, "budget_below_spent")
            assert (problem["spentMicro"], problem["budgetMicro"]) == ("30", budget)
    answer = ok(api.call("PATCH", path, {"budgetMicro": "30"}))
    assert (answer["spentMicro"], answer["remainingMicro"]) == ("30", "0")
    account = api.account()
    with api.unchanged():
        problem_of(api.batch(campaign, (account, 1)), 422, "budget_exceeded")
    ok(api.call("PATCH", path, {"budgetMicro": "31"}))
    ok(api.batch(campaign, (account, 1)), 201)


def test_an_edit_of_a_draft_must_leave_a_valid_formula(api: Api) -> None:
    campaign = api.draft(grantConfig={"amountMicro": "5"})
    path = f"/campaigns/{campaign}"
    with api.unchanged():
        problem_of(api.call("PATCH", path, {"grantFormula": "tiered"}), 400, "validation_error")
        problem_of(api.call("PATCH", path, {"grantConfig": {"brackets": []}}), 400, "validation_error")
        problem = problem_of(api.call("PATCH", path, {"grantFormula": "proportional_loss"}), 400, "validation_error")
        assert problem["errors"][0]["path"].startswith("grantConfig")
        problem_of(api.call("PATCH", path, {"grantConfig": {}}), 400, "validation_error", "grantConfig.amountMicro")
    ok(api.call("PATCH", path, {"grantFormula": "proportional_loss", "grantConfig": {"ratioBps": 1}}))
    # A proportional loss has defaults for every member; a fixed amount requires one.
    ok(api.call("PATCH", path, {"grantConfig": {}}))
    with api.unchanged():
        fixed = api.call("PATCH", path, {"grantFormula": "fixed_amount"})
        problem_of(fixed, 400, "validation_error", "grantConfig.amountMicro")


def test_an_active_campaign_can_only_end_in_the_future_after_its_start(api: Api) -> None:
    campaign = api.campaign(startsAt=api.after(100))
    path = f"/campaigns/{campaign}"
    with api.unchanged():
        problem_of(api.call("PATCH", path, {"expiresAt": api.after(-1)}), 400, "validation_error", "expiresAt")
        problem_of(api.call("PATCH", path, {"expiresAt": api.after(50)}), 400, "validation_error", "expiresAt")
    ok(api.call("PATCH", path, {"expiresAt": api.after(200)}))
    api.pass_time(150)
    ok(api.call("PATCH", path, {"expiresAt": api.after(500)}))
    api.pass_time(100)
    ok(api.batch(campaign, (api.account(), 5)), 201)


def test_a_name_can_be_edited_after_the_start(api: Api) -> None:
    campaign = api.draft(startsAt=api.after(5), expiresAt=api.after(500))
    api.pass_time(10)
    assert ok(api.call("PATCH", f"/campaigns/{campaign}", {"name": "x"}))["name"] == "x"


def test_an_empty_edit_changes_nothing(api: Api) -> None:
    campaign = api.campaign()
    before = api.get(f"/campaigns/{campaign}")
    api.pass_time(10)
    for body in (None, {}, dict.fromkeys(EDITS)):
        assert ok(api.call("PATCH", f"/campaigns/{campaign}", body), 200) == before


def test_an_edit_is_audited_with_before_and_after(api: Api) -> None:
    campaign = api.draft()
    before = api.get(f"/campaigns/{campaign}")
    after = ok(api.call("PATCH", f"/campaigns/{campaign}", {"name": "x", "poolId": "gpu"}))
    [row] = api.audited("campaign.edit")
    assert row["target_id"] == campaign
    assert row["details"] == {"changed": ["name", "poolId"], "before": before, "after": after}
