"""The balance of an account, now and at a past time."""

import random
from typing import Any

import pytest

from minibill.core.clock import format_time, parse_time
from tests.api_client import Api, Json, ok, problem_of
from tests.fake_clocks import set_time


def pools(balance: Json) -> dict[str, tuple[int, int]]:
    return {p["poolId"]: (int(p["availableMicro"]), int(p["reservedMicro"])) for p in balance["pools"]}


def moved(time: str, microseconds: int) -> str:
    return format_time(parse_time(time) + microseconds)


def test_a_balance_shows_each_pool_and_the_total(api: Api) -> None:
    account = api.account(5, 6)
    api.mint(account, 7, poolId="gpu")
    balance = api.get(f"/accounts/{account}/balance")
    assert list(balance) == ["accountId", "at", "pools", "totalAvailableMicro", "totalReservedMicro", "debtMicro"]
    assert balance["accountId"] == account
    assert pools(balance) == {"general": (11, 0), "gpu": (7, 0)}
    assert (balance["totalAvailableMicro"], balance["totalReservedMicro"], balance["debtMicro"]) == ("18", "0", "0")


def test_a_balance_of_one_pool_leaves_out_the_others(api: Api) -> None:
    account = api.account(5)
    api.mint(account, 7, poolId="gpu")
    balance = api.get(f"/accounts/{account}/balance", poolId="gpu")
    assert (pools(balance), balance["totalAvailableMicro"]) == ({"gpu": (7, 0)}, "7")
    balance = api.get(f"/accounts/{account}/balance", poolId="none-such")
    assert (pools(balance), balance["totalAvailableMicro"]) == ({"none-such": (0, 0)}, "0")


def test_a_new_account_has_a_balance_of_zero(api: Api) -> None:
    balance = api.get(f"/accounts/{api.account()}/balance")
    assert (balance["pools"], balance["totalAvailableMicro"], balance["totalReservedMicro"]) == ([], "0", "0")


