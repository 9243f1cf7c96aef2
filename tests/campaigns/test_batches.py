"""Batches: each account is paid once, and a batch over a limit pays nobody. See docs/concepts/campaigns.md."""

import asyncio
from collections.abc import Callable

import pytest

from minibill.campaigns.batch import BATCH_GRANTS_MAX, LARGE_GRANT_MICRO
from minibill.core.clock import parse_time
from tests.api_client import UNIT, Api, Json, ok, problem_of

LARGE = LARGE_GRANT_MICRO
MAX = 2**63 - 1
LOSSES: Json = {"grantFormula": "proportional_loss", "grantConfig": {"ratioBps": 5_000, "minLossMicro": "10"}}


def entity(name: str, kind: str = "person", **more: Json) -> Json:
    return {"entity": {"entityType": kind, "entityId": name}, **more}


def loss(account: str, micro: int, **evidence: Json) -> Json:
    return {"accountId": account, "formulaInput": {"lossMicro": str(micro), **evidence}}


def outcomes(answer: Json) -> list[tuple[str, bool, int]]:
    return [(grant["status"], grant["duplicate"], int(grant["amountMicro"])) for grant in answer["grants"]]


# --- the response ---


def test_a_batch_responds_with_the_result_of_each_item(api: Api) -> None:
    ada, paid = api.account(), api.account()
    campaign = api.campaign(1_000)
    [first] = ok(api.batch(campaign, (paid, 5)))["grants"]
    items = [(ada, 7), entity("new", amountMicro="8"), (paid, 9), ("acct_none", 10), entity("zero", amountMicro="0")]
    answer = ok(api.batch(campaign, *items), 201)
    one, two, *_ = answer["grants"]
    assert answer == {
        "campaignId": campaign, "totalGranted": 2, "totalDuplicates": 1, "totalSkipped": 1, "totalFailed": 1,
        "totalAmountMicro": "15", "remainingMicro": "980",
        "grants": [
            {"grantId": one["grantId"], "accountId": ada, "lotId": one["lotId"], "amountMicro": "7",
        "status": "granted",
             "duplicate": False},
            {"grantId": two["grantId"], "accountId": two["accountId"], "lotId": two["lotId"], "amountMicro": "8",
             "status": "granted", "duplicate": False},
            {**first, "duplicate": True},
            {"grantId": None, "accountId": "acct_none", "lotId": None, "amountMicro": "10", "status": "failed",
             "duplicate": False, "code": "account_not_found", "reason": answer["grants"][3]["reason"]},
            {"grantId": None, "accountId": None, "lotId": None, "amountMicro": "0", "status": "skipped", "duplicate": False,
             "reason": answer["grants"][4]["reason"]},
        ],
    }  # fmt: skip
    assert answer["grants"][4]["reason"]
    shown = api.get(f"/campaigns/{campaign}")
    assert (shown["spentMicro"], shown["remainingMicro"], shown["grantCount"]) == ("20", "980", 3)
    assert api.get(f"/accounts/{two['accountId']}")["entityId"] == "new"


def test_each_grant_mints_one_lot_with_the_pool_and_ttl_of_the_campaign(api: Api) -> None:
    campaign = api.campaign(poolId="gpu", grantTtlSeconds=60)
    account = ok(api.post("/accounts", {"entityType": "agent", "entityId": "e\u0301"}))["id"]
    [grant] = ok(api.batch(campaign, {"accountId": account, "amountMicro": "7", "formulaInput": {"why": "x"}}))["grants"]
    [lot] = api.get(f"/accounts/{account}/lots")["items"]
    assert (lot["id"], lot["sourceType"], lot["sourceId"], lot["poolId"]) == (grant["lotId"], "grant", None, "gpu")
    assert (lot["originalMicro"], lot["priority"]) == ("7", 50)
    [listed] = api.get(f"/campaigns/{campaign}/grants")["items"]
    assert listed == {
        "grantId": grant["grantId"], "campaignId": campaign, "accountId": account, "entityType": "agent",
        "entityId": "\u00e9", "lotId": lot["id"], "amountMicro": "7", "status": "granted",
        "grantFormula": "fixed_amount", "formulaInput": {"why": "x"}, "createdAt": lot["createdAt"],
        "revokedAt": None, "revokedMicro": None, "revokeReason": None,
    }  # fmt: skip
    assert parse_time(lot["expiresAt"]) - parse_time(lot["createdAt"]) == 60 * UNIT
    api.pass_time(60)
    assert api.available(account, "gpu") == 0


