"""Revocation of a grant, and of all grants of a campaign. See docs/concepts/campaigns.md."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import httpx
import pytest

from minibill.campaigns import lifecycle, revocation
from minibill.core import ids
from minibill.core.problems import InternalError, Overloaded, StorageFull
from minibill.ledger import expiry
from tests.api_client import Api, Json, ok, problem_of
from tests.reservations.helpers import Entry, all_reads, balance, entries, lots

REASON = {"reason": "wrong list"}


def grant(api: Api, campaign: str, account: str, amount: int) -> Json:
    [item] = ok(api.batch(campaign, (account, amount)), 201)["grants"]
    return item


def revoke_grant(api: Api, campaign: str, grant_id: str, **options: Any) -> Json:
    return ok(api.post(f"/campaigns/{campaign}/grants/{grant_id}/revoke", REASON, **options), 200)


def revoke_all(api: Api, campaign: str, **options: Any) -> Json:
    return ok(api.post(f"/campaigns/{campaign}/revoke", REASON, **options), 200)


def spent(api: Api, campaign: str) -> int:
    return int(api.get(f"/campaigns/{campaign}")["spentMicro"])


def amounts(answer: Json) -> tuple[int, int, int]:
    """Return the revoked, consumed and reserved amounts."""
    return int(answer["revokedMicro"]), int(answer["consumedMicro"]), int(answer["reservedMicro"])


@pytest.fixture
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a revocation of five grants take three transactions."""
    monkeypatch.setattr(revocation, "SLICE_GRANTS_MAX", 2)


@pytest.fixture
def five(api: Api, small_slices: None) -> tuple[str, list[str]]:
    """A campaign that paid five accounts 100 each; the first spent 30 and the second holds 20."""
    campaign, accounts = api.campaign(1_000), [api.account() for _ in range(5)]
    ok(api.batch(campaign, *[(account, 100) for account in accounts]), 201)
    ok(api.finalize(api.reserve(accounts[0], 30), 30))
    api.reserve(accounts[1], 20)
    return campaign, accounts


# --- one grant ---


def test_budget_returned_by_an_overdue_reservation_can_be_granted_at_once(api: Api) -> None:
    campaign, account = api.campaign(100), api.account()
    paid = grant(api, campaign, account, 100)
    api.reserve(account, 100, ttlSeconds=10)
    assert amounts(revoke_grant(api, campaign, paid["grantId"])) == (0, 0, 100)
    problem_of(api.batch(campaign, (api.account(), 1)), 422, "budget_exceeded")
    api.pass_time(11)
    ok(api.call("PATCH", f"/campaigns/{campaign}?dryRun=true", {"budgetMicro": "60"}))
    assert ok(api.batch(campaign, (api.account(), 60)), 201)["remainingMicro"] == "40"


def overdue(api: Api, holds: dict[int, int], *, budget: int = 1_000) -> str:
    """Return an active campaign whose grants are revoked while reservations hold them: amounts by lifetime in seconds."""
    campaign = api.campaign(budget)
    for seconds, micro in holds.items():
        account = api.account()
        paid = grant(api, campaign, account, micro)
        api.reserve(account, micro, ttlSeconds=seconds)
        assert amounts(revoke_grant(api, campaign, paid["grantId"])) == (0, 0, micro)
    return campaign


def test_each_campaign_of_a_page_counts_its_own_returned_budget(api: Api) -> None:
    one, none, two = overdue(api, {10: 100, 20: 30}), api.campaign(), overdue(api, {10: 7, 11: 5, 90: 1})
    ok(api.batch(none, (api.account(), 9)))
    ok(api.post(f"/campaigns/{two}/pause"))
    ended = overdue(api, {10: 2})
    ok(api.call("PATCH", f"/campaigns/{ended}", {"expiresAt": api.after(5)}))

    def listed() -> list[list[tuple[str, str]]]:
        pages = [api.get("/campaigns", **query)["items"] for query in ({}, {"status": "paused"}, {"status": "expired"})]
        return [[(shown["id"], shown["spentMicro"]) for shown in page] for page in pages]

    with api.unchanged():
        api.pass_time(9)
        assert listed() == [[(ended, "2"), (two, "13"), (none, "9"), (one, "130")], [(two, "13")], [(ended, "2")]]
        api.pass_time(3)
        found = listed()
        assert found == [[(ended, "0"), (two, "1"), (none, "9"), (one, "30")], [(two, "1")], [(ended, "0")]]
    api.advance(0)
    assert listed() == found


