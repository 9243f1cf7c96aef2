"""Lots and entries over HTTP."""

import pytest

from minibill.core.clock import format_time, parse_time
from tests.api_client import Api, Json
from tests.fake_clocks import set_time


def entries(api: Api, account: str) -> list[Json]:
    """Return all entries of an account, the oldest first."""
    items: list[Json] = api.get(f"/accounts/{account}/history", limit=100)["items"]
    return items[::-1]


def test_a_lot_shows_all_members_of_its_mint(api: Api) -> None:
    account = api.account()
    end = api.after(60)
    given = {"poolId": "gpu", "sourceType": "deposit", "sourceId": "order-1", "priority": 0, "metadata": {"n": [1, None]}}
    minted = api.mint(account, 7, expiresAt=end, description="a gift", **given)
    [lot] = api.get(f"/accounts/{account}/lots")["items"]
    assert list(lot) == [
        "id", "accountId", "poolId", "sourceType", "sourceId", "priority", "originalMicro", "availableMicro",
        "reservedMicro", "consumedMicro", "expiredMicro", "revokedMicro", "state", "expiresAt", "metadata", "campaignId",
        "grantId", "createdAt",
    ]  # fmt: skip
    assert lot == {
        "id": minted["lotId"], "accountId": account, "originalMicro": "7", "availableMicro": "7", "reservedMicro": "0",
        "consumedMicro": "0", "expiredMicro": "0", "revokedMicro": "0", "state": "live", "expiresAt": end,
        "campaignId": None, "grantId": None, "createdAt": lot["createdAt"], **given,
    }  # fmt: skip


def test_an_entry_shows_its_deltas_and_resulting_balances(api: Api) -> None:
    account = api.account(5)
    minted = api.mint(account, 7, sourceType="deposit", description="a gift", metadata={"n": 1})
    entry = entries(api, account)[-1]
    assert list(entry) == [
        "id", "entrySeq", "entryType", "poolId", "lotId", "reservationId", "chargeId", "campaignId", "grantId", "cause",
        "amountMicro", "availableDeltaMicro", "reservedDeltaMicro", "availableAfterMicro", "reservedAfterMicro",
        "description", "metadata", "createdAt",
    ]  # fmt: skip
    assert entry["id"].startswith("entry_")
    assert {**entry, "id": "", "createdAt": ""} == {
        "id": "", "entrySeq": 2, "entryType": "deposit", "poolId": "general", "lotId": minted["lotId"],
        "reservationId": None, "chargeId": None, "campaignId": None, "grantId": None, "cause": None,
        "amountMicro": "7", "availableDeltaMicro": "7", "reservedDeltaMicro": "0",
        "availableAfterMicro": "12", "reservedAfterMicro": "0", "description": "a gift",
        "metadata": {"n": 1}, "createdAt": "",
    }  # fmt: skip


def test_a_lot_shows_as_expired_before_the_expiry_is_written(api: Api) -> None:
    account = api.account(3)
    lot = api.mint(account, 5, expiresAt=api.after(60))["lotId"]

    def shown() -> list[tuple[str, str, str, str]]:
        lots = api.get(f"/accounts/{account}/lots")["items"]
        return [(each["state"], each["availableMicro"], each["expiredMicro"], each["originalMicro"]) for each in lots]

    assert shown() == [("live", "3", "0", "3"), ("live", "5", "0", "5")]
    api.pass_time(60)
    due = [("live", "3", "0", "3"), ("expired", "0", "5", "5")]
    with api.unchanged():
        assert shown() == due
        assert [each["id"] for each in api.get(f"/accounts/{account}/lots", state="expired")["items"]] == [lot]
        assert len(api.get(f"/accounts/{account}/lots", state="live")["items"]) == 1
        assert api.get(f"/accounts/{account}/lots", state="spent")["items"] == []
        assert api.get(f"/accounts/{account}/lots", state="revoked")["items"] == []
    api.advance(0)
    assert shown() == due
    assert [each["id"] for each in api.get(f"/accounts/{account}/lots", state="expired")["items"]] == [lot]


def test_a_lot_is_live_until_the_microsecond_of_its_expiry(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    start_us = parse_time("2030-01-01T00:00:00Z")
    now_us = start_us
    set_time(monkeypatch, lambda: now_us)
    account = api.account()
    api.mint(account, 5, expiresAt=format_time(start_us + 1))
    assert api.get(f"/accounts/{account}/lots")["items"][0]["state"] == "live"
    now_us = start_us + 1
    assert api.get(f"/accounts/{account}/lots")["items"][0]["state"] == "expired"


def test_entries_are_numbered_without_gaps_and_follow_from_each_other(api: Api) -> None:
    account = api.account()
    for number in range(12):
        expires = {"expiresAt": api.after(5)} if number % 3 == 0 else {}
        api.mint(account, number + 1, poolId=("general", "gpu", "cpu")[number % 3 and number % 2], **expires)
        api.pass_time(2)
    api.advance(10)
    seen: dict[str, tuple[int, int, int]] = {}
    for entry in entries(api, account):
        seq, available, reserved = seen.get(entry["poolId"], (0, 0, 0))
        available += int(entry["availableDeltaMicro"])
        reserved += int(entry["reservedDeltaMicro"])
        assert entry["entrySeq"] == seq + 1
        assert (int(entry["availableAfterMicro"]), int(entry["reservedAfterMicro"])) == (available, reserved)
        seen[entry["poolId"]] = (seq + 1, available, reserved)
    balance = api.get(f"/accounts/{account}/balance")["pools"]
    assert {pool["poolId"]: int(pool["availableMicro"]) for pool in balance} == {p: a for p, (_, a, _) in seen.items()}
    assert len(seen) == 2


def test_ledger_times_do_not_decrease_when_the_clock_goes_back(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    account = api.account()
    campaign = api.campaign()
    start_us = parse_time("2040-01-01T00:00:00Z")
    now_us = start_us
    set_time(monkeypatch, lambda: now_us)
    for offset_s, amount in [(0, 1), (100, 2), (-86_400, 3), (50, 4), (101, 5)]:
        now_us = start_us + offset_s * 1_000_000
        api.mint(account, amount)
    api.batch(campaign, (account, 6))
    times = [entry["createdAt"] for entry in entries(api, account)]
    expected = [start_us, *[start_us + 100_000_000] * 3, *[start_us + 101_000_000] * 2]
    assert [parse_time(time) for time in times] == expected


def test_expired_credits_stay_expired_when_the_clock_goes_back(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    start_us = parse_time("2040-01-01T00:00:00Z")
    set_time(monkeypatch, lambda: start_us)
    account = api.account()
    api.mint(account, 5, expiresAt=api.after(10))
    set_time(monkeypatch, lambda: start_us + 10_000_000)
    assert api.available(account) == 0
    set_time(monkeypatch, lambda: start_us)
    assert api.available(account) == 0
