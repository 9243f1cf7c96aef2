"""Limits of the work of one request. No error or dry run rolls back the expiry before it."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from minibill.auth.tokens import Caller
from minibill.campaigns import lifecycle, revocation
from minibill.core.write_result import NOWHERE, WriteResult
from minibill.db.sqlite import Connection
from minibill.ledger import expiry, expiry_slices, reservations
from minibill.ledger.limits import LOTS_PER_SPEND_MAX, PENDING_MAX, POOLS_MAX
from tests.api_client import Api, Json, ok, problem_of
from tests.reservations.cache_checks import stale_cache_entries
from tests.reservations.conftest import Moment
from tests.reservations.helpers import allocations, balance, entries, history

ADMIN = Caller("admin", "test", None, frozenset())


@pytest.fixture
def expired(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Limit slices to a work of 5; collect the number of items that each slice of a request expires."""
    counts: list[int] = []
    run = expiry.expire_slice

    def expire_slice(*arguments: Any, **named: Any) -> expiry.Slice:
        found = run(*arguments, **named)
        counts.append(found.expired)
        return found

    monkeypatch.setattr(expiry_slices, "expire_slice", expire_slice)
    monkeypatch.setattr(expiry, "SWEEP_MAX", 5)
    return counts


def overdue(api: Api, moment: Moment, count: int) -> str:
    """Return an account with `count` overdue reservations of one micro-unit, each of another lot."""
    account = api.account(*[1] * count)
    for _ in range(count):
        api.reserve(account, 1, ttlSeconds=10)
    moment.at(20)
    return account


def together(api: Api, *requests: tuple[str, str, Json]) -> list[int]:
    """Send requests concurrently; return their indexes in the order of the responses."""
    order: list[int] = []

    async def send(place: int, prefix: str, path: str, body: Json) -> None:
        token = api.token if prefix == "/admin/billing" else api.sign_service()
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        await api.http.post(f"{prefix}{path}", content=json.dumps(body), headers=headers)
        order.append(place)

    async def send_all() -> None:
        await asyncio.gather(*(send(place, *request) for place, request in enumerate(requests)))

    api.loop.run(send_all())
    return order


def reservation(account: str, amount_micro: int) -> tuple[str, str, Json]:
    return "/api/internal/billing", "/reservations", {"accountId": account, "amountMicro": str(amount_micro)}


# --- expiry before a request ---


def test_a_rejected_reserve_expires_each_overdue_item_once(moment: Moment, api: Api, expired: list[int]) -> None:
    account = overdue(api, moment, 12)
    problem_of(api.ask_to_reserve(account, 13), 402, "insufficient_balance")
    # A reservation counts as two: itself, and its lot.
    assert expired == [2] * 6
    assert [entry.type for entry in entries(api, account, 24)] == ["release"] * 12
    with api.unchanged():
        problem_of(api.ask_to_reserve(account, 13), 402, "insufficient_balance")
    assert balance(api, account) == (12, 0, 0)


def test_callers_that_are_rejected_together_expire_each_item_once(moment: Moment, api: Api, expired: list[int]) -> None:
    account = overdue(api, moment, 12)
    together(api, *[reservation(account, 13)] * 20)
    assert [count for count in expired if count] == [2] * 6
    assert [entry.type for entry in entries(api, account, 24)] == ["release"] * 12


def test_one_of_many_requests_on_an_account_expires_it(moment: Moment, api: Api, expired: list[int]) -> None:
    other = api.account(5)
    account = overdue(api, moment, 60)
    before: list[int] = []

    async def send(path: str, body: Json) -> None:
        headers = {"Authorization": f"Bearer {api.sign_service()}", "Content-Type": "application/json"}
        await api.http.post(f"/api/internal/billing{path}", content=json.dumps(body), headers=headers)

    async def one_after_the_other() -> None:
        for _ in range(3):
            await send(*reservation(other, 1)[1:])
        before.append(len(expired))

    async def send_all() -> None:
        await asyncio.gather(*(send(*reservation(account, 61)[1:]) for _ in range(20)), one_after_the_other())

    api.loop.run(send_all())
    assert sum(expired) == 60
    # Otherwise the slices of all 20 requests would be queued ahead of the requests on the other account.
    assert before[0] < 20


