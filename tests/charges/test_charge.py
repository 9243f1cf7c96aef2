"""Charging over HTTP, one by one: the amount, the modes, sources and errors."""

from collections.abc import Callable

import pytest

from tests.api_client import Api, Json, ok, problem_of
from tests.charges.helpers import ask_to_charge, charge, consumed, entries_of, figures
from tests.discounts.helpers import CAPPED, FREE, GOLD, join, member, put_tiers
from tests.events.feed_client import drain
from tests.reservations.cache_checks import count_cached, stale_cache_entries
from tests.reservations.conftest import Moment
from tests.reservations.helpers import balance, history, lots

MODES = ("live", "soft", "shadow")


def test_the_response_of_a_charge(moment: Moment, api: Api) -> None:
    account = api.account(3, 7)
    first, second = lots(api, account)
    made = charge(api, account, 5, sourceId="call-1", description="a call", metadata={"model": "m"})
    assert made.pop("chargeId") == "charge_0000000000001"
    assert made == {
        "accountId": account, "poolId": "general", "sourceId": "call-1", "listMicro": "5", "discountBps": 0,
        "discountMicro": "0", "chargedMicro": "5", "debtMicro": "0", "billingMode": "live", "duplicate": False,
        "lotAllocations": [{"lotId": first, "consumedMicro": "3"}, {"lotId": second, "consumedMicro": "2"}],
        "createdAt": moment.text(0),
    }  # fmt: skip
    assert balance(api, account) == (5, 0, 0)
    assert lots(api, account) == {first: {"consumed": 3}, second: {"available": 5, "consumed": 2}}


def test_a_charge_has_an_entry_per_lot_with_its_description(api: Api) -> None:
    account = api.account(3, 7)
    charge(api, account, 5, description="a call", metadata={"model": "m"})
    written = history(api, account)[2:]
    assert [(e["entryType"], e["amountMicro"], e["availableDeltaMicro"], e["reservedDeltaMicro"]) for e in written] == [
        ("charge", "-3", "-3", "0"), ("charge", "-2", "-2", "0"),
    ]  # fmt: skip
    assert {(e["description"], str(e["metadata"]), e["reservationId"]) for e in written} == {
        ("a call", "{'model': 'm'}", None)
    }


def test_a_charge_draws_like_a_reservation(api: Api) -> None:
    account = api.account()
    general = api.mint(account, 100, priority=0)["lotId"]
    late = api.mint(account, 10, poolId="gpu", priority=90)["lotId"]
    soon = api.mint(account, 10, poolId="gpu", expiresAt=api.after(5_000))["lotId"]
    first = api.mint(account, 10, poolId="gpu", priority=10)["lotId"]
    api.mint(account, 100, poolId="cpu", priority=0)
    assert consumed(charge(api, account, 35, poolId="gpu")) == [(first, 10), (soon, 10), (late, 10), (general, 5)]


@pytest.mark.parametrize("mode", MODES)
def test_a_cost_of_zero_moves_nothing(api: Api, mode: str) -> None:
    account = api.account()
    made = charge(api, account, 0, sourceId="free", billingMode=mode, poolId="gpu")
    assert figures(made) == (0, 0, 0, 0) and made["lotAllocations"] == []
    assert entries_of(api, made) == ([("shadow_charge", 0)] if mode == "shadow" else [])
    assert ok(ask_to_charge(api, account, 0, sourceId="free", poolId="gpu"), 200)["duplicate"] is True


# --- modes ---


def test_live_mode_charges_the_whole_price_or_nothing(api: Api) -> None:
    account = api.account(10)
    api.mint(account, 5, poolId="gpu")
    with api.unchanged():
        problem = problem_of(ask_to_charge(api, account, 16, poolId="gpu"), 402, "insufficient_balance")
    assert {name: problem[name] for name in ("availableMicro", "requestedMicro", "listMicro", "poolId")} == {
        "availableMicro": "15", "requestedMicro": "16", "listMicro": "16", "poolId": "gpu",
    }  # fmt: skip
    assert figures(charge(api, account, 15, poolId="gpu")) == (15, 0, 15, 0)