def test_items_are_paid_and_listed_in_request_order(api: Api) -> None:
    campaign = api.campaign()
    accounts = [api.account() for _ in range(4)]
    shuffled = [accounts[2], "acct_b", accounts[0], accounts[3], "acct_a", accounts[1]]
    answer = ok(api.batch(campaign, *[(account, 5) for account in shuffled]))
    assert [grant["accountId"] for grant in answer["grants"]] == shuffled
    ids = [grant["grantId"] for grant in answer["grants"] if grant["grantId"]]
    lots = [grant["lotId"] for grant in answer["grants"] if grant["lotId"]]
    assert (ids, lots) == (sorted(ids), sorted(lots))
    assert [grant["grantId"] for grant in api.get(f"/campaigns/{campaign}/grants")["items"]] == ids


def test_an_explicit_amount_overrides_the_formula(api: Api) -> None:
    accounts = [api.account() for _ in range(4)]
    campaign = api.campaign(**LOSSES)
    items = [
        loss(accounts[0], 21, source="list", n=[1.5, None]),
        {**loss(accounts[1], 21), "amountMicro": "3"},
        {"accountId": accounts[2], "amountMicro": "4"},
        {"accountId": accounts[3], "amountMicro": "5", "formulaInput": {"evidence": "without a loss"}},
    ]
    assert [grant["amountMicro"] for grant in ok(api.batch(campaign, *items))["grants"]] == ["10", "3", "4", "5"]
    kept = [(grant["amountMicro"], grant["formulaInput"]) for grant in api.get(f"/campaigns/{campaign}/grants")["items"]]
    assert kept == [
        ("10", {"lossMicro": "21", "source": "list", "n": [1.5, None]}),
        ("3", {"lossMicro": "21"}),
        ("4", None),
        ("5", {"evidence": "without a loss"}),
    ]


def test_an_item_without_an_amount_gets_the_fixed_amount(api: Api) -> None:
    campaign = api.campaign(grantConfig={"amountMicro": "7"})
    one, other = api.account(), api.account()
    answer = ok(api.batch(campaign, {"accountId": one}, (other, 3)))
    assert outcomes(answer) == [("granted", False, 7), ("granted", False, 3)]


def test_a_batch_without_new_grants_responds_200(api: Api) -> None:
    campaign, account = api.campaign(), api.account()
    ok(api.batch(campaign, (account, 5)), 201)
    ok(api.batch(campaign, (account, 5)), 200)
    ok(api.batch(campaign, (api.account(), 0)), 200)
    ok(api.batch(campaign, ("acct_none", 5)), 200)


# --- duplicates ---


def test_a_campaign_pays_an_account_once_whatever_later_items_name(api: Api) -> None:
    opened = ok(api.post("/accounts", {"entityType": "person", "entityId": "ada"}))["id"]
    campaign, other = api.campaign(), api.campaign()
    [first] = ok(api.batch(campaign, (opened, 5)), 201)["grants"]
    again: list[Json] = [
        (opened, 5), (opened, 999), (opened, 0), (opened, LARGE + 1), entity("ada", amountMicro="5"),
        {"accountId": opened, "amountMicro": "6", "formulaInput": {"x": 1}},
    ]  # fmt: skip
    for number, item in enumerate(again):
        answer = ok(api.batch(campaign, item, key=f"k-{number}"), 200)
        assert answer["grants"] == [{**first, "duplicate": True}]
        assert (answer["totalGranted"], answer["totalDuplicates"], answer["totalAmountMicro"]) == (0, 1, "0")
    assert api.available(opened) == 5
    assert api.get(f"/campaigns/{campaign}")["spentMicro"] == "5"
    # Another campaign can pay the account.
    ok(api.batch(other, (opened, 7)), 201)
    assert api.available(opened) == 12


