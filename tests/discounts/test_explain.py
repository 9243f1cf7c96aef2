"""`explain=true`: the lots and the discount of a reservation, with the reasons."""

import pytest

from minibill.api.types import Micro
from minibill.auth.tokens import Caller
from minibill.core.write_result import Origin
from minibill.db.write_operation import bind
from minibill.ledger.mint import mint
from minibill.ledger.schemas import MintBody
from tests.api_client import Api, Json, ok, problem_of
from tests.discounts.helpers import CAPPED, GOLD, join, member, put_tiers, reasons
from tests.reservations.conftest import Moment
from tests.reservations.helpers import lots


def ask(api: Api, account: str, amount_micro: int, *, key: str | None = None, **body: Json) -> Json:
    sent = {"accountId": account, "amountMicro": str(amount_micro), **body}
    return ok(api.internal("POST", "/reservations", sent, key=key, explain="true"), 201)


def outcomes(explanation: Json) -> list[tuple[str, str, str]]:
    return [(lot["lotId"], lot["outcome"], lot["drawnMicro"]) for lot in explanation["lots"]]


def discount(list_micro: int, off_micro: int, **members: Json) -> Json:
    return {
        "listMicro": str(list_micro), "discountBps": 0, "uncappedMicro": str(off_micro), "maxDiscountMicro": None,
        "discountMicro": str(off_micro), "payableMicro": str(list_micro - off_micro), "communityId": None, "tier": None,
        **members,
    }  # fmt: skip


CAPPED_500 = discount(
    500, 100, discountBps=5_000, uncappedMicro="250", maxDiscountMicro="100", communityId="guild", tier="capped"
)


def full_account(moment: Moment, api: Api) -> tuple[str, dict[str, str]]:
    """Return an account with a lot in each state, by name."""
    account = api.account()
    made: dict[str, str] = {}
    for word, amount, body in (
        ("spent", 5, {"priority": 0}),
        ("reserved", 6, {"priority": 0}),
        ("over", 7, {"expiresAt": moment.text(5)}),
        ("cpu", 100, {"poolId": "cpu"}),
        ("general", 30, {}),
        ("gpu", 20, {"poolId": "gpu"}),
        ("late", 40, {"priority": 99}),
    ):
        made[word] = api.mint(account, amount, **body)["lotId"]
        if word == "spent":
            ok(api.finalize(api.reserve(account, 5), 5))
        if word == "reserved":
            api.reserve(account, 6, ttlSeconds=1_000)
    moment.at(5)
    return account, made


def test_an_explanation_names_drawn_and_skipped_lots_with_reasons(moment: Moment, api: Api) -> None:
    account, made = full_account(moment, api)
    explanation = ask(api, account, 25, poolId="gpu")["explanation"]
    assert outcomes(explanation) == [
        (made["gpu"], "drawn", "20"),
        (made["general"], "drawn", "5"),
        (made["late"], "not_needed", "0"),
        (made["cpu"], "other_pool", "0"),
        (made["over"], "expired", "0"),
        (made["reserved"], "reserved", "0"),
        (made["spent"], "spent", "0"),
    ]
    assert explanation["lots"][0] == {
        "lotId": made["gpu"], "poolId": "gpu", "priority": 50, "expiresAt": None, "availableMicro": "20", "drawnMicro": "20",
        "outcome": "drawn",
    }  # fmt: skip
    assert explanation["lots"][1]["availableMicro"] == "30"
    assert explanation["lots"][4]["expiresAt"] == moment.text(5)
    assert (explanation["lotsNotShown"], explanation["considered"], explanation["boundBy"]) == (0, [], [])
    assert explanation["discount"] == discount(25, 0)


