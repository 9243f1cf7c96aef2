"""Random histories against a model: mints, grants, discounts, reservations, charges, revocations, sweeps, restarts, kills.

The model, in plain Python, expires lots and reservations at their exact times. The book expires them later, and must return
the same responses. The long run is tests/faults/test_random_histories.py.
"""

import json
import pickle
import shutil
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple, TypeVar

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from minibill import book
from minibill.api.idempotency import Key, StoredResponse
from minibill.api.types import Entity, Micro, TimeUs, encode
from minibill.auth.tokens import Caller
from minibill.book import Book
from minibill.campaigns import lifecycle, revocation
from minibill.campaigns.batch import pay_batch
from minibill.campaigns.schemas import BatchBody, CreateBody, GrantItem
from minibill.campaigns.stats import stats_response
from minibill.charges import reads as charge_reads
from minibill.charges.batch import charge_batch
from minibill.charges.charge import charge, charge_response
from minibill.charges.schemas import ChargeBatchBody, ChargeBody, UsageRecord
from minibill.core import ids
from minibill.core.clock import US_PER_SECOND, Clock, format_time, parse_time
from minibill.core.problems import Problem
from minibill.core.write_result import NOWHERE, WriteResult
from minibill.db.connection import open_writer
from minibill.db.ledger_sequence import SequenceTracker
from minibill.db.readers import Readers, RequestReader
from minibill.db.sqlite import Connection
from minibill.db.write_operation import bind
from minibill.db.writer import Writer
from minibill.discounts.memberships import delete_membership, put_membership
from minibill.discounts.schemas import MembershipBody, TierBody, TiersBody
from minibill.discounts.tiers import replace_tiers
from minibill.integrity.checks import violations
from minibill.ledger import expiry, reads
from minibill.ledger.accounts import open_account
from minibill.ledger.finalize import finalize, release
from minibill.ledger.mint import mint
from minibill.ledger.reservations import reservation_response, reserve
from minibill.ledger.rows import LotRow
from minibill.ledger.schemas import AdminFinalizeBody, BillingMode, MintBody, ReserveBody
from tests.api_client import Json, Loop
from tests.reservations.cache_checks import stale_cache_entries

CEILING = 100
START_US = parse_time("2040-01-01T00:00:00Z")
NAMES = ["ada", "bob"]
POOLS = ["general", "gpu", "zone:a"]
# The pool of each campaign, and the lifetime of its credits in seconds.
CAMPAIGNS = [("general", None), ("general", 5), ("gpu", None), ("gpu", 3), ("gpu", 10)]
BUDGET = 10**6
ADMIN = Caller("admin", "model", None, frozenset())
SERVICE = Caller("service", "model", None, frozenset())


# --- commands ---


class Mint(NamedTuple):
    name: int
    pool: str
    amount: int
    priority: int
    lives_s: int | None
    source: str | None


class Grant(NamedTuple):
    name: int
    campaign: int
    amount: int


class Revoke(NamedTuple):
    """Revoke the grant of the campaign to the account."""

    name: int
    campaign: int


class RevokeAll(NamedTuple):
    campaign: int


class Reserve(NamedTuple):
    name: int
    pool: str
    amount: int
    ttl_s: int
    mode: BillingMode


class Finalize(NamedTuple):
    """`reservation` counts back from the newest. When the command runs, it is converted to count from the first."""

    reservation: int
    cost: int


class Release(NamedTuple):
    reservation: int


class Charge(NamedTuple):
    name: int
    pool: str
    cost: int
    mode: BillingMode
    source: str | None


class ChargeAll(NamedTuple):
    """A batch of charges; each has a source."""

    items: tuple[Charge, ...]


class Tiers(NamedTuple):
    """The tiers of a community: each a name, a rate and a cap."""

    community: str
    tiers: tuple[tuple[str, int, int | None], ...]


class Join(NamedTuple):
    name: int
    community: str
    tier: str
    lives_s: int | None


class Leave(NamedTuple):
    name: int
    community: str


class Write(NamedTuple):
    """An action with its idempotency key; `dry` makes it a dry run."""

    action: "Action"
    key: str | None
    dry: bool


class Lost(NamedTuple):
    """A write whose response is lost: the process is killed before or after its COMMIT. Then the client retries."""

    write: Write
    committed: bool


class Retry(NamedTuple):
    """Repeat an earlier write with the same key."""

    write: int


class Pass(NamedTuple):
    seconds: int


class Sweep(NamedTuple):
    slice: int


class Restart(NamedTuple):
    pass


Action = Mint | Grant | Revoke | RevokeAll | Reserve | Finalize | Release | Charge | ChargeAll | Tiers | Join | Leave
Command = Write | Lost | Retry | Pass | Sweep | Restart

T = TypeVar("T")


def weighted(*choices: tuple[int, st.SearchStrategy[T]]) -> st.SearchStrategy[T]:
    """Choose one of the strategies by weight."""
    many = [strategy for weight, strategy in choices for _ in range(weight)]
    return st.integers(0, len(many) - 1).flatmap(lambda number: many[number])