def test_requests_on_other_accounts_run_between_slices(moment: Moment, api: Api, expired: list[int]) -> None:
    other = api.account(5)
    account = overdue(api, moment, 30)
    assert together(api, reservation(account, 31), *[reservation(other, 1)] * 3)[-1] == 0
    assert len(expired) == 15


def test_a_slice_counts_the_lots_that_reservations_hold(moment: Moment, api: Api, expired: list[int]) -> None:
    account = api.account(*[1] * 12)
    for lots in (2, 1, 7, 2):
        api.reserve(account, lots, ttlSeconds=10)
    moment.at(20)
    ok(api.ask_to_reserve(account, 12), 201)
    # Work of 3 + 2; a reservation with more work than 5, in its own slice; the last one.
    assert expired == [2, 1, 1]


@pytest.mark.parametrize("dry", [False, True])
def test_expiry_ends_although_more_expires_at_each_read_of_the_clock(
    moment: Moment, api: Api, expired: list[int], dry: bool
) -> None:
    account = api.account(100)
    for seconds in range(10, 60):
        api.reserve(account, 1, ttlSeconds=seconds)
    moment.at(10)
    # The time advances at each read. The book reads it twice for each time that it uses.
    moment.step_us = 250_000
    path = f"/accounts/{account}/reservations"
    ok(api.post(path, {"amountMicro": "1"}, **({"dryRun": "true"} if dry else {})), 201)
    moment.step_us = 0
    assert len(expired) == 1


def test_a_dry_run_expires_in_slices_that_stay(moment: Moment, api: Api, expired: list[int]) -> None:
    account = overdue(api, moment, 12)
    path, body = f"/accounts/{account}/reservations", {"amountMicro": "12"}
    tried = ok(api.post(path, body, dryRun="true"), 201)
    assert expired == [2] * 6
    with api.unchanged():
        assert ok(api.post(path, body, dryRun="true"), 201) == tried
    assert ok(api.post(path, body), 201) == {name: tried[name] for name in tried if name != "dryRun"}


def test_a_key_is_stored_once_if_its_request_waited_for_slices(moment: Moment, api: Api, expired: list[int]) -> None:
    account = overdue(api, moment, 12)
    body = {"accountId": account, "amountMicro": "3"}
    first = api.internal("POST", "/reservations", body, key="k")
    ok(first, 201)
    with api.unchanged():
        again = api.internal("POST", "/reservations", body, key="k")
    assert again.content == first.content and again.headers["idempotency-replayed"] == "true"
    # The newest entry that the response can reflect.
    assert int(first.headers["ledger-sequence"]) == 12 + 2 * 12 + 3


def test_an_error_of_the_database_rolls_no_expiry_back(moment: Moment, api: Api, expired: list[int]) -> None:
    account = overdue(api, moment, 4)
    ok(api.call("PUT", "/discounts/c1/tiers", {"tiers": [{"tier": "gold", "rateBps": 1}]}))

    def fill(conn: Connection) -> None:
        conn.execute("DROP TRIGGER memberships_are_at_most_1000_per_account")
        conn.execute(
            "CREATE TRIGGER memberships_are_at_most_1000_per_account BEFORE INSERT ON memberships"
            " BEGIN SELECT RAISE(ABORT, 'memberships_are_at_most_1000_per_account'); END"
        )

    api.loop.run(api.book.writer.alone(fill))
    problem_of(api.call("PUT", f"/accounts/{account}/memberships/c1", {"tier": "gold"}), 400, "validation_error")
    assert sum(expired) == 4
    assert [entry.type for entry in entries(api, account, 8)] == ["release"] * 4


