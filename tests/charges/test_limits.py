"""Limits of charges: pools, lots, debts; and what holds across epochs, failed neighbors and concurrent requests."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable

import pytest

from minibill.charges import batch as batch_module
from minibill.core import ids
from minibill.ledger.limits import LOTS_PER_SPEND_MAX, POOLS_MAX
from tests.api_client import Api, Json, ok, problem_of
from tests.charges.helpers import ask_to_charge, batch, charge, consumed, entries_of, figures, item, results
from tests.epochs.machine import Machine
from tests.reservations.cache_checks import stale_cache_entries
from tests.reservations.helpers import balance, history, lots
from tests.reservations.test_limits import with_pools

# --- pools ---


@pytest.fixture
def full(api: Api) -> str:
    """An account with 64 pools, of which none is `general`."""
    account = api.account()
    for number in range(POOLS_MAX):
        api.mint(account, 1, poolId=f"pool-{number}")
    return account


@pytest.mark.parametrize("mode", ["soft", "shadow"])
def test_a_first_entry_in_general_is_rejected_at_64_pools(api: Api, full: str, mode: str) -> None:
    with api.unchanged():
        answer = ask_to_charge(api, full, 5, billingMode=mode, poolId="new", sourceId="s")
        assert problem_of(answer, 422, "too_many_pools")["limit"] == POOLS_MAX
        sent = [item(full, 5, "s", billingMode=mode, poolId="new"), item(full, 5, "s", billingMode=mode)]
        assert results(batch(api, *sent)) == ["too_many_pools"] * 2
    # What needs no new pool is charged, with the same source and id.
    answer = batch(api, item(full, 5, "s", billingMode=mode, poolId="pool-3"), item(full, 5, "t", billingMode=mode))
    assert results(answer) == ["charged", "too_many_pools"]
    assert figures(charge(api, full, 1, poolId="pool-4", sourceId="u")) == (1, 0, 1, 0)
    assert charge(api, full, 0, billingMode="soft")["chargeId"] == "charge_0000000000003"


def test_a_live_charge_of_a_full_account_lacks_credits_only(api: Api, full: str) -> None:
    problem_of(ask_to_charge(api, full, 5), 402, "insufficient_balance")
    assert results(batch(api, item(full, 5, "s"), item(full, 0, "t"))) == ["insufficient_balance", "charged"]


def test_amount_too_large_comes_before_too_many_pools(api: Api, full: str) -> None:
    sent: Json = {"billingMode": "soft", "poolId": "new"}
    problem_of(ask_to_charge(api, full, 10**12 + 1, **sent), 422, "amount_too_large")
    assert results(batch(api, item(full, 10**12 + 1, "s", **sent))) == ["amount_too_large"]


def test_charges_create_no_pool(api: Api) -> None:
    account = with_pools(api, POOLS_MAX)
    charge(api, account, 5, billingMode="shadow", poolId="new")
    charge(api, account, 3, billingMode="soft", poolId="new")
    batch(api, *[item(account, 3, f"s{mode}", billingMode=mode, poolId="newer") for mode in ("soft", "shadow")])
    assert len(api.get(f"/accounts/{account}/balance")["pools"]) == POOLS_MAX
    assert {entry["poolId"] for entry in history(api, account)[POOLS_MAX:]} == {"general"}


# --- lots ---


def test_a_charge_draws_on_at_most_1000_lots(api: Api, scattered: str) -> None:
    wanted = LOTS_PER_SPEND_MAX + 1
    with api.unchanged():
        problem = problem_of(ask_to_charge(api, scattered, wanted, sourceId="s"), 422, "too_many_lots")
        assert results(batch(api, item(scattered, wanted, "s"))) == ["too_many_lots"]
        assert results(batch(api, item(scattered, wanted + 5, "s"))) == ["insufficient_balance"]
    assert (problem["limit"], problem["availableMicro"], problem["requestedMicro"]) == (1_000, "1000", "1001")
    made = charge(api, scattered, LOTS_PER_SPEND_MAX, sourceId="s")
    assert len(consumed(made)) == LOTS_PER_SPEND_MAX
    assert balance(api, scattered) == (5, 0, 0)
    assert ok(ask_to_charge(api, scattered, LOTS_PER_SPEND_MAX, sourceId="s"), 200) == made | {"duplicate": True}
    assert api.get(f"/charges/{made['chargeId']}", explain="true")["explanation"]["lotsNotShown"] == 900


@pytest.mark.parametrize("together", [False, True])
def test_a_soft_charge_beyond_1000_lots_becomes_a_debt(api: Api, scattered: str, together: bool) -> None:
    if together:
        answer = batch(api, item(scattered, 1_003, "a", billingMode="soft"), item(scattered, 4, "b", billingMode="soft"))
        assert [(each["chargedMicro"], each["debtMicro"]) for each in answer["charges"]] == [("1000", "3"), ("4", "0")]
    else:
        assert figures(charge(api, scattered, 1_003, billingMode="soft")) == (1_003, 0, 1_000, 3)
        assert figures(charge(api, scattered, 4, billingMode="soft")) == (4, 0, 4, 0)
    assert balance(api, scattered) == (1, 0, 3)


def test_a_batch_draws_on_a_limited_number_of_lots(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_module, "BATCH_LOTS_MAX", 5)
    account = api.account(*[1] * 9)
    sent = [item(account, cost, f"s{cost}", billingMode=mode) for cost, mode in ((3, "live"), (4, "soft"), (2, "live"))]
    assert results(batch(api, *sent, item(account, 0, "free"))) == ["charged", "too_many_lots", "charged", "charged"]
    assert results(batch(api, *sent)) == ["duplicate", "charged", "duplicate"]
    assert balance(api, account) == (0, 0, 0)


# --- debts ---


def test_an_account_owes_at_most_63_bits(start: Callable[..., Api]) -> None:
    largest = 2**63 - 1
    api = start(MINIBILL_CEILING_MICRO=str(largest))
    account = api.account(4)
    assert figures(charge(api, account, largest, billingMode="soft", sourceId="a")) == (largest, 0, 4, largest - 4)
    with api.unchanged():
        problem_of(ask_to_charge(api, account, 5, billingMode="soft", sourceId="b"), 422, "amount_too_large")
        assert results(batch(api, item(account, 5, "b", billingMode="soft"))) == ["amount_too_large"]
    # The batch counts the debts before it, and its own.
    answer = batch(api, *[item(account, 2, source, billingMode="soft") for source in "bcd"])
    assert results(answer) == ["charged", "charged", "amount_too_large"]
    assert balance(api, account) == (0, 0, largest)
    assert figures(charge(api, account, largest, billingMode="shadow")) == (largest, 0, largest, 0)


# --- groups ---


def sent_together(api: Api, *requests: tuple[str, Json]) -> list[tuple[int, Json]]:
    """Send requests of a service in one turn of the event loop; return status and JSON of each."""
    headers = {"Authorization": f"Bearer {api.sign_service()}", "Content-Type": "application/json"}

    async def send(path: str, body: Json) -> tuple[int, Json]:
        answer = await api.http.post(f"/api/internal/billing{path}", content=json.dumps(body), headers=headers)
        return answer.status_code, answer.json()

    async def send_all() -> list[tuple[int, Json]]:
        return await asyncio.gather(*(send(*request) for request in requests))

    return api.loop.run(send_all())


def test_a_rejected_neighbor_takes_nothing_with_it(api: Api, full: str) -> None:
    account = api.account(100)
    # The database rejects the pool, after the charge was inserted; so the whole group is rolled back and runs again.
    fails = {"accountId": full, "costMicro": "5", "billingMode": "soft", "poolId": "new"}
    sent: list[tuple[str, Json]] = []
    for number in range(12):
        sent += [("/charges", item(account, 3, f"s{number}")), ("/charges", fails)]
        sent.append(("/reservations", {"accountId": account, "amountMicro": "2"}))
    answers = sent_together(api, *sent)
    assert Counter(status for status, _ in answers) == {201: 24, 422: 12}
    assert stale_cache_entries(api.book) == []
    assert balance(api, account) == (40, 24, 0)
    found = [each["chargeId"] for each in api.get(f"/accounts/{account}/charges")["items"]]
    assert found == [ids.encode(ids.CHARGE, number) for number in range(12, 0, -1)]


def test_one_source_of_many_clients_charges_once(api: Api) -> None:
    account = api.account(100)
    one: tuple[str, Json] = ("/charges", item(account, 3, "s"))
    many: tuple[str, Json] = ("/charges/batch", {"charges": [item(account, 3, "s"), item(account, 4, "t")]})
    answers = sent_together(api, *[one, many] * 20)
    new = Counter(
        each["sourceId"]
        for _, body in answers
        for each in body.get("charges", [body])
        if each.get("status") == "charged" or each.get("duplicate") is False
    )
    assert new == {"s": 1, "t": 1}
    assert balance(api, account) == (93, 0, 0)


def test_concurrent_charges_share_out_the_credits_exactly(api: Api) -> None:
    account = api.account(*[59] * 17)
    answers = sent_together(api, *[("/charges", {"accountId": account, "costMicro": "7"})] * 200)
    assert Counter(status for status, _ in answers) == {201: 143, 402: 57}
    assert balance(api, account) == (2, 0, 0)


@pytest.mark.parametrize(
    "sql", ["INSERT INTO credit_charges", "UPDATE credit_lots", "INSERT INTO credit_debts", "INSERT INTO credit_ledger"]
)
@pytest.mark.parametrize("together", [False, True])
def test_a_failed_statement_leaves_nothing_behind(
    api: Api, monkeypatch: pytest.MonkeyPatch, sql: str, together: bool
) -> None:
    account = api.account(10, 10)
    api.reserve(account, 3)
    sent = item(account, 30, "s", billingMode="soft")
    path, body = ("/charges/batch", {"charges": [sent]}) if together else ("/charges", sent)
    conn = api.book.writer._conn
    run = conn.executemany

    def failing(statement: str, rows: Json) -> object:
        done = run(statement, rows)
        if statement.lstrip().startswith(sql):
            raise RuntimeError("injected by the test")
        return done

    monkeypatch.setattr(conn, "executemany", failing)
    with api.unchanged():
        problem_of(api.internal("POST", path, body), 500, "internal_error")
    monkeypatch.undo()
    assert stale_cache_entries(api.book) == []
    ok(api.internal("POST", path, body))
    assert balance(api, account) == (0, 3, 13)


# --- epochs ---


def test_the_first_charge_of_an_epoch_has_an_id_above_its_base(machine: Machine) -> None:
    account = machine.api.account(100)
    copy = machine.backup()
    lost = charge(machine.api, account, 10, sourceId="lost")
    machine.restore(copy)
    base = machine.api.book.epoch.base_id
    # The first entries of the epoch are those of a charge.
    made = charge(machine.api, account, 110, sourceId="lost", billingMode="soft")
    assert made["duplicate"] is False and made["chargeId"] > lost["chargeId"]
    assert ids.decode(ids.CHARGE, made["chargeId"]) == base + 1
    assert entries_of(machine.api, made) == [("charge", -100), ("debt_incurred", -10)]
    newest = machine.api.get(f"/accounts/{account}/history")["items"][0]
    assert ids.decode(ids.ENTRY, newest["id"]) == base + 2
    shown = machine.api.get(f"/charges/{made['chargeId']}")
    assert [lot["consumedMicro"] for lot in shown["lotAllocations"]] == ["100"]
    problem_of(machine.api.call("GET", f"/charges/{lost['chargeId']}"), 404, "charge_not_found")
    next_one = charge(machine.api, account, 0)
    assert ids.decode(ids.CHARGE, next_one["chargeId"]) == base + 2


@pytest.mark.parametrize("first", [[], [0], [7, 0, 3]])
def test_a_batch_begins_an_epoch(machine: Machine, first: list[int]) -> None:
    account = machine.api.account(10, 10)
    charge(machine.api, account, 1)
    machine.restore(machine.backup())
    base = machine.api.book.epoch.base_id
    for number, cost in enumerate(first):
        charge(machine.api, account, cost, sourceId=f"first-{number}")
    answer = batch(machine.api, *[item(account, cost, f"s{cost}") for cost in (0, 2, 5)])
    keys = [ids.decode(ids.CHARGE, each["chargeId"]) for each in answer["charges"]]
    assert keys == [base + len(first) + number for number in (1, 2, 3)]
    assert [entries_of(machine.api, each) for each in answer["charges"]] == [[], [("charge", -2)], [("charge", -5)]]
    shown = [machine.api.get(f"/charges/{each['chargeId']}") for each in answer["charges"]]
    assert [sum(amount for _, amount in consumed(each)) for each in shown] == [0, 2, 5]
    assert sum(part.get("consumed", 0) for part in lots(machine.api, account).values()) == 8 + sum(first)
