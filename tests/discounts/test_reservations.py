"""Discounted reservations: reserve holds the discounted price; finalize uses the same rate and cap."""

from collections.abc import Callable

import pytest

from tests.api_client import Api, Json, ok, problem_of
from tests.discounts.helpers import CAPPED, FREE, GOLD, join, member, path_of, put_tiers
from tests.reservations.conftest import Moment
from tests.reservations.helpers import Entry, balance, entries, history, lots

MAX = 2**63 - 1
FIGURES = ("finalizedMicro", "releasedMicro", "overrunMicro", "absorbedMicro")


def figures(ended: Json) -> list[int]:
    return [int(ended[name]) for name in FIGURES]


def test_a_reservation_holds_the_discounted_price(moment: Moment, api: Api) -> None:
    account = member(api, GOLD, 1_000)
    [lot] = lots(api, account)
    held = ok(api.ask_to_reserve(account, 504), 201)
    found = held.pop("reservationId")
    assert held == {
        "accountId": account, "poolId": "general", "listMicro": "504", "discountBps": 2_000, "discountMicro": "100",
        "totalReservedMicro": "404", "status": "pending", "billingMode": "live", "expiresAt": moment.text(300),
        "lotAllocations": [{"lotId": lot, "reservedMicro": "404"}],
    }  # fmt: skip
    assert balance(api, account) == (596, 404, 0)
    shown = api.get(f"/reservations/{found}")
    assert held.items() <= shown.items()
    assert ok(api.post(f"/accounts/{account}/reservations", {"amountMicro": "504"}))["totalReservedMicro"] == "404"


