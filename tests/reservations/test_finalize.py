"""Finalize charges the actual cost, and release returns all credits; each of them once."""

from collections.abc import Callable

import pytest

from tests.api_client import Api, ok, problem_of
from tests.reservations.conftest import Moment
from tests.reservations.helpers import Entry, all_reads, balance, entries, lots

MAX = 2**63 - 1


def test_a_finalize_consumes_in_order_and_returns_the_rest(moment: Moment, api: Api) -> None:
    account = api.account()
    api.mint(account, 5)
    api.mint(account, 3, expiresAt=moment.text(100))
    api.mint(account, 2, poolId="gpu", priority=100)
    general, soon, gpu = lots(api, account)
    held = api.reserve(account, 9, poolId="gpu")
    # A lot that is minted later precedes the reserved ones, and is not touched.
    api.mint(account, 9, poolId="gpu", priority=0)
    moment.at(7)
    ended = ok(api.finalize(held, 4))
    assert ended == {
        "reservationId": held, "accountId": account, "finalizedMicro": "4", "releasedMicro": "5", "overrunMicro": "0",
        "absorbedMicro": "0", "billingMode": "live", "finalizedAt": moment.text(7),
    }  # fmt: skip
    assert entries(api, account, 7) == [
        Entry("finalize", -2, 0, -2, gpu, held),
        Entry("finalize", -2, 0, -2, soon, held),
        Entry("release", 1, 1, -1, soon, held),
        Entry("release", 4, 4, -4, general, held),
    ]
    found = lots(api, account)
    assert [found[lot] for lot in (general, soon, gpu)] == [
        {"available": 5},
        {"available": 1, "consumed": 2},
        {"consumed": 2},
    ]


@pytest.mark.parametrize(
    ("cost", "finalized", "released", "absorbed"),
    [(0, 0, 8, 0), (1, 1, 7, 0), (8, 8, 0, 0), (9, 8, 0, 1), (10**15, 8, 0, 10**15 - 8), (MAX, 8, 0, MAX - 8)],
)
def test_live_mode_charges_the_reservation_only(api: Api, cost: int, finalized: int, released: int, absorbed: int) -> None:
    account = api.account(20)
    held = api.reserve(account, 8)
    ended = ok(api.finalize(held, cost))
    members = ("finalizedMicro", "releasedMicro", "overrunMicro", "absorbedMicro")
    assert [int(ended[member]) for member in members] == [finalized, released, 0, absorbed]
    assert balance(api, account) == (20 - finalized, 0, 0)
    assert [entry.type for entry in entries(api, account, 2)] == ["finalize"] * (finalized > 0) + ["release"] * (
        released > 0
    )


@pytest.mark.parametrize("mode", ["live", "soft", "shadow"])
def test_a_finalize_repeats_for_the_same_cost_and_conflicts_otherwise(moment: Moment, api: Api, mode: str) -> None:
    account = api.account(10)
    held = api.reserve(account, 8, billingMode=mode, ttlSeconds=10)
    moment.at(3)
    first = api.finalize(held, 12)
    ok(first)
    for seconds in (4, 20, 10**6):
        moment.at(seconds)
        with api.unchanged():
            again = api.finalize(held, 12)
            assert (again.status_code, again.content) == (200, first.content)
            # The request's cost is compared, and not the finalized amount.
            for cost in (8, 11, 0):
                problem_of(api.finalize(held, cost), 409, "reservation_conflict")
            problem_of(api.release(held), 409, "reservation_not_pending")


def test_a_release_returns_all_credits_and_can_be_repeated(moment: Moment, api: Api) -> None:
    account = api.account(5, 5)
    first_lot, second_lot = lots(api, account)
    held = api.reserve(account, 8, ttlSeconds=10)
    first = api.release(held)
    assert ok(first) == {"reservationId": held, "accountId": account, "releasedMicro": "8"}
    assert entries(api, account, 4) == [
        Entry("release", 5, 5, -5, first_lot, held),
        Entry("release", 3, 3, -3, second_lot, held),
    ]
    for seconds in (1, 10, 20):
        moment.at(seconds)
        with api.unchanged():
            assert api.release(held).content == first.content
            for cost in (0, 8):
                problem_of(api.finalize(held, cost), 409, "reservation_not_pending")
    shown = api.get(f"/reservations/{held}")
    assert (shown["status"], shown["releasedMicro"], shown["finalizedMicro"], shown["finalizedAt"]) == (
        "released", "8", None, None,
    )  # fmt: skip
    assert balance(api, account) == (10, 0, 0)