# Most commands concern one account, so that they affect each other.
names = st.sampled_from([0, 0, 0, 1])
pools = st.sampled_from(["general", "general", "gpu", "gpu", "zone:a"])
amounts = st.sampled_from([0, 1, 2, 3, 3, 5, 5, 7, 7, 10, 20, 40, CEILING, CEILING, CEILING + 1])
# Few distinct times, so that many items expire at the same time.
seconds = st.sampled_from([1, 2, 3, 5, 10])
# Counted back from the newest; -1 is an unknown one.
reservations = st.integers(-1, 9).map(lambda number: number % 5 if number >= 0 else number)
mints = st.builds(
    Mint, names, pools, st.sampled_from([1, 3, 5, 7, 10, 10, 20, 20, 40, CEILING, CEILING + 1]),
    st.sampled_from([0, 50, 50, 100]), weighted((1, st.none()), (3, seconds)),
    st.sampled_from([None] * 8 + ["order-1", "order-2"]),
)  # fmt: skip
reserves = st.builds(Reserve, names, pools, amounts, seconds, st.sampled_from(["live", "live", "soft", "soft", "shadow"]))
modes: st.SearchStrategy[BillingMode] = st.sampled_from(["live", "live", "soft", "soft", "shadow"])
# Few sources and costs, so that batches have duplicates of earlier charges and of their own.
sources = st.sampled_from(["call-1", "call-2", "call-3", "call-4"])
costs = st.sampled_from([0, 1, 1, 3, 3, 7, 7, 20, 40, CEILING, CEILING + 1])
charges = st.builds(Charge, names, pools, costs, modes, weighted((1, st.none()), (1, sources)))
usage = st.builds(Charge, names, pools, costs, modes, weighted((1, sources), (1, st.integers(1, 99).map(str))))
batches = st.builds(ChargeAll, st.lists(usage, min_size=1, max_size=8).map(tuple))
campaigns = st.integers(0, len(CAMPAIGNS) - 1)
grants = st.builds(Grant, names, campaigns, st.sampled_from([1, 5, 7, 10, 20, 40, CEILING]))
communities = st.sampled_from(["a", "b", "c"])
tier_names = st.sampled_from(["gold", "gold", "silver"])
tiers = st.tuples(tier_names, st.sampled_from([0, 1_000, 3_333, 5_000, 10_000]), st.sampled_from([None, None, 0, 3, 20]))
tables = st.lists(tiers, max_size=2, unique_by=lambda tier: tier[0]).map(tuple)
actions: st.SearchStrategy[Action] = weighted(
    (6, mints),
    (6, grants),
    (4, st.builds(Revoke, names, campaigns)),
    (2, st.builds(RevokeAll, campaigns)),
    (10, reserves),
    (8, st.builds(Finalize, reservations, amounts)),
    (4, st.builds(Release, reservations)),
    (5, charges),
    (5, batches),
    (2, st.builds(Tiers, communities, tables)),
    (2, st.builds(Join, names, communities, tier_names, st.none() | seconds)),
    (1, st.builds(Leave, names, communities)),
)
keys = st.sampled_from([None] * 12 + ["a", "b", "c"])
writes = st.builds(Write, actions, keys, st.integers(0, 11).map(lambda number: number == 11))
lost = st.builds(Lost, st.builds(Write, actions, st.sampled_from(["a", "b", "c"]), st.just(False)), st.booleans())
commands: st.SearchStrategy[Command] = weighted(
    (14, writes), (4, st.builds(Pass, st.sampled_from([1, 2, 3, 5, 10, 15]))), (2, st.builds(Retry, st.integers(0, 20))),
    (1, st.builds(Sweep, st.sampled_from([1, 2, 500]))), (1, st.builds(Restart)), (2, lost),
)  # fmt: skip


class Step(NamedTuple):
    """A command. After it, the balance of `ago_us` microseconds earlier is compared."""

    command: Command
    ago_us: int


agos = st.builds(lambda s, us: s * US_PER_SECOND + us, st.integers(0, 40), st.sampled_from([0, 1, -1, 500_000])).map(abs)


@st.composite
def stories(draw: st.DrawFn, *, steps_min: int = 15, steps_max: int = 45) -> list[Step]:
    """Draw steps that start with a mint, two grants and two memberships, so that most commands succeed."""
    plenty = st.just(Mint(0, "general", CEILING, 50, None, None))
    beginning: list[Action] = [draw(plenty | mints), draw(grants), draw(grants)]
    for community, bps, cap in (("a", 5_000, 3), ("b", 1_000, None)):
        beginning += [Tiers(community, (("gold", bps, cap),)), Join(0, community, "gold", draw(st.none() | seconds))]
    return [Step(Write(action, None, False), 0) for action in beginning] + draw(
        st.lists(st.builds(Step, commands, agos), min_size=steps_min, max_size=steps_max)
    )


@st.composite
def crowded_stories(draw: st.DrawFn) -> list[Step]:
    """Draw, twice: many lots and reservations of one account, time in which most of them expire, and any write."""
    many: st.SearchStrategy[Action] = weighted((4, mints), (6, reserves), (2, grants), (1, charges))
    story = list[Command]()
    for _ in range(2):
        story += [Write(action, None, False) for action in draw(st.lists(many, min_size=10, max_size=25))]
        story.append(Pass(draw(st.sampled_from([3, 5, 10]))))
        story.append(draw(writes))
    return [Step(command, 0) for command in story]


# --- the model ---


class Refused(Exception):
    """An error of the model; the book may return any of these codes."""

    def __init__(self, *codes: str) -> None:
        super().__init__(codes)
        self.codes = codes


@dataclass
class Lot:
    number: int
    name: int
    pool: str
    priority: int
    ends: int | None
    source: str | None
    original: int
    available: int
    reserved: int = 0
    consumed: int = 0
    expired: int = 0
    revoked: int = 0
    campaign: int | None = None
    taken_back: bool = False

    def over(self, now: int) -> bool:
        return self.ends is not None and self.ends <= now

    @property
    def order(self) -> tuple[int, float, int]:
        return self.priority, float("inf") if self.ends is None else self.ends, self.number


class Terms(NamedTuple):
    """The discount of a membership, which a reservation stores."""

    bps: int = 0
    cap: int | None = None
    community: str | None = None
    tier: str | None = None

    def off(self, price: int) -> int:
        share = price * self.bps // 10_000
        return share if self.cap is None or share < self.cap else self.cap


@dataclass
class Reservation:
    number: int
    name: int
    pool: str
    mode: str
    listed: int
    held: int
    made: int
    ends: int
    draws: list[tuple[int, int]]
    terms: Terms
    status: str = "pending"
    cost: int | None = None
    finalized: int | None = None
    released: int | None = None
    overrun: int | None = None
    absorbed: int | None = None
    closed: int | None = None


@dataclass
class Granted:
    """A grant; once it is revoked, with the amounts revoked, consumed and reserved at that time."""

    number: int
    lot: int
    amount: int
    revoked: tuple[int, int, int] | None = None


@dataclass
class Charged:
    number: int
    name: int
    pool: str
    mode: str
    source: str | None
    listed: int
    terms: Terms
    charged: int
    debt: int
    draws: list[tuple[int, int]]
    made: int


@dataclass
class Debt:
    name: int
    owed: int


# The number of a reservation, the text "charge 1", or None.
Origin = int | str | None
# Type, pool, lot, origin, amount, delta of the available and of the reserved credits, and the discount.
Entry = tuple[str, str, int | None, Origin, int, int, int, str | None]
# Per account: available and reserved credits by pool, and the debt.
Balances = list[tuple[dict[str, tuple[int, int]], int]]


