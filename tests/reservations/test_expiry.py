"""Expiry of lots and reservations counts from its exact time, whenever its entries are written."""

import json
from collections.abc import Callable
from typing import NamedTuple

import pytest

from minibill.core.clock import US_PER_SECOND
from tests.api_client import Api, Json, ok, problem_of
from tests.reservations.conftest import START_US, Moment
from tests.reservations.helpers import Entry, all_reads, balance, entries, history, lots


def sweep(api: Api) -> None:
    api.loop.run(api.book.sweep())


# --- one lot, one reservation ---


def test_credits_of_an_overdue_reservation_are_available_at_once(moment: Moment, api: Api) -> None:
    account = api.account(5, 5)
    first, second = lots(api, account)
    held = api.reserve(account, 7, ttlSeconds=10)
    moment.at(10, -1)
    assert balance(api, account) == (3, 7, 0)
    moment.at(10)
    with api.unchanged():
        assert balance(api, account) == (10, 0, 0)
        assert lots(api, account) == {first: {"available": 5}, second: {"available": 5}}
    shown = api.get(f"/reservations/{held}")
    assert (shown["status"], shown["releasedMicro"], shown["finalizedAt"]) == ("expired", "7", None)
    before = all_reads(api, account, held)
    sweep(api)
    assert all_reads(api, account, held) == before
    assert entries(api, account, 4) == [Entry("release", 5, 5, -5, first, held), Entry("release", 2, 2, -2, second, held)]


@pytest.mark.parametrize("how", ["release", "finalize", "overdue", "overdue together with the lot"])
@pytest.mark.parametrize("swept", [False, True])
def test_credits_that_return_to_an_expired_lot_expire(moment: Moment, api: Api, how: str, swept: bool) -> None:
    account = api.account()
    lot = api.mint(account, 10, expiresAt=moment.text(10))["lotId"]
    held = api.reserve(account, 6, ttlSeconds=10 if how == "overdue together with the lot" else 20)
    moment.at(10)
    if swept:
        sweep(api)
    together = how == "overdue together with the lot"
    assert balance(api, account) == (0, 0 if together else 6, 0)
    assert lots(api, account) == {lot: {"expired": 10} if together else {"reserved": 6, "expired": 4}}
    [expired] = api.get(f"/accounts/{account}/lots", state="expired")["items"]
    assert expired["id"] == lot
    spent = 2 if how == "finalize" else 0
    match how:
        case "release":
            ok(api.release(held))
        case "finalize":
            ok(api.finalize(held, 2))
        case _:
            moment.at(20)
            assert balance(api, account) == (0, 0, 0)
            assert lots(api, account) == {lot: {"expired": 10}}
            sweep(api)
    expected = [Entry("expire", -4, -4, 0, lot)]
    expected += [Entry("finalize", -spent, 0, -spent, lot, held)] * (spent > 0)
    expected.append(Entry("expire", spent - 6, 0, spent - 6, lot, held))
    assert entries(api, account, 2) == expected
    assert lots(api, account) == {lot: {"expired": 10 - spent} | ({"consumed": spent} if spent else {})}


def test_credits_that_return_before_the_expiry_expire_with_the_lot(moment: Moment, api: Api) -> None:
    account = api.account()
    lot = api.mint(account, 10, expiresAt=moment.text(20))["lotId"]
    held = api.reserve(account, 10, ttlSeconds=10)
    moment.at(30)
    assert balance(api, account) == (0, 0, 0)
    api.mint(account, 1)
    assert entries(api, account, 2)[:2] == [Entry("release", 10, 10, -10, lot, held), Entry("expire", -10, -10, 0, lot)]


def test_a_finalize_charges_a_lot_that_expired_while_reserved(moment: Moment, api: Api) -> None:
    account = api.account()
    lot = api.mint(account, 10, expiresAt=moment.text(10))["lotId"]
    held = api.reserve(account, 10, ttlSeconds=100)
    moment.at(50)
    assert ok(api.finalize(held, 10))["finalizedMicro"] == "10"
    assert lots(api, account) == {lot: {"consumed": 10}}
    [spent] = api.get(f"/accounts/{account}/lots", state="spent")["items"]
    assert spent["id"] == lot


def test_a_rejected_write_keeps_the_expiry_before_it(moment: Moment, api: Api) -> None:
    account = api.account(5)
    held = api.reserve(account, 5, ttlSeconds=10)
    moment.at(10)
    problem_of(api.finalize(held, 5), 409, "reservation_not_pending")
    assert history(api, account)[-1]["entryType"] == "release"
    with api.unchanged():
        problem_of(api.finalize(held, 5), 409, "reservation_not_pending")
        problem_of(api.ask_to_reserve(account, 6), 402, "insufficient_balance")
    assert balance(api, account) == (5, 0, 0)


