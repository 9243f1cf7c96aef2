"""Billing modes, debts of soft mode and their payment, and the table of entry types."""

from collections.abc import Callable

import pytest

from tests.api_client import Api, ok, problem_of
from tests.reservations.conftest import Moment
from tests.reservations.helpers import Entry, allocations, balance, entries, history, lots

MAX = 2**63 - 1


# --- soft ---


@pytest.mark.parametrize(("there", "held"), [(0, 0), (3, 3), (8, 8), (9, 8)])
def test_soft_mode_reserves_the_available_credits(api: Api, there: int, held: int) -> None:
    account = api.account(*[there] * (there > 0))
    api.mint(account, 50, poolId="gpu")
    answer = ok(api.ask_to_reserve(account, 8, billingMode="soft"), 201)
    assert (answer["listMicro"], answer["totalReservedMicro"], answer["billingMode"]) == ("8", str(held), "soft")
    assert sum(amount for _, amount in allocations(answer)) == held
    assert balance(api, account, poolId="general")[:2] == (there - held, held)


def test_soft_mode_charges_an_overrun_to_lots_and_then_as_a_debt(api: Api) -> None:
    account = api.account(5)
    api.mint(account, 4, priority=60)
    api.mint(account, 2, poolId="gpu")
    api.mint(account, 90, poolId="cpu")
    first, second, gpu, _ = lots(api, account)
    held = api.reserve(account, 3, poolId="gpu", billingMode="soft")
    last = api.mint(account, 1, poolId="gpu")["lotId"]
    ended = ok(api.finalize(held, 20))
    assert {name: ended[name] for name in ("finalizedMicro", "releasedMicro", "overrunMicro", "absorbedMicro")} == {
        "finalizedMicro": "3", "releasedMicro": "0", "overrunMicro": "17", "absorbedMicro": "0",
    }  # fmt: skip
    assert entries(api, account, 7) == [
        Entry("finalize", -2, 0, -2, gpu, held),
        Entry("finalize", -1, 0, -1, first, held),
        Entry("finalize", -1, -1, 0, last, held),
        Entry("finalize", -4, -4, 0, first, held),
        Entry("finalize", -4, -4, 0, second, held),
        Entry("debt_incurred", -8, 0, 0, None, held),
    ]
    assert history(api, account)[-1]["poolId"] == "gpu"
    assert balance(api, account) == (90, 0, 8)
    assert ok(api.finalize(held, 20)) == ended
    assert balance(api, account) == (90, 0, 8)


def test_soft_mode_returns_the_credits_above_the_cost(api: Api) -> None:
    account = api.account(10)
    held = api.reserve(account, 8, billingMode="soft")
    ended = ok(api.finalize(held, 5))
    assert (ended["finalizedMicro"], ended["releasedMicro"], ended["overrunMicro"]) == ("5", "3", "0")
    assert balance(api, account) == (5, 0, 0)


def test_an_overrun_is_not_charged_to_expired_lots(moment: Moment, api: Api) -> None:
    account = api.account(3)
    api.mint(account, 50, expiresAt=moment.text(5), priority=99)
    held = api.reserve(account, 3, billingMode="soft")
    moment.at(5)
    ok(api.finalize(held, 10))
    assert balance(api, account) == (0, 0, 7)


def owing(api: Api, *debts: int, pool: str = "general") -> tuple[str, list[str]]:
    """Return an account with debts and no credits, and the reservations of the debts."""
    account = api.account()
    held = [api.reserve(account, owed, billingMode="soft", poolId=pool) for owed in debts]
    for reservation, owed in zip(held, debts, strict=True):
        ok(api.finalize(reservation, owed))
    return account, held