def test_a_duplicate_returns_the_first_grant_after_its_lot_expired(api: Api) -> None:
    campaign, account = api.campaign(grantTtlSeconds=5), api.account()
    [first] = ok(api.batch(campaign, (account, 5)))["grants"]
    api.advance(10)
    assert ok(api.batch(campaign, (account, 6)), 200)["grants"] == [{**first, "duplicate": True}]
    assert api.available(account) == 0


def test_a_duplicate_counts_toward_no_limit(api: Api) -> None:
    campaign, paid, new = api.campaign(10, perWalletCapMicro="9"), api.account(), api.account()
    ok(api.batch(campaign, (paid, 4)))
    answer = ok(api.batch(campaign, (paid, LARGE * 10), (new, 6)), 201)
    assert outcomes(answer) == [("granted", True, 4), ("granted", False, 6)]
    assert answer["remainingMicro"] == "0"
    answer = ok(api.batch(campaign, (paid, 5), (new, 10)), 200)
    assert outcomes(answer) == [("granted", True, 4), ("granted", True, 6)]


def test_a_duplicate_with_a_zero_amount_is_still_a_duplicate(api: Api) -> None:
    campaign, account = api.campaign(**LOSSES), api.account()
    ok(api.batch(campaign, loss(account, 20)))
    answer = ok(api.batch(campaign, loss(account, 9)), 200)
    assert outcomes(answer) == [("granted", True, 10)]
    assert (answer["totalSkipped"], answer["totalDuplicates"]) == (0, 1)


def test_twenty_identical_concurrent_batches_pay_once(api: Api) -> None:
    campaign = api.campaign(100)
    grants = [{"accountId": api.account(), "amountMicro": "30"}, entity("new", amountMicro="40")]

    async def send_all() -> list[tuple[int, Json]]:
        headers = {"Authorization": f"Bearer {api.token}"}
        path = f"/admin/billing/campaigns/{campaign}/grants/batch"
        answers = [api.http.post(path, json={"grants": grants}, headers=headers) for _ in range(20)]
        return [(answer.status_code, answer.json()) for answer in await asyncio.gather(*answers)]

    answers = api.loop.run(send_all())
    assert sorted(status for status, _ in answers) == [200] * 19 + [201]
    without_flag = {str([{**grant, "duplicate": None} for grant in answer["grants"]]) for _, answer in answers}
    assert len(without_flag) == 1
    assert sum(answer["totalGranted"] for _, answer in answers) == 2
    assert api.get(f"/campaigns/{campaign}")["spentMicro"] == "70"
    assert [api.available(grant["accountId"]) for grant in answers[0][1]["grants"]] == [30, 40]


def test_concurrent_batches_never_exceed_the_budget(api: Api) -> None:
    campaign = api.campaign(100)
    accounts = [api.account() for _ in range(15)]

    async def send_all() -> list[int]:
        headers = {"Authorization": f"Bearer {api.token}"}
        path = f"/admin/billing/campaigns/{campaign}/grants/batch"
        answers = [
            api.http.post(path, json={"grants": [{"accountId": account, "amountMicro": "9"}]}, headers=headers)
            for account in accounts
        ]
        return [answer.status_code for answer in await asyncio.gather(*answers)]

    assert sorted(api.loop.run(send_all())) == [201] * 11 + [422] * 4
    assert sorted(api.available(account) for account in accounts) == [0] * 4 + [9] * 11
    assert api.get(f"/campaigns/{campaign}")["remainingMicro"] == "1"