# --- one history, swept at each step or at the end ---


class Story(NamedTuple):
    """A history to play on new accounts; `step` is called at each time at which lots or reservations expire."""

    api: Api
    moment: Moment

    def play(self, step: Callable[[], None], *, until: int = 50) -> tuple[str, list[str]]:
        """Play the history on a new account up to a time; return the account and its reservations."""
        api, base = self.api, self.seconds()
        account = api.account()
        held: list[str] = []
        # Lots expire at 5, 10, 10, 20 and 30 seconds, reservations at 8, 10, 10, 15, 30 and 40.
        api.mint(account, 10, expiresAt=self.moment.text(base + 10), poolId="gpu")
        api.mint(account, 20, expiresAt=self.moment.text(base + 20))
        api.mint(account, 7, expiresAt=self.moment.text(base + 10))
        api.mint(account, 5, expiresAt=self.moment.text(base + 5), priority=60)
        api.mint(account, 40, expiresAt=self.moment.text(base + 30), priority=70)
        api.mint(account, 3, priority=80)
        for amount, ttl, pool, mode in [
            (12, 10, "gpu", "live"), (9, 8, "general", "live"), (4, 10, "general", "soft"), (15, 15, "gpu", "live"),
            (9, 40, "general", "shadow"), (20, 30, "general", "soft"), (20, 40, "gpu", "live"),
            (2, 500, "general", "live"),
        ]:  # fmt: skip
            held.append(api.reserve(account, amount, ttlSeconds=ttl, poolId=pool, billingMode=mode))
        for seconds in (due for due in DUE if due <= until):
            self.moment.at(base + seconds)
            step()
        self.moment.at(base + until)
        return account, held

    def seconds(self) -> int:
        return (self.api.book.clock.now_us() - START_US) // US_PER_SECOND


DUE = [5, 8, 10, 15, 20, 30, 40, 50]


def comparable_entries(api: Api, account: str, held: list[str]) -> list[tuple[object, ...]]:
    """Return the entries of an account, with the index of each lot and reservation instead of its id."""
    places: dict[str | None, int] = {name: number for number, name in enumerate(lots(api, account))}
    reservations: dict[str | None, int] = {name: number for number, name in enumerate(held)}
    return [
        (
            e["entryType"], e["poolId"], e["entrySeq"], e["amountMicro"], e["availableDeltaMicro"], e["reservedDeltaMicro"],
            e["availableAfterMicro"], e["reservedAfterMicro"], places.get(e["lotId"]), reservations.get(e["reservationId"]),
        )
        for e in history(api, account)
    ]  # fmt: skip


@pytest.mark.parametrize("slice_max", [1, 2, 3, 200])
@pytest.mark.parametrize("how", ["a late sweep", "a late mint", "a late reservation", "a late finalize", "a late batch"])
def test_late_expiry_writes_the_entries_of_prompt_sweeps(
    moment: Moment, api: Api, monkeypatch: pytest.MonkeyPatch, slice_max: int, how: str
) -> None:
    monkeypatch.setattr("minibill.book.SWEEP_STEP", slice_max)
    moment.at(0)
    story = Story(api, moment)
    prompt, prompt_held = story.play(lambda: sweep(api))
    assert [entry[0] for entry in comparable_entries(api, prompt, prompt_held)].count("expire") > 4
    late, late_held = story.play(lambda: None)
    reads = all_reads(api, late, *late_held)

    def act(account: str, held: list[str]) -> None:
        match how:
            case "a late sweep":
                sweep(api)
            case "a late mint":
                api.mint(account, 1)
            case "a late reservation":
                api.reserve(account, 0)
            case "a late finalize":
                ok(api.finalize(held[-1], 3))
            case _:
                ok(api.batch(api.campaign(), (account, 1)))

    act(late, late_held)
    act(prompt, prompt_held)
    assert comparable_entries(api, late, late_held) == comparable_entries(api, prompt, prompt_held)
    if how in ("a late sweep", "a late reservation"):
        assert all_reads(api, late, *late_held) == reads


@pytest.mark.parametrize("seconds", [*DUE, 9, 25])
def test_every_read_is_the_same_before_and_after_a_sweep(moment: Moment, api: Api, seconds: int) -> None:
    account, held = Story(api, moment).play(lambda: None, until=seconds)

    def read_all() -> Json:
        past = [balance(api, account, at=moment.text(at)) for at in range(seconds + 1)]
        return [all_reads(api, account, *held), past]

    with api.unchanged():
        before = read_all()
    sweep(api)
    assert read_all() == before