@pytest.mark.parametrize("verb", ["finalize", "release"])
def test_a_reservation_is_pending_until_the_microsecond_of_its_expiry(moment: Moment, api: Api, verb: str) -> None:
    account = api.account(10, 10)
    live, over = api.reserve(account, 5, ttlSeconds=10), api.reserve(account, 5, ttlSeconds=10)
    act: Callable[[str], object] = {
        "finalize": lambda held: ok(api.finalize(held, 5)), "release": lambda held: ok(api.release(held)),
    }[verb]  # fmt: skip
    moment.at(10, -1)
    assert api.get(f"/reservations/{over}")["status"] == "pending"
    act(live)
    moment.at(10)
    assert api.get(f"/reservations/{over}")["status"] == "expired"
    problem_of(api.finalize(over, 5), 409, "reservation_not_pending")
    with api.unchanged():
        problem_of(api.finalize(over, 0), 409, "reservation_not_pending")
        # Its credits have returned, so a release succeeds.
        assert ok(api.release(over))["releasedMicro"] == "5"
    api.advance(0)
    with api.unchanged():
        problem_of(api.finalize(over, 5), 409, "reservation_not_pending")
        assert ok(api.release(over))["releasedMicro"] == "5"
    assert api.get(f"/reservations/{over}")["status"] == "expired"
    assert balance(api, account) == (15 if verb == "finalize" else 20, 0, 0)


@pytest.mark.parametrize("unknown", ["res_none", "res_0", "acct_1", "x", "res_" + "z" * 60])
def test_an_unknown_reservation_can_not_be_finalized_or_released(api: Api, unknown: str) -> None:
    with api.unchanged():
        problem_of(api.finalize(unknown, 5), 404, "reservation_not_found")
        problem_of(api.release(unknown), 404, "reservation_not_found")
        problem_of(api.post(f"/reservations/{unknown}/finalize", {"actualCostMicro": "5"}), 404, "reservation_not_found")
        problem_of(api.post(f"/reservations/{unknown}/release"), 404, "reservation_not_found")


@pytest.mark.parametrize("cost", [5, "-5", "05", "", "5.0", None, str(MAX + 1)])
def test_a_malformed_cost_is_rejected_by_its_name(api: Api, cost: object) -> None:
    held = api.reserve(api.account(10), 5)
    with api.unchanged():
        for answer in (
            api.internal("POST", "/finalize", {"reservationId": held, "actualCostMicro": cost}),
            api.post(f"/reservations/{held}/finalize", {"actualCostMicro": cost}),
        ):
            problem_of(answer, 400, "validation_error", "actualCostMicro")


def test_an_admin_and_a_service_end_the_same_reservations(api: Api) -> None:
    account = api.account(10)
    held = ok(api.post(f"/accounts/{account}/reservations", {"amountMicro": "4"}))["reservationId"]
    ended = ok(api.finalize(held, 3))
    assert ok(api.post(f"/reservations/{held}/finalize", {"actualCostMicro": "3"})) == ended
    held = api.reserve(account, 4)
    given = ok(api.post(f"/reservations/{held}/release", {}))
    assert ok(api.release(held)) == given
    # The repeated release moved no credits.
    assert balance(api, account) == (7, 0, 0)


def test_reservations_survive_a_restart(start: Callable[..., Api], moment: Moment) -> None:
    api = start()
    account = api.account(30)
    over = api.reserve(account, 1, ttlSeconds=5)
    ended, given, pending = (api.reserve(account, 4, ttlSeconds=50) for _ in range(3))
    answers = [api.finalize(ended, 3).content, api.release(given).content]
    moment.at(5)
    before = all_reads(api, account, ended, given, pending, over)
    api = start()
    assert all_reads(api, account, ended, given, pending, over) == before
    assert [api.finalize(ended, 3).content, api.release(given).content] == answers
    assert ok(api.finalize(pending, 4))["finalizedMicro"] == "4"
    problem_of(api.finalize(over, 1), 409, "reservation_not_pending")