def test_an_operation_that_writes_before_expiry_due_changes_nothing(api: Api) -> None:
    def wrong(conn: Connection, now_us: int) -> WriteResult:
        conn.execute("INSERT INTO credit_accounts VALUES (99, 'person', 'x', ?)", (now_us,))
        raise expiry.ExpiryDue([1])

    with api.unchanged(), pytest.raises(expiry.ExpiryDue):
        api.loop.run(api.book.write(wrong, caller=ADMIN, origin=NOWHERE))


# --- batches and revocations ---


def test_a_batch_expires_many_accounts_in_slices(moment: Moment, api: Api, expired: list[int]) -> None:
    campaign = api.campaign()
    accounts = [api.account(*[1] * 6, expiresAt=moment.text(5 + number)) for number in range(4)]
    moment.at(20)
    ok(api.batch(campaign, *[(account, 7) for account in accounts]), 201)
    assert sum(expired) == 24 and max(expired) == 5
    assert [balance(api, account) for account in accounts] == [(7, 0, 0)] * 4


def test_a_rejected_batch_expires_only_for_its_campaign(moment: Moment, api: Api, expired: list[int]) -> None:
    campaign = api.campaign(10)
    account = api.account(5, expiresAt=moment.text(5))
    moment.at(20)
    with api.unchanged():
        problem_of(api.batch(campaign, (account, 11)), 422, "budget_exceeded")
    assert expired == []


@pytest.mark.parametrize("really", [True, False])
def test_a_revocation_expires_in_slices(
    moment: Moment, api: Api, expired: list[int], monkeypatch: pytest.MonkeyPatch, really: bool
) -> None:
    monkeypatch.setattr(revocation, "SLICE_GRANTS_MAX", 2)
    campaign, accounts = api.campaign(), [api.account() for _ in range(3)]
    ok(api.batch(campaign, *[(account, 50) for account in accounts]), 201)
    for account in accounts:
        for _ in range(6):
            api.reserve(account, 1, ttlSeconds=5)
    moment.at(20)
    query = {} if really else {"dryRun": "true"}
    answer = ok(api.post(f"/campaigns/{campaign}/revoke", {"reason": "a mistake"}, **query))
    assert (answer["totalRevoked"], answer["revokedMicro"], answer["reservedMicro"]) == (3, "150", "0")
    assert sum(expired) == 18 and max(expired) == 2


def test_a_batch_may_spend_all_credits_of_overdue_reservations(
    moment: Moment, api: Api, expired: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "OVERDUE_SCAN_MAX", 2)
    campaign = api.campaign(30)
    accounts = [api.account() for _ in range(3)]
    ok(api.batch(campaign, *[(account, 10) for account in accounts]), 201)
    for account in accounts:
        for _ in range(10):
            api.reserve(account, 1, ttlSeconds=5)
    ok(api.post(f"/campaigns/{campaign}/revoke", {"reason": "a mistake"}))
    # Reservations of another account that expire earlier.
    bystander = api.account(9)
    for _ in range(5):
        api.reserve(bystander, 1, ttlSeconds=3)
    moment.at(20)
    assert ok(api.batch(campaign, (api.account(), 30)), 201)["remainingMicro"] == "0"
    assert max(expired) == 2


def test_a_campaign_without_revoked_reservations_waits_for_nobody(
    moment: Moment, api: Api, expired: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "OVERDUE_SCAN_MAX", 2)
    overdue(api, moment, 4)
    ok(api.batch(api.campaign(), (api.account(), 3)), 201)
    assert expired == []


# --- pools ---


def with_pools(api: Api, count: int) -> str:
    account = api.account(1)
    for number in range(1, count):
        api.mint(account, 1, poolId=f"pool-{number}")
    return account


def test_an_account_has_at_most_64_pools(api: Api) -> None:
    account = with_pools(api, POOLS_MAX)
    body = {"amountMicro": "1", "poolId": "one-too-many"}
    with api.unchanged():
        assert problem_of(api.post(f"/accounts/{account}/mint", body), 422, "too_many_pools")["limit"] == POOLS_MAX
    api.mint(account, 1, poolId="pool-63")
    assert balance(api, account) == (65, 0, 0)