@dataclass
class Model:
    """The book in plain Python. Times are seconds since its start; ids count from 1."""

    now: int = 0
    lots: list[Lot] = field(default_factory=list)
    reservations: list[Reservation] = field(default_factory=list)
    charges: list[Charged] = field(default_factory=list)
    debts: list[Debt] = field(default_factory=list)
    # By campaign and name.
    grants: dict[tuple[int, int], Granted] = field(default_factory=dict)
    tiers: dict[str, dict[str, tuple[int, int | None]]] = field(default_factory=dict)
    # Tier and end, by name and community.
    members: dict[tuple[int, str], tuple[str, int | None]] = field(default_factory=dict)
    entries: list[list[Entry]] = field(default_factory=lambda: [[] for _ in NAMES])
    # By idempotency key: the action, the status and the response.
    kept: dict[str, tuple[Action, int, Json]] = field(default_factory=dict)
    times: list[int] = field(default_factory=list)
    past: list[Balances] = field(default_factory=list)

    def copy(self) -> "Model":
        """Copy the model, four times as fast as copy.deepcopy."""
        copied: Model = pickle.loads(pickle.dumps(self))
        return copied

    # --- time ---

    def pass_time(self, passed: int) -> None:
        until = self.now + passed
        due = {lot.ends for lot in self.lots if lot.ends is not None} | {each.ends for each in self.reservations}
        for moment in sorted(each for each in due if self.now < each <= until):
            self.now = moment
            self.expire()
            self.remember()
        self.now = until

    def expire(self) -> None:
        for lot in self.lots:
            if lot.ends == self.now and lot.available:
                self.enter(lot, "expire", None, -lot.available, -lot.available, 0)
                lot.expired, lot.available = lot.expired + lot.available, 0
        for each in self.reservations:
            if each.ends == self.now and each.status == "pending":
                for number, amount in each.draws:
                    self.give_back(self.lots[number - 1], each, amount)
                each.status, each.released = "expired", each.held

    def remember(self) -> None:
        if self.times and self.times[-1] == self.now:
            self.past[-1] = self.balances()
        else:
            self.times.append(self.now)
            self.past.append(self.balances())

    def balances(self) -> Balances:
        found: Balances = []
        for name in range(len(NAMES)):
            own = {pool: [lot for lot in self.lots if (lot.name, lot.pool) == (name, pool)] for pool in POOLS}
            amounts = {
                pool: (sum(lot.available for lot in lots), sum(lot.reserved for lot in lots)) for pool, lots in own.items()
            }
            found.append((amounts, sum(debt.owed for debt in self.debts if debt.name == name)))
        return found

    def balances_at(self, time_us: int) -> Balances:
        place = bisect_right([time * US_PER_SECOND for time in self.times], time_us)
        return self.past[place - 1] if place else [(dict.fromkeys(POOLS, (0, 0)), 0)] * len(NAMES)

    # --- writes ---

    def expect(self, write: Write) -> tuple[tuple[int, Json] | None, tuple[str, ...]]:
        """Apply a write; return its status and response, or the codes of which the book must return one."""
        try:
            return self.do(write), ()
        except Refused as refused:
            return None, refused.codes

    def do(self, write: Write) -> tuple[int, Json]:
        """Apply a write; return its status and response. Raises `Refused`."""
        if write.key in self.kept:
            action, status, answer = self.kept[write.key]
            # Actions of different types may be equal as tuples.
            if repr(action) != repr(write.action):
                raise Refused("idempotency_key_reused")
            return status, answer
        match write.action:
            case Mint():
                status, answer = self.mint(write.action)
            case Grant():
                status, answer = self.grant(write.action)
            case Revoke(name, campaign):
                status, answer = 200, self.revoke(campaign, name)
            case RevokeAll(campaign):
                status, answer = 200, self.revoke_all(campaign)
            case Reserve():
                status, answer = 201, self.reserve(write.action)
            case Finalize():
                status, answer = 200, self.finalize(write.action)
            case Charge() | ChargeAll():
                status, answer = self.charge(write.action)
            case Tiers() | Join() | Leave():
                status, answer = self.change_discounts(write.action)
            case _:
                status, answer = 200, self.release(write.action)
        if write.key is not None:
            self.kept[write.key] = (write.action, status, answer)
        return status, answer

    def mint(self, command: Mint) -> tuple[int, Json]:
        name, pool, amount, priority, lives_s, source = command
        lot = next((lot for lot in self.lots if source is not None and lot.source == source), None)
        duplicate = lot is not None
        if lot is not None and (lot.name, lot.original) != (name, amount):
            raise Refused("source_already_credited")
        if lot is None:
            if amount > CEILING:
                raise Refused("amount_too_large")
            ends = None if lives_s is None else self.now + lives_s
            lot = Lot(len(self.lots) + 1, name, pool, priority, ends, source, amount, amount)
            self.lots.append(lot)
            self.enter(lot, "grant", None, amount, amount, 0)
            self.pay_debts(lot)
        available, reserved = self.balances()[name][0][lot.pool]
        return 200 if duplicate else 201, {
            "lotId": ids.encode(ids.LOT, lot.number), "accountId": account_id(name), "amountMicro": str(amount),
            "poolId": lot.pool, "priority": lot.priority, "expiresAt": optional_time(lot.ends), "duplicate": duplicate,
            "balance": {"availableMicro": str(available), "reservedMicro": str(reserved)},
        }  # fmt: skip

    def grant(self, command: Grant) -> tuple[int, Json]:
        name, campaign, amount = command
        grant = self.grants.get((campaign, name))
        duplicate = grant is not None
        if grant is None:
            pool, lives_s = CAMPAIGNS[campaign]
            ends = None if lives_s is None else self.now + lives_s
            lot = Lot(len(self.lots) + 1, name, pool, 50, ends, None, amount, amount, campaign=campaign)
            grant = self.grants[campaign, name] = Granted(len(self.grants) + 1, lot.number, amount)
            self.lots.append(lot)
            self.enter(lot, "grant", None, amount, amount, 0)
            self.pay_debts(lot)
        item = {
            "grantId": ids.encode(ids.GRANT, grant.number), "accountId": account_id(name),
            "lotId": ids.encode(ids.LOT, grant.lot), "amountMicro": str(grant.amount), "duplicate": duplicate,
            "status": "granted" if grant.revoked is None else "revoked",
        }  # fmt: skip
        return 200 if duplicate else 201, item

    def revoke(self, campaign: int, name: int) -> Json:
        grant = self.grants.get((campaign, name))
        if grant is None:
            raise Refused("grant_not_found")
        if grant.revoked is None:
            lot = self.lots[grant.lot - 1]
            grant.revoked = lot.available, lot.consumed, lot.reserved
            lot.taken_back = True
            if lot.available:
                self.enter(lot, "revoke", None, -lot.available, -lot.available, 0)
                lot.revoked, lot.available = lot.available, 0
        return {"grantId": ids.encode(ids.GRANT, grant.number), "status": "revoked", **taken(grant.revoked)}

    def revoke_all(self, campaign: int) -> Json:
        found = sorted((grant.number, name) for (of, name), grant in self.grants.items() if of == campaign)
        for _, name in found:
            self.revoke(campaign, name)
        revoked = [grant.revoked for (of, _), grant in self.grants.items() if of == campaign and grant.revoked is not None]
        sums = sum(each[0] for each in revoked), sum(each[1] for each in revoked), sum(each[2] for each in revoked)
        return {"campaignId": campaign_id(campaign), "totalRevoked": len(found), **taken(sums)}

    def stats(self, campaign: int) -> Json:
        grants = [grant for (of, _), grant in self.grants.items() if of == campaign]
        lots = [self.lots[grant.lot - 1] for grant in grants]
        parts = {part: sum(getattr(lot, part) for lot in lots) for part in PARTS}
        gone = sum(grant.revoked is not None for grant in grants)
        days = [{"date": "2040-01-01", "grants": len(grants), "grantedMicro": str(parts["original"]),
                 "consumedMicro": str(parts["consumed"])}]  # fmt: skip
        return {
            "campaignId": campaign_id(campaign), "budgetMicro": str(BUDGET),
            "spentMicro": str(parts["original"] - parts["revoked"]), "grantedMicro": str(parts.pop("original")),
            **{f"{part}Micro": str(amount) for part, amount in parts.items()},
            "grantsByStatus": {"granted": len(grants) - gone, "revoked": gone}, "accounts": len(grants),
            "accountsThatSpent": sum(lot.consumed > 0 for lot in lots), "perDay": days if grants else [],
        }  # fmt: skip

    def pay_debts(self, lot: Lot) -> None:
        for debt in self.debts:
            paid = min(debt.owed, lot.available) if debt.name == lot.name else 0
            if paid:
                debt.owed -= paid
                lot.available -= paid
                lot.consumed += paid
                self.enter(lot, "debt_paid", None, -paid, -paid, 0)

    def change_discounts(self, action: Tiers | Join | Leave) -> tuple[int, Json]:
        match action:
            case Tiers():
                return 200, self.replace_tiers(action)
            case Join():
                return 200, self.join(action)
            case Leave(name, community):
                if self.members.pop((name, community), None) is None:
                    raise Refused("not_found")
                return 204, {}

    def replace_tiers(self, command: Tiers) -> Json:
        self.tiers[command.community] = {tier: (bps, cap) for tier, bps, cap in command.tiers}
        shown = [
            {"tier": tier, "rateBps": bps, "maxDiscountMicro": None if cap is None else str(cap)}
            for tier, bps, cap in command.tiers
        ]
        return {"communityId": command.community, "tiers": shown}

    def join(self, command: Join) -> Json:
        name, community, tier, lives_s = command
        if tier not in self.tiers.get(community, {}):
            raise Refused("tier_not_found")
        ends = None if lives_s is None else self.now + lives_s
        self.members[name, community] = (tier, ends)
        return {
            "accountId": account_id(name), "communityId": community, "tier": tier, "expiresAt": optional_time(ends),
        }  # fmt: skip

    def best_terms(self, name: int, price: int) -> Terms:
        best = Terms()
        for community in sorted(community for member, community in self.members if member == name):
            tier, ends = self.members[name, community]
            if tier in self.tiers[community] and (ends is None or self.now < ends):
                terms = Terms(*self.tiers[community][tier], community, tier)
                if best.community is None or terms.off(price) > best.off(price):
                    best = terms
        return best

    def reserve(self, command: Reserve) -> Json:
        name, pool, listed, ttl_s, mode = command
        terms = Terms() if mode == "shadow" else self.best_terms(name, listed)
        amount = listed - terms.off(listed)
        draws = self.draw(name, pool, amount)
        there = sum(taken for _, taken in draws)
        refusals = ["amount_too_large"] if listed > CEILING else []
        if mode == "live" and there < amount:
            refusals.append("insufficient_balance")
        if refusals:
            raise Refused(*refusals)
        draws = [] if mode == "shadow" else draws
        held = amount if mode == "shadow" else there
        made = Reservation(
            len(self.reservations) + 1, name, pool, mode, listed, held, self.now, self.now + ttl_s,
            [(lot.number, taken) for lot, taken in draws], terms,
        )  # fmt: skip
        self.reservations.append(made)
        for lot, taken in draws:
            lot.available -= taken
            lot.reserved += taken
            self.enter(lot, "reserve", made.number, -taken, -taken, taken, said(terms, listed))
        if mode == "shadow":
            self.entries[name].append(("shadow_reserve", self.recorded_in(name, pool), None, made.number, 0, 0, 0, None))
        return self.reserved(made)

    def recorded_in(self, name: int, pool: str) -> str:
        """Return the pool of an entry that moves no credits: `general` if the account does not have the pool."""
        return pool if any(entry[1] == pool for entry in self.entries[name]) else "general"

    def draw(self, name: int, pool: str, amount: int) -> list[tuple[Lot, int]]:
        draws = []
        for each in dict.fromkeys([pool, "general"]):
            for lot in sorted((lot for lot in self.lots if (lot.name, lot.pool) == (name, each)), key=lambda lot: lot.order):
                taken = min(amount, lot.available)
                amount -= taken
                draws += [(lot, taken)] if taken else []
        return draws

    def finalize(self, command: Finalize) -> Json:
        each, cost = self.find(command.reservation), command.cost
        if each.status == "finalized":
            if each.cost != cost:
                raise Refused("reservation_conflict")
            return self.finalized(each)
        if each.status != "pending":
            raise Refused("reservation_not_pending")
        owed = cost - each.terms.off(cost)
        spent, over = min(owed, each.held), max(0, owed - each.held)
        if spent + (over if each.mode == "soft" else 0) > CEILING:
            raise Refused("amount_too_large")
        each.status, each.cost, each.closed = "finalized", cost, self.now
        each.finalized, each.released = spent, each.held - spent
        each.overrun, each.absorbed = (0, over) if each.mode == "live" else (over, 0)
        if each.mode == "shadow":
            recorded_in = self.recorded_in(each.name, each.pool)
            self.entries[each.name].append(("shadow_finalize", recorded_in, None, each.number, 0, 0, 0, None))
            return self.finalized(each)
        back = []
        for number, held in each.draws:
            lot, taken = self.lots[number - 1], min(spent, held)
            spent -= taken
            if taken:
                lot.reserved -= taken
                lot.consumed += taken
                self.enter(lot, "finalize", each.number, -taken, 0, -taken, said(each.terms, cost))
            back += [(lot, held - taken)] if taken < held else []
        for lot, amount in back:
            self.give_back(lot, each, amount, said(each.terms, cost))
        self.overrun(each, each.overrun)
        return self.finalized(each)

    def overrun(self, each: Reservation, over: int) -> None:
        for lot, taken in self.draw(each.name, each.pool, over):
            over -= taken
            lot.available -= taken
            lot.consumed += taken
            self.enter(lot, "finalize", each.number, -taken, -taken, 0, said(each.terms, each.cost or 0))
        if over:
            self.debts.append(Debt(each.name, over))
            discount = said(each.terms, each.cost or 0)
            recorded_in = self.recorded_in(each.name, each.pool)
            self.entries[each.name].append(("debt_incurred", recorded_in, None, each.number, -over, 0, 0, discount))

    def release(self, command: Release) -> Json:
        each = self.find(command.reservation)
        if each.status == "finalized":
            raise Refused("reservation_not_pending")
        if each.status == "pending":
            each.status, each.released = "released", each.held
            for number, amount in each.draws:
                self.give_back(self.lots[number - 1], each, amount)
        return {
            "reservationId": ids.encode(ids.RESERVATION, each.number), "accountId": account_id(each.name),
            "releasedMicro": str(each.held),
        }  # fmt: skip

    def charge(self, command: Charge | ChargeAll) -> tuple[int, Json]:
        if isinstance(command, ChargeAll):
            return 200, self.charge_all(command.items)
        made, duplicate = self.charge_once(command, CEILING)
        shown = self.shown_charge(made) | {"duplicate": duplicate}
        return 200 if duplicate else 201, {name: shown[name] for name in shown if name not in KEPT_OF_CHARGES}

    def charge_all(self, items: tuple[Charge, ...]) -> Json:
        ceiling, new, results = CEILING, list[Charged](), list[Json]()
        for item in items:
            result: Json = {"sourceId": item.source, "chargeId": None, "chargedMicro": None, "debtMicro": None}
            try:
                made, duplicate = self.charge_once(item, ceiling)
            except Refused as refused:
                [code] = refused.codes
                results.append(result | {"status": "rejected", "code": code})
                continue
            if not duplicate:
                ceiling -= made.listed
                new.append(made)
            of_charge = {name: self.shown_charge(made)[name] for name in ("chargeId", "chargedMicro", "debtMicro")}
            results.append(result | of_charge | {"status": "duplicate" if duplicate else "charged"})
        rejected = sum(result["status"] == "rejected" for result in results)
        return {
            "totalCharged": len(new), "totalDuplicates": len(items) - len(new) - rejected, "totalRejected": rejected,
            "chargedMicro": str(sum(each.charged for each in new)), "debtMicro": str(sum(each.debt for each in new)),
            "charges": results,
        }  # fmt: skip

    def charge_once(self, command: Charge, ceiling: int) -> tuple[Charged, bool]:
        """Return the charge, and whether it was made before. Raises `Refused` with one code."""
        name, pool, listed, mode, source = command
        for each in self.charges:
            if source is not None and (each.name, each.source) == (name, source):
                if (each.listed, each.pool) != (listed, pool):
                    raise Refused("source_already_charged")
                return each, True
        if listed > ceiling:
            raise Refused("amount_too_large")
        terms = Terms() if mode == "shadow" else self.best_terms(name, listed)
        price = listed - terms.off(listed)
        draws = [] if mode == "shadow" else self.draw(name, pool, price)
        there = price if mode == "shadow" else sum(taken for _, taken in draws)
        if mode == "live" and there < price:
            raise Refused("insufficient_balance")
        drawn = [(lot.number, taken) for lot, taken in draws]
        made = Charged(
            len(self.charges) + 1, name, pool, mode, source, listed, terms, there, price - there, drawn, self.now
        )  # fmt: skip
        self.charges.append(made)
        origin, recorded_in = f"charge {made.number}", self.recorded_in(name, pool)
        for lot, taken in draws:
            lot.available -= taken
            lot.consumed += taken
            self.enter(lot, "charge", origin, -taken, -taken, 0, said(terms, listed))
        if mode == "shadow":
            self.entries[name].append(("shadow_charge", recorded_in, None, origin, 0, 0, 0, None))
        if made.debt:
            self.debts.append(Debt(name, made.debt))
            discount = said(terms, listed)
            self.entries[name].append(("debt_incurred", recorded_in, None, origin, -made.debt, 0, 0, discount))
        return made, False

    def shown_charge(self, each: Charged) -> Json:
        return {
            "chargeId": ids.encode(ids.CHARGE, each.number), "accountId": account_id(each.name), "poolId": each.pool,
            "sourceId": each.source, "listMicro": str(each.listed), "discountBps": each.terms.bps,
            "discountMicro": str(each.terms.off(each.listed)), "chargedMicro": str(each.charged),
            "debtMicro": str(each.debt), "billingMode": each.mode, "createdAt": optional_time(each.made),
            "lotAllocations": [
                {"lotId": ids.encode(ids.LOT, lot), "consumedMicro": str(taken)} for lot, taken in each.draws
            ],
            "description": None, "metadata": None, "createdBy": SERVICE.name,
        }  # fmt: skip

    def find(self, number: int) -> Reservation:
        if number >= len(self.reservations):
            raise Refused("reservation_not_found")
        return self.reservations[number]

    def give_back(self, lot: Lot, each: Reservation, amount: int, discount: str | None = None) -> None:
        lot.reserved -= amount
        if lot.taken_back:
            lot.revoked += amount
            self.enter(lot, "revoke", each.number, -amount, 0, -amount, discount)
        elif lot.over(self.now):
            lot.expired += amount
            self.enter(lot, "expire", each.number, -amount, 0, -amount, discount)
        else:
            lot.available += amount
            self.enter(lot, "release", each.number, amount, amount, -amount, discount)

    def enter(
        self,
        lot: Lot,
        kind: str,
        origin: Origin,
        amount: int,
        available: int,
        reserved: int,
        discount: str | None = None,
    ) -> None:
        self.entries[lot.name].append((kind, lot.pool, lot.number, origin, amount, available, reserved, discount))

    # --- responses ---

    def reserved(self, each: Reservation) -> Json:
        return {
            "reservationId": ids.encode(ids.RESERVATION, each.number), "accountId": account_id(each.name),
            "poolId": each.pool, "listMicro": str(each.listed), "discountBps": each.terms.bps,
            "discountMicro": str(each.terms.off(each.listed)),
            "totalReservedMicro": str(each.held), "status": each.status, "billingMode": each.mode,
            "expiresAt": optional_time(each.ends),
            "lotAllocations": [{"lotId": ids.encode(ids.LOT, lot), "reservedMicro": str(held)} for lot, held in each.draws],
        }  # fmt: skip

    def finalized(self, each: Reservation) -> Json:
        return {
            "reservationId": ids.encode(ids.RESERVATION, each.number), "accountId": account_id(each.name),
            "finalizedMicro": str(each.finalized), "releasedMicro": str(each.released), "overrunMicro": str(each.overrun),
            "absorbedMicro": str(each.absorbed), "billingMode": each.mode, "finalizedAt": optional_time(each.closed),
        }  # fmt: skip

    def shown(self, each: Reservation) -> Json:
        ends = {"finalizedMicro": each.finalized, "releasedMicro": each.released, "overrunMicro": each.overrun,
                "absorbedMicro": each.absorbed}  # fmt: skip
        by = SERVICE.name
        micro = {name: None if amount is None else str(amount) for name, amount in ends.items()}
        times = {"finalizedAt": optional_time(each.closed), "createdAt": optional_time(each.made)}
        closed_by = by if each.status in ("finalized", "released") else None
        return self.reserved(each) | micro | times | {"createdBy": by, "closedBy": closed_by}


