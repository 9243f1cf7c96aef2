"""Formulas: integers only, rounded down, never above a cap. See docs/concepts/campaigns.md."""

import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minibill.campaigns import formulas
from minibill.campaigns.formulas import BPS_PER_WHOLE, BRACKETS_MAX, Formula
from minibill.core.problems import InvalidRequest
from tests.api_client import Api, Json, ok, problem_of

MAX = 2**63 - 1
micro = st.integers(0, MAX)
quick = settings(max_examples=60, deadline=None)


def amount(formula: Formula, loss_micro: int) -> int:
    assert formula.of_loss is not None
    result = formula.of_loss(loss_micro)
    # A zero amount, and no other, has a reason.
    assert (result.reason is None) == (result.amount_micro > 0)
    assert type(result.amount_micro) is int
    return result.amount_micro


def built(name: str, config: Json, cap: int = MAX) -> Formula:
    return formulas.build(name, None if config is None else json.dumps(config), per_wallet_cap_micro=cap)


# --- proportional_loss ---

PROPORTIONAL: list[tuple[Json, int, int, int]] = [
    # config, cap per wallet, loss, amount
    (None, MAX, 7, 7),
    ({}, MAX, 0, 0),
    ({}, MAX, MAX, MAX),
    ({}, 100, 101, 100),
    ({}, 0, 101, 0),
    ({"ratioBps": 5_000}, MAX, 7, 3),
    ({"ratioBps": 5_000}, MAX, 1, 0),
    ({"ratioBps": 1}, MAX, 9_999, 0),
    ({"ratioBps": 1}, MAX, 10_000, 1),
    ({"ratioBps": 1}, MAX, 19_999, 1),
    ({"ratioBps": 3_333}, MAX, 3, 0),
    ({"ratioBps": 3_334}, MAX, 3, 1),
    ({"ratioBps": 9_999}, MAX, MAX, MAX * 9_999 // 10_000),
    ({"ratioBps": 1_000_000}, MAX, 5, 500),
    ({"ratioBps": 1_000_000}, MAX, MAX, MAX),
    ({"ratioBps": None, "minLossMicro": None, "capMicro": None}, MAX, 7, 7),
    ({"minLossMicro": "10"}, MAX, 9, 0),
    ({"minLossMicro": "10"}, MAX, 10, 10),
    ({"minLossMicro": "10", "ratioBps": 1_000}, MAX, 10, 1),
    ({"minLossMicro": str(MAX)}, MAX, MAX - 1, 0),
    ({"capMicro": "5"}, MAX, 7, 5),
    ({"capMicro": "5"}, 4, 7, 4),
    ({"capMicro": "5"}, 6, 7, 5),
    ({"capMicro": "0"}, 6, 7, 0),
    ({"capMicro": "5", "minLossMicro": "6", "ratioBps": 20_000}, MAX, 6, 5),
]


def test_proportional_loss_is_a_share_rounded_down_within_its_caps(subtests: pytest.Subtests) -> None:
    for config, cap, loss, expected in PROPORTIONAL:
        with subtests.test(config=config, cap=cap, loss=loss, expected=expected):
            assert amount(built("proportional_loss", config, cap), loss) == expected


@given(ratio=st.integers(1, 1_000_000), least=micro, cap=micro, wallet_cap=micro, losses=st.tuples(micro, micro))
@quick
def test_proportional_loss_is_monotonic_capped_and_rounded_down(
    ratio: int, least: int, cap: int, wallet_cap: int, losses: tuple[int, int]
) -> None:
    formula = built("proportional_loss", {"ratioBps": ratio, "minLossMicro": str(least), "capMicro": str(cap)}, wallet_cap)
    low, high = sorted(losses)
    assert amount(formula, low) <= amount(formula, high) <= min(cap, wallet_cap)
    assert amount(formula, high) * BPS_PER_WHOLE <= high * ratio
    if high >= least:
        assert amount(formula, high) == min(high * ratio // BPS_PER_WHOLE, cap, wallet_cap)
    else:
        assert amount(formula, high) == 0


# --- tiered ---

TIERS: Json = {
    "brackets": [
        {"minMicro": "10", "maxMicro": "20", "amountMicro": "1"},
        {"minMicro": "20", "maxMicro": "30", "amountMicro": "2"},
        {"minMicro": "40", "maxMicro": None, "amountMicro": "9"},
    ]
}


HALF_OPEN = [(0, 0), (9, 0), (10, 1), (19, 1), (20, 2), (29, 2), (30, 0), (39, 0), (40, 9), (41, 9), (MAX, 9)]


def test_a_bracket_is_half_open(subtests: pytest.Subtests) -> None:
    for loss, expected in HALF_OPEN:
        with subtests.test(loss=loss, expected=expected):
            assert amount(built("tiered", TIERS), loss) == expected
            assert amount(built("tiered", TIERS, 5), loss) == min(expected, 5)
            assert amount(built("tiered", TIERS, 0), loss) == 0


@st.composite
def tables(draw: st.DrawFn) -> list[tuple[int, int | None, int]]:
    """Draw ascending brackets without overlap, as (min, max, amount)."""
    edges = sorted(draw(st.sets(micro, min_size=2, max_size=12)))
    amounts = draw(st.lists(micro, min_size=len(edges), max_size=len(edges)))
    brackets: list[tuple[int, int | None, int]] = [
        (low, high, amounts[position])
        for position, (low, high) in enumerate(pairwise(edges))
        if position == 0 or draw(st.booleans())
    ]
    if draw(st.booleans()):
        brackets.append((edges[-1], None, amounts[-1]))
    return brackets


@given(table=tables(), cap=micro, data=st.data())
@quick
def test_the_amount_is_that_of_the_bracket_that_contains_the_loss(
    table: list[tuple[int, int | None, int]], cap: int, data: st.DataObject
) -> None:
    edges = [edge for low, high, _ in table for edge in (low, high) if edge is not None]
    loss = data.draw(st.one_of(micro, st.sampled_from(edges), st.sampled_from(edges).map(lambda edge: max(0, edge - 1))))
    brackets = [
        {"minMicro": str(low), "amountMicro": str(pays), **({} if high is None else {"maxMicro": str(high)})}
        for low, high, pays in table
    ]
    holding = [pays for low, high, pays in table if low <= loss and (high is None or loss < high)]
    assert len(holding) <= 1
    assert amount(built("tiered", {"brackets": brackets}, cap), loss) == min(cap, *holding, *([] if holding else [0]))


# --- fixed_amount ---


def test_a_fixed_amount_needs_no_input() -> None:
    assert built("fixed_amount", {"amountMicro": "5"}) == (None, 5)
    assert built("fixed_amount", {"amountMicro": "0"}) == (None, 0)
    assert built("fixed_amount", None) == (None, None)


# --- invalid configs ---

B: Json = {"minMicro": "1", "maxMicro": "5", "amountMicro": "2"}

# Formula, config, path of the error.
WRONG: list[tuple[str, Json, str]] = [
    ("fixed_amount", {}, "grantConfig.amountMicro"),
    ("fixed_amount", {"amountMicro": None}, "grantConfig.amountMicro"),
    ("fixed_amount", {"amountMicro": 5}, "grantConfig.amountMicro"),
    ("fixed_amount", {"amount": "5"}, "grantConfig.amount"),
    ("fixed_amount", {"brackets": []}, "grantConfig.brackets"),
    ("proportional_loss", {"ratioBps": 0}, "grantConfig.ratioBps"),
    ("proportional_loss", {"ratioBps": 1_000_001}, "grantConfig.ratioBps"),
    ("proportional_loss", {"ratioBps": "5000"}, "grantConfig.ratioBps"),
    ("proportional_loss", {"ratioBps": 0.5}, "grantConfig.ratioBps"),
    ("proportional_loss", {"minLossMicro": -1}, "grantConfig.minLossMicro"),
    ("proportional_loss", {"capMicro": 1.5}, "grantConfig.capMicro"),
    ("proportional_loss", {"ratio": 1}, "grantConfig.ratio"),
    ("proportional_loss", {"amountMicro": "5"}, "grantConfig.amountMicro"),
    ("tiered", None, "grantConfig.brackets"),
    ("tiered", {}, "grantConfig.brackets"),
    ("tiered", {"brackets": []}, "grantConfig.brackets"),
    ("tiered", {"brackets": B}, "grantConfig.brackets"),
    ("tiered", {"brackets": [B], "capMicro": "5"}, "grantConfig.capMicro"),
    ("tiered", {"brackets": [{**B, "maxMicro": "1"}]}, "grantConfig.brackets[0].maxMicro"),
    ("tiered", {"brackets": [{**B, "maxMicro": "0"}]}, "grantConfig.brackets[0].maxMicro"),
    ("tiered", {"brackets": [{"minMicro": "1", "maxMicro": "5"}]}, "grantConfig.brackets[0].amountMicro"),
    ("tiered", {"brackets": [{"maxMicro": "5", "amountMicro": "5"}]}, "grantConfig.brackets[0].minMicro"),
    ("tiered", {"brackets": [B, B]}, "grantConfig.brackets[1].minMicro"),
    ("tiered", {"brackets": [B, {**B, "minMicro": "4", "maxMicro": "9"}]}, "grantConfig.brackets[1].minMicro"),
    ("tiered", {"brackets": [{**B, "minMicro": "9", "maxMicro": "10"}, B]}, "grantConfig.brackets[1].minMicro"),
    ("tiered", {"brackets": [{**B, "maxMicro": None}, {**B, "minMicro": "9", "maxMicro": "10"}]}, "grantConfig.brackets[1]"),
]


def test_an_invalid_config_is_rejected_when_the_campaign_is_created(api: Api, subtests: pytest.Subtests) -> None:
    for formula, config, path in WRONG:
        with subtests.test(formula=formula, config=config, path=path):
            body = {
                "name": "x",
                "campaignType": "loyalty",
                "budgetMicro": "1",
                "grantFormula": formula,
                "grantConfig": config,
            }
            with api.unchanged():
                problem_of(api.post("/campaigns", body), 400, "validation_error", path)
            with pytest.raises(InvalidRequest):
                built(formula, config)


def test_without_a_config_each_grant_names_its_fixed_amount(api: Api) -> None:
    for config in ({}, {"grantConfig": None}):
        body = {"name": "x", "campaignType": "loyalty", "budgetMicro": "9", "grantFormula": "fixed_amount", **config}
        campaign = ok(api.post("/campaigns", body), 201)
        assert campaign["grantConfig"] is None
        ok(api.post(f"/campaigns/{campaign['id']}/activate"))
        account = api.account()
        with api.unchanged():
            nothing = api.batch(campaign["id"], {"accountId": account})
            problem_of(nothing, 400, "validation_error", "grants[0].amountMicro")
        ok(api.batch(campaign["id"], (account, 5)), 201)
        assert api.available(account) == 5


def test_a_table_with_the_maximum_of_brackets_is_accepted(api: Api) -> None:
    brackets = [{"minMicro": str(n), "maxMicro": str(n + 1), "amountMicro": "1"} for n in range(BRACKETS_MAX)]
    ok(api.post("/campaigns", {
        "name": "x", "campaignType": "loyalty", "budgetMicro": "1", "grantFormula": "tiered",
        "grantConfig": {"brackets": brackets},
    }), 201)  # fmt: skip


@given(st.lists(st.tuples(st.integers(0, 9), st.none() | st.integers(0, 9)), min_size=1, max_size=4))
@quick
def test_brackets_must_ascend_without_overlap(bounds: list[tuple[int, int | None]]) -> None:
    brackets = [
        {"minMicro": str(low), "maxMicro": None if high is None else str(high), "amountMicro": "1"} for low, high in bounds
    ]
    ascending = all(high is None or low < high for low, high in bounds) and all(
        high is not None and high <= following for (_, high), (following, _) in pairwise(bounds)
    )
    if ascending:
        built("tiered", {"brackets": brackets})
    else:
        with pytest.raises(InvalidRequest):
            built("tiered", {"brackets": brackets})


# --- paid amounts ---


def test_a_batch_pays_the_amount_of_the_formula(api: Api, subtests: pytest.Subtests) -> None:
    for config, cap, loss, expected in [row for row in PROPORTIONAL if row[2] < MAX // 10**6]:
        with subtests.test(config=config, cap=cap, loss=loss, expected=expected):
            campaign = api.campaign(grantFormula="proportional_loss", grantConfig=config, perWalletCapMicro=str(cap))
            account = api.account()
            [grant] = ok(api.batch(campaign, {"accountId": account, "formulaInput": {"lossMicro": str(loss)}}))["grants"]
            assert (grant["amountMicro"], grant["status"]) == (str(expected), "granted" if expected else "skipped")
            assert api.available(account) == expected