def test_credits_are_available_until_the_microsecond_of_their_expiry(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    now_us = parse_time("2030-01-01T00:00:00Z")
    set_time(monkeypatch, lambda: now_us)
    account = api.account(3)
    api.mint(account, 5, expiresAt="2030-01-01T00:00:10Z")
    for offset_us, available in [(9_999_999, 8), (10_000_000, 3), (10_000_001, 3)]:
        now_us = parse_time("2030-01-01T00:00:00Z") + offset_us
        assert api.available(account) == available


def test_expired_credits_are_unavailable_before_a_sweep(api: Api) -> None:
    account = api.account(3)
    api.mint(account, 5, expiresAt=api.after(60))
    api.mint(account, 6, expiresAt=api.after(60), poolId="gpu")
    api.mint(account, 7, expiresAt=api.after(600))
    with api.unchanged():
        api.pass_time(60)
        assert pools(api.get(f"/accounts/{account}/balance")) == {"general": (10, 0), "gpu": (0, 0)}
    before = pools(api.get(f"/accounts/{account}/balance"))
    api.advance(0)
    assert pools(api.get(f"/accounts/{account}/balance")) == before


def test_a_past_balance_includes_entries_of_that_microsecond(api: Api) -> None:
    account = api.account()
    times = []
    for amount in (1, 20, 300):
        api.mint(account, amount)
        times.append(api.get(f"/accounts/{account}/history")["items"][0]["createdAt"])
        api.pass_time(10)
    expected = {
        moved(times[0], -1): 0,
        times[0]: 1,
        moved(times[1], -1): 1,
        times[1]: 21,
        moved(times[2], -1): 21,
        times[2]: 321,
    }
    for at, available in expected.items():
        assert api.available(account, at=at) == available
        balance = api.get(f"/accounts/{account}/balance", at=at)
        assert (balance["at"], balance["totalAvailableMicro"]) == (at, str(available))


def test_a_past_balance_is_exact_if_the_expiry_was_written_later(api: Api) -> None:
    account = api.account(1)
    end = api.after(100)
    api.mint(account, 20, expiresAt=end)
    moments = {moved(end, -1): 21, end: 1, moved(end, 1): 1, moved(end, 90_000_000): 1}
    api.pass_time(200)
    for at, available in moments.items():
        assert api.available(account, at=at) == available
    api.advance(0)
    for at, available in moments.items():
        assert api.available(account, at=at) == available
    # The same if a mint comes between the expiry and its entry.
    api.mint(account, 300)
    for at, available in moments.items():
        assert api.available(account, at=at) == available
    assert api.available(account) == 301


def test_a_write_and_a_sweep_expire_to_the_same_past_balance(api: Api) -> None:
    touched, swept = api.account(5), api.account(5)
    end = api.after(50)
    for account in (touched, swept):
        api.mint(account, 7, expiresAt=end)
    api.pass_time(80)
    api.mint(touched, 1)
    api.mint(swept, 1)
    api.advance(0)
    for at in (moved(end, -1), end, moved(end, 1_000_000)):
        assert api.available(touched, at=at) == api.available(swept, at=at)


def test_a_past_time_may_have_any_offset_and_is_returned_in_utc(api: Api) -> None:
    account = api.account(5)
    balance = api.get(f"/accounts/{account}/balance", at="2001-01-01T01:00:00+01:00")
    assert (balance["at"], balance["totalAvailableMicro"]) == ("2001-01-01T00:00:00.000000Z", "0")


def test_a_past_balance_of_one_pool(api: Api) -> None:
    account = api.account(5)
    api.mint(account, 7, poolId="gpu")
    at = api.get(f"/accounts/{account}/history", poolId="gpu")["items"][0]["createdAt"]
    assert pools(api.get(f"/accounts/{account}/balance", at=at, poolId="gpu")) == {"gpu": (7, 0)}
    assert pools(api.get(f"/accounts/{account}/balance", at=moved(at, -1), poolId="gpu")) == {"gpu": (0, 0)}


def test_a_balance_of_a_future_time_is_rejected(api: Api) -> None:
    account = api.account(5)
    for at in (api.after(5), "9999-12-31T23:59:59.999999Z"):
        problem_of(api.call("GET", f"/accounts/{account}/balance", at=at), 400, "validation_error", "at")
    at = api.after(0)
    ok(api.call("GET", f"/accounts/{account}/balance", at=at))


def test_reading_a_balance_writes_nothing(api: Api) -> None:
    account = api.account(5)
    api.mint(account, 5, expiresAt=api.after(1))
    api.pass_time(5)
    with api.unchanged():
        for path in ("", "/balance", "/lots", "/history"):
            api.get(f"/accounts/{account}{path}")


def test_responses_carry_the_ledger_sequence(api: Api) -> None:
    account = api.account()
    path = f"/accounts/{account}/mint"

    def sequence(method: str, path: str, body: Json = None, **options: Any) -> str | None:
        found: str | None = api.call(method, path, body, **options).headers.get("ledger-sequence")
        return found

    assert sequence("GET", f"/accounts/{account}/balance") == "0"
    assert sequence("POST", path, {"amountMicro": "5"}, key="k") == "1"
    # A dry run adds no entries. A replayed response has the current sequence.
    assert sequence("POST", path, {"amountMicro": "5"}, dryRun="true") == "1"
    assert sequence("POST", path, {"amountMicro": "7"}) == "2"
    assert sequence("POST", path, {"amountMicro": "5"}, key="k") == "2"
    for read in ("balance", "lots", "history", "balance?at=2026-01-01T00:00:00Z"):
        assert sequence("GET", f"/accounts/{account}/{read}") == "2"
    refusal = api.ask_to_reserve(account, 100)
    assert (refusal.status_code, refusal.headers["ledger-sequence"]) == (402, "2")
    # A request that did not read the book has no such header.
    assert sequence("POST", path, {"amountMicro": 5}) is None


@pytest.mark.parametrize("seed", range(4))
def test_a_past_balance_equals_the_balance_read_at_that_time(api: Api, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    chance = random.Random(seed)
    now_us = parse_time("2030-01-01T00:00:00Z")
    set_time(monkeypatch, lambda: now_us)
    accounts = [api.account(), api.account()]
    held: list[str] = []
    answered: dict[tuple[str, int], Json] = {}
    for _ in range(60):
        now_us += chance.choice([0, 0, 1, 1_000_000, 5_000_000])
        account, pool = chance.choice(accounts), chance.choice(["general", "gpu", "cpu"])
        match chance.randrange(6):
            case 0 | 1:
                expiry = {"expiresAt": format_time(now_us + chance.randint(1, 9) * 1_000_000)}
                api.mint(account, chance.randint(1, 9), poolId=pool, **(expiry if chance.random() < 0.7 else {}))
            case 2 | 3 if api.available(account, pool):
                held.append(api.reserve(account, 1, poolId=pool, ttlSeconds=chance.choice([1, 4, 60])))
            case 4 if held:
                # Some are overdue by now, and the request is rejected.
                api.finalize(held.pop(chance.randrange(len(held))), chance.randint(0, 1))
            case _:
                api.advance(0)
        # Balances of a time include all entries of that time, so the last read of it counts.
        for each in accounts:
            answered[each, now_us] = api.get(f"/accounts/{each}/balance")
    for (account, at_us), balance in answered.items():
        assert api.get(f"/accounts/{account}/balance", at=format_time(at_us)) == balance