# The members that a charge has only when it is read.
KEPT_OF_CHARGES = ("description", "metadata", "createdBy")


def said(terms: Terms, price: int) -> str | None:
    """Return the discount in the metadata of an entry."""
    return None if terms.community is None else f"{terms.off(price)} of {price} by {terms.tier} of {terms.community}"


def account_id(name: int) -> str:
    return ids.encode(ids.ACCOUNT, name + 1)


def campaign_id(campaign: int) -> str:
    return ids.encode(ids.CAMPAIGN, campaign + 1)


def taken(amounts: tuple[int, int, int]) -> Json:
    return dict(zip(("revokedMicro", "consumedMicro", "reservedMicro"), map(str, amounts), strict=True))


def optional_time(time: int | None) -> str | None:
    return None if time is None else format_time(START_US + time * US_PER_SECOND)


# --- the book ---


class ModelClock(Clock):
    """The model's time."""

    time_us = START_US

    def now_us(self) -> int:
        return self.time_us


class AtOnce(RequestReader):
    """A reader on the event loop. A read on a thread would take ten times as long."""

    def __init__(self, readers: Readers) -> None:
        self.seen = SequenceTracker()
        super().__init__(readers, self.seen)
        self._own = readers

    async def run(self, operation: Callable[[Connection], T]) -> T:
        return self._own.point_read(operation)