def test_the_explanation_of_an_error_shows_the_lots_and_changes_nothing(moment: Moment, api: Api) -> None:
    account, made = full_account(moment, api)
    put_tiers(api, "guild", CAPPED)
    join(api, account, "guild", "capped")
    sent = {"accountId": account, "amountMicro": "500", "poolId": "gpu"}
    with api.unchanged():
        problem = problem_of(api.internal("POST", "/reservations", sent, explain="true"), 402, "insufficient_balance")
        explanation = problem.pop("explanation")
        plain = problem_of(api.internal("POST", "/reservations", sent), 402, "insufficient_balance")
        assert {**problem, "requestId": ""} == {**plain, "requestId": ""}
    assert outcomes(explanation)[:4] == [
        (made["gpu"], "not_enough", "0"),
        (made["general"], "not_enough", "0"),
        (made["late"], "not_enough", "0"),
        (made["cpu"], "other_pool", "0"),
    ]
    assert explanation["discount"] == CAPPED_500
    assert explanation["boundBy"] == ["maxDiscountMicro", "availableMicro"]
    assert reasons(explanation) == {"guild": (True, "it gives the most: 100")}


def test_a_revoked_lot_is_explained_as_revoked_while_fully_reserved(api: Api) -> None:
    account = api.account()
    campaigns = [api.campaign(), api.campaign()]
    grants = [ok(api.batch(campaign, (account, 5)))["grants"][0] for campaign in campaigns]
    api.reserve(account, 5)
    for campaign in campaigns:
        ok(api.post(f"/campaigns/{campaign}/revoke", {"reason": "a mistake"}))
    left = api.mint(account, 7)["lotId"]
    assert outcomes(ask(api, account, 6)["explanation"]) == [
        (left, "drawn", "6"), (grants[1]["lotId"], "revoked", "0"), (grants[0]["lotId"], "revoked", "0"),
    ]  # fmt: skip


def test_an_explanation_names_the_memberships_and_the_cap_that_applied(moment: Moment, api: Api) -> None:
    account = member(api, CAPPED, 1_000)
    put_tiers(api, "other", GOLD)
    join(api, account, "other", "gold")
    small, large = ask(api, account, 100)["explanation"], ask(api, account, 400)["explanation"]
    assert reasons(small) == {
        "guild": (True, "it gives the most: 50"),
        "other": (False, "it gives 20, and guild gives 50"),
    }
    assert (small["boundBy"], small["discount"]["uncappedMicro"], small["discount"]["discountMicro"]) == ([], "50", "50")
    assert (large["boundBy"], large["discount"]["uncappedMicro"], large["discount"]["discountMicro"]) == (
        ["maxDiscountMicro"], "200", "100",
    )  # fmt: skip


def test_soft_mode_explains_that_it_drew_the_available_credits(api: Api) -> None:
    account = member(api, GOLD, 100)
    explanation = ask(api, account, 500, billingMode="soft")["explanation"]
    assert (explanation["boundBy"], explanation["discount"]["payableMicro"]) == (["availableMicro"], "400")
    assert outcomes(explanation) == [(*lots(api, account), "drawn", "100")]


def test_shadow_mode_explains_that_it_applies_no_discount(api: Api) -> None:
    account = member(api, GOLD, 100)
    explanation = ask(api, account, 50, billingMode="shadow")["explanation"]
    assert reasons(explanation) == {"guild": (False, "shadow mode applies no discount")}
    assert explanation["discount"] == discount(50, 0)
    assert outcomes(explanation) == [(*lots(api, account), "not_needed", "0")]


@pytest.mark.parametrize("drawn", [1, 60, 120])
def test_an_explanation_names_a_hundred_lots_and_counts_the_others(api: Api, drawn: int) -> None:
    account = api.account()

    async def fill() -> None:
        for _ in range(150):
            await api.book.write(
                bind(mint, account_id=account, body=MintBody(amount_micro=Micro(1)), ceiling_micro=10),
                caller=Caller("admin", "test", None, frozenset()),
                origin=Origin(None, None, None, None),
            )

    api.loop.run(fill())
    held = ask(api, account, drawn)
    explanation = held["explanation"]
    assert (len(explanation["lots"]), explanation["lotsNotShown"]) == (100, 50)
    shown = min(drawn, 100)
    assert [lot["lotId"] for lot in explanation["lots"][:shown]] == [a["lotId"] for a in held["lotAllocations"][:shown]]
    assert [lot["outcome"] for lot in explanation["lots"]] == ["drawn"] * shown + ["not_needed"] * (100 - shown)
    later = api.get(f"/reservations/{held['reservationId']}", explain="true")["explanation"]
    assert (len(later["lots"]), later["lotsNotShown"]) == (shown, drawn - shown)
    assert [lot["lotId"] for lot in later["lots"]] == [lot["lotId"] for lot in explanation["lots"][:shown]]


