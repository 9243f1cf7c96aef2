"""Minting: the response, repeated sources, and limits of the amount."""

import asyncio
from collections.abc import Callable

import pytest

from minibill.core.clock import format_time, parse_time
from tests.api_client import Api, Json, ok, problem_of
from tests.fake_clocks import set_time

MAX = 2**63 - 1
CEILING = 1_000_000_000_000


def send(api: Api, account: str, amount: int, **body: Json) -> Json:
    return api.post(f"/accounts/{account}/mint", {"amountMicro": str(amount), **body})


def test_the_response_of_a_mint(api: Api) -> None:
    account = api.account(5)
    api.mint(account, 9, poolId="gpu")
    end = api.after(60)
    answer = ok(send(api, account, 7, expiresAt=end, priority=3), 201)
    lot = answer.pop("lotId")
    assert lot.startswith("lot_")
    assert answer == {
        "accountId": account, "amountMicro": "7", "poolId": "general", "priority": 3, "expiresAt": end, "duplicate": False,
        "balance": {"availableMicro": "12", "reservedMicro": "0"},
    }  # fmt: skip


def test_a_mint_is_a_grant_unless_its_source_type_is_deposit(api: Api) -> None:
    account = api.account()
    for body in ({}, {"sourceType": "grant"}, {"sourceType": "deposit"}):
        api.mint(account, 1, **body)
    assert [lot["sourceType"] for lot in api.get(f"/accounts/{account}/lots")["items"]] == ["grant", "grant", "deposit"]
    kinds = [entry["entryType"] for entry in api.get(f"/accounts/{account}/history")["items"]]
    assert kinds == ["deposit", "grant", "grant"]


# --- repeated sources ---


def test_a_repeated_source_returns_the_first_lot(api: Api) -> None:
    account = api.account()
    first = ok(send(api, account, 7, sourceId="order-1", poolId="gpu", priority=3, expiresAt=api.after(600)), 201)
    api.mint(account, 100, poolId="gpu")
    again = ok(send(api, account, 7, sourceId="order-1"), 200)
    assert again == {**first, "duplicate": True, "balance": {"availableMicro": "107", "reservedMicro": "0"}}
    assert len(api.get(f"/accounts/{account}/lots")["items"]) == 2
    assert api.available(account, "gpu") == 107


def test_a_source_credits_once_even_after_its_lot_has_expired(api: Api) -> None:
    account = api.account()
    first = ok(send(api, account, 7, sourceId="order-1", expiresAt=api.after(5)), 201)
    api.pass_time(10)
    again = ok(send(api, account, 7, sourceId="order-1", expiresAt=api.after(-1)), 200)
    assert (again["lotId"], again["duplicate"], again["balance"]["availableMicro"]) == (first["lotId"], True, "0")
    assert api.available(account) == 0


def test_a_source_of_another_account_or_amount_is_rejected(api: Api) -> None:
    account, other = api.account(), api.account()
    first = ok(send(api, account, 7, sourceId="order-1"))
    with api.unchanged():
        for response in (send(api, other, 7, sourceId="order-1"), send(api, account, 8, sourceId="order-1")):
            problem = problem_of(response, 409, "source_already_credited")
            assert (problem["sourceType"], problem["sourceId"], problem["lotId"]) == ("grant", "order-1", first["lotId"])


def test_sources_of_another_type_or_id_are_distinct(api: Api) -> None:
    account = api.account()
    ok(send(api, account, 7, sourceId="order-1"), 201)
    ok(send(api, account, 7, sourceId="order-1", sourceType="deposit"), 201)
    ok(send(api, account, 7, sourceId="ORDER-1"), 201)
    ok(send(api, account, 7, sourceId="order-1 "), 201)
    assert api.available(account) == 28


def test_mints_without_a_source_are_never_duplicates(api: Api) -> None:
    account = api.account()
    lots = {ok(send(api, account, 7), 201)["lotId"] for _ in range(3)}
    assert (len(lots), api.available(account)) == (3, 21)


def test_concurrent_mints_of_one_source_credit_once(api: Api) -> None:
    account = api.account()

    async def mint_all() -> list[Json]:
        headers = {"Authorization": f"Bearer {api.token}"}
        body = {"amountMicro": "7", "sourceId": "order-1"}
        path = f"/admin/billing/accounts/{account}/mint"
        return [
            r.json() for r in await asyncio.gather(*[api.http.post(path, json=body, headers=headers) for _ in range(20)])
        ]

    answers = api.loop.run(mint_all())
    assert len({answer["lotId"] for answer in answers}) == 1
    assert sorted(answer["duplicate"] for answer in answers) == [False] + [True] * 19
    assert api.available(account) == 7


# --- limits ---