class Disk:
    """A disk that commits on the event loop instead of the writer's thread: a history is one client without concurrency."""

    def __init__(self, writer: Writer) -> None:
        self._thread = writer._thread_calls

    def put(self, task: Callable[[], None] | None) -> None:
        if task is None:
            self._thread.put(None)
        else:
            task()


async def open_book(path: Path, clock: Clock) -> Book:
    book = await Book.open(path, clock=clock)
    book.writer._thread_calls = Disk(book.writer)  # type: ignore[assignment]
    return book


SPENDS = (Reserve, Finalize, Release, Charge, ChargeAll)


class Run:
    """Runs a history on a book and on the model, and compares them. The book's file stays in the folder."""

    def __init__(self, folder: Path, first_file: Path) -> None:
        for old in folder.iterdir():
            old.unlink()
        self.path = folder / "book-0.db"
        # The anchor too: a book without one starts a new epoch of ids.
        for ending in ("", "-anchor"):
            shutil.copyfile(f"{first_file}{ending}", f"{self.path}{ending}")
        self.kills = 0
        self.clock = ModelClock()
        self.model = Model()
        self.written: list[Write] = []
        self.book: Book

    async def story(self, story: list[Step], *, wholly_every: int = 1) -> None:
        """Compare after every step; invariants and statistics, which take longest, after every `wholly_every` steps."""
        self.book = await open_book(self.path, self.clock)
        try:
            for number, step in enumerate(story):
                await self.do(step.command)
                self.model.remember()
                past_us = max(0, self.model.now * US_PER_SECOND - step.ago_us)
                await self.compare(past_us=past_us, wholly=number % wholly_every == wholly_every - 1)
            # After a sweep, the book has all entries of expiry that the model has.
            await self.book.sweep()
            await self.compare(past_us=0, settled=True)
        finally:
            await self.book.close()

    async def do(self, command: Command) -> None:
        match command:
            case Write():
                self.written.append(self.aimed(command))
                await self.write(self.written[-1])
            case Lost(write, committed):
                self.written.append(self.aimed(write))
                await self.lose(self.written[-1], committed=committed)
                await self.write(self.written[-1])
            case Retry(number):
                await self.write(self.written[number % len(self.written)])
            case Pass(passed):
                self.model.pass_time(passed)
                self.clock.time_us += passed * US_PER_SECOND
            case Sweep(count):
                book.SWEEP_STEP = count
                await self.book.sweep()
            case Restart():
                await self.book.close()
                self.book = await open_book(self.path, self.clock)

    def aimed(self, write: Write) -> Write:
        """Return the command with its reservation counted from the first."""
        action = write.action
        if not isinstance(action, Finalize | Release):
            return write
        count = len(self.model.reservations)
        number = 99 if action.reservation < 0 or not count else count - 1 - action.reservation % count
        return write._replace(action=action._replace(reservation=number))

    async def write(self, write: Write) -> None:
        model = self.model.copy()
        expected, codes = model.expect(write)
        changes_nothing = write.dry or expected is None
        before = self.book.readers.point_read(all_but_expiry) if changes_nothing else []
        seen = SequenceTracker()
        try:
            written = await self.send(write, seen)
        except Problem as problem:
            found = problem.code
            assert found in codes, (found, expected)
            assert self.book.readers.point_read(all_but_expiry) == before
        else:
            answer = json.loads(written.body)
            if write.dry:
                assert answer.pop("dryRun") is True
                assert self.book.readers.point_read(all_but_expiry) == before
            else:
                self.model = model
            assert (written.status, answer["grants"][0] if "grants" in answer else answer) == expected, codes
        assert seen.sequence == self.book.readers.point_read(count_entries)

    async def lose(self, write: Write, *, committed: bool) -> None:
        """Kill the process: copy the files as they are on disk, and open the copy."""
        self.kills += 1
        after = self.path.with_name(f"book-{self.kills}.db")
        if committed:
            model = self.model.copy()
            with suppress(Problem):
                await self.send(write, SequenceTracker())
                model.expect(write)
                self.model = model
            copy_files(self.path, after)
        else:
            with suppress(Problem):
                await self.send(write, SequenceTracker(), before_commit=lambda: copy_files(self.path, after))
            if not after.exists():
                # The write was rejected, or replayed, so there was no COMMIT.
                copy_files(self.path, after)
        await self.book.close()
        for part in ("", "-wal"):
            self.path.with_name(self.path.name + part).unlink(missing_ok=True)
        self.path = after
        self.book = await open_book(self.path, self.clock)

    async def send(
        self, write: Write, seen: SequenceTracker, *, before_commit: Callable[[], None] = lambda: None
    ) -> StoredResponse:
        do, values = self.operation(write.action, dry=write.dry)

        def operation(conn: Connection, now_us: int) -> WriteResult:
            result = do(conn, now_us, **values)
            if result.continuation is None:
                before_commit()
            return result

        key = None if write.key is None else Key("model", write.key, sha256(repr(write.action).encode()).digest())
        caller = SERVICE if isinstance(write.action, SPENDS) else ADMIN
        return await self.book.write(operation, caller=caller, origin=NOWHERE, key=key, dry_run=write.dry, observed=seen)

    def operation(self, action: Action, *, dry: bool) -> tuple[Callable[..., WriteResult], Json]:
        match action:
            case Mint(name, pool, amount, priority, lives_s, source):
                expires_at = None if lives_s is None else TimeUs(self.clock.time_us + lives_s * US_PER_SECOND)
                minted = MintBody(Micro(amount), source_id=source, pool_id=pool, priority=priority, expires_at=expires_at)
                return mint, {"account_id": account_id(name), "body": minted, "ceiling_micro": CEILING}
            case Grant(name, campaign, amount):
                body = BatchBody([GrantItem(account_id=account_id(name), amount_micro=Micro(amount))])
                return pay_batch, {"campaign_id": campaign_id(campaign), "body": body, "ceiling_micro": CEILING}
            case Revoke(name, campaign):
                grant = self.model.grants.get((campaign, name))
                grant_id = "grant_none" if grant is None else ids.encode(ids.GRANT, grant.number)
                return revocation.revoke_grant, {
                    "campaign_id": campaign_id(campaign), "grant_id": grant_id, "reason": "a mistake",
                }  # fmt: skip
            case RevokeAll(campaign):
                return revocation.revoke_campaign, {
                    "campaign_id": campaign_id(campaign), "reason": "a mistake", "dry_run": dry,
                }  # fmt: skip
            case Reserve(name, pool, amount, ttl_s, mode):
                by_id = action.amount % 2 == 0
                reserved = ReserveBody(
                    Micro(amount),
                    account_id=account_id(name) if by_id else None,
                    entity=None if by_id else Entity("person", NAMES[name]),
                    pool_id=pool,
                    ttl_seconds=ttl_s,
                    billing_mode=mode,
                )
                return reserve, {
                    "body": reserved, "default_billing_mode": "live", "ceiling_micro": CEILING, "created_by": SERVICE.name,
                }  # fmt: skip
            case Charge() | ChargeAll():
                return charge_operation(action)
            case Tiers(community, found):
                bodies = [TierBody(tier, bps, None if cap is None else Micro(cap)) for tier, bps, cap in found]
                return replace_tiers, {"community_id": community, "body": TiersBody(bodies)}
            case Join(name, community, tier, lives_s):
                ends_at = None if lives_s is None else TimeUs(self.clock.time_us + lives_s * US_PER_SECOND)
                membership = MembershipBody(tier, ends_at)
                return put_membership, {
                    "account_id": account_id(name), "community_id": community, "body": membership,
                }  # fmt: skip
            case Leave(name, community):
                return delete_membership, {"account_id": account_id(name), "community_id": community}
            case Finalize(number, cost):
                reservation = ids.encode(ids.RESERVATION, number + 1)
                return finalize, {
                    "reservation_id": reservation, "body": AdminFinalizeBody(Micro(cost)), "ceiling_micro": CEILING,
                    "closed_by": SERVICE.name,
                }  # fmt: skip
            case Release(number):
                return release, {
                    "reservation_id": ids.encode(ids.RESERVATION, number + 1), "closed_by": SERVICE.name,
                }  # fmt: skip

    # --- comparisons ---

    async def compare(self, *, past_us: int, settled: bool = False, wholly: bool = True) -> None:
        assert stale_cache_entries(self.book) == []
        for name in range(len(NAMES)):
            await self.compare_balances(name, past_us)
            await self.compare_lots(name)
            await self.compare_entries(name, settled=settled)
        if wholly:
            self.book.readers.point_read(whole)
            self.compare_statistics()
        reader = AtOnce(self.book.readers)
        for each in self.model.reservations:
            row, lots = await reads.reservation(reader, ids.encode(ids.RESERVATION, each.number))
            answer = json.loads(encode(reservation_response(row, lots, now_us=self.clock.time_us)))
            assert answer == self.model.shown(each)
        for made in self.model.charges:
            found = self.book.readers.point_read(partial(charge_reads.find_charge, key=made.number))
            assert found is not None
            assert json.loads(encode(charge_response(*found))) == self.model.shown_charge(made)

    def compare_statistics(self) -> None:
        for number in range(len(CAMPAIGNS)):
            values = {"campaign_id": number + 1, "now_us": self.clock.time_us}
            rows = self.book.readers.query_now(lifecycle.SQL.campaign_stats, **values)
            assert json.loads(encode(stats_response(number + 1, rows))) == self.model.stats(number)
        campaigns = self.book.readers.point_read(self.campaigns)
        assert [str(each.spent_micro) for each in campaigns] == [
            self.model.stats(number)["spentMicro"] for number in reversed(range(len(CAMPAIGNS)))
        ]

    def campaigns(self, conn: Connection) -> list[lifecycle.CampaignRow]:
        rows = lifecycle.SQL.campaigns_page.all(conn, before_id=len(CAMPAIGNS) + 1, campaign_type=None, count=len(CAMPAIGNS))
        return lifecycle.campaigns_at(conn, rows, now_us=self.clock.time_us)

    async def compare_balances(self, name: int, past_us: int) -> None:
        now_us = self.clock.time_us
        reader = AtOnce(self.book.readers)
        for at_us, expected in [
            (None, self.model.balances()[name]),
            (now_us, self.model.balances()[name]),
            (START_US + past_us, self.model.balances_at(past_us)[name]),
        ]:
            found = await reads.balance(reader, account_id=account_id(name), pool_id=None, at_us=at_us, now_us=now_us)
            amounts = {pool.pool_id: (int(pool.available_micro), int(pool.reserved_micro)) for pool in found.pools}
            assert (dict.fromkeys(POOLS, (0, 0)) | amounts, int(found.debt_micro)) == expected, at_us
        assert reader.seen.sequence == self.book.readers.point_read(count_entries)

    async def compare_lots(self, name: int) -> None:
        rows = self.book.readers.query_now(
            reads.SQL.lots_page, account_id=name + 1, state=None, after_id=0, now_us=self.clock.time_us, count=1_000
        )
        found = [
            (lot.id, *(getattr(lot, f"{part}_micro") for part in PARTS), lot.state)
            for lot in (reads.lot_response(LotRow(*row)) for row in rows)
        ]
        assert found == [
            (ids.encode(ids.LOT, lot.number), *(str(getattr(lot, part)) for part in PARTS), state_of(lot, self.model.now))
            for lot in self.model.lots
            if lot.name == name
        ]

    async def compare_entries(self, name: int, *, settled: bool) -> None:
        found = self.book.readers.point_read(lambda conn: entries(conn, name + 1))
        expected = self.model.entries[name]
        assert found == expected[: len(found)]
        # The book may lack entries of expiry only.
        assert {entry[0] for entry in expected[len(found) :]} <= (set() if settled else {"expire", "release", "revoke"})


