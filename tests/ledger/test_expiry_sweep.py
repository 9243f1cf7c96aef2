"""Expiry: a write first expires lots of the accounts that it touches; the sweep does so for the others."""

import pytest

from tests.api_client import Api, Json, ok


def comparable_entries(api: Api, account: str) -> list[tuple[str, ...]]:
    """Return the entries without ids and times, the oldest first."""
    members = (
        "entryType",
        "poolId",
        "entrySeq",
        "amountMicro",
        "availableDeltaMicro",
        "availableAfterMicro",
        "reservedAfterMicro",
    )
    items: list[Json] = api.get(f"/accounts/{account}/history", limit=100)["items"]
    return [tuple(str(entry[member]) for member in members) for entry in items[::-1]]


def lots(api: Api, account: str) -> list[tuple[str, ...]]:
    members = ("state", "availableMicro", "expiredMicro", "originalMicro")
    return [tuple(lot[member] for member in members) for lot in api.get(f"/accounts/{account}/lots")["items"]]


def with_due_lots(api: Api) -> str:
    account = api.account(1)
    for number, seconds in enumerate([50, 10, 30, 10, 500, 20, 40], 1):
        api.mint(account, number * 10, expiresAt=api.after(seconds), poolId=("general", "gpu")[number % 2])
    return account


@pytest.mark.parametrize("slice_lots", [1, 2, 500])
def test_a_sweep_in_slices_writes_the_same_entries_as_a_write(
    api: Api, monkeypatch: pytest.MonkeyPatch, slice_lots: int
) -> None:
    monkeypatch.setattr("minibill.book.SWEEP_STEP", slice_lots)
    touched, swept = with_due_lots(api), with_due_lots(api)
    api.pass_time(100)
    api.mint(touched, 5)
    api.loop.run(api.book.sweep())
    api.mint(swept, 5)
    assert comparable_entries(api, touched) == comparable_entries(api, swept)
    assert lots(api, touched) == lots(api, swept)
    assert [entry[0] for entry in comparable_entries(api, swept)].count("expire") == 6


def test_a_sweep_expires_many_accounts_and_leaves_live_lots(api: Api) -> None:
    accounts = [with_due_lots(api) for _ in range(3)]
    untouched = api.account(5)
    before = comparable_entries(api, untouched)
    api.pass_time(100)
    api.loop.run(api.book.sweep())
    for account in accounts:
        # 1 and 50 from the lots that live longer.
        assert api.available(account, "gpu") + api.available(account) == 1 + 50
        assert [lot[0] for lot in lots(api, account)].count("expired") == 6
    assert comparable_entries(api, untouched) == before
    with api.unchanged():
        api.loop.run(api.book.sweep())


def test_a_batch_expires_lots_of_the_accounts_that_it_pays(api: Api) -> None:
    account = api.account()
    api.mint(account, 10, expiresAt=api.after(5))
    campaign = api.campaign()
    api.pass_time(10)
    ok(api.batch(campaign, (account, 7)))
    assert [entry[0] for entry in comparable_entries(api, account)] == ["grant", "expire", "grant"]
    assert api.available(account) == 7


@pytest.mark.parametrize("how", ["rejected", "dry run"])
def test_expiry_before_a_rejected_write_or_dry_run_is_kept(api: Api, how: str) -> None:
    account = api.account()
    api.mint(account, 10, expiresAt=api.after(5))
    api.pass_time(10)

    def ask() -> None:
        if how == "rejected":
            assert api.post(f"/accounts/{account}/mint", {"amountMicro": "9" * 15}).status_code == 422
        else:
            answer = ok(api.post(f"/accounts/{account}/mint", {"amountMicro": "1"}, dryRun="true"))
            assert answer["balance"]["availableMicro"] == "1"

    ask()
    assert [entry[0] for entry in comparable_entries(api, account)] == ["grant", "expire"]
    with api.unchanged():
        ask()


def test_a_sweep_completes_expired_campaigns(api: Api) -> None:
    draft, active, lasting = api.draft(expiresAt=api.after(5)), api.campaign(expiresAt=api.after(5)), api.campaign()
    api.pass_time(10)
    api.loop.run(api.book.sweep())
    assert [api.get(f"/campaigns/{c}")["status"] for c in (draft, active, lasting)] == ["expired", "expired", "active"]
    with api.unchanged():
        api.loop.run(api.book.sweep())