def test_past_balances_are_exact_whenever_expiry_was_written(moment: Moment, api: Api) -> None:
    moment.at(0)
    account = api.account()
    api.mint(account, 10, expiresAt=moment.text(10), poolId="gpu")
    api.mint(account, 20, expiresAt=moment.text(20))
    api.mint(account, 7, expiresAt=moment.text(10))
    api.mint(account, 5, expiresAt=moment.text(5), priority=60)
    api.reserve(account, 12, ttlSeconds=10, poolId="gpu")
    api.reserve(account, 9, ttlSeconds=8)
    api.reserve(account, 4, ttlSeconds=15)
    soft = api.reserve(account, 30, ttlSeconds=45, billingMode="soft")

    def read_balance(**query: object) -> Json:
        answer = api.get(f"/accounts/{account}/balance", **query)
        return answer["pools"], answer["debtMicro"]

    # The expected balances are those that were read at the time.
    found: dict[tuple[int, int], Json] = {}
    for seconds in [5, 7, 8, 9, 10, 12, 15, 20, 30, 45]:
        for us in (-1, 0, 1):
            moment.at(seconds, us)
            if (seconds, us) == (12, 0):
                ok(api.finalize(soft, 50))
            found[seconds, us] = read_balance()

    def check() -> None:
        assert {at: read_balance(at=moment.text(*at)) for at in found} == found

    moment.at(100)
    check()
    sweep(api)
    check()
    api.mint(account, 100)
    moment.at(200)
    check()
    assert len({json.dumps(each) for each in found.values()}) > 5


# --- the machine's clock ---


def test_a_clock_that_jumps_back_expires_nothing_early(moment: Moment, api: Api) -> None:
    moment.at(1_000)
    account = api.account(10)
    api.mint(account, 10, expiresAt=moment.text(1_010))
    held = api.reserve(account, 15, ttlSeconds=10)
    for seconds in (0, -(10**6), 500):
        moment.at(seconds)
        sweep(api)
        assert balance(api, account) == (5, 15, 0)
        # A new reservation gets the latest time of the book.
        new = ok(api.ask_to_reserve(account, 1, ttlSeconds=5))
        assert new["expiresAt"] == moment.text(1_005)
        assert ok(api.release(new["reservationId"]))["releasedMicro"] == "1"
    moment.at(1_010, -1)
    assert balance(api, account) == (5, 15, 0)
    moment.at(1_010)
    assert balance(api, account) == (10, 0, 0)
    moment.at(0)
    # Expired items stay expired.
    assert balance(api, account) == (10, 0, 0)
    problem_of(api.finalize(held, 1), 409, "reservation_not_pending")
    sweep(api)
    times = [entry["createdAt"] for entry in history(api, account)]
    assert times == sorted(times)
    assert (times[0], times[-1]) == (moment.text(1_000), moment.text(1_010))


def test_a_clock_that_jumped_back_while_closed_does_not_move_time_back(start: Callable[..., Api], moment: Moment) -> None:
    moment.at(1_000)
    api = start()
    account = api.account(10)
    held = api.reserve(account, 4, ttlSeconds=10)
    moment.at(5)
    api = start()
    assert api.get(f"/reservations/{held}")["status"] == "pending"
    assert ok(api.finalize(held, 4))["finalizedAt"] == moment.text(1_000)
    assert ok(api.ask_to_reserve(account, 1, ttlSeconds=7))["expiresAt"] == moment.text(1_007)


# --- many accounts ---


@pytest.mark.parametrize("slice_max", [1, 3, 200])
def test_a_sweep_expires_many_accounts_in_slices(
    moment: Moment, api: Api, monkeypatch: pytest.MonkeyPatch, slice_max: int
) -> None:
    monkeypatch.setattr("minibill.book.SWEEP_STEP", slice_max)
    accounts = [api.account() for _ in range(4)]
    held: dict[str, list[str]] = {account: [] for account in accounts}
    for number in range(5):
        for account in accounts:
            api.mint(account, 10, expiresAt=moment.text(10 + number % 2))
            held[account].append(api.reserve(account, 7, ttlSeconds=9 + number % 3))
    moment.at(20)
    before = [all_reads(api, account, *held[account]) for account in accounts]
    sweep(api)
    assert [all_reads(api, account, *held[account]) for account in accounts] == before
    assert len({tuple(comparable_entries(api, account, held[account])) for account in accounts}) == 1
    with api.unchanged():
        sweep(api)