def named(item: Charge) -> tuple[str | None, Entity | None]:
    """Return the id of the account or its entity, one of them as None."""
    by_id = item.cost % 2 == 0
    return (account_id(item.name), None) if by_id else (None, Entity("person", NAMES[item.name]))


def charge_operation(action: Charge | ChargeAll) -> tuple[Callable[..., WriteResult], Json]:
    common: Json = {"default_billing_mode": "live", "ceiling_micro": CEILING, "created_by": SERVICE.name}
    if isinstance(action, ChargeAll):
        return charge_batch, {"body": ChargeBatchBody([usage_record(item) for item in action.items]), **common}
    account, entity = named(action)
    body = ChargeBody(
        Micro(action.cost),
        account_id=account,
        entity=entity,
        pool_id=action.pool,
        billing_mode=action.mode,
        source_id=action.source,
    )
    return charge, {"account_id": account, "entity": entity, "body": body, **common}


def usage_record(item: Charge) -> UsageRecord:
    assert item.source is not None
    account, entity = named(item)
    mode = None if item.mode == "live" else item.mode
    return UsageRecord(
        Micro(item.cost), source_id=item.source, account_id=account, entity=entity, pool_id=item.pool, billing_mode=mode
    )


PARTS = ("original", "available", "reserved", "consumed", "expired", "revoked")