def test_a_mint_into_any_pool_pays_the_oldest_debts_first(api: Api) -> None:
    account, (first, second) = owing(api, 5, 7, pool="gpu")
    assert balance(api, account) == (0, 0, 12)
    minted = api.mint(account, 8, poolId="cpu")
    lot = minted["lotId"]
    assert minted["balance"] == {"availableMicro": "0", "reservedMicro": "0"}
    assert entries(api, account, 2) == [
        Entry("grant", 8, 8, 0, lot),
        Entry("debt_paid", -5, -5, 0, lot),
        Entry("debt_paid", -3, -3, 0, lot),
    ]
    assert [e["metadata"] for e in history(api, account)[3:]] == [
        {"debtReservationId": first},
        {"debtReservationId": second},
    ]
    assert (balance(api, account), lots(api, account)) == ((0, 0, 4), {lot: {"consumed": 8}})
    last = api.mint(account, 10)
    assert last["balance"]["availableMicro"] == "6"
    assert entries(api, account, 6) == [Entry("debt_paid", -4, -4, 0, last["lotId"])]
    assert balance(api, account) == (6, 0, 0)
    api.mint(account, 10)
    assert balance(api, account) == (16, 0, 0)


def test_a_grant_pays_debts(api: Api) -> None:
    account, _ = owing(api, 5)
    other, _ = owing(api, 30)
    free = api.account()
    campaign = api.campaign(poolId="promo")
    grants = ok(api.batch(campaign, (account, 8), (other, 8), (free, 8)))["grants"]
    assert [grant["amountMicro"] for grant in grants] == ["8", "8", "8"]
    assert [balance(api, each) for each in (account, other, free)] == [(3, 0, 0), (0, 0, 22), (8, 0, 0)]
    assert entries(api, account, 1)[-1] == Entry("debt_paid", -5, -5, 0, grants[0]["lotId"])


def test_returned_credits_pay_no_debt(api: Api) -> None:
    account = api.account(10)
    kept = api.reserve(account, 10)
    ok(api.finalize(api.reserve(account, 5, billingMode="soft"), 5))
    ok(api.release(kept))
    assert balance(api, account) == (10, 0, 5)
    api.mint(account, 1)
    assert balance(api, account) == (10, 0, 4)


def test_a_duplicate_mint_pays_no_debt(api: Api) -> None:
    account = api.account()
    api.mint(account, 2, sourceId="order-1")
    ok(api.finalize(api.reserve(account, 5, billingMode="soft"), 5))
    again = api.mint(account, 2, sourceId="order-1")
    assert (again["duplicate"], balance(api, account)) == (True, (0, 0, 3))


def test_a_past_balance_has_the_debts_of_that_time(moment: Moment, api: Api) -> None:
    moment.at(0)
    account = api.account()
    held = api.reserve(account, 5, billingMode="soft")
    moment.at(10)
    ok(api.finalize(held, 9))
    moment.at(20)
    api.mint(account, 4)
    moment.at(30)
    api.mint(account, 6)
    expected = {(10, -1): 0, (10, 0): 9, (20, -1): 9, (20, 0): 5, (30, -1): 5, (30, 0): 0}
    for (seconds, us), owed in expected.items():
        assert balance(api, account, at=moment.text(seconds, us)) == (1 if seconds == 30 and us == 0 else 0, 0, owed)


# --- shadow ---


def test_shadow_mode_moves_no_credits_and_records_the_amounts(api: Api) -> None:
    account = api.account(10)
    before = lots(api, account)
    answer = ok(api.ask_to_reserve(account, 8, billingMode="shadow", poolId="gpu", metadata={"model": "x"}), 201)
    assert (answer["totalReservedMicro"], answer["lotAllocations"], answer["billingMode"]) == ("8", [], "shadow")
    held = answer["reservationId"]
    ended = ok(api.finalize(held, 11))
    assert {name: ended[name] for name in ("finalizedMicro", "overrunMicro", "absorbedMicro", "billingMode")} == {
        "finalizedMicro": "8", "overrunMicro": "3", "absorbedMicro": "0", "billingMode": "shadow",
    }  # fmt: skip
    assert entries(api, account, 1) == [
        Entry("shadow_reserve", 0, 0, 0, None, held),
        Entry("shadow_finalize", 0, 0, 0, None, held),
    ]
    # The account has no pool gpu, and a shadow creates none.
    assert balance(api, account, poolId="gpu") == (0, 0, 0)
    assert [pool["poolId"] for pool in api.get(f"/accounts/{account}/balance")["pools"]] == ["general"]
    reserved, finalized = (entry["metadata"] for entry in history(api, account, poolId="general")[1:])
    assert reserved == {"listMicro": "8", "wouldReserveMicro": "8", "metadata": {"model": "x"}}
    assert finalized == {"actualCostMicro": "11", "finalizedMicro": "8", "overrunMicro": "3"}
    assert (lots(api, account), balance(api, account)) == (before, (10, 0, 0))