# --- skipped and failed items leave nothing behind ---


def test_a_skipped_entity_opens_no_account(api: Api) -> None:
    campaign = api.campaign(**LOSSES)
    items = [entity("zero", amountMicro="0"), entity("small", formulaInput={"lossMicro": "9"})]
    answer = ok(api.batch(campaign, *items), 200)
    assert outcomes(answer) == [("skipped", False, 0)] * 2
    assert [grant["accountId"] for grant in answer["grants"]] == [None, None]
    assert all(grant["reason"] for grant in answer["grants"])
    assert api.get("/accounts")["items"] == []
    assert api.get(f"/campaigns/{campaign}/grants")["items"] == []


def test_a_skipped_or_failed_item_can_be_paid_later(api: Api) -> None:
    campaign = api.campaign(**LOSSES)
    account = api.account()
    after = account[:-1] + "2"
    answer = ok(api.batch(campaign, (account, 0), (after, 5), entity("zero", amountMicro="0")), 200)
    assert [grant["status"] for grant in answer["grants"]] == ["skipped", "failed", "skipped"]
    assert api.account() == after
    answer = ok(api.batch(campaign, loss(account, 20), (after, 5), entity("zero", amountMicro="6")), 201)
    assert outcomes(answer) == [("granted", False, 10), ("granted", False, 5), ("granted", False, 6)]


def test_a_failed_item_counts_toward_no_limit(api: Api) -> None:
    campaign, account = api.campaign(10), api.account()
    answer = ok(api.batch(campaign, ("acct_none", LARGE + 1), ("acct_nil", 11), (account, 10)), 201)
    assert [grant["status"] for grant in answer["grants"]] == ["failed", "failed", "granted"]
    assert (answer["totalFailed"], answer["totalAmountMicro"], answer["remainingMicro"]) == (2, "10", "0")


def test_an_explicit_zero_is_skipped_whatever_the_formula(api: Api) -> None:
    campaign, account = api.campaign(grantConfig={"amountMicro": "7"}), api.account()
    answer = ok(api.batch(campaign, (account, 0)), 200)
    assert outcomes(answer) == [("skipped", False, 0)]
    ok(api.batch(campaign, {"accountId": account}), 201)
    assert api.available(account) == 7


@pytest.mark.parametrize(
    ("campaign", "micro"),
    [
        (LOSSES, 9),
        ({"grantFormula": "proportional_loss", "grantConfig": {"ratioBps": 1}}, 9_999),
        ({"grantFormula": "proportional_loss", "perWalletCapMicro": "0"}, 100),
        ({"grantFormula": "tiered", "grantConfig": {"brackets": [{"minMicro": "5", "amountMicro": "1"}]}}, 4),
        ({"grantFormula": "tiered", "grantConfig": {"brackets": [{"minMicro": "1", "amountMicro": "0"}]}}, 4),
    ],
    ids=["below the minimum", "rounded to nothing", "a cap of nothing", "outside all brackets", "a bracket of nothing"],
)
def test_a_zero_result_of_the_formula_is_skipped_with_a_reason(api: Api, campaign: Json, micro: int) -> None:
    [grant] = ok(api.batch(api.campaign(**campaign), loss(api.account(), micro)), 200)["grants"]
    assert (grant["status"], grant["grantId"], grant["lotId"]) == ("skipped", None, None)
    assert grant["reason"]


# --- limits ---