def state_of(lot: Lot, now: int) -> str:
    if lot.revoked:
        return "revoked"
    return "spent" if lot.consumed == lot.original else "expired" if lot.over(now) else "live"


def whole(conn: Connection) -> None:
    assert violations(conn) == {}


def entries(conn: Connection, account: int) -> list[Entry]:
    return conn.execute(
        "SELECT entry_type, pool_id, lot_id, coalesce(reservation_id, 'charge ' || charge_id), amount_micro,"
        "       available_delta_micro, reserved_delta_micro,"
        "       metadata ->> 'discountMicro' || ' of ' || (metadata ->> 'listMicro') || ' by ' || (metadata ->> 'tier')"
        "           || ' of ' || (metadata ->> 'communityId')"
        "  FROM credit_ledger WHERE account_id = ? ORDER BY id",
        (account,),
    ).fetchall()


def count_entries(conn: Connection) -> int:
    count: int = conn.execute("SELECT count(*) FROM credit_ledger").fetchone()[0]
    return count


def copy_files(path: Path, to: Path) -> None:
    """Copy the file, its write-ahead log and its anchor."""
    for part in ("", "-wal", "-anchor"):
        shutil.copyfile(path.with_name(path.name + part), to.with_name(to.name + part))


# The tables that expiry changes. Its changes stay when the write after it is rejected; `compare` checks them.
CHANGED_BY_EXPIRY = {
    "book_head", "credit_balances", "credit_campaign_days", "credit_campaign_totals", "credit_campaigns", "credit_ledger",
    "credit_lots", "credit_reservations", "silent_ends",
}  # fmt: skip