def test_soft_mode_owes_what_no_credits_cover(api: Api) -> None:
    account = api.account(10)
    made = charge(api, account, 16, billingMode="soft", poolId="gpu")
    assert figures(made) == (16, 0, 10, 6)
    assert entries_of(api, made) == [("charge", -10), ("debt_incurred", -6)]
    assert balance(api, account) == (0, 0, 6)
    # The account has no pool `gpu`, and a debt creates none.
    assert {entry["poolId"] for entry in history(api, account)} == {"general"}
    [debt] = api.get(f"/accounts/{account}/debts")["items"]
    assert (debt["chargeId"], debt["reservationId"], debt["originalMicro"]) == (made["chargeId"], None, "6")


def test_a_mint_pays_debts_of_charges_and_reservations_in_order(api: Api) -> None:
    account = api.account()
    charge(api, account, 3, billingMode="soft")
    ok(api.finalize(api.reserve(account, 0, billingMode="soft"), 4))
    charge(api, account, 5, billingMode="soft")
    api.mint(account, 8)
    assert [entry["amountMicro"] for entry in history(api, account)[-3:]] == ["-3", "-4", "-1"]
    assert [debt["paidMicro"] for debt in api.get(f"/accounts/{account}/debts")["items"]] == ["3", "4", "1"]
    assert balance(api, account) == (0, 0, 4)


def test_the_debt_of_a_charge_can_be_forgiven(api: Api) -> None:
    account = api.account()
    charge(api, account, 5, billingMode="soft")
    [debt] = api.get(f"/accounts/{account}/debts", open="true")["items"]
    path = f"/accounts/{account}/debts/{debt['debtId']}/forgive"
    assert ok(api.post(path, {"reason": "a mistake"}))["forgivenMicro"] == "5"
    assert balance(api, account) == (0, 0, 0)


def test_shadow_mode_records_the_full_price_and_moves_nothing(api: Api) -> None:
    account = member(api, GOLD, 10)
    before = lots(api, account)
    made = charge(api, account, 16, billingMode="shadow", metadata={"listMicro": "mine"})
    assert figures(made) == (16, 0, 16, 0) and made["lotAllocations"] == []
    assert lots(api, account) == before and balance(api, account) == (10, 0, 0)
    [entry] = history(api, account, entryType="shadow_charge")
    assert (entry["amountMicro"], entry["metadata"]) == (
        "0", {"listMicro": "16", "wouldChargeMicro": "16", "metadata": {"listMicro": "mine"}},
    )  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
def test_the_configured_mode_is_the_default(start: Callable[..., Api], mode: str) -> None:
    api = start(MINIBILL_BILLING_MODE=mode)
    assert charge(api, api.account(5), 5)["billingMode"] == mode


def test_a_service_names_allowed_modes_only(start: Callable[..., Api]) -> None:
    api = start(MINIBILL_SERVICE_BILLING_MODES="live")
    account = api.account(5)
    with api.unchanged():
        problem_of(ask_to_charge(api, account, 1, billingMode="soft"), 403, "billing_mode_not_allowed")
    assert charge(api, account, 1, billingMode="live")["billingMode"] == "live"
    # An admin names any.
    made = ok(api.post(f"/accounts/{account}/charges", {"costMicro": "9", "billingMode": "soft"}), 201)
    assert figures(made) == (9, 0, 4, 5)


# --- discounts ---