def test_the_budget_can_be_spent_to_the_last_micro_unit(api: Api) -> None:
    campaign, one, two = api.campaign(10), api.account(), api.account()
    with api.unchanged():
        problem = problem_of(api.batch(campaign, (one, 5), (two, 6)), 422, "budget_exceeded")
        facts = [problem[name] for name in ("budgetMicro", "spentMicro", "remainingMicro", "requestedMicro")]
        assert facts == ["10", "0", "10", "11"]
    assert ok(api.batch(campaign, (one, 5)), 201)["remainingMicro"] == "5"
    with api.unchanged():
        problem = problem_of(api.batch(campaign, (one, 5), (two, 6)), 422, "budget_exceeded")
        facts = [problem[name] for name in ("budgetMicro", "spentMicro", "remainingMicro", "requestedMicro")]
        assert facts == ["10", "5", "5", "6"]
    assert ok(api.batch(campaign, (two, 5)), 201)["remainingMicro"] == "0"
    with api.unchanged():
        problem_of(api.batch(campaign, ("acct_none", 0), entity("x", amountMicro="1")), 422, "budget_exceeded")


def test_the_cap_applies_per_grant_and_lists_each_excess(api: Api) -> None:
    accounts = [api.account() for _ in range(4)]
    campaign = api.campaign(perWalletCapMicro="10")
    with api.unchanged():
        response = api.batch(campaign, *zip(accounts, [10, 11, 1, 12], strict=True))
        problem = problem_of(response, 422, "per_wallet_cap_exceeded")
        assert problem["perWalletCapMicro"] == "10"
        assert problem["grants"] == [
            {"path": "grants[1].amountMicro", "amountMicro": "11"},
            {"path": "grants[3].amountMicro", "amountMicro": "12"},
        ]
    ok(api.batch(campaign, *zip(accounts, [10] * 4, strict=True)), 201)


def test_a_large_grant_requires_force(api: Api) -> None:
    one, two, three = api.account(), api.account(), api.account()
    campaign = api.campaign(10 * LARGE, perWalletCapMicro=str(2 * LARGE))
    ok(api.batch(campaign, (one, LARGE)), 201)
    with api.unchanged():
        for force in (None, False):
            problem = problem_of(
                api.batch(campaign, (two, 5), (three, LARGE + 1), force=force), 422, "large_grant_requires_force"
            )
            assert problem["grants"] == [{"path": "grants[1].amountMicro", "amountMicro": str(LARGE + 1)}]
    ok(api.batch(campaign, (two, 5), (three, LARGE + 1), force=True), 201)


def test_force_lifts_no_other_limit(api: Api) -> None:
    account = api.account()
    capped, poor = api.campaign(10 * LARGE), api.campaign(LARGE, perWalletCapMicro=str(2 * LARGE))
    with api.unchanged():
        problem_of(api.batch(capped, (account, LARGE + 1), force=True), 422, "per_wallet_cap_exceeded")
        problem_of(api.batch(poor, (account, LARGE + 1), force=True), 422, "budget_exceeded")


def test_a_batch_cannot_exceed_the_ceiling(start: Callable[..., Api]) -> None:
    api = start(MINIBILL_CEILING_MICRO="10")
    one, two = api.account(), api.account()
    campaign = api.campaign(100)
    with api.unchanged():
        problem = problem_of(api.batch(campaign, (one, 5), (two, 6)), 422, "amount_too_large")
        assert (problem["limitMicro"], problem["requestedMicro"]) == ("10", "11")
    ok(api.batch(campaign, (one, 5), (two, 5)), 201)


@pytest.mark.parametrize("ceiling", [10**12, MAX])
def test_a_total_above_63_bits_is_too_large_rather_than_over_budget(start: Callable[..., Api], ceiling: int) -> None:
    api = start(MINIBILL_CEILING_MICRO=str(ceiling))
    one, two, three = api.account(), api.account(), api.account()
    campaign = api.campaign(MAX, perWalletCapMicro=str(MAX))
    capped = api.campaign(MAX, perWalletCapMicro=str(MAX - 1))
    with api.unchanged():
        problem = problem_of(api.batch(campaign, (one, MAX), (two, 1), force=True), 422, "amount_too_large")
        assert problem["limitMicro"] == str(MAX)
        # Each amount in the error is one that a request can have.
        assert all(int(value) <= MAX for name, value in problem.items() if name.endswith("Micro"))
        # The check belongs to the budget, so it counts new grants only.
        problem_of(api.batch(capped, (one, MAX), (two, 1), force=True), 422, "per_wallet_cap_exceeded")
        problem_of(api.batch(campaign, (one, MAX), (two, 1)), 422, "large_grant_requires_force")
    ok(api.batch(campaign, (three, 1)), 201)
    with api.unchanged():
        problem = problem_of(api.batch(campaign, (one, MAX), (three, MAX), force=True), 422, "budget_exceeded")
        assert (problem["requestedMicro"], problem["remainingMicro"]) == (str(MAX), str(MAX - 1))