def all_but_expiry(conn: Connection) -> list[object]:
    """Return the rows of tables that expiry does not change; of the others, the number of rows that it does not insert."""
    tables = {name for (name,) in conn.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    found: list[object] = [conn.execute(f"SELECT * FROM {table}").fetchall() for table in sorted(tables - CHANGED_BY_EXPIRY)]
    found += [conn.execute(f"SELECT count(*) FROM {table}").fetchone() for table in ("credit_lots", "credit_reservations")]
    found += [
        conn.execute("SELECT count(*) FROM credit_ledger WHERE entry_type NOT IN ('release', 'expire', 'revoke')").fetchone()
    ]
    return found


# --- the test ---


async def begin(path: Path) -> None:
    """Create the accounts and campaigns with which every history starts."""
    book = await Book.open(path, clock=ModelClock())
    for name in NAMES:
        await book.write(bind(open_account, body=Entity("person", name)), caller=ADMIN, origin=NOWHERE)
    for number, (pool, lives_s) in enumerate(CAMPAIGNS):
        body = CreateBody(
            name="x", campaign_type="loyalty", budget_micro=Micro(BUDGET), pool_id=pool, per_wallet_cap_micro=Micro(CEILING),
            grant_ttl_seconds=lives_s,
        )  # fmt: skip
        await book.write(bind(lifecycle.create_campaign, created_by="model", body=body), caller=ADMIN, origin=NOWHERE)
        begun: Json = {"campaign_id": campaign_id(number), "transition": "activate"}
        await book.write(bind(lifecycle.transition_campaign, **begun), caller=ADMIN, origin=NOWHERE)
    await book.close()


@contextmanager
def small_and_quick() -> Iterator[None]:
    """Make a revocation of both accounts two transactions, and a slice of expiry two lots or a reservation.

    A batch of charges loads one lot of a pool, and reads on for the next.

    The book does not sync its file: power loss is no part of these tests.
    """
    slices_before = expiry.SWEEP_MAX, book.SWEEP_STEP, revocation.SLICE_GRANTS_MAX
    expiry.SWEEP_MAX, revocation.SLICE_GRANTS_MAX = 2, 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("minibill.book.open_writer", open_writer_without_sync)
        patch.setattr("minibill.charges.batch_lots.FIRST_LOTS", 1)
        yield
    expiry.SWEEP_MAX, book.SWEEP_STEP, revocation.SLICE_GRANTS_MAX = slices_before


def open_writer_without_sync(path: Path, **how: int) -> Connection:
    conn = open_writer(path, **how)
    conn.execute("PRAGMA synchronous = OFF")
    return conn


@pytest.fixture(scope="module")
def first_file(tmp_path_factory: pytest.TempPathFactory, migrated_file: Path, loop: Loop) -> Path:
    """The book with which every history starts."""
    path = tmp_path_factory.mktemp("beginning") / "book.db"
    shutil.copyfile(migrated_file, path)
    loop.run(begin(path))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("random-ledger")


@given(story=stories())
@hypothesis_settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
def test_random_histories_give_the_same_book_as_the_model(
    folder: Path, first_file: Path, loop: Loop, story: list[Step]
) -> None:
    with small_and_quick():
        loop.run(Run(folder, first_file).story(story))


@given(story=crowded_stories(), slice_max=st.sampled_from([1, 2, 3, 7]))
@hypothesis_settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
def test_expiry_in_small_slices_gives_the_same_book_as_the_model(
    folder: Path, first_file: Path, loop: Loop, story: list[Step], slice_max: int
) -> None:
    with small_and_quick():
        expiry.SWEEP_MAX = slice_max
        loop.run(Run(folder, first_file).story(story, wholly_every=10))