def test_a_mint_over_the_ceiling_is_rejected(api: Api) -> None:
    account = api.account()
    ok(send(api, account, CEILING), 201)
    with api.unchanged():
        problem = problem_of(send(api, account, CEILING + 1), 422, "amount_too_large")
        assert (problem["limitMicro"], problem["requestedMicro"]) == (str(CEILING), str(CEILING + 1))
        problem_of(send(api, account, MAX), 422, "amount_too_large")
        problem_of(send(api, account, MAX + 1), 400, "validation_error", "amountMicro")


def test_the_ceiling_can_be_set(start: Callable[..., Api]) -> None:
    api = start(MINIBILL_CEILING_MICRO="10")
    account = api.account(10)
    with api.unchanged():
        problem_of(send(api, account, 11), 422, "amount_too_large")


def test_the_ceiling_limits_one_request_and_not_the_sum(api: Api) -> None:
    account = api.account(CEILING, CEILING, CEILING)
    assert api.available(account) == 3 * CEILING


def test_an_account_holds_at_most_2_63_minus_1(start: Callable[..., Api]) -> None:
    api = start(MINIBILL_CEILING_MICRO=str(MAX))
    account = api.account(MAX - 10)
    with api.unchanged():
        problem_of(send(api, account, 11), 422, "amount_too_large")
        problem_of(send(api, account, MAX), 422, "amount_too_large")
    assert ok(send(api, account, 10))["balance"]["availableMicro"] == str(MAX)
    with api.unchanged():
        problem_of(send(api, account, 1), 422, "amount_too_large")
    assert api.get(f"/accounts/{account}/balance")["totalAvailableMicro"] == str(MAX)
    assert api.get(f"/accounts/{account}/history")["items"][0]["availableAfterMicro"] == str(MAX)


def test_the_pools_of_an_account_together_hold_at_most_2_63_minus_1(start: Callable[..., Api]) -> None:
    api = start(MINIBILL_CEILING_MICRO=str(MAX))
    account = api.account()
    for number in range(4):
        api.mint(account, MAX // 4, poolId=f"p{number}")
    with api.unchanged():
        problem_of(send(api, account, 4, poolId="q"), 422, "amount_too_large")
        problem_of(send(api, account, MAX // 4, poolId="p0"), 422, "amount_too_large")
    api.mint(account, 3, poolId="q")
    assert api.get(f"/accounts/{account}/balance")["totalAvailableMicro"] == str(MAX)
    other = api.account(MAX)
    assert api.available(other) == MAX


def test_expired_credits_make_room_for_new_ones(start: Callable[..., Api]) -> None:
    api = start(MINIBILL_CEILING_MICRO=str(MAX))
    account = api.account()
    api.mint(account, MAX, expiresAt=api.after(5))
    with api.unchanged():
        problem_of(send(api, account, 1), 422, "amount_too_large")
    api.pass_time(10)
    api.mint(account, MAX)
    assert api.available(account) == MAX


def test_a_batch_that_would_overflow_an_account_pays_nobody(start: Callable[..., Api]) -> None:
    api = start(MINIBILL_CEILING_MICRO=str(MAX))
    full, other = api.account(MAX - 1), api.account()
    campaign = api.campaign()
    with api.unchanged():
        problem_of(api.batch(campaign, (other, 5), (full, 2)), 422, "amount_too_large")
    ok(api.batch(campaign, (other, 5), (full, 1)), 201)


@pytest.mark.parametrize("offset_us", [0, -1, -1_000_000])
def test_an_expiry_must_be_in_the_future(api: Api, monkeypatch: pytest.MonkeyPatch, offset_us: int) -> None:
    now_us = parse_time("2040-01-01T00:00:00Z")
    set_time(monkeypatch, lambda: now_us)
    account = api.account()
    with api.unchanged():
        problem_of(send(api, account, 1, expiresAt=format_time(now_us + offset_us)), 400, "validation_error", "expiresAt")
    ok(send(api, account, 1, expiresAt=format_time(now_us + 1)), 201)


# --- the audit log ---


def test_a_mint_is_audited_with_the_balance_before_and_after(api: Api) -> None:
    account = api.account(5)
    minted = api.mint(account, 7, sourceId="order-1")
    row = api.audited("account.mint")[-1]
    assert (row["actor_id"], row["target_type"], row["target_id"]) == ("operator", "account", account)
    assert (row["ip"], row["created_at_us"] > 0) == ("192.0.2.7", True)
    details = row["details"]
    assert (details["lotId"], details["amountMicro"], details["poolId"]) == (minted["lotId"], "7", "general")
    assert (details["before"]["availableMicro"], details["after"]["availableMicro"]) == ("5", "12")