# Tier, list price, reserved amount; actual cost, and its result.
CHARGES: dict[str, tuple[Json, str, int, int, int, list[int]]] = {
    "as priced": (GOLD, "live", 500, 400, 500, [400, 0, 0, 0]),
    "less": (GOLD, "live", 500, 400, 300, [240, 160, 0, 0]),
    "nothing": (GOLD, "live", 500, 400, 0, [0, 400, 0, 0]),
    "rounded down on its own": (GOLD, "live", 500, 400, 9, [8, 392, 0, 0]),
    "more, discounted before it is absorbed": (GOLD, "live", 500, 400, 600, [400, 0, 0, 80]),
    "the cap on the cost, not its share of the price": (CAPPED, "live", 500, 400, 300, [200, 200, 0, 0]),
    "the cap of a cost below it": (CAPPED, "live", 500, 400, 150, [75, 325, 0, 0]),
    "more than was priced, at the cap": (CAPPED, "live", 100, 50, 1_000, [50, 0, 0, 850]),
    "a price of nothing keeps the rate": (GOLD, "live", 0, 0, 100, [0, 0, 0, 80]),
    "all of it is taken off": (FREE, "live", 500, 0, 700, [0, 0, 0, 0]),
    "soft, more": (GOLD, "soft", 500, 400, 600, [400, 0, 80, 0]),
    "soft, short": (GOLD, "soft", 2_000, 1_000, 2_000, [1_000, 0, 600, 0]),
    "soft, short, and the work cost less": (GOLD, "soft", 2_000, 1_000, 1_000, [800, 200, 0, 0]),
    "shadow": (GOLD, "shadow", 500, 500, 600, [500, 0, 100, 0]),
    "the largest cost there is": (GOLD, "live", 500, 400, MAX, [400, 0, 0, MAX - MAX // 5 - 400]),
}


@pytest.mark.parametrize("name", CHARGES)
def test_finalize_applies_the_stored_rate_and_cap_to_the_actual_cost(api: Api, name: str) -> None:
    tier, mode, price, held_micro, cost, ended = CHARGES[name]
    account = member(api, tier, 1_000)
    held = ok(api.ask_to_reserve(account, price, billingMode=mode), 201)
    assert held["totalReservedMicro"] == str(held_micro)
    # The tier and the membership have changed since; the reservation keeps its terms.
    put_tiers(api, "guild", {**tier, "rateBps": 1})
    api.call("DELETE", path_of(account, "guild"))
    first = api.finalize(held["reservationId"], cost)
    assert figures(ok(first)) == ended
    with api.unchanged():
        assert api.finalize(held["reservationId"], cost).content == first.content
        # A repetition must name the same list cost, not the discounted one.
        for other in {cost + 1, sum(ended[::2]), ended[0]} - {cost}:
            if 0 <= other <= MAX:
                problem_of(api.finalize(held["reservationId"], other), 409, "reservation_conflict")
    shown = api.get(f"/reservations/{held['reservationId']}")
    assert figures(shown) == ended
    assert (shown["listMicro"], shown["discountBps"]) == (held["listMicro"], held["discountBps"])
    moved = 0 if mode == "shadow" else ended[0] + ended[2]
    assert balance(api, account) == (max(0, 1_000 - moved), 0, max(0, moved - 1_000))


def test_the_discount_is_fixed_when_the_reservation_is_made(moment: Moment, api: Api) -> None:
    account = member(api, GOLD, 1_000)
    join(api, account, "guild", "gold", expiresAt=moment.text(10))
    moment.at(10, -1)
    in_time = api.reserve(account, 100)
    moment.at(10)
    late = ok(api.ask_to_reserve(account, 100))
    assert (late["discountBps"], late["discountMicro"], late["totalReservedMicro"]) == (0, "0", "100")
    assert figures(ok(api.finalize(in_time, 100)))[0] == 80
    assert figures(ok(api.finalize(late["reservationId"], 100)))[0] == 100


def test_insufficient_balance_names_the_discounted_and_the_list_price(api: Api) -> None:
    account = member(api, GOLD, 1_000)
    with api.unchanged():
        problem = problem_of(api.ask_to_reserve(account, 1_252), 402, "insufficient_balance")
        assert {name: problem[name] for name in ("availableMicro", "requestedMicro", "listMicro", "poolId")} == {
            "availableMicro": "1000", "requestedMicro": "1002", "listMicro": "1252", "poolId": "general",
        }  # fmt: skip
        assert "explanation" not in problem
    assert ok(api.ask_to_reserve(account, 1_250))["totalReservedMicro"] == "1000"


def test_a_free_reservation_needs_no_credits_and_makes_no_entries(api: Api) -> None:
    account = member(api, FREE)
    held = ok(api.ask_to_reserve(account, 500), 201)
    assert (held["totalReservedMicro"], held["lotAllocations"], held["discountMicro"]) == ("0", [], "500")
    assert figures(ok(api.finalize(held["reservationId"], 500))) == [0, 0, 0, 0]
    assert entries(api, account) == []


def test_the_ceiling_applies_to_the_list_price_and_to_the_charge(start: Callable[..., Api]) -> None:
    api = start(MINIBILL_CEILING_MICRO="100")
    account = member(api, {"tier": "half", "rateBps": 5_000}, 100)
    with api.unchanged():
        problem_of(api.ask_to_reserve(account, 101), 422, "amount_too_large")
    held = api.reserve(account, 100, billingMode="soft")
    with api.unchanged():
        problem_of(api.finalize(held, 202), 422, "amount_too_large")
    assert figures(ok(api.finalize(held, 200))) == [50, 0, 50, 0]


def test_entries_carry_the_discount_in_their_metadata(api: Api) -> None:
    account = member(api, CAPPED, 100, 300)
    held = api.reserve(account, 500, metadata={"job": 7, "f": 1.5}, description="a chat")
    ok(api.finalize(held, 150))
    kept: Json = {"discountBps": 5_000, "maxDiscountMicro": "100", "communityId": "guild", "tier": "capped"}
    reserved = {**kept, "listMicro": "500", "discountMicro": "100", "job": 7, "f": 1.5}
    finalized = {**kept, "listMicro": "150", "discountMicro": "75"}
    found = [(e["entryType"], e["description"], e["metadata"]) for e in history(api, account)[2:]]
    assert found == [
        ("reserve", "a chat", reserved), ("reserve", "a chat", reserved), ("finalize", None, finalized),
        ("release", None, finalized), ("release", None, finalized),
    ]  # fmt: skip


def test_an_overrun_and_its_debt_carry_the_discount(api: Api) -> None:
    account = member(api, GOLD, 100)
    held = api.reserve(account, 50, billingMode="soft")
    ok(api.finalize(held, 200))
    [lot] = lots(api, account)
    assert entries(api, account, 2) == [
        Entry("finalize", -40, 0, -40, lot, held),
        Entry("finalize", -60, -60, 0, lot, held),
        Entry("debt_incurred", -60, 0, 0, None, held),
    ]
    assert {(e["metadata"]["discountBps"], e["metadata"]["discountMicro"]) for e in history(api, account)[2:]} == {
        (2_000, "40")
    }


def test_without_a_discount_the_metadata_is_the_callers(api: Api) -> None:
    account = member(api, GOLD, 100)
    api.call("DELETE", path_of(account, "guild"))
    held = api.reserve(account, 50, metadata={"tier": "mine"})
    ok(api.finalize(held, 50))
    assert [e["metadata"] for e in history(api, account)[1:]] == [{"tier": "mine"}, None]


def test_shadow_mode_logs_the_full_price(api: Api) -> None:
    account = member(api, GOLD, 100)
    held = ok(api.ask_to_reserve(account, 50, billingMode="shadow"), 201)
    assert (held["discountBps"], held["discountMicro"], held["totalReservedMicro"]) == (0, "0", "50")
    ok(api.finalize(held["reservationId"], 60))
    assert [e["metadata"] for e in history(api, account)[1:]] == [
        {"listMicro": "50", "wouldReserveMicro": "50"},
        {"actualCostMicro": "60", "finalizedMicro": "50", "overrunMicro": "10"},
    ]


def test_a_release_returns_the_reserved_credits(api: Api) -> None:
    account = member(api, GOLD, 1_000)
    assert ok(api.release(api.reserve(account, 500)))["releasedMicro"] == "400"
    assert balance(api, account) == (1_000, 0, 0)


def test_an_admins_reservation_is_audited_with_its_discount(api: Api) -> None:
    account = member(api, GOLD, 1_000)
    ok(api.post(f"/accounts/{account}/reservations", {"amountMicro": "500"}))
    [row] = api.audited("reservation.reserve")
    assert {name: row["details"][name] for name in ("listMicro", "discountMicro", "totalReservedMicro")} == {
        "listMicro": "500", "discountMicro": "100", "totalReservedMicro": "400",
    }  # fmt: skip
