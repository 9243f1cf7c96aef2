"""Batches of charges over HTTP: each item alone, duplicates, the ceiling of the sum, and one transaction."""

from collections.abc import Callable

import pytest

from minibill.charges import batch as batch_module
from minibill.charges.batch_lots import FIRST_LOTS
from minibill.db import lanes
from minibill.ledger.posting import post
from tests.api_client import Api, Json, ok, problem_of
from tests.charges.helpers import ask_for_batch, ask_to_charge, batch, charge, entries_of, item, results
from tests.discounts.helpers import GOLD, member
from tests.reservations.cache_checks import count_cached, stale_cache_entries
from tests.reservations.conftest import Moment
from tests.reservations.helpers import balance, history, lots


def test_the_response_of_a_batch(api: Api) -> None:
    one, other = api.account(100), api.account(5)
    answer = batch(
        api, item(one, 10, "a"), item(other, 20, "b", billingMode="soft"), item(one, 10, "a"), item("acct_none", 1, "c")
    )
    first, second = (result["chargeId"] for result in answer["charges"][:2])
    assert answer == {
        "totalCharged": 2, "totalDuplicates": 1, "totalRejected": 1, "chargedMicro": "15", "debtMicro": "15",
        "charges": [
            {"sourceId": "a", "status": "charged", "chargeId": first, "chargedMicro": "10", "debtMicro": "0"},
            {"sourceId": "b", "status": "charged", "chargeId": second, "chargedMicro": "5", "debtMicro": "15"},
            {"sourceId": "a", "status": "duplicate", "chargeId": first, "chargedMicro": "10", "debtMicro": "0"},
            {"sourceId": "c", "status": "rejected", "chargeId": None, "chargedMicro": None, "debtMicro": None,
             "code": "account_not_found"},
        ],
    }  # fmt: skip
    shown = api.get(f"/charges/{second}")
    assert (shown["accountId"], shown["sourceId"], shown["createdBy"]) == (other, "b", "service:loa")


def test_items_are_evaluated_one_after_the_other(api: Api) -> None:
    account = api.account(100)
    answer = batch(api, item(account, 60, "a"), item(account, 60, "b"), item(account, 40, "c"), item(account, 1, "d"))
    assert results(answer) == ["charged", "insufficient_balance", "charged", "insufficient_balance"]
    assert balance(api, account) == (0, 0, 0)


def test_items_share_lots_in_drawdown_order(api: Api) -> None:
    account = api.account()
    # Thirty lots are more than one statement loads at first. The newest is drawn first.
    made = [api.mint(account, 3, priority=priority)["lotId"] for priority in range(30, 0, -1)][::-1]
    general = api.mint(account, 3, poolId="gpu")["lotId"]
    costs = [1, 4, 10, 25, 5, 20, 7]
    answer = batch(api, *[item(account, cost, f"s{cost}", poolId="gpu") for cost in costs])
    assert results(answer) == ["charged"] * len(costs)
    drawn = [
        (lot["lotId"], int(lot["consumedMicro"]))
        for result in answer["charges"]
        for lot in api.get(f"/charges/{result['chargeId']}")["lotAllocations"]
    ]
    assert list(dict.fromkeys(lot for lot, _ in drawn)) == [general, *made[:23]]
    assert sum(amount for _, amount in drawn) == sum(costs)
    assert lots(api, account)[made[23]] == {"available": 3}
    assert balance(api, account)[0] == 93 - sum(costs)


def test_items_of_several_accounts_draw_on_many_lots_in_turn(api: Api) -> None:
    accounts = [api.account(*[10] * (3 * FIRST_LOTS)) for _ in range(3)]
    pays = 10 * FIRST_LOTS - 5
    answer = batch(api, *[item(account, pays, f"{turn}") for turn in range(3) for account in accounts])
    assert results(answer) == ["charged"] * 9
    for account in accounts:
        # Oldest first: only the last two lots have credits left.
        left = [parts.get("available", 0) for parts in lots(api, account).values()]
        assert left == [0] * (3 * FIRST_LOTS - 2) + [5, 10]
    assert ok(api.post("/reconciliation"))["status"] == "healthy"