# --- the order of errors ---


# The errors of a batch in the order of the checks, each with the campaign and the items that cause it.
def _wrong_batch(api: Api, wrong: set[str]) -> Json:
    """Return a batch with all of these errors and no others."""
    paid, one, two, three = (api.account() for _ in range(4))
    campaign = api.draft(
        40 if "budget_exceeded" in wrong else 100 * LARGE,
        perWalletCapMicro=str(LARGE * 2),
        grantFormula="proportional_loss",
    )
    if "campaign_not_active" not in wrong:
        ok(api.post(f"/campaigns/{campaign}/activate"))
    items: list[Json] = [{"accountId": one, "amountMicro": "30"}, {"accountId": two, "amountMicro": "20"}]
    if "large_grant_requires_force" in wrong:
        items.append({"accountId": three, "amountMicro": str(LARGE + 1)})
    if "per_wallet_cap_exceeded" in wrong:
        items.append({"accountId": paid, "amountMicro": str(LARGE * 2 + 1)})
    if "duplicate_account" in wrong:
        items.append({"accountId": two, "amountMicro": "1"})
    if "formula" in wrong:
        items.append(entity("no loss", formulaInput={"loss": "5"}))
    if "batch_too_large" in wrong:
        items += [entity(str(n), amountMicro="0") for n in range(1_000)]
    if "validation_error" in wrong:
        items.append({"amountMicro": "-5"})
    return ("camp_none" if "campaign_not_found" in wrong else campaign), items, "large_grant_requires_force" not in wrong


REQUEST_ORDER = ["validation_error", "batch_too_large", "duplicate_account"]
LIMIT_ORDER = ["campaign_not_active", "per_wallet_cap_exceeded", "large_grant_requires_force", "budget_exceeded"]
STATUS = {"validation_error": 400, "batch_too_large": 400, "duplicate_account": 400, "campaign_not_found": 404,
          "campaign_not_active": 409}  # fmt: skip


def _refusal(api: Api, wrong: set[str]) -> Json:
    campaign, items, force = _wrong_batch(api, wrong)
    with api.unchanged():
        problem: Json = api.batch(campaign, *items, force=force).json()
    return problem


@pytest.mark.parametrize("first", range(len(LIMIT_ORDER)))
def test_limits_are_checked_in_this_order(api: Api, first: int) -> None:
    # Alone, with each later error, and with all later errors.
    code, later = LIMIT_ORDER[first], LIMIT_ORDER[first + 1 :]
    for others in [[], *([each] for each in later), later]:
        problem = _refusal(api, {code, *others})
        assert (problem["code"], problem["status"]) == (code, STATUS.get(code, 422)), others


@pytest.mark.parametrize("code", [*REQUEST_ORDER, "formula"])
def test_errors_in_the_request_are_reported_first(api: Api, code: str) -> None:
    for others in [[], *([each] for each in LIMIT_ORDER), LIMIT_ORDER]:
        problem = _refusal(api, {code, *others})
        assert (problem["code"], problem["status"]) == (code.replace("formula", "validation_error"), 400), others


@pytest.mark.parametrize("code", REQUEST_ORDER)
def test_errors_in_the_request_precede_an_unknown_campaign(api: Api, code: str) -> None:
    assert _refusal(api, {code, "campaign_not_found"})["code"] == code