def test_the_best_membership_lowers_the_price(api: Api) -> None:
    account = member(api, GOLD, 10_000)
    put_tiers(api, "lodge", CAPPED)
    join(api, account, "lodge", "capped")
    for cost, off in ((100, 50), (200, 100), (500, 100), (1_000, 200)):
        assert figures(charge(api, account, cost)) == (cost, off, cost - off, 0)
    entry = history(api, account)[-1]
    assert entry["metadata"] == {
        "listMicro": "1000", "discountBps": 2000, "maxDiscountMicro": None, "discountMicro": "200", "communityId": "guild",
        "tier": "gold",
    }  # fmt: skip
    problem = problem_of(ask_to_charge(api, account, 20_000), 402, "insufficient_balance")
    assert (problem["availableMicro"], problem["requestedMicro"]) == ("8650", "16000")


def test_a_soft_charge_owes_a_part_of_the_discounted_price(api: Api) -> None:
    assert figures(charge(api, member(api, CAPPED, 100), 1_000, billingMode="soft")) == (1_000, 100, 100, 800)


def test_a_discount_of_all_leaves_nothing_to_charge(api: Api) -> None:
    account = member(api, FREE)
    made = charge(api, account, 1_000)
    assert figures(made) == (1_000, 1_000, 0, 0) and entries_of(api, made) == []
    assert api.get(f"/charges/{made['chargeId']}")["discountBps"] == 10_000


def test_a_membership_that_ends_now_applies_no_more(moment: Moment, api: Api) -> None:
    account = api.account(1_000)
    put_tiers(api, "guild", GOLD)
    join(api, account, "guild", "gold", expiresAt=moment.text(5))
    moment.at(5, -1)
    assert figures(charge(api, account, 100))[1] == 20
    moment.at(5)
    assert figures(charge(api, account, 100))[1] == 0


# --- sources ---


def test_a_source_charges_an_account_once(moment: Moment, api: Api) -> None:
    account = api.account(100)
    first = charge(api, account, 60, sourceId="call-1", description="a call")
    moment.at(5)
    with api.unchanged():
        again = ok(ask_to_charge(api, account, 60, sourceId="call-1", billingMode="soft", description="another"), 200)
    assert again == first | {"duplicate": True}


@pytest.mark.parametrize("body", [{"costMicro": "61"}, {"poolId": "gpu"}, {"costMicro": "0"}, {"costMicro": str(2**63 - 1)}])
def test_a_source_with_another_cost_or_pool_is_rejected(api: Api, body: Json) -> None:
    account = api.account(100)
    first = charge(api, account, 60, sourceId="call-1")
    sent = {"accountId": account, "costMicro": "60", "sourceId": "call-1", **body}
    with api.unchanged():
        problem = problem_of(api.internal("POST", "/charges", sent), 409, "source_already_charged")
    assert {name: problem[name] for name in ("sourceId", "chargeId", "listMicro", "poolId")} == {
        "sourceId": "call-1", "chargeId": first["chargeId"], "listMicro": "60", "poolId": "general",
    }  # fmt: skip


def test_a_duplicate_is_found_before_any_limit(start: Callable[..., Api]) -> None:
    api = start()
    account = api.account(100)
    first = charge(api, account, 100, sourceId="call-1")
    api = start(MINIBILL_CEILING_MICRO="10")
    assert ok(ask_to_charge(api, account, 100, sourceId="call-1"), 200) == first | {"duplicate": True}
    problem_of(ask_to_charge(api, account, 100, sourceId="call-2"), 422, "amount_too_large")
    problem_of(ask_to_charge(api, account, 11, sourceId="call-1"), 409, "source_already_charged")


@pytest.mark.parametrize("mode", MODES)
def test_a_duplicate_shows_the_lots_of_the_first_charge(api: Api, mode: str) -> None:
    account = api.account(3, 4)
    first = charge(api, account, 9 if mode != "live" else 6, sourceId="s", billingMode=mode)
    charge(api, account, 1, billingMode="soft")
    api.mint(account, 5)
    again = ok(ask_to_charge(api, account, int(first["listMicro"]), sourceId="s"), 200)
    assert again == first | {"duplicate": True}