def test_a_batch_that_would_create_a_65th_pool_pays_nobody(api: Api) -> None:
    full, other = with_pools(api, POOLS_MAX), api.account()
    campaign = api.campaign(poolId="one-too-many")
    with api.unchanged():
        entity = {"entity": {"entityType": "person", "entityId": "new"}, "amountMicro": "5"}
        problem = problem_of(api.batch(campaign, (other, 5), (full, 5), entity), 422, "too_many_pools")
    assert (problem["limit"], problem["grants"]) == (
        POOLS_MAX, [{"path": "grants[1].amountMicro", "amountMicro": "5"}],
    )  # fmt: skip
    ok(api.batch(campaign, (other, 5)), 201)
    ok(api.batch(api.campaign(poolId="pool-9"), (full, 5)), 201)


def test_shadows_and_debts_create_no_pool(api: Api) -> None:
    account = with_pools(api, POOLS_MAX)
    ok(api.finalize(api.reserve(account, 5, billingMode="shadow", poolId="new"), 6))
    ok(api.finalize(api.reserve(account, 1, billingMode="soft", poolId="new"), 3))
    assert balance(api, account) == (63, 0, 2)
    assert [entry["poolId"] for entry in history(api, account, poolId="general")][-5:] == ["general"] * 5
    assert [entry.type for entry in entries(api, account, 64)] == [
        "shadow_reserve", "shadow_finalize", "reserve", "finalize", "debt_incurred",
    ]  # fmt: skip
    assert len(api.get(f"/accounts/{account}/balance")["pools"]) == POOLS_MAX


def test_a_first_entry_in_general_is_rejected_at_64_pools(api: Api) -> None:
    account = api.account()
    for number in range(POOLS_MAX):
        api.mint(account, 1, poolId=f"pool-{number}")
    with api.unchanged():
        problem = problem_of(api.ask_to_reserve(account, 5, billingMode="shadow", poolId="new"), 422, "too_many_pools")
    assert problem["limit"] == POOLS_MAX


@contextmanager
def traced(api: Api) -> Iterator[list[str]]:
    """Collect the statements that the writer runs."""
    ran: list[str] = []
    conn = api.book.writer._conn
    conn.set_trace_callback(ran.append)
    yield ran
    conn.set_trace_callback(None)


def test_a_spend_loads_its_own_pool_and_general_only(api: Api) -> None:
    account = with_pools(api, 20)
    with traced(api) as ran:
        held = api.reserve(account, 2, poolId="pool-3")
        ok(api.finalize(held, 2))
    assert sum("FROM credit_balances" in sql and "SELECT pool_id" in sql for sql in ran) == 1
    [cached] = api.book.writer.cache.values["ledger"]._accounts.values()
    assert {pool for _, pool in cached.balances} == {"pool-3", "general"}
    # Another pool is loaded in addition; a pool that does not exist is cached as empty.
    ok(api.ask_to_reserve(account, 1, poolId="pool-4"), 201)
    problem_of(api.ask_to_reserve(account, 1, poolId="none"), 402, "insufficient_balance")
    assert {pool for _, pool in cached.balances} == {"pool-3", "pool-4", "none", "general"}
    assert stale_cache_entries(api.book) == []


# --- pending reservations ---