@pytest.mark.parametrize("there", [0, 5])
def test_shadow_mode_rejects_nobody_for_lack_of_credits(api: Api, there: int) -> None:
    account = api.account(*[there] * (there > 0))
    held = api.reserve(account, 8, billingMode="shadow")
    ok(api.finalize(held, 4))
    assert balance(api, account) == (there, 0, 0)


def test_a_released_or_overdue_shadow_moves_no_credits(moment: Moment, api: Api) -> None:
    account = api.account(10)
    released, overdue = (api.reserve(account, 8, billingMode="shadow", ttlSeconds=5) for _ in range(2))
    ok(api.release(released))
    moment.at(5)
    api.advance(0)
    assert [api.get(f"/reservations/{held}")["status"] for held in (released, overdue)] == ["released", "expired"]
    assert [entry.type for entry in entries(api, account, 1)] == ["shadow_reserve"] * 2
    assert balance(api, account) == (10, 0, 0)


# --- the mode ---


@pytest.mark.parametrize("mode", ["live", "soft", "shadow"])
def test_the_setting_is_the_mode_unless_the_request_names_one(start: Callable[..., Api], mode: str) -> None:
    api = start(MINIBILL_BILLING_MODE=mode)
    account = api.account(10)
    assert ok(api.ask_to_reserve(account, 1))["billingMode"] == mode
    assert ok(api.ask_to_reserve(account, 1, billingMode=None))["billingMode"] == mode
    for named in ("live", "soft", "shadow"):
        assert ok(api.ask_to_reserve(account, 1, billingMode=named))["billingMode"] == named


def test_a_reservation_keeps_its_mode_when_the_setting_changes(start: Callable[..., Api]) -> None:
    held = start(MINIBILL_BILLING_MODE="soft")
    account = held.account(5)
    reservation = held.reserve(account, 5)
    api = start(MINIBILL_BILLING_MODE="live")
    assert ok(api.finalize(reservation, 7))["overrunMicro"] == "2"
    assert balance(api, account) == (0, 0, 2)


# --- the table of entries ---


def test_every_entry_type_has_the_documented_deltas(moment: Moment, api: Api) -> None:
    account = api.account()
    api.mint(account, 10, sourceType="deposit")
    api.mint(account, 6, expiresAt=moment.text(10))
    deposit, grant = lots(api, account)
    soft = api.reserve(account, 4, billingMode="soft")
    live = api.reserve(account, 5)
    moment.at(10)
    ok(api.release(live))
    ok(api.finalize(soft, 30))
    paid = api.mint(account, 50)["lotId"]
    short = api.reserve(account, 3, ttlSeconds=5)
    shadow = api.reserve(account, 3, billingMode="shadow")
    moment.at(20)
    ok(api.finalize(shadow, 1))
    assert entries(api, account) == [
        Entry("deposit", 10, 10, 0, deposit),
        Entry("grant", 6, 6, 0, grant),
        Entry("reserve", -4, -4, 4, grant, soft),
        Entry("reserve", -2, -2, 2, grant, live),
        Entry("reserve", -3, -3, 3, deposit, live),
        # The expired grant has no available credits; credits that return to it later expire.
        Entry("expire", -2, 0, -2, grant, live),
        Entry("release", 3, 3, -3, deposit, live),
        Entry("finalize", -4, 0, -4, grant, soft),
        Entry("finalize", -10, -10, 0, deposit, soft),
        Entry("debt_incurred", -16, 0, 0, None, soft),
        Entry("grant", 50, 50, 0, paid),
        Entry("debt_paid", -16, -16, 0, paid),
        Entry("reserve", -3, -3, 3, paid, short),
        Entry("shadow_reserve", 0, 0, 0, None, shadow),
        Entry("release", 3, 3, -3, paid, short),
        Entry("shadow_finalize", 0, 0, 0, None, shadow),
    ]
    # Each entry follows from the previous one.
    available = reserved = 0
    for number, entry in enumerate(history(api, account), 1):
        available += int(entry["availableDeltaMicro"])
        reserved += int(entry["reservedDeltaMicro"])
        found = (entry["entrySeq"], entry["availableAfterMicro"], entry["reservedAfterMicro"])
        assert found == (number, str(available), str(reserved))