@pytest.mark.parametrize("slices", ["one", "several"])
@pytest.mark.parametrize("how", ["activate", "pause", "complete", "edit"])
def test_a_change_of_a_campaign_responds_with_its_returned_budget(
    api: Api, how: str, slices: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    campaign = overdue(api, {10: 100, 11: 30, 90: 1})
    if how == "activate":
        ok(api.post(f"/campaigns/{campaign}/pause"))
    if slices == "several":
        monkeypatch.setattr(expiry, "SWEEP_MAX", 1)
        monkeypatch.setattr(lifecycle, "OVERDUE_SCAN_MAX", 1)
    api.pass_time(20)
    path = f"/campaigns/{campaign}"
    changed = ok(api.call("PATCH", path, {"name": "Another"}) if how == "edit" else api.post(f"{path}/{how}"))
    assert (changed["spentMicro"], changed["remainingMicro"]) == ("1", "999")
    assert api.get(path) == changed
    # Overdue reservations are released first, so the event has the same amounts.
    event = api.get("/events", types="campaign.*")["items"][-1]
    assert event["data"] == changed
    api.advance(0)
    assert api.get(path) == changed


def test_a_revocation_takes_back_unspent_credits_and_returns_the_budget(api: Api) -> None:
    campaign, account = api.campaign(1_000), api.account(7)
    paid = grant(api, campaign, account, 100)
    ok(api.finalize(api.reserve(account, 7 + 30), 7 + 30))
    api.reserve(account, 20)
    answer = revoke_grant(api, campaign, paid["grantId"])
    assert answer == {
        "grantId": paid["grantId"], "status": "revoked", "revokedMicro": "50", "consumedMicro": "30", "reservedMicro": "20",
    }  # fmt: skip
    assert balance(api, account) == (0, 20, 0)
    assert entries(api, account)[-1] == Entry("revoke", -50, -50, 0, paid["lotId"], None)
    assert api.get(f"/accounts/{account}/history")["items"][0]["description"] == "wrong list"
    assert spent(api, campaign) == 50
    [listed] = api.get(f"/campaigns/{campaign}/grants", status="revoked")["items"]
    assert (listed["revokedMicro"], listed["revokeReason"]) == ("50", "wrong list")
    assert listed["revokedAt"] == api.get(f"/accounts/{account}/history")["items"][0]["createdAt"]
    assert [lot["id"] for lot in api.get(f"/accounts/{account}/lots", state="revoked")["items"]] == [paid["lotId"]]
    assert api.get(f"/campaigns/{campaign}/grants", status="granted")["items"] == []


@pytest.mark.parametrize("ended", ["pause", "complete", "expire"])
def test_grants_of_an_inactive_campaign_can_be_revoked(api: Api, ended: str) -> None:
    campaign, account = api.campaign(1_000, expiresAt=api.after(60)), api.account()
    paid = grant(api, campaign, account, 100)
    if ended == "expire":
        api.advance(60)
    else:
        ok(api.post(f"/campaigns/{campaign}/{ended}"))
    assert amounts(revoke_grant(api, campaign, paid["grantId"])) == (100, 0, 0)
    assert spent(api, campaign) == 0
    assert revoke_all(api, campaign)["totalRevoked"] == 1


def test_a_repeated_revocation_returns_the_first_response(api: Api) -> None:
    campaign, account = api.campaign(1_000), api.account()
    paid = grant(api, campaign, account, 100)
    reservation = api.reserve(account, 60)
    first = revoke_grant(api, campaign, paid["grantId"])
    assert amounts(first) == (40, 0, 60)
    ok(api.finalize(reservation, 10))
    entries_before = entries(api, account)
    assert revoke_grant(api, campaign, paid["grantId"]) == first
    assert entries(api, account) == entries_before
    assert amounts(revoke_all(api, campaign)) == (40, 0, 60)


HOW: dict[str, Callable[[Api, str], object]] = {
    "released": lambda api, reservation: ok(api.release(reservation)),
    "partly finalized": lambda api, reservation: ok(api.finalize(reservation, 10)),
    "expired, swept": lambda api, _: api.advance(50),
    "expired, not swept": lambda api, _: api.pass_time(50),
}


@pytest.mark.parametrize("lot_has_expired", [False, True])
@pytest.mark.parametrize("held", [60, 100])
@pytest.mark.parametrize("how", HOW)
def test_credits_that_a_reservation_returns_are_revoked_at_once(
    api: Api, how: str, held: int, lot_has_expired: bool
) -> None:
    campaign, account = api.campaign(1_000, **({"grantTtlSeconds": 30} if lot_has_expired else {})), api.account()
    paid = grant(api, campaign, account, 100)
    reservation = api.reserve(account, held, ttlSeconds=50)
    # A lot is revoked also when all of it is reserved and no credits can be taken back now.
    assert amounts(revoke_grant(api, campaign, paid["grantId"])) == (100 - held, 0, held)
    if lot_has_expired:
        api.pass_time(30)
    HOW[how](api, reservation)
    used = 10 if how == "partly finalized" else 0
    parts = {"revoked": 100 - used} | ({"consumed": used} if used else {})

    def state() -> Json:
        stats = api.get(f"/campaigns/{campaign}/stats")
        shown = api.get(f"/campaigns/{campaign}")
        assert api.get("/campaigns")["items"] == api.get("/campaigns", status="active")["items"] == [shown]
        return balance(api, account), lots(api, account), {k: v for k, v in stats.items() if k != "perDay"}, shown

    before = state()
    assert before[:2] == ((0, 0, 0), {paid["lotId"]: parts})
    assert (before[2]["revokedMicro"], before[2]["spentMicro"]) == (str(100 - used), str(used))
    assert (before[3]["spentMicro"], before[3]["remainingMicro"]) == (str(used), str(1_000 - used))
    api.advance(0)
    assert state() == before
    assert entries(api, account)[-1] == Entry("revoke", used - held, 0, used - held, paid["lotId"], reservation)
    assert spent(api, campaign) == used


def test_expired_credits_are_not_revoked_but_later_returns_are(api: Api) -> None:
    campaign, account = api.campaign(1_000, grantTtlSeconds=30), api.account()
    paid = grant(api, campaign, account, 100)
    reservation = api.reserve(account, 60, ttlSeconds=100)
    api.pass_time(30)
    assert amounts(revoke_grant(api, campaign, paid["grantId"])) == (0, 0, 60)
    assert lots(api, account) == {paid["lotId"]: {"expired": 40, "reserved": 60}}
    [lot] = api.get(f"/accounts/{account}/lots")["items"]
    assert lot["state"] == "expired"
    ok(api.release(reservation))
    assert lots(api, account) == {paid["lotId"]: {"expired": 40, "revoked": 60}}
    [lot] = api.get(f"/accounts/{account}/lots")["items"]
    assert lot["state"] == "revoked"
    assert spent(api, campaign) == 40


def test_an_overdue_reservation_is_released_before_the_revocation(api: Api) -> None:
    campaign, account = api.campaign(1_000), api.account()
    paid = grant(api, campaign, account, 100)
    api.reserve(account, 60, ttlSeconds=10)
    api.pass_time(10)
    assert amounts(revoke_grant(api, campaign, paid["grantId"])) == (100, 0, 0)
    assert [e.type for e in entries(api, account)] == ["grant", "reserve", "release", "revoke"]


def test_a_revocation_does_not_change_past_balances(api: Api) -> None:
    campaign, account = api.campaign(1_000, grantTtlSeconds=100), api.account(5)
    paid = grant(api, campaign, account, 100)
    moments: list[tuple[str, Json]] = []

    def moment() -> None:
        api.pass_time(1)
        moments.append((api.after(0), balance(api, account)))
        api.pass_time(1)

    moment()
    api.reserve(account, 35, ttlSeconds=20)
    moment()
    revoke_grant(api, campaign, paid["grantId"])
    moment()
    api.pass_time(20)
    moment()
    api.pass_time(100)
    moment()
    api.advance(0)
    moment()
    # The reservation draws from the grant first, since the grant expires.
    assert [found for _, found in moments] == [(105, 0, 0), (70, 35, 0), (5, 35, 0), (5, 0, 0), (5, 0, 0), (5, 0, 0)]
    assert [balance(api, account, at=at) for at, _ in moments] == [found for _, found in moments]


def test_soft_mode_draws_nothing_from_a_revoked_grant(api: Api) -> None:
    campaign, account = api.campaign(1_000), api.account()
    paid = grant(api, campaign, account, 100)
    reservation = api.reserve(account, 10, billingMode="soft")
    revoke_grant(api, campaign, paid["grantId"])
    ok(api.finalize(reservation, 25))
    assert balance(api, account) == (0, 0, 15)
    problem_of(api.ask_to_reserve(account, 1), 402, "insufficient_balance")


def test_a_campaign_does_not_pay_a_revoked_account_again(api: Api) -> None:
    campaign, account = api.campaign(1_000), api.account()
    paid = grant(api, campaign, account, 100)
    revoke_grant(api, campaign, paid["grantId"])
    before = all_reads(api, account)
    answer = ok(api.batch(campaign, (account, 5)), 200)
    assert answer["grants"] == [{**paid, "status": "revoked", "duplicate": True}]
    assert (answer["totalDuplicates"], answer["totalGranted"], answer["remainingMicro"]) == (1, 0, "1000")
    assert all_reads(api, account) == before


def test_a_grant_of_another_campaign_is_not_found(api: Api) -> None:
    campaign, other, account = api.campaign(1_000), api.campaign(1_000), api.account()
    paid = grant(api, campaign, account, 100)["grantId"]
    with api.unchanged():
        for at, name in ((other, paid), (campaign, "grant_none"), (campaign, ids.encode(ids.GRANT, 99))):
            problem = problem_of(api.post(f"/campaigns/{at}/grants/{name}/revoke", REASON), 404, "grant_not_found")
            assert problem["grantId"] == name
        problem_of(api.post(f"/campaigns/camp_none/grants/{paid}/revoke", REASON), 404, "campaign_not_found")
        problem_of(api.post("/campaigns/camp_none/revoke", REASON), 404, "campaign_not_found")


def test_a_campaign_that_granted_63_bits_can_grant_no_more(api: Api, start: Callable[..., Api]) -> None:
    most = 2**63 - 1
    api = start(MINIBILL_CEILING_MICRO=str(most))
    campaign = api.campaign(most, perWalletCapMicro=str(most))
    paid = ok(api.batch(campaign, (api.account(), most), force=True))["grants"][0]
    revoke_grant(api, campaign, paid["grantId"])
    assert spent(api, campaign) == 0
    account = api.account()
    with api.unchanged():
        problem_of(api.batch(campaign, (account, 1)), 422, "amount_too_large")


# --- all grants of a campaign ---


def test_a_campaign_is_revoked_completely_in_several_transactions(api: Api, five: tuple[str, list[str]]) -> None:
    campaign, accounts = five
    answer = revoke_all(api, campaign)
    assert answer == {
        "campaignId": campaign, "totalRevoked": 5, "revokedMicro": "450", "consumedMicro": "30", "reservedMicro": "20",
    }  # fmt: skip
    assert [balance(api, account) for account in accounts] == [(0, 0, 0), (0, 20, 0), (0, 0, 0), (0, 0, 0), (0, 0, 0)]
    assert spent(api, campaign) == 50
    assert revoke_all(api, campaign) == answer
    rows = api.audited("campaign.revoke")
    assert [(row["details"]["grants"], row["details"]["complete"]) for row in rows] == [
        (2, False), (2, False), (1, True), (0, True),
    ]  # fmt: skip
    # The audit row of each transaction lists its accounts; together they list all.
    moved = [move for row in rows for move in row["details"]["balances"]]
    assert [move["accountId"] for move in moved] == accounts
    assert [(move["beforeMicro"], move["afterMicro"]) for move in moved] == [("70", "0"), ("80", "0"), *[("100", "0")] * 3]
    assert [row["details"]["spentAfterMicro"] for row in rows] == ["350", "150", "50", "50"]


def test_totals_count_earlier_revocations_with_their_amounts_then(api: Api, five: tuple[str, list[str]]) -> None:
    campaign, accounts = five
    [item] = api.get(f"/campaigns/{campaign}/grants", accountId=accounts[1])["items"]
    assert amounts(revoke_grant(api, campaign, item["grantId"])) == (80, 0, 20)
    assert revoke_all(api, campaign)["totalRevoked"] == 5
    assert amounts(revoke_all(api, campaign)) == (450, 30, 20)


def test_a_dry_run_in_several_transactions_responds_as_the_real_run(api: Api, five: tuple[str, list[str]]) -> None:
    campaign, _ = five
    with api.unchanged():
        dry = revoke_all(api, campaign, dryRun="true", key="k")
    assert dry == {**revoke_all(api, campaign, key="k"), "dryRun": True}


def test_a_campaign_without_grants_has_nothing_to_revoke(api: Api) -> None:
    for campaign in (api.draft(), api.campaign()):
        assert (revoke_all(api, campaign)["totalRevoked"], amounts(revoke_all(api, campaign))) == (0, (0, 0, 0))


def test_other_writes_run_between_slices_and_new_grants_stay(api: Api, five: tuple[str, list[str]]) -> None:
    campaign, _ = five
    late = api.account()

    async def at_once(*requests: Coroutine[Any, Any, Any]) -> list[Any]:
        return list(await asyncio.gather(*requests))

    def sending(path: str, body: Json) -> Coroutine[Any, Any, Any]:
        headers = {"Authorization": f"Bearer {api.token}"}
        return api.http.post(f"/admin/billing/campaigns/{campaign}{path}", json=body, headers=headers)

    batch = {"grants": [{"accountId": late, "amountMicro": "9"}]}
    revoked, paid = api.loop.run(at_once(sending("/revoke", REASON), sending("/grants/batch", batch)))
    assert ok(revoked)["totalRevoked"] == 5
    assert ok(paid)["totalGranted"] == 1
    assert api.available(late) == 9
    assert revoke_all(api, campaign)["totalRevoked"] == 6


def test_concurrent_revocations_revoke_each_grant_once(api: Api, five: tuple[str, list[str]]) -> None:
    campaign, accounts = five

    async def both() -> list[Any]:
        headers = {"Authorization": f"Bearer {api.token}", "Idempotency-Key": "k"}
        path = f"/admin/billing/campaigns/{campaign}/revoke"
        return list(await asyncio.gather(*[api.http.post(path, json=REASON, headers=headers) for _ in range(2)]))

    first, second = api.loop.run(both())
    assert ok(first) == ok(second) and first.json()["totalRevoked"] == 5
    assert sum(entry.type == "revoke" for account in accounts for entry in entries(api, account)) == 5


def fail_after(
    api: Api, monkeypatch: pytest.MonkeyPatch, slices: int, failure: Exception | type[Exception] = Overloaded
) -> None:
    """Make the writer fail after that many more operations."""
    run, left = api.book.writer.run, iter(range(slices))

    async def failing(*args: Any, **options: Any) -> Any:
        if next(left, None) is None:
            raise failure
        return await run(*args, **options)

    monkeypatch.setattr(api.book.writer, "run", failing)


def test_a_repeated_request_finishes_an_interrupted_revocation(
    api: Api, five: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    campaign, accounts = five
    with monkeypatch.context() as patched:
        fail_after(api, patched, 1)
        problem = problem_of(api.post(f"/campaigns/{campaign}/revoke", REASON, key="k"), 503, "overloaded")
    assert "a part of the request was applied" in problem["detail"]
    assert [api.available(account) for account in accounts] == [0, 0, 100, 100, 100]
    answer = revoke_all(api, campaign, key="k")
    assert (answer["totalRevoked"], *amounts(answer)) == (5, 450, 30, 20)
    assert revoke_all(api, campaign, key="k") == answer
    assert [row["details"]["grants"] for row in api.audited("campaign.revoke")] == [2, 2, 1]


def test_a_restart_between_slices_loses_nothing(
    start: Callable[..., Api], small_slices: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = start()
    campaign, accounts = api.campaign(1_000), [api.account() for _ in range(5)]
    ok(api.batch(campaign, *[(account, 100) for account in accounts]), 201)
    fail_after(api, monkeypatch, 2)
    problem_of(api.post(f"/campaigns/{campaign}/revoke", REASON, key="k"), 503, "overloaded")
    monkeypatch.undo()
    api = start()
    assert amounts(revoke_all(api, campaign, key="k")) == (500, 0, 0)
    assert spent(api, campaign) == 0
    assert sum(entry.type == "revoke" for account in accounts for entry in entries(api, account)) == 5


@pytest.mark.parametrize("failure", [StorageFull(), InternalError(), RuntimeError("a bug")], ids=repr)
def test_the_error_of_a_partial_revocation_does_not_claim_no_change(
    api: Api, five: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    campaign, _ = five
    with monkeypatch.context() as patched:
        fail_after(api, patched, 1, failure)
        response = api.post(f"/campaigns/{campaign}/revoke", REASON)
    problem = response.json()
    assert (response.status_code, problem["code"]) == (
        (503, "storage_full") if isinstance(failure, StorageFull) else (500, "internal_error")
    )
    assert "a part of the request was applied" in problem["detail"]
    assert "nothing was changed" not in problem["detail"]


def between_slices(api: Api, monkeypatch: pytest.MonkeyPatch, *meanwhile: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    """Run one of these after each of the next transactions, before the one that follows."""
    run, left = api.book.writer.run, list(meanwhile)

    async def running(*args: Any, **options: Any) -> Any:
        answer = await run(*args, **options)
        if left:
            await left.pop(0)()
        return answer

    monkeypatch.setattr(api.book.writer, "run", running)


def test_the_key_of_a_running_revocation_cannot_be_reused(
    api: Api, five: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    campaign, accounts = five
    headers = {"Authorization": f"Bearer {api.token}", "Idempotency-Key": "k"}
    entity = {"entityType": "person", "entityId": "eve"}
    others: list[httpx.Response] = []

    async def other() -> None:
        others.append(await api.http.post("/admin/billing/accounts", json=entity, headers=headers))

    with monkeypatch.context() as patched:
        between_slices(api, patched, other)
        answer = revoke_all(api, campaign, key="k")
    assert (answer["totalRevoked"], [api.available(account) for account in accounts]) == (5, [0] * 5)
    problem_of(others[0], 422, "idempotency_key_reused")
    assert revoke_all(api, campaign, key="k") == answer


def test_an_interrupted_revocation_releases_its_key(
    api: Api, five: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    campaign, _ = five
    with monkeypatch.context() as patched:
        fail_after(api, patched, 1)
        problem_of(api.post(f"/campaigns/{campaign}/revoke", REASON, key="k"), 503, "overloaded")
    ok(api.post("/accounts", {"entityType": "person", "entityId": "eve"}, key="k"))


@pytest.mark.parametrize("when", range(3))
def test_a_dry_run_counts_concurrently_revoked_grants_once(
    api: Api, five: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch, when: int
) -> None:
    campaign, _ = five
    headers = {"Authorization": f"Bearer {api.token}"}

    async def nothing() -> None:
        pass

    async def really() -> None:
        ok(await api.http.post(f"/admin/billing/campaigns/{campaign}/revoke", json=REASON, headers=headers))

    with monkeypatch.context() as patched:
        between_slices(api, patched, *[nothing] * when, really)
        dry = revoke_all(api, campaign, dryRun="true")
    assert (dry["totalRevoked"], *amounts(dry)) == (5, 450, 30, 20)
    assert dry == {**revoke_all(api, campaign), "dryRun": True}


def test_an_interrupted_dry_run_changes_nothing(
    api: Api, five: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    campaign, _ = five
    with api.unchanged(), monkeypatch.context() as patched:
        fail_after(api, patched, 1)
        problem = problem_of(api.post(f"/campaigns/{campaign}/revoke?dryRun=true", REASON), 503, "overloaded")
    assert "a part" not in problem["detail"]


# --- the request ---


INVALID_REASONS = [None, {}, {"reason": None}, {"reason": ""}, {"reason": "x" * 501}, {"reason": 7}, {"reason": "a\0b"}]


def test_a_revocation_requires_a_reason_of_1_to_500_characters(api: Api, subtests: pytest.Subtests) -> None:
    for body in INVALID_REASONS:
        with subtests.test(body=body):
            campaign, account = api.campaign(), api.account()
            paid = grant(api, campaign, account, 5)["grantId"]
            with api.unchanged():
                for path in (f"/campaigns/{campaign}/grants/{paid}/revoke", f"/campaigns/{campaign}/revoke"):
                    problem_of(api.post(path, body), 400, "validation_error", "reason")
                    problem_of(api.post(path, {"reason": "x", "force": True}), 400, "validation_error", "force")