def test_entries_of_a_batch_follow_the_order_of_its_items(api: Api) -> None:
    one, other = api.account(5), api.account(5)
    answer = batch(api, item(one, 3, "a"), item(other, 3, "b"), item(one, 9, "c", billingMode="soft"), item(one, 0, "d"))
    assert [entries_of(api, result) for result in answer["charges"]] == [
        [("charge", -3)], [("charge", -3)], [("charge", -2), ("debt_incurred", -7)], [],
    ]  # fmt: skip


def test_each_reason_has_its_code(start: Callable[..., Api]) -> None:
    api = start(MINIBILL_CEILING_MICRO="1000")
    account, empty = api.account(100), api.account()
    charge(api, account, 10, sourceId="old")
    answer = batch(
        api, item(empty, 5, "a"), item("acct_none", 2_000, "b"), item(account, 2_000, "old"),
        item(account, 10, "old", poolId="x"), item(empty, 1_001, "c"), item(account, 20, "d"), item(account, 10, "old"),
    )  # fmt: skip
    assert results(answer) == [
        "insufficient_balance", "account_not_found", "source_already_charged", "source_already_charged", "amount_too_large",
        "charged", "duplicate",
    ]  # fmt: skip
    assert balance(api, account) == (70, 0, 0)


def test_a_rejected_item_leaves_its_source_free(api: Api) -> None:
    account = api.account(5)
    answer = batch(api, item(account, 9, "a"), item(account, 4, "a"), item(account, 9, "a"), item(account, 4, "a"))
    assert results(answer) == ["insufficient_balance", "charged", "source_already_charged", "duplicate"]


def test_a_batch_sent_again_charges_what_was_missing(api: Api) -> None:
    account = api.account(10)
    items = [item(account, cost, f"s{cost}") for cost in (1, 2, 3, 4, 5, 6)]
    first = batch(api, *items)
    assert results(first) == ["charged"] * 4 + ["insufficient_balance"] * 2
    with api.unchanged():
        again = batch(api, *items)
    assert results(again) == ["duplicate"] * 4 + ["insufficient_balance"] * 2
    assert (again["totalCharged"], again["chargedMicro"], again["debtMicro"]) == (0, "0", "0")
    api.mint(account, 11)
    last = batch(api, *items)
    assert results(last) == ["duplicate"] * 4 + ["charged"] * 2
    assert [result["chargeId"] for result in last["charges"][:4]] == [result["chargeId"] for result in first["charges"][:4]]
    assert balance(api, account) == (0, 0, 0)


def test_charges_and_batches_share_sources(api: Api) -> None:
    account = api.account(10)
    [result] = batch(api, item(account, 4, "s"))["charges"]
    assert ok(ask_to_charge(api, account, 4, sourceId="s"), 200)["chargeId"] == result["chargeId"]
    problem_of(ask_to_charge(api, account, 5, sourceId="s"), 409, "source_already_charged")


def test_an_account_may_be_named_by_id_and_by_entity(api: Api) -> None:
    address = "0x" + "Ab" * 20
    account = ok(api.post("/accounts", {"entityType": "agent", "entityId": address}))["id"]
    api.mint(account, 10)
    by_entity = {
        "costMicro": "4",
        "sourceId": "s",
        "entity": {"entityType": "agent", "entityId": address.upper().replace("X", "x")},
    }
    unknown = {**by_entity, "entity": {"entityType": "person", "entityId": address}}
    answer = batch(api, by_entity, item(account, 4, "s"), unknown, {**by_entity, "sourceId": "t", "accountId": None})
    assert results(answer) == ["charged", "duplicate", "account_not_found", "charged"]
    assert balance(api, account) == (2, 0, 0)