def test_accounts_and_mints_have_their_own_sources(api: Api) -> None:
    one, other = api.account(10, sourceId="s"), api.account(10)
    assert charge(api, one, 1, sourceId="s")["chargeId"] != charge(api, other, 2, sourceId="s")["chargeId"]


def test_a_rejected_charge_leaves_its_source_free(api: Api) -> None:
    account = api.account(10)
    problem_of(ask_to_charge(api, account, 60, sourceId="call-1"), 402, "insufficient_balance")
    api.mint(account, 50)
    assert charge(api, account, 60, sourceId="call-1")["duplicate"] is False


def test_sources_of_any_letters_are_told_apart(api: Api) -> None:
    account = api.account(100)
    # The same letter in two forms of Unicode, in another case, and what JSON and SQL write specially.
    sources = ["é", "e\u0301", "E", "e", "E ", "'", '"', "\\", "\\u0065", "\n", "5", "05", "null", "💸", "x" * 200]
    made = [charge(api, account, 1, sourceId=source)["chargeId"] for source in sources]
    assert len(set(made)) == len(sources)
    assert [ok(ask_to_charge(api, account, 1, sourceId=source), 200)["chargeId"] for source in sources] == made


# --- accounts ---


def test_an_unknown_account_is_not_charged_or_opened(api: Api) -> None:
    entity = {"entityType": "agent", "entityId": "nobody"}
    with api.unchanged():
        for mode in MODES:
            sent = {"entity": entity, "costMicro": "5", "billingMode": mode, "sourceId": "s"}
            problem = problem_of(api.internal("POST", "/charges", sent), 404, "account_not_found")
            assert "agent:nobody" in str(problem)
        problem_of(ask_to_charge(api, "acct_none", 5), 404, "account_not_found")
        problem_of(api.post("/accounts/acct_none/charges", {"costMicro": "5"}), 404, "account_not_found")


def test_an_entity_names_the_account_in_any_spelling(api: Api) -> None:
    address = "0x" + "Ab" * 20
    account = ok(api.post("/accounts", {"entityType": "agent", "entityId": address}))["id"]
    api.mint(account, 10)
    sent = {"entity": {"entityType": "agent", "entityId": address.lower()}, "costMicro": "5", "sourceId": "s"}
    first = ok(api.internal("POST", "/charges", sent), 201)
    assert first["accountId"] == account
    assert ok(ask_to_charge(api, account, 5, sourceId="s"), 200)["chargeId"] == first["chargeId"]


# --- expiry ---


def test_a_charge_sees_expired_lots_and_overdue_reservations(moment: Moment, api: Api) -> None:
    account = api.account(100, expiresAt=moment.text(100))
    api.mint(account, 50)
    api.reserve(account, 120, ttlSeconds=60)
    moment.at(60, -1)
    problem_of(ask_to_charge(api, account, 31), 402, "insufficient_balance")
    moment.at(60)
    assert figures(charge(api, account, 31)) == (31, 0, 31, 0)
    moment.at(100)
    problem_of(ask_to_charge(api, account, 51), 402, "insufficient_balance")
    assert figures(charge(api, account, 51, billingMode="soft")) == (51, 0, 50, 1)
    assert stale_cache_entries(api.book) == []


def test_a_charge_leaves_the_account_cached(api: Api) -> None:
    account = api.account(10, 10)
    api.reserve(account, 5)
    assert count_cached(api.book) == (1, 1)
    charge(api, account, 7)
    charge(api, account, 3, billingMode="soft", poolId="gpu")
    charge(api, account, 3, billingMode="shadow", poolId="gpu")
    charge(api, account, 1, sourceId="s")
    assert count_cached(api.book) == (1, 1)
    # A duplicate with a key writes the key, and changes no account.
    sent = {"accountId": account, "costMicro": "1", "sourceId": "s"}
    assert ok(api.internal("POST", "/charges", sent, key="k"), 200)["duplicate"] is True
    assert count_cached(api.book) == (1, 1)
    assert stale_cache_entries(api.book) == []