def test_an_account_has_at_most_10000_pending_reservations(moment: Moment, api: Api) -> None:
    account, other = api.account(50), api.account(50)
    now_us = api.book.clock.now_us()

    def fill(conn: Connection) -> None:
        conn.execute(
            "INSERT INTO credit_reservations (account_id, pool_id, billing_mode, status, list_micro, discount_bps,"
            " discount_micro, held_micro, expires_at_us, created_by, created_at_us)"
            " SELECT 1, 'general', 'live', 'pending', 0, 0, 0, 0, ? + 100000000, 'service:test', ?"
            "   FROM (WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) SELECT i FROM n)",
            (now_us, now_us, PENDING_MAX - 1),
        )

    api.loop.run(api.book.writer.alone(fill))
    held = api.reserve(account, 1, ttlSeconds=300)
    for mode in ("live", "soft", "shadow"):
        with api.unchanged():
            problem = problem_of(api.ask_to_reserve(account, 1, billingMode=mode), 422, "too_many_reservations")
        assert problem["limit"] == PENDING_MAX
    api.reserve(other, 1)
    ok(api.finalize(held, 1))
    api.reserve(account, 1)
    # The mint evicts the account from the cache, and the reservations are counted again.
    api.mint(account, 1)
    problem_of(api.ask_to_reserve(account, 1), 422, "too_many_reservations")


def test_reservations_that_end_make_room_for_new_ones(moment: Moment, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reservations, "PENDING_MAX", 3)
    account = api.account(10)
    ends: list[str] = [api.reserve(account, 1, ttlSeconds=ttl) for ttl in (5, 50, 50)]
    problem_of(api.ask_to_reserve(account, 1), 422, "too_many_reservations")
    moment.at(5)
    ends.append(api.reserve(account, 1))
    problem_of(api.ask_to_reserve(account, 1), 422, "too_many_reservations")
    ok(api.release(ends[1]))
    ends.append(api.reserve(account, 1, billingMode="shadow"))
    problem_of(api.ask_to_reserve(account, 1), 422, "too_many_reservations")
    ok(api.finalize(ends[2], 1))
    ok(api.finalize(ends[2], 1))
    api.reserve(account, 1)
    problem_of(api.ask_to_reserve(account, 1), 422, "too_many_reservations")
    assert stale_cache_entries(api.book) == []


# --- lots ---


@pytest.fixture
def scattered(api: Api) -> str:
    """Return an account with 1,005 lots of one micro-unit each."""
    account = api.account()
    prefix, path = "/admin/billing", f"/accounts/{account}/mint"
    together(api, *[(prefix, path, {"amountMicro": "1"})] * (LOTS_PER_SPEND_MAX + 5))
    assert balance(api, account) == (LOTS_PER_SPEND_MAX + 5, 0, 0)
    return account


def test_a_reservation_draws_on_at_most_1000_lots(api: Api, scattered: str) -> None:
    with api.unchanged():
        problem = problem_of(api.ask_to_reserve(scattered, LOTS_PER_SPEND_MAX + 1), 422, "too_many_lots")
    assert (problem["limit"], problem["availableMicro"], problem["requestedMicro"]) == (1_000, "1000", "1001")
    problem_of(api.ask_to_reserve(scattered, LOTS_PER_SPEND_MAX + 6), 402, "insufficient_balance")
    held = ok(api.ask_to_reserve(scattered, LOTS_PER_SPEND_MAX), 201)
    assert len(allocations(held)) == LOTS_PER_SPEND_MAX
    ok(api.finalize(held["reservationId"], LOTS_PER_SPEND_MAX))
    assert balance(api, scattered) == (5, 0, 0)


def test_a_soft_reservation_holds_what_1000_lots_have(api: Api, scattered: str) -> None:
    held = ok(api.ask_to_reserve(scattered, 2_000, billingMode="soft"), 201)
    assert (held["totalReservedMicro"], len(allocations(held))) == ("1000", LOTS_PER_SPEND_MAX)
    # The overrun may draw on no more lots, so all of it is a debt.
    assert ok(api.finalize(held["reservationId"], 1_003))["overrunMicro"] == "3"
    assert balance(api, scattered) == (5, 0, 3)


def test_a_soft_overrun_beyond_1000_lots_becomes_a_debt(api: Api, scattered: str) -> None:
    held = api.reserve(scattered, 10, billingMode="soft")
    ok(api.finalize(held, 1_004))
    assert balance(api, scattered) == (5, 0, 4)
