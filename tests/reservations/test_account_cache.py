"""The account cache always equals the database, whichever request or program changed the database.

test_random_ledger.py checks the same after each of its steps, and the fixture `api` at the end of each test.
"""

from collections.abc import Callable
from contextlib import closing

import pytest

from minibill.core import ids
from minibill.db.connection import open_writer
from minibill.ledger import account_cache, expiry
from tests.api_client import Api, ok, problem_of
from tests.reservations.cache_checks import count_cached, stale_cache_entries
from tests.reservations.conftest import Moment
from tests.reservations.helpers import allocations, balance, lots

COMMUNITY = "makers"


@pytest.fixture
def cached(api: Api) -> str:
    """A cached account. Of its first lot of 100, 60 are available, and the cache knows this lot."""
    ok(api.call("PUT", f"/discounts/{COMMUNITY}/tiers", {"tiers": [{"tier": "gold", "rateBps": 5000}]}))
    account = api.account(100, 100)
    ok(api.finalize(api.reserve(account, 50), 40))
    assert count_cached(api.book) == (1, 0)
    return account


def reserved(api: Api, account: str, amount_micro: int, **body: object) -> list[tuple[str, int]]:
    return allocations(ok(api.ask_to_reserve(account, amount_micro, **body), 201))


# --- spends use the cache ---


def test_spends_of_a_cached_account_read_no_ledger_tables(api: Api, cached: str) -> None:
    ran: list[str] = []
    conn = api.book.writer._conn
    conn.set_trace_callback(ran.append)
    ok(api.finalize(api.reserve(cached, 10), 10))
    conn.set_trace_callback(None)
    reads = [sql for sql in ran if sql.startswith(("SELECT", "WITH"))]
    tables = {name for sql in reads for name in ("credit_lots", "credit_balances", "credit_reservations", "credit_accounts")
              if name in sql}  # fmt: skip
    assert tables == set()
    assert any(sql.startswith("INSERT INTO credit_ledger") for sql in ran)


def test_a_cached_reservation_has_all_of_its_lots(api: Api, cached: str) -> None:
    first, second = lots(api, cached)
    held = ok(api.ask_to_reserve(cached, 70), 201)
    assert allocations(held) == [(first, 60), (second, 10)]
    ok(api.finalize(held["reservationId"], 65))
    assert reserved(api, cached, 95) == [(second, 95)]
    assert stale_cache_entries(api.book) == []


def test_an_overrun_draws_on_the_lots_that_are_left(api: Api, cached: str) -> None:
    first, second = lots(api, cached)
    ok(api.finalize(api.reserve(cached, 10, billingMode="soft"), 70))
    assert stale_cache_entries(api.book) == []
    assert reserved(api, cached, 10) == [(second, 10)]
    assert lots(api, cached)[first] == {"consumed": 100}


def test_a_lot_that_gets_credits_back_is_drawn_first_again(api: Api, cached: str) -> None:
    first, second = lots(api, cached)
    all_of_first = api.reserve(cached, 60)
    assert reserved(api, cached, 10) == [(second, 10)]
    ok(api.release(all_of_first))
    assert reserved(api, cached, 70) == [(first, 60), (second, 10)]


# --- other writes evict the account ---


def test_a_new_lot_of_a_lower_priority_number_is_drawn_first(api: Api, cached: str) -> None:
    urgent = api.mint(cached, 5, priority=0)["lotId"]
    assert reserved(api, cached, 5) == [(urgent, 5)]


def test_a_reservation_draws_on_a_new_grant(api: Api, cached: str) -> None:
    campaign = api.campaign(grantTtlSeconds=60)
    [grant] = ok(api.batch(campaign, (cached, 7)), 201)["grants"]
    assert reserved(api, cached, 7) == [(grant["lotId"], 7)]


def test_a_revoked_lot_is_not_drawn_on_and_revokes_returned_credits(api: Api) -> None:
    account = api.account()
    campaign = api.campaign()
    [grant] = ok(api.batch(campaign, (account, 10)), 201)["grants"]
    held = api.reserve(account, 4)
    ok(api.post(f"/campaigns/{campaign}/grants/{grant['grantId']}/revoke", {"reason": "a mistake"}))
    problem_of(api.ask_to_reserve(account, 1), 402, "insufficient_balance")
    ok(api.release(held))
    assert lots(api, account) == {grant["lotId"]: {"revoked": 10}}


def test_a_membership_counts_from_the_next_reservation_until_it_ends(api: Api, cached: str) -> None:
    path = f"/accounts/{cached}/memberships/{COMMUNITY}"
    ok(api.call("PUT", path, {"tier": "gold"}))
    assert [micro for _, micro in reserved(api, cached, 10)] == [5]
    assert api.call("DELETE", path).status_code == 204
    assert [micro for _, micro in reserved(api, cached, 10)] == [10]


@pytest.mark.parametrize("swept", [False, True])
def test_an_overdue_reservation_returns_its_credits(moment: Moment, api: Api, swept: bool) -> None:
    account = api.account(10)
    [lot] = lots(api, account)
    held = api.reserve(account, 10, ttlSeconds=5)
    moment.at(5)
    if swept:
        api.loop.run(api.book.sweep())
    assert reserved(api, account, 10) == [(lot, 10)]
    problem_of(api.finalize(held, 1), 409, "reservation_not_pending")


@pytest.mark.parametrize("swept", [False, True])
def test_a_reservation_of_zero_expires_too(moment: Moment, api: Api, swept: bool) -> None:
    # Its expiry moves no credits, but ends it.
    held = api.reserve(api.account(10), 0, ttlSeconds=5)
    moment.at(5)
    if swept:
        api.loop.run(api.book.sweep())
    problem_of(api.finalize(held, 0), 409, "reservation_not_pending")
    assert ok(api.release(held))["releasedMicro"] == "0"


