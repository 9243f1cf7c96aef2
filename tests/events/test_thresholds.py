"""Thresholds: one event when available credits fall below a limit, and one when they recover."""

from collections.abc import Callable

import pytest

from tests.api_client import Api, Json, ok, problem_of
from tests.events.feed_client import drain, latest, new_types, types_of


def put(api: Api, account: str, *thresholds: Json) -> Json:
    return ok(api.call("PUT", f"/accounts/{account}/thresholds", {"thresholds": list(thresholds)}))["thresholds"]


def at(below: int, recovered: int | None = None, pool: str | None = None) -> Json:
    terms = {"belowMicro": str(below)}
    if recovered is not None:
        terms["recoveredMicro"] = str(recovered)
    return terms if pool is None else terms | {"poolId": pool}


def crossings(api: Api, after: str) -> list[tuple[str, str, str]]:
    """Return type, limit and available credits of each crossing after a cursor."""
    return [
        (event["type"].partition(".")[2], event["data"]["belowMicro"], event["data"]["availableMicro"])
        for event in drain(api, after, types="threshold.*")
    ]


def states(api: Api, account: str) -> list[str]:
    return [each["state"] for each in api.get(f"/accounts/{account}/thresholds")["thresholds"]]


def test_thresholds_are_replaced_together_and_keep_their_order(api: Api) -> None:
    account = api.account(100)
    first = put(api, account, at(50, 80), at(200), at(5, pool="gpu"))
    assert first == [
        {"poolId": "general", "belowMicro": "50", "recoveredMicro": "80", "state": "above", "availableMicro": "100"},
        {"poolId": "general", "belowMicro": "200", "recoveredMicro": "200", "state": "below", "availableMicro": "100"},
        {"poolId": "gpu", "belowMicro": "5", "recoveredMicro": "5", "state": "below", "availableMicro": "0"},
    ]
    assert api.get(f"/accounts/{account}/thresholds") == {"accountId": account, "thresholds": first}
    put(api, account, at(7))
    assert [each["belowMicro"] for each in api.get(f"/accounts/{account}/thresholds")["thresholds"]] == ["7"]
    put(api, account)
    assert api.get(f"/accounts/{account}/thresholds")["thresholds"] == []
    assert [row["target_id"] for row in api.audited("thresholds.replace")] == [account] * 3


def test_a_crossing_emits_one_event_per_direction(api: Api) -> None:
    account = api.account(100)
    put(api, account, at(50, 80))
    after = latest(api)
    holds = [api.reserve(account, 10) for _ in range(8)]
    assert crossings(api, after) == [("below", "50", "40")]
    assert states(api, account) == ["below"]
    # A change between both limits emits nothing.
    for hold in holds[:5]:
        api.release(hold)
    api.finalize(api.reserve(account, 30), 0)
    assert crossings(api, after) == [("below", "50", "40")]
    api.release(holds[5])
    assert crossings(api, after) == [("below", "50", "40"), ("recovered", "50", "80")]
    assert states(api, account) == ["above"]


def test_the_limits_themselves_are_not_below_and_are_recovered(api: Api) -> None:
    account = api.account(100)
    put(api, account, at(50, 80))
    after = latest(api)
    api.reserve(account, 50)
    assert crossings(api, after) == []
    api.reserve(account, 1)
    assert crossings(api, after) == [("below", "50", "49")]
    api.mint(account, 30)
    assert crossings(api, after)[1:] == []
    api.mint(account, 1)
    assert crossings(api, after)[1:] == [("recovered", "50", "80")]


def test_a_crossing_follows_its_entry_immediately(api: Api) -> None:
    account = api.account(60, 60)
    put(api, account, at(100), at(30))
    after = latest(api)
    api.reserve(account, 110)
    events = drain(api, after)
    assert types_of(events) == ["ledger.reserve", "threshold.below", "ledger.reserve", "threshold.below"]
    for entry, crossing in (events[:2], events[2:]):
        assert entry["data"]["availableAfterMicro"] == crossing["data"]["availableMicro"]
        assert entry["createdAt"] == crossing["createdAt"] and crossing["accountId"] == account
    assert [e["data"]["belowMicro"] for e in events if e["type"] == "threshold.below"] == ["100", "30"]


def test_one_entry_emits_its_crossings_in_the_order_of_the_limits(api: Api) -> None:
    account = api.account(100)
    # 5 are left, which is not below 5, so there is no recovery of that threshold either.
    put(api, account, at(30, 35), at(70, 75), at(50, 90), at(5, 100))
    after = latest(api)
    hold = api.reserve(account, 95)
    assert [limit for _, limit, _ in crossings(api, after)] == ["70", "50", "30"]
    after = latest(api)
    api.release(hold)
    assert crossings(api, after) == [("recovered", "30", "100"), ("recovered", "70", "100"), ("recovered", "50", "100")]