def test_the_ceiling_limits_the_sum_of_the_costs(start: Callable[..., Api]) -> None:
    api = start(MINIBILL_CEILING_MICRO="100")
    account = member(api, GOLD, 100, 100)
    answer = batch(
        api, item(account, 60, "a", billingMode="shadow"), item(account, 41, "b"), item(account, 0, "c"),
        item(account, 40, "d"), item(account, 60, "a"), item(account, 1, "e", billingMode="soft"), item(account, 0, "f"),
    )  # fmt: skip
    assert results(answer) == [
        "charged",
        "amount_too_large",
        "charged",
        "charged",
        "duplicate",
        "amount_too_large",
        "charged",
    ]
    # A list price of 40 less 20 %.
    assert balance(api, account) == (168, 0, 0)


def test_sums_over_63_bits_are_told_from_amounts(start: Callable[..., Api]) -> None:
    largest = 2**63 - 1
    api = start(MINIBILL_CEILING_MICRO=str(largest))
    account = api.account()
    answer = batch(
        api, item(account, largest - 1, "a", billingMode="soft"), item(account, 2, "b", billingMode="soft"),
        item(account, 1, "c", billingMode="soft"), item(account, 1, "d", billingMode="shadow"),
    )  # fmt: skip
    assert results(answer) == ["charged", "amount_too_large", "charged", "amount_too_large"]
    assert (answer["chargedMicro"], answer["debtMicro"]) == ("0", str(largest))
    answer = batch(api, item(account, 1, "e", billingMode="soft"), item(account, largest, "f", billingMode="shadow"))
    assert results(answer) == ["amount_too_large", "charged"]
    problem = problem_of(ask_to_charge(api, account, 1, billingMode="soft"), 422, "amount_too_large")
    assert (problem["debtMicro"], problem["requestedMicro"]) == (str(largest), "1")


def test_a_batch_without_a_charge_writes_nothing(api: Api) -> None:
    account = api.account(3)
    with api.unchanged():
        answer = batch(api, item(account, 4, "a"), item("acct_none", 1, "b"))
    assert (answer["totalCharged"], answer["totalRejected"]) == (0, 2)
    with api.unchanged():
        assert results(batch(api, item("acct_none", 1, "b"))) == ["account_not_found"]


def test_a_key_replays_a_batch(api: Api) -> None:
    account = api.account(10)
    items = [item(account, 4, "a"), item(account, 400, "b")]
    first = ask_for_batch(api, *items, key="k")
    api.mint(account, 1_000)
    with api.unchanged():
        again = ask_for_batch(api, *items, key="k")
    assert (again.status_code, again.content) == (200, first.content)
    assert again.headers["idempotency-replayed"] == "true"


def test_a_mode_that_a_service_may_not_name_rejects_the_batch(start: Callable[..., Api]) -> None:
    api = start(MINIBILL_SERVICE_BILLING_MODES="live")
    account = api.account(10)
    with api.unchanged():
        answer = ask_for_batch(api, item(account, 1, "a"), item(account, 1, "b", billingMode="shadow"))
        problem_of(answer, 403, "billing_mode_not_allowed")


@pytest.mark.parametrize("mode", ["live", "soft", "shadow"])
def test_items_without_a_mode_have_the_configured_one(start: Callable[..., Api], mode: str) -> None:
    api = start(MINIBILL_BILLING_MODE=mode)
    account = api.account(3)
    answer = batch(api, item(account, 5, "a"), item(account, 5, "b", billingMode="soft"))
    first = {"live": "insufficient_balance", "soft": "charged", "shadow": "charged"}[mode]
    assert results(answer) == [first, "charged"]
    assert balance(api, account) == (0, 0, {"live": 2, "soft": 7, "shadow": 2}[mode])


def test_only_services_send_batches(api: Api) -> None:
    account = api.account(10)
    sent = {"charges": [item(account, 4, "a")]}
    with api.unchanged():
        problem_of(api.post("/charges/batch", sent), 405, "method_not_allowed")
        problem_of(api.call("POST", "/charges/batch", sent, root="/api/internal/billing"), 401, "unauthorized")