def test_a_reservation_outlives_the_cached_copy_of_its_account(moment: Moment, api: Api) -> None:
    # The first reservation would be overdue now, so the next request loads the account again.
    account = api.account(100)
    ended, held = api.reserve(account, 10, ttlSeconds=5), api.reserve(account, 10, ttlSeconds=500)
    ok(api.finalize(ended, 10))
    moment.at(6)
    api.reserve(account, 10, ttlSeconds=500)
    assert stale_cache_entries(api.book) == []
    ok(api.finalize(held, 3))
    assert balance(api, account) == (77, 10, 0)


def test_an_expired_first_lot_is_not_drawn_on(moment: Moment, api: Api) -> None:
    account = api.account()
    soon = api.mint(account, 10, expiresAt=moment.text(5))["lotId"]
    never = api.mint(account, 10)["lotId"]
    assert reserved(api, account, 1) == [(soon, 1)]
    moment.at(5)
    assert reserved(api, account, 1) == [(never, 1)]


def test_credits_that_return_to_a_lot_expire_with_it(moment: Moment, api: Api) -> None:
    # While all of the lot was reserved, it had nothing that could expire.
    account = api.account()
    api.mint(account, 10, expiresAt=moment.text(50))
    held = api.reserve(account, 10, ttlSeconds=300)
    api.mint(account, 1, poolId="other")
    ok(api.release(held))
    moment.at(50)
    problem_of(api.ask_to_reserve(account, 1), 402, "insufficient_balance")
    assert balance(api, account) == (1, 0, 0)


# --- a rollback empties the cache ---


@pytest.mark.parametrize("how", ["reserve", "finalize", "release"])
def test_a_dry_run_leaves_nothing_in_the_cache(api: Api, cached: str, how: str) -> None:
    held = api.reserve(cached, 20)
    before = balance(api, cached)
    dry = {"dryRun": "true"}
    match how:
        case "reserve":
            ok(api.post(f"/accounts/{cached}/reservations", {"amountMicro": "30"}, **dry), 201)
        case "finalize":
            ok(api.post(f"/reservations/{held}/finalize", {"actualCostMicro": "20"}, **dry))
        case "release":
            ok(api.post(f"/reservations/{held}/release", **dry))
    assert balance(api, cached) == before
    assert stale_cache_entries(api.book) == []
    ok(api.finalize(held, 7))
    assert balance(api, cached) == (before[0] + 13, before[1] - 20, 0)


# The first one fails after the cache has changed and before anything is written.
@pytest.mark.parametrize(
    "sql",
    ["UPDATE credit_lots", "INSERT INTO credit_ledger", "UPDATE credit_reservations", "INSERT INTO idempotency_keys"],
)
def test_a_failed_operation_leaves_nothing_in_the_cache(
    api: Api, cached: str, monkeypatch: pytest.MonkeyPatch, sql: str
) -> None:
    held = api.reserve(cached, 20)
    conn = api.book.writer._conn
    monkeypatch.setattr(conn, "execute", failing(conn.execute, sql))
    monkeypatch.setattr(conn, "executemany", failing(conn.executemany, sql))
    problem_of(api.finalize(held, 7, key="k"), 500, "internal_error")
    monkeypatch.undo()
    assert stale_cache_entries(api.book) == []
    ok(api.finalize(held, 7, key="k"))


def failing(run: Callable[..., object], begin: str) -> Callable[..., object]:
    def fail(sql: str, *values: object) -> object:
        if sql.lstrip().startswith(begin):
            raise RuntimeError("injected by the test")
        return run(sql, *values)

    return fail


def test_a_write_by_another_program_empties_the_cache(api: Api, cached: str) -> None:
    with closing(open_writer(api.book.path)) as other:
        other.execute(
            "INSERT INTO memberships (account_id, community_id, tier, expires_at_us) VALUES (?, ?, 'gold', NULL)",
            (ids.decode(ids.ACCOUNT, cached), COMMUNITY),
        )
    assert [micro for _, micro in reserved(api, cached, 10)] == [5]
    with closing(open_writer(api.book.path)) as other:
        # This write adds no audit row.
        other.execute("DELETE FROM memberships WHERE community_id = ?", (COMMUNITY,))
    assert [micro for _, micro in reserved(api, cached, 10)] == [10]


# --- size ---


def test_the_cache_holds_a_limited_number_of_entries(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account_cache, "ACCOUNTS_MAX", 3)
    monkeypatch.setattr(account_cache, "RESERVATIONS_MAX", 5)
    accounts = [api.account(100) for _ in range(5)]
    held = [api.reserve(account, 10) for _ in range(2) for account in accounts]
    accounts_cached, reservations_cached = count_cached(api.book)
    assert 1 <= accounts_cached <= 3 and 1 <= reservations_cached <= 5
    for reservation in held:
        ok(api.finalize(reservation, 4))
    assert [balance(api, account) for account in accounts] == [(92, 0, 0)] * 5


def test_other_connections_have_no_cache(api: Api, cached: str) -> None:
    with closing(open_writer(api.book.path)) as own:
        for _ in range(2):
            key = ids.decode(ids.ACCOUNT, cached) or 0
            account = expiry.spending_account_for_update(own, key, pool_id="general", now_us=api.book.clock.now_us())
            assert account is not None and account_cache.account_cache_of(own).account(account.account_id) is None
