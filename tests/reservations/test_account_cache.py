"""What the writer remembers from one reserve or finalize to the next is what the book has, whoever changed it meanwhile.

That it is so after any history is also held by test_random_ledger.py after each of its steps, and by every test at its end.
"""

from collections.abc import Callable
from contextlib import closing

import pytest

from minibill.core import ids
from minibill.db.connection import open_writer
from minibill.ledger import account_cache, expiry
from tests.api_client import Api, ok, problem_of
from tests.reservations.cache_checks import count_remembered, misremembered
from tests.reservations.conftest import Moment
from tests.reservations.helpers import allocations, balance, lots

COMMUNITY = "makers"


@pytest.fixture
def known(api: Api) -> str:
    """An account that has just spent, so that it is remembered with its first lot, of 100, of which 60 are left."""
    ok(api.call("PUT", f"/discounts/{COMMUNITY}/tiers", {"tiers": [{"tier": "gold", "rateBps": 5000}]}))
    account = api.account(100, 100)
    ok(api.finalize(api.reserve(account, 50), 40))
    assert count_remembered(api.book) == (1, 0)
    return account


def reserved(api: Api, account: str, amount_micro: int, **body: object) -> list[tuple[str, int]]:
    return allocations(ok(api.ask_to_reserve(account, amount_micro, **body), 201))


# --- what is remembered is used ---


def test_a_pair_on_a_known_account_looks_nothing_up_but_its_key(api: Api, known: str) -> None:
    ran: list[str] = []
    conn = api.book.writer._conn
    conn.set_trace_callback(ran.append)
    ok(api.finalize(api.reserve(known, 10), 10))
    conn.set_trace_callback(None)
    reads = [sql for sql in ran if sql.startswith(("SELECT", "WITH"))]
    tables = {name for sql in reads for name in ("credit_lots", "credit_balances", "credit_reservations", "credit_accounts")
              if name in sql}  # fmt: skip
    assert tables == set()
    assert any(sql.startswith("INSERT INTO credit_ledger") for sql in ran)


def test_a_reservation_over_several_lots_is_remembered_with_all_of_them(api: Api, known: str) -> None:
    first, second = lots(api, known)
    held = ok(api.ask_to_reserve(known, 70), 201)
    assert allocations(held) == [(first, 60), (second, 10)]
    ok(api.finalize(held["reservationId"], 65))
    assert reserved(api, known, 95) == [(second, 95)]
    assert misremembered(api.book) == []


def test_a_cost_above_its_reservation_is_drawn_from_what_is_left(api: Api, known: str) -> None:
    first, second = lots(api, known)
    ok(api.finalize(api.reserve(known, 10, billingMode="soft"), 70))
    assert misremembered(api.book) == []
    assert reserved(api, known, 10) == [(second, 10)]
    assert lots(api, known)[first] == {"consumed": 100}


def test_a_lot_that_gets_credits_back_comes_first_again(api: Api, known: str) -> None:
    first, second = lots(api, known)
    all_of_first = api.reserve(known, 60)
    assert reserved(api, known, 10) == [(second, 10)]
    ok(api.release(all_of_first))
    assert reserved(api, known, 70) == [(first, 60), (second, 10)]


# --- what others change is not missed ---


def test_a_lot_that_goes_first_is_seen(api: Api, known: str) -> None:
    urgent = api.mint(known, 5, priority=0)["lotId"]
    assert reserved(api, known, 5) == [(urgent, 5)]


def test_a_grant_is_seen(api: Api, known: str) -> None:
    campaign = api.campaign(grantTtlSeconds=60)
    [grant] = ok(api.batch(campaign, (known, 7)), 201)["grants"]
    assert reserved(api, known, 7) == [(grant["lotId"], 7)]


def test_a_revoked_grant_is_not_drawn_on_and_takes_back_what_returns(api: Api) -> None:
    account = api.account()
    campaign = api.campaign()
    [grant] = ok(api.batch(campaign, (account, 10)), 201)["grants"]
    held = api.reserve(account, 4)
    ok(api.post(f"/campaigns/{campaign}/grants/{grant['grantId']}/revoke", {"reason": "a mistake"}))
    problem_of(api.ask_to_reserve(account, 1), 402, "insufficient_balance")
    ok(api.release(held))
    assert lots(api, account) == {grant["lotId"]: {"revoked": 10}}


def test_a_membership_counts_from_the_next_reservation_on_and_not_after_it_ends(api: Api, known: str) -> None:
    path = f"/accounts/{known}/memberships/{COMMUNITY}"
    ok(api.call("PUT", path, {"tier": "gold"}))
    assert [micro for _, micro in reserved(api, known, 10)] == [5]
    assert api.call("DELETE", path).status_code == 204
    assert [micro for _, micro in reserved(api, known, 10)] == [10]


@pytest.mark.parametrize("swept", [False, True])
def test_a_reservation_that_falls_due_gives_back_what_it_held(moment: Moment, api: Api, swept: bool) -> None:
    account = api.account(10)
    [lot] = lots(api, account)
    held = api.reserve(account, 10, ttlSeconds=5)
    moment.at(5)
    if swept:
        api.loop.run(api.book.sweep())
    assert reserved(api, account, 10) == [(lot, 10)]
    problem_of(api.finalize(held, 1), 409, "reservation_not_pending")