def test_a_batch_expires_what_is_due_first(moment: Moment, api: Api) -> None:
    accounts = [api.account(10, expiresAt=moment.text(10)) for _ in range(3)]
    for account in accounts:
        api.mint(account, 5)
        api.reserve(account, 12, ttlSeconds=5)
    moment.at(5)
    answer = batch(api, *[item(account, 4, "a") for account in accounts])
    assert results(answer) == ["charged"] * 3
    moment.at(10)
    answer = batch(api, *[item(account, 5, "b") for account in accounts], *[item(account, 1, "c") for account in accounts])
    assert results(answer) == ["charged"] * 3 + ["insufficient_balance"] * 3
    assert [entry["entryType"] for entry in history(api, accounts[0])] == [
        "grant", "grant", "reserve", "reserve", "release", "release", "charge", "expire", "charge",
    ]  # fmt: skip


def test_a_batch_evicts_its_accounts_from_the_cache_only(api: Api) -> None:
    charged, other = api.account(10), api.account(10)
    held = api.reserve(charged, 3)
    api.reserve(other, 3)
    assert count_cached(api.book) == (2, 2)
    batch(api, item(charged, 4, "a"))
    assert count_cached(api.book) == (1, 1)
    assert stale_cache_entries(api.book) == []
    ok(api.finalize(held, 3))
    charge(api, charged, 3)
    problem_of(ask_to_charge(api, charged, 1), 402, "insufficient_balance")


@pytest.mark.parametrize("body", [{}, {"billingMode": "soft", "poolId": "gpu"}, {"billingMode": "shadow"}])
def test_the_number_of_statements_does_not_depend_on_the_items(
    api: Api, monkeypatch: pytest.MonkeyPatch, body: dict[str, Json]
) -> None:
    def statements(count: int) -> list[str]:
        accounts = [member(api, GOLD, 10, 100) for _ in range(count)]
        items = [item(account, 20, f"{count}-{n}", **body) for account in accounts for n in range(2)]
        items += [items[0], item("acct_none", 1, "x"), item(accounts[0], 10**12 + 1, "y")]
        ran: list[str] = []
        conn = api.book.writer._conn
        with monkeypatch.context() as patch:
            for name in ("execute", "executemany"):
                patch.setattr(conn, name, noted(getattr(conn, name), ran))
            answer = batch(api, *items)
        assert (answer["totalCharged"], answer["totalDuplicates"], answer["totalRejected"]) == (2 * count, 1, 2)
        return ran

    few, many = statements(2), statements(60)
    assert few == many
    assert sum("INTO credit_ledger" in sql for sql in few) == 1


def noted(run: Callable[..., object], ran: list[str]) -> Callable[..., object]:
    def note(sql: str, *values: object) -> object:
        ran.append(sql)
        return run(sql, *values)

    return note


def test_a_batch_is_rejected_at_once_if_too_many_wait(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    account = api.account(10)
    monkeypatch.setattr(lanes, "BULK_MAX", 0)
    with api.unchanged():
        # Before the body is decoded, which takes time.
        answer = api.internal("POST", "/charges/batch", raw=b"[")
        problem_of(answer, 503, "overloaded")
        assert int(answer.headers["retry-after"]) > 0
    charge(api, account, 1)


def test_a_batch_is_one_transaction(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    account = api.account(10)

    def fail(*arguments: object, **named: object) -> None:
        post(*arguments, **named)  # type: ignore[arg-type]
        raise RuntimeError("injected by the test")

    monkeypatch.setattr(batch_module, "post", fail)
    with api.unchanged():
        problem_of(ask_for_batch(api, item(account, 4, "a"), item(account, 4, "b")), 500, "internal_error")
    monkeypatch.undo()
    assert results(batch(api, item(account, 4, "a"), item(account, 4, "b"))) == ["charged", "charged"]