def test_an_unknown_campaign_precedes_every_limit(api: Api) -> None:
    assert _refusal(api, {"campaign_not_found", *LIMIT_ORDER})["code"] == "campaign_not_found"


@pytest.mark.parametrize(
    ("verbs", "expected"),
    [((), "draft"), (("activate", "pause"), "paused"), (("activate", "complete"), "completed")],
)
def test_an_inactive_campaign_rejects_every_batch(api: Api, verbs: tuple[str, ...], expected: str) -> None:
    account, new = api.account(), api.account()
    campaign = api.draft()
    for verb in verbs:
        ok(api.post(f"/campaigns/{campaign}/{verb}"))
        if verb == "activate":
            ok(api.batch(campaign, (account, 5)), 201)
    with api.unchanged():
        batches: list[list[Json]] = [[(account, 5)], [(new, 5)], [(new, 0)], [("acct_none", 5)]]
        for items in batches:
            problem = problem_of(api.batch(campaign, *items), 409, "campaign_not_active")
            assert problem["campaignStatus"] == expected


# --- errors in the request ---


def test_a_duplicate_account_is_rejected_with_both_paths(api: Api) -> None:
    ada = ok(api.post("/accounts", {"entityType": "person", "entityId": "ada"}))["id"]
    campaign = api.campaign()
    new = entity("new", amountMicro="1")
    twice: list[tuple[Json, Json]] = [
        ((ada, 1), (ada, 2)),
        ((ada, 1), entity("ada", amountMicro="1")),
        (entity("ada", amountMicro="0"), (ada, 0)),
        (new, new),
        (entity("\u00e9", amountMicro="1"), entity("e\u0301", amountMicro="1")),
        (entity("0x" + "aB" * 20, amountMicro="1"), entity("0X" + "Ab" * 20, amountMicro="1")),
        (("acct_none", 1), ("acct_none", 1)),
    ]
    with api.unchanged():
        for first, second in twice:
            response = api.batch(campaign, entity("x", amountMicro="1"), first, entity("y", amountMicro="1"), second)
            problem_of(response, 400, "duplicate_account", "grants[1]", "grants[3]")
    # These accounts are different.
    others = [entity("new", amountMicro="1"), entity("new", "agent", amountMicro="1"), entity("New", amountMicro="1")]
    ok(api.batch(campaign, *others), 201)


def test_a_duplicate_account_is_rejected_although_it_was_paid(api: Api) -> None:
    account, campaign = api.account(), api.campaign()
    ok(api.batch(campaign, (account, 5)))
    with api.unchanged():
        response = api.batch(campaign, (account, 5), (account, 5))
        problem_of(response, 400, "duplicate_account", "grants[0]", "grants[1]")


def test_an_item_names_either_an_account_or_an_entity(api: Api) -> None:
    account, campaign = api.account(), api.campaign()
    with api.unchanged():
        both = {"accountId": account, **entity("x"), "amountMicro": "5"}
        problem_of(api.batch(campaign, (account, 1), both), 400, "validation_error", "grants[1]")
        problem_of(api.batch(campaign, (account, 1), {"amountMicro": "5"}), 400, "validation_error", "grants[1]")
        neither = {"accountId": None, "entity": None, "amountMicro": "5"}
        problem_of(api.batch(campaign, (account, 1), neither), 400, "validation_error", "grants[1]")


UNDETERMINED: list[tuple[Json, Json, str]] = [
    (LOSSES, {}, "formulaInput"),
    (LOSSES, {"formulaInput": None}, "formulaInput"),
    (LOSSES, {"formulaInput": {}}, "formulaInput.lossMicro"),
    (LOSSES, {"formulaInput": {"lossMicro": 5}}, "formulaInput.lossMicro"),
    (LOSSES, {"formulaInput": {"LossMicro": "5"}}, "formulaInput.lossMicro"),
    (LOSSES, {"formulaInput": {"lossMicro": None}}, "formulaInput.lossMicro"),
    (
        {"grantFormula": "tiered", "grantConfig": {"brackets": [{"minMicro": "0", "amountMicro": "1"}]}},
        {},
        "formulaInput",
    ),
    ({}, {}, "amountMicro"),
    ({}, {"formulaInput": {"lossMicro": "5"}}, "amountMicro"),
]