def test_thresholds_are_independent_per_pool_and_account(api: Api) -> None:
    account, other = api.account(100), api.account(100)
    api.mint(account, 100, poolId="gpu")
    put(api, account, at(50, pool="gpu"))
    after = latest(api)
    api.reserve(other, 90)
    api.reserve(account, 90)
    assert crossings(api, after) == []
    # Drawn from the gpu pool first, then from general, which has no threshold.
    api.reserve(account, 105, poolId="gpu")
    assert crossings(api, after) == [("below", "50", "0")]


def test_the_first_credits_of_a_pool_are_a_recovery(api: Api) -> None:
    account = api.account()
    put(api, account, at(5, 50, pool="gpu"), at(60, pool="gpu"))
    after = latest(api)
    api.mint(account, 55, poolId="gpu")
    assert crossings(api, after) == [("recovered", "5", "55")]


def test_repeating_thresholds_changes_and_emits_nothing(api: Api) -> None:
    account = api.account(100)
    put(api, account, at(50, 80))
    hold = api.reserve(account, 60)
    api.mint(account, 20)
    assert states(api, account) == ["below"]
    after = latest(api)
    assert [each["state"] for each in put(api, account, at(50, 80))] == ["below"]
    # A new recovery limit is compared with the available credits, which reach it.
    assert [each["state"] for each in put(api, account, at(50, 60))] == ["above"]
    assert new_types(api, after) == []
    api.release(hold)
    assert new_types(api, after) == ["ledger.release"]


def test_expired_credits_emit_a_crossing_when_the_sweep_records_them(api: Api) -> None:
    account = api.account()
    api.mint(account, 100, expiresAt=api.after(60))
    put(api, account, at(50))
    after = latest(api)
    api.pass_time(61)
    assert api.available(account) == 0 and crossings(api, after) == []
    api.loop.run(api.book.sweep())
    assert crossings(api, after) == [("below", "50", "0")]


def test_a_rolled_back_crossing_emits_nothing(api: Api) -> None:
    account = api.account(100)
    put(api, account, at(50))
    after = latest(api)
    with api.unchanged():
        ok(api.post(f"/accounts/{account}/reservations", {"amountMicro": "60"}, dryRun="true"))
        problem_of(api.ask_to_reserve(account, 101), 402, "insufficient_balance")
    assert states(api, account) == ["above"] and new_types(api, after) == []


def test_each_grant_of_a_batch_can_cross_a_threshold(api: Api) -> None:
    accounts = [api.account() for _ in range(40)]
    for account in accounts:
        put(api, account, at(5))
    campaign, after = api.campaign(), latest(api)
    ok(api.batch(campaign, *((account, 7) for account in accounts)))
    events = drain(api, after, types="threshold.*")
    assert [event["accountId"] for event in events] == accounts
    assert set(types_of(events)) == {"threshold.recovered"}


def test_thresholds_survive_a_restart(api: Api, start: Callable[..., Api]) -> None:
    account = api.account(100)
    put(api, account, at(50, 80))
    hold = api.reserve(account, 60)
    again = start()
    after = latest(again)
    assert states(again, account) == ["below"]
    again.release(hold)
    assert crossings(again, after) == [("recovered", "50", "100")]


INVALID = [
    ([at(0)], "thresholds[0].belowMicro"),
    ([at(5), at(7, 6)], "thresholds[1].recoveredMicro"),
    ([at(5), at(6), at(5, 9)], "thresholds[2].belowMicro"),
    ([at(5), at(5, pool="general")], "thresholds[1].belowMicro"),
    ([at(5, pool="Gpu")], "thresholds[0].poolId"),
    ([{"belowMicro": 5}], "thresholds[0].belowMicro"),
    ([{"poolId": "gpu"}], "thresholds[0].belowMicro"),
    ([{"belowMicro": "5", "above": "6"}], "thresholds[0].above"),
    ([at(n) for n in range(1, 22)], "thresholds"),
]


def test_an_invalid_threshold_is_rejected_with_its_path(api: Api, subtests: pytest.Subtests) -> None:
    for thresholds, path in INVALID:
        with subtests.test(thresholds=thresholds, path=path):
            account = api.account()
            with api.unchanged():
                response = api.call("PUT", f"/accounts/{account}/thresholds", {"thresholds": thresholds})
                problem_of(response, 400, "validation_error", path)


def test_the_largest_and_the_most_thresholds_are_accepted(api: Api) -> None:
    account = api.account(5)
    assert len(put(api, account, *(at(n, 2**63 - 1) for n in range(1, 21)))) == 20


def test_thresholds_of_an_unknown_account_are_not_found(api: Api) -> None:
    problem_of(api.call("GET", "/accounts/acct_none/thresholds"), 404, "account_not_found")
    problem_of(api.call("PUT", "/accounts/acct_none/thresholds", {"thresholds": []}), 404, "account_not_found")