@pytest.mark.parametrize("swept", [False, True])
def test_a_reservation_of_nothing_falls_due_too(moment: Moment, api: Api, swept: bool) -> None:
    # No credits move then, and still it is no longer pending.
    held = api.reserve(api.account(10), 0, ttlSeconds=5)
    moment.at(5)
    if swept:
        api.loop.run(api.book.sweep())
    problem_of(api.finalize(held, 0), 409, "reservation_not_pending")
    assert ok(api.release(held))["releasedMicro"] == "0"


def test_a_reservation_outlives_what_was_known_of_its_account_when_it_was_made(moment: Moment, api: Api) -> None:
    # The first would have fallen due, so the account is looked up anew, and nothing is.
    account = api.account(100)
    ended, held = api.reserve(account, 10, ttlSeconds=5), api.reserve(account, 10, ttlSeconds=500)
    ok(api.finalize(ended, 10))
    moment.at(6)
    api.reserve(account, 10, ttlSeconds=500)
    assert misremembered(api.book) == []
    ok(api.finalize(held, 3))
    assert balance(api, account) == (77, 10, 0)


def test_a_lot_that_expires_is_not_drawn_on(moment: Moment, api: Api) -> None:
    account = api.account()
    soon = api.mint(account, 10, expiresAt=moment.text(5))["lotId"]
    never = api.mint(account, 10)["lotId"]
    assert reserved(api, account, 1) == [(soon, 1)]
    moment.at(5)
    assert reserved(api, account, 1) == [(never, 1)]


def test_credits_that_return_to_a_lot_expire_with_it(moment: Moment, api: Api) -> None:
    # While all of the lot was held, nothing of it could fall due.
    account = api.account()
    api.mint(account, 10, expiresAt=moment.text(50))
    held = api.reserve(account, 10, ttlSeconds=300)
    api.mint(account, 1, poolId="other")
    ok(api.release(held))
    moment.at(50)
    problem_of(api.ask_to_reserve(account, 1), 402, "insufficient_balance")
    assert balance(api, account) == (1, 0, 0)


# --- what is taken back is forgotten ---


@pytest.mark.parametrize("how", ["reserve", "finalize", "release"])
def test_a_dry_run_is_not_remembered(api: Api, known: str, how: str) -> None:
    held = api.reserve(known, 20)
    before = balance(api, known)
    dry = {"dryRun": "true"}
    match how:
        case "reserve":
            ok(api.internal("POST", "/reservations", {"accountId": known, "amountMicro": "30"}, **dry), 201)
        case "finalize":
            ok(api.finalize(held, 20, **dry))
        case "release":
            ok(api.release(held, **dry))
    assert balance(api, known) == before
    assert misremembered(api.book) == []
    ok(api.finalize(held, 7))
    assert balance(api, known) == (before[0] + 13, before[1] - 20, 0)


# The first of them fails before anything was written, and after what is remembered had been changed.
@pytest.mark.parametrize(
    "sql",
    ["UPDATE credit_lots", "INSERT INTO credit_ledger", "UPDATE credit_reservations", "INSERT INTO idempotency_keys"],
)
def test_what_fails_in_its_middle_is_not_remembered(api: Api, known: str, monkeypatch: pytest.MonkeyPatch, sql: str) -> None:
    held = api.reserve(known, 20)
    conn = api.book.writer._conn
    monkeypatch.setattr(conn, "execute", failing(conn.execute, sql))
    monkeypatch.setattr(conn, "executemany", failing(conn.executemany, sql))
    problem_of(api.finalize(held, 7, key="k"), 500, "internal_error")
    monkeypatch.undo()
    assert misremembered(api.book) == []
    ok(api.finalize(held, 7, key="k"))


def failing(run: Callable[..., object], begin: str) -> Callable[..., object]:
    def fail(sql: str, *values: object) -> object:
        if sql.lstrip().startswith(begin):
            raise RuntimeError("a fault made by the test")
        return run(sql, *values)

    return fail


def test_what_another_program_writes_is_seen(api: Api, known: str) -> None:
    with closing(open_writer(api.book.path)) as other:
        other.execute(
            "INSERT INTO memberships (account_id, community_id, tier, expires_at_us) VALUES (?, ?, 'gold', NULL)",
            (ids.decode(ids.ACCOUNT, known), COMMUNITY),
        )
    assert [micro for _, micro in reserved(api, known, 10)] == [5]
    with closing(open_writer(api.book.path)) as other:
        # No audit row tells of it.
        other.execute("DELETE FROM memberships WHERE community_id = ?", (COMMUNITY,))
    assert [micro for _, micro in reserved(api, known, 10)] == [10]


# --- there is an end to it ---


def test_no_more_than_so_many_are_remembered(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account_cache, "SPENDERS_MAX", 3)
    monkeypatch.setattr(account_cache, "HOLDS_MAX", 5)
    accounts = [api.account(100) for _ in range(5)]
    held = [api.reserve(account, 10) for _ in range(2) for account in accounts]
    spenders, holds = count_remembered(api.book)
    assert 1 <= spenders <= 3 and 1 <= holds <= 5
    for reservation in held:
        ok(api.finalize(reservation, 4))
    assert [balance(api, account) for account in accounts] == [(92, 0, 0)] * 5


def test_a_connection_of_its_own_remembers_nothing(api: Api, known: str) -> None:
    with closing(open_writer(api.book.path)) as own:
        for _ in range(2):
            key = ids.decode(ids.ACCOUNT, known) or 0
            spender = expiry.spending_account_for_update(own, key, pool_id="general", now_us=api.book.clock.now_us())
            assert spender is not None and account_cache.account_cache_of(own).spender(spender.account_id) is None