# --- statistics, revocation and events ---


def test_campaigns_count_charged_credits_as_consumed(api: Api) -> None:
    account, campaign = api.account(), api.campaign()
    [grant] = ok(api.batch(campaign, (account, 10)), 201)["grants"]
    charge(api, account, 4)
    stats = api.get(f"/campaigns/{campaign}/stats")
    assert (stats["consumedMicro"], stats["accountsThatSpent"], stats["perDay"][0]["consumedMicro"]) == ("4", 1, "4")
    path = f"/campaigns/{campaign}/grants/{grant['grantId']}/revoke"
    revoked = ok(api.post(path, {"reason": "a mistake"}))
    assert (revoked["revokedMicro"], revoked["consumedMicro"], revoked["reservedMicro"]) == ("6", "4", "0")


def test_the_feed_shows_the_entries_of_charges(api: Api) -> None:
    account = api.account(5)
    before = len(drain(api))
    charge(api, account, 9, billingMode="soft")
    charge(api, account, 9, billingMode="shadow")
    types = [event["type"] for event in drain(api)[before:]]
    assert types == ["ledger.charge", "ledger.debt_incurred", "ledger.shadow_charge"]


# --- admins ---


def test_the_charge_of_an_admin_is_audited(api: Api) -> None:
    account = api.account(10)
    made = ok(api.post(f"/accounts/{account}/charges", {"costMicro": "4", "sourceId": "s"}), 201)
    [row] = api.audited("account.charge")
    assert (row["actor_id"], row["target_type"], row["target_id"]) == ("operator", "account", account)
    assert row["details"] == {
        "chargeId": made["chargeId"], "sourceId": "s", "poolId": "general", "listMicro": "4", "discountMicro": "0",
        "chargedMicro": "4", "debtMicro": "0", "billingMode": "live", "availableBeforeMicro": "10",
        "availableAfterMicro": "6",
    }  # fmt: skip
    charge(api, account, 1)
    assert len(api.audited("account.charge")) == 1


@pytest.mark.parametrize("mode", MODES)
def test_a_dry_run_answers_like_the_charge_and_keeps_nothing(moment: Moment, api: Api, mode: str) -> None:
    account = api.account(10)
    path, body = f"/accounts/{account}/charges", {"costMicro": "9", "sourceId": "s", "billingMode": mode}
    with api.unchanged():
        tried = ok(api.post(path, body, dryRun="true", key="k"), 201)
    assert stale_cache_entries(api.book) == []
    assert tried.pop("dryRun") is True
    assert ok(api.post(path, body, key="k"), 201) == tried


def test_a_charge_needs_the_scope_of_accounts(api: Api) -> None:
    account = api.account(10)
    path, body = f"/accounts/{account}/charges", {"costMicro": "4"}
    with api.unchanged():
        token = api.sign(scopes=("admin:billing:read", "admin:mint:write", "admin:grants:write"))
        problem_of(api.post(path, body, token=token), 403, "insufficient_scope")
    ok(api.post(path, body, token=api.sign(scopes=("admin:accounts:write",))), 201)


def test_a_key_replays_a_charge_with_its_first_status(moment: Moment, api: Api) -> None:
    account = api.account(10)
    body = {"accountId": account, "costMicro": "4"}
    first = api.internal("POST", "/charges", body, key="k")
    ok(first, 201)
    moment.at(5)
    with api.unchanged():
        again = api.internal("POST", "/charges", body, key="k")
    assert (again.status_code, again.content) == (201, first.content)
    assert again.headers["idempotency-replayed"] == "true"
    problem_of(api.internal("POST", "/charges", body, key="k", explain="true"), 422, "idempotency_key_reused")