def test_an_undetermined_amount_is_rejected_with_its_path(api: Api, subtests: pytest.Subtests) -> None:
    for formula, item, member in UNDETERMINED:
        with subtests.test(formula=formula, item=item, member=member):
            campaign, draft, account = api.campaign(**formula), api.draft(**formula), api.account()
            with api.unchanged():
                for each in (campaign, draft):
                    items: list[Json] = [(account, 1), entity("x", **item)]
                    problem_of(api.batch(each, *items), 400, "validation_error", f"grants[1].{member}")


def test_a_batch_has_at_most_1000_items(api: Api) -> None:
    campaign = api.campaign(10_000)
    items = [entity(str(n), amountMicro="1") for n in range(BATCH_GRANTS_MAX + 1)]
    with api.unchanged():
        problem = problem_of(api.batch(campaign, *items), 400, "batch_too_large")
        assert (problem["limit"], problem["grants"]) == (1_000, 1_001)
    answer = ok(api.batch(campaign, *items[:-1]), 201)
    assert (answer["totalGranted"], answer["totalAmountMicro"], answer["remainingMicro"]) == (1_000, "1000", "9000")
    assert len({grant["accountId"] for grant in answer["grants"]}) == 1_000
    again = ok(api.batch(campaign, *items[:-1]), 200)
    assert [g["grantId"] for g in again["grants"]] == [g["grantId"] for g in answer["grants"]]


# --- the audit log ---


def test_a_batch_is_audited_in_one_row_with_its_balance_changes(api: Api) -> None:
    rich, poor = api.account(100), api.account()
    api.mint(rich, 50, poolId="gpu")
    campaign = api.campaign(1_000)
    ok(api.batch(campaign, (poor, 1)))
    agent = {"User-Agent": "a test", "X-Correlation-Id": "corr-1"}
    items: list[Json] = [(rich, 7), (poor, 8), entity("new", amountMicro="9"), ("acct_none", 5)]
    answer = ok(api.batch(campaign, *items, headers=agent, token=api.sign(sub="ada")))
    row = api.audited("campaign.grant")[-1]
    assert (row["actor_id"], row["target_type"], row["target_id"]) == ("ada", "campaign", campaign)
    assert (row["ip"], row["user_agent"], row["correlation_id"]) == ("192.0.2.7", "a test", "corr-1")
    details = row["details"]
    assert (details["totalGranted"], details["totalDuplicates"], details["totalFailed"]) == (2, 1, 1)
    assert (details["spentBeforeMicro"], details["spentAfterMicro"], details["totalAmountMicro"]) == ("1", "17", "16")
    assert details["balances"] == [
        {"accountId": rich, "beforeMicro": "100", "afterMicro": "107"},
        {"accountId": answer["grants"][2]["accountId"], "beforeMicro": "0", "afterMicro": "9"},
    ]


def test_the_audited_balance_excludes_expired_credits(api: Api) -> None:
    account, campaign = api.account(3), api.campaign()
    api.mint(account, 50, expiresAt=api.after(5))
    api.pass_time(10)
    ok(api.batch(campaign, (account, 7)))
    [row] = api.audited("campaign.grant")
    assert row["details"]["balances"] == [{"accountId": account, "beforeMicro": "3", "afterMicro": "10"}]


def test_a_batch_without_grants_is_audited_and_a_rejected_one_is_not(api: Api) -> None:
    account, campaign = api.account(), api.campaign(10)
    ok(api.batch(campaign, (account, 0)), 200)
    assert len(api.audited("campaign.grant")) == 1
    problem_of(api.batch(campaign, (account, 11)), 422, "budget_exceeded")
    assert len(api.audited("campaign.grant")) == 1