# --- near 2^63 ---


def test_the_ceiling_limits_the_charge_of_a_finalize(start: Callable[..., Api]) -> None:
    api = start(MINIBILL_CEILING_MICRO="100")
    account = api.account(100, 100)
    soft = api.reserve(account, 60, billingMode="soft")
    with api.unchanged():
        problem_of(api.finalize(soft, 101), 422, "amount_too_large")
        problem_of(api.finalize(soft, MAX), 422, "amount_too_large")
    ok(api.finalize(soft, 100))
    ok(api.finalize(api.reserve(account, 60), 10**9))
    ok(api.finalize(api.reserve(account, 60, billingMode="shadow"), 10**9))
    assert balance(api, account) == (40, 0, 0)


def test_an_account_may_hold_and_reserve_2_63_minus_1(start: Callable[..., Api]) -> None:
    api = start(MINIBILL_CEILING_MICRO=str(MAX))
    account = api.account(MAX)
    held = api.reserve(account, MAX)
    with api.unchanged():
        problem_of(api.post(f"/accounts/{account}/mint", {"amountMicro": "1"}), 422, "amount_too_large")
        problem_of(api.post(f"/accounts/{account}/mint", {"amountMicro": "1", "poolId": "gpu"}), 422, "amount_too_large")
    assert balance(api, account) == (0, MAX, 0)
    assert ok(api.finalize(held, MAX))["finalizedMicro"] == str(MAX)
    api.mint(account, MAX)
    assert balance(api, account) == (MAX, 0, 0)
    ok(api.release(api.reserve(account, MAX)))
    assert balance(api, account) == (MAX, 0, 0)


def test_an_overrun_may_be_2_63_minus_1(start: Callable[..., Api]) -> None:
    api = start(MINIBILL_CEILING_MICRO=str(MAX))
    account = api.account(MAX - 1)
    held = api.reserve(account, 1, billingMode="soft")
    assert ok(api.finalize(held, MAX))["overrunMicro"] == str(MAX - 1)
    assert balance(api, account) == (0, 0, 1)
    api.mint(account, MAX)
    assert balance(api, account) == (MAX - 1, 0, 0)


def test_debts_that_would_overflow_are_rejected(start: Callable[..., Api]) -> None:
    api = start(MINIBILL_CEILING_MICRO=str(MAX))
    account = api.account()
    first, second = (api.reserve(account, 5, billingMode="soft") for _ in range(2))
    ok(api.finalize(first, MAX - 3))
    with api.unchanged():
        problem_of(api.finalize(second, 4), 422, "amount_too_large")
        problem_of(api.finalize(second, MAX), 422, "amount_too_large")
    assert balance(api, account) == (0, 0, MAX - 3)
    ok(api.finalize(second, 3))
    assert balance(api, account) == (0, 0, MAX)
    assert balance(api, account, at=api.after(0)) == (0, 0, MAX)


def test_debts_may_exceed_2_63_in_all_if_they_are_paid_in_between(start: Callable[..., Api]) -> None:
    api = start(MINIBILL_CEILING_MICRO=str(MAX))
    account = api.account()
    for _ in range(3):
        ok(api.finalize(api.reserve(account, 5, billingMode="soft"), MAX))
        assert balance(api, account) == (0, 0, MAX)
        api.mint(account, MAX)
        assert balance(api, account) == (0, 0, 0)
    assert balance(api, account, at=api.after(0)) == (0, 0, 0)


def test_shadows_do_not_overflow(start: Callable[..., Api]) -> None:
    api = start(MINIBILL_CEILING_MICRO=str(MAX))
    account = api.account(MAX)
    for _ in range(3):
        held = api.reserve(account, MAX, billingMode="shadow")
        assert ok(api.finalize(held, MAX))["finalizedMicro"] == str(MAX)
    held = api.reserve(account, 0, billingMode="shadow")
    assert ok(api.finalize(held, MAX))["overrunMicro"] == str(MAX)
    assert balance(api, account) == (MAX, 0, 0)