def test_reading_a_reservation_explains_its_stored_terms(api: Api) -> None:
    account = member(api, CAPPED, 300, 100)
    first, second = lots(api, account)
    made = ask(api, account, 500)
    path = f"/reservations/{made['reservationId']}"
    plain = api.get(path)
    shown = api.get(path, explain="true")
    explanation = shown.pop("explanation")
    assert shown == plain == api.get(path, explain="false")
    assert ok(api.internal("GET", path, explain="true"))["explanation"] == explanation
    assert explanation == {
        "discount": CAPPED_500, "boundBy": ["maxDiscountMicro"], "lotsNotShown": 0, "charge": None,
        "lots": [
            {"lotId": lot, "poolId": "general", "priority": 50, "expiresAt": None, "availableMicro": None,
             "drawnMicro": drawn, "outcome": "drawn"}
            for lot, drawn in ((first, "300"), (second, "100"))
        ],
    }  # fmt: skip
    ok(api.finalize(made["reservationId"], 600))
    assert api.get(path, explain="true")["explanation"] == explanation | {
        "charge": {
            "discount": CAPPED_500 | {"listMicro": "600", "uncappedMicro": "300", "payableMicro": "500"},
            "boundBy": ["maxDiscountMicro", "totalReservedMicro"],
        }
    }


def test_responses_without_explain_are_unchanged(moment: Moment, api: Api) -> None:
    account = member(api, GOLD, 1_000)
    path, sent = f"/accounts/{account}/reservations", {"amountMicro": "5"}
    bodies = [
        api.post(path, sent, dryRun="true", **query).content for query in ({}, {"explain": "false"}, {"explain": "true"})
    ]
    assert bodies[0] == bodies[1]
    start, _, end = bodies[0].partition(b',"dryRun"')
    assert bodies[2].startswith(start[:-1]) and b',"explanation":{' in bodies[2] and bodies[2].endswith(b'"dryRun":true}')
    assert end == b":true}"
    service = ok(api.ask_to_reserve(account, 5), 201)
    explained = ok(api.internal("POST", "/reservations", {"accountId": account, **sent}, explain="true"), 201)
    assert "explanation" in explained and "explanation" not in service


def test_explain_is_a_boolean_parameter_of_these_routes_only(api: Api) -> None:
    account = api.account(10)
    held = api.reserve(account, 5)
    with api.unchanged():
        for value in ("", "1", "yes", "TRUE", "null"):
            for response in (
                api.internal("POST", "/reservations", {"accountId": account, "amountMicro": "1"}, explain=value),
                api.post(f"/accounts/{account}/reservations", {"amountMicro": "1"}, explain=value),
                api.call("GET", f"/reservations/{held}", explain=value),
                api.internal("GET", f"/reservations/{held}", explain=value),
            ):
                problem_of(response, 400, "validation_error", "explain")
        for response in (
            api.finalize(held, 5, explain="true"),
            api.release(held, explain="true"),
            api.call("GET", f"/accounts/{account}/balance", explain="true"),
        ):
            problem_of(response, 400, "validation_error", "explain")


def test_the_same_key_with_another_explain_is_rejected(api: Api) -> None:
    account = api.account(100)
    sent = {"accountId": account, "amountMicro": "5"}
    for first, later in (("true", "false"), ("false", "true")):
        made = api.internal("POST", "/reservations", sent, key=f"k-{first}", explain=first)
        ok(made, 201)
        with api.unchanged():
            other = api.internal("POST", "/reservations", sent, key=f"k-{first}", explain=later)
            problem_of(other, 422, "idempotency_key_reused")
            again = api.internal("POST", "/reservations", sent, key=f"k-{first}", explain=first)
            assert (again.content, again.headers["idempotency-replayed"]) == (made.content, "true")
