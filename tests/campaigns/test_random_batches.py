"""Random campaigns, batches, mints, edits and time, against a model of campaigns in plain Python.

`MINIBILL_TEST_EXAMPLES=5000` runs for longer.
"""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minibill.api.decoding import Decoder
from minibill.api.types import Entity, Micro, TimeUs, encode, optional_time
from minibill.auth.tokens import Caller
from minibill.book import Book
from minibill.campaigns.batch import check_batch, pay_batch
from minibill.campaigns.lifecycle import SQL as CAMPAIGNS
from minibill.campaigns.lifecycle import CampaignRow, create_campaign, edit_campaign, transition_campaign
from minibill.campaigns.schemas import BatchBody, CreateBody, EditBody
from minibill.core import ids
from minibill.core.clock import US_PER_SECOND, Clock, parse_time
from minibill.core.problems import Problem
from minibill.core.write_result import NOWHERE
from minibill.db.ledger_sequence import SequenceTracker
from minibill.db.readers import RequestReader
from minibill.db.sqlite import Connection
from minibill.db.write_operation import bind
from minibill.integrity.checks import violations
from minibill.ledger import reads
from minibill.ledger.accounts import open_account
from minibill.ledger.mint import mint
from minibill.ledger.schemas import MintBody
from tests.api_client import Json, Loop

LARGE = 50_000_000
CEILING = 3 * LARGE
START_US = parse_time("2040-01-01T00:00:00Z")
NAMES = ["ada", "bob", "cyd", "dan", "eve"]
POOLS = ["general", "gpu"]

CALLER = Caller("admin", "model", None, frozenset())

_CREATE, _EDIT, _BATCH = Decoder(CreateBody), Decoder(EditBody), Decoder(BatchBody)

# The formula and its config, by its name in the model.
FORMULAS: dict[str, tuple[str, Json]] = {
    "named": ("fixed_amount", None),
    "seven": ("fixed_amount", {"amountMicro": "7"}),
    "nothing": ("fixed_amount", {"amountMicro": "0"}),
    "half": ("proportional_loss", {"ratioBps": 5_000, "minLossMicro": "10"}),
    "tiers": ("tiered", {"brackets": [
        {"minMicro": "10", "maxMicro": "20", "amountMicro": "1"}, {"minMicro": "30", "amountMicro": "9"},
    ]}),
}  # fmt: skip


# --- commands ---


class Open(NamedTuple):
    name: str


class Mint(NamedTuple):
    name: str
    pool: str
    amount: int
    lives_s: int | None


class Create(NamedTuple):
    formula: str
    pool: str
    budget: int
    cap: int
    starts_s: int | None
    ends_s: int | None
    ttl_s: int | None


class Transition(NamedTuple):
    campaign: int
    name: str


class Edit(NamedTuple):
    campaign: int
    budget: int | None
    cap: int | None
    ends_s: int | None


class Grant(NamedTuple):
    """One item: the account by id or by entity; amount and loss are None if absent."""

    name: str
    by_id: bool
    amount: int | None
    loss: int | None


class Batch(NamedTuple):
    campaign: int
    grants: list[Grant]
    force: bool


class Pass(NamedTuple):
    seconds: int


class Sweep(NamedTuple):
    pass


Command = Open | Mint | Create | Transition | Edit | Batch | Pass | Sweep

amounts = st.sampled_from([0, 1, 3, 5, 7, 10, 30, LARGE, LARGE + 1, 2 * LARGE])
losses = st.sampled_from([0, 9, 10, 13, 19, 20, 29, 30, 61, 2 * LARGE + 2])
seconds = st.sampled_from([1, 5, 10, 20, 60])
names = st.sampled_from(NAMES)
pools = st.sampled_from(POOLS)
campaigns = st.integers(0, 2)
grants = st.builds(Grant, names, st.booleans(), st.none() | amounts, st.none() | losses)
creates = st.builds(
    Create, st.sampled_from(sorted(FORMULAS)), pools, st.sampled_from([0, 6, 20, 100, LARGE, 20 * LARGE]),
    st.sampled_from([0, 5, 9, 100, 10 * LARGE]), st.none() | seconds, st.none() | seconds, st.none() | seconds,
)  # fmt: skip
commands: st.SearchStrategy[Command] = st.one_of(
    st.builds(Open, names),
    st.builds(Mint, names, pools, st.sampled_from([1, 7, 30, LARGE]), st.none() | seconds),
    creates,
    st.builds(Transition, campaigns, st.sampled_from(["activate", "activate", "pause", "complete"])),
    st.builds(Edit, campaigns, st.none() | st.sampled_from([0, 6, 20, 100]), st.none() | amounts,
              st.none() | st.sampled_from([-5, 0, 5, 60])),
    st.builds(Batch, campaigns, st.lists(grants, min_size=1, max_size=4), st.booleans()),
    st.builds(Batch, st.just(0), st.lists(grants, min_size=1, max_size=2), st.just(True)),
    st.builds(Pass, seconds),
    st.builds(Sweep),
)  # fmt: skip


@st.composite
def stories(draw: st.DrawFn) -> list[Command]:
    """Draw commands, after a beginning that gives most of them an effect."""
    beginning: list[Command] = [Open(NAMES[0]), Open(NAMES[1]), draw(creates), Transition(0, "activate")]
    return beginning + draw(st.lists(commands, min_size=5, max_size=25))


# --- the model ---


@dataclass
class ModelCampaign:
    formula: str
    pool: str
    budget: int
    cap: int
    starts: int | None
    ends: int | None
    ttl: int | None
    state: str = "draft"
    spent: int = 0
    paid: dict[str, int] = field(default_factory=dict)

    def status(self, now: int) -> str:
        over = self.ends is not None and now >= self.ends
        return "expired" if over and self.state != "completed" else self.state

    def amount(self, grant: Grant) -> int | None:
        """Return the amount of a grant, None if it is undetermined."""
        if grant.amount is not None:
            return grant.amount
        if self.formula in ("seven", "nothing"):
            return {"seven": 7, "nothing": 0}[self.formula]
        if self.formula == "named" or grant.loss is None:
            return None
        if self.formula == "half":
            return 0 if grant.loss < 10 else min(grant.loss // 2, self.cap)
        tier = 1 if 10 <= grant.loss < 20 else 9 if grant.loss >= 30 else 0
        return min(tier, self.cap)


class Lot(NamedTuple):
    name: str
    pool: str
    amount: int
    ends: int | None


# The expected response: a status and a value, or one of these error codes.
Expected = tuple[int, Json] | set[str]
TRANSITIONS = {
    ("draft", "activate"): "active", ("active", "pause"): "paused", ("active", "complete"): "completed",
    ("paused", "activate"): "active", ("paused", "complete"): "completed",
}  # fmt: skip


@dataclass
class Model:
    """The book in plain Python; times are in seconds since its start."""

    now: int = 0
    accounts: list[str] = field(default_factory=list)
    lots: list[Lot] = field(default_factory=list)
    campaigns: list[ModelCampaign] = field(default_factory=list)

    def available(self, name: str, pool: str) -> int:
        live = (lot for lot in self.lots if lot.ends is None or self.now < lot.ends)
        return sum(lot.amount for lot in live if (lot.name, lot.pool) == (name, pool))

    def later(self, offset: int | None) -> int | None:
        return None if offset is None else self.now + offset

    def give(self, name: str, pool: str, amount: int, lives_s: int | None) -> None:
        self.lots.append(Lot(name, pool, amount, self.later(lives_s)))

    def mint(self, command: Mint) -> Expected:
        if command.name not in self.accounts:
            return {"account_not_found"}
        self.give(command.name, command.pool, command.amount, command.lives_s)
        return 201, str(self.available(command.name, command.pool))

    def create(self, command: Create) -> Expected:
        starts, ends = self.later(command.starts_s), self.later(command.ends_s)
        if starts is not None and ends is not None and ends <= starts:
            return {"validation_error"}
        made = ModelCampaign(command.formula, command.pool, command.budget, command.cap, starts, ends, command.ttl_s)
        self.campaigns.append(made)
        return 201, "draft"

    def transition(self, command: Transition) -> Expected:
        if command.campaign >= len(self.campaigns):
            return {"campaign_not_found"}
        campaign = self.campaigns[command.campaign]
        after = TRANSITIONS.get((campaign.status(self.now), command.name))
        if after is None:
            return {"invalid_transition"}
        campaign.state = after
        return 200, after

    def edit(self, command: Edit) -> Expected:
        if command.campaign >= len(self.campaigns):
            return {"campaign_not_found"}
        campaign = self.campaigns[command.campaign]
        status, ends = campaign.status(self.now), self.later(command.ends_s)
        changes = [change for change in command[1:] if change is not None]
        if changes and (status in ("completed", "expired") or (status != "draft" and command.cap is not None)):
            return {"campaign_field_locked"}
        errors = set()
        if command.budget is not None and command.budget < campaign.spent:
            errors.add("budget_below_spent")
        if ends is not None and (ends <= self.now or (campaign.starts is not None and ends <= campaign.starts)):
            errors.add("validation_error")
        if errors:
            return errors
        campaign.budget = campaign.budget if command.budget is None else command.budget
        campaign.cap = campaign.cap if command.cap is None else command.cap
        campaign.ends = campaign.ends if ends is None else ends
        return 200, status

    def batch(self, command: Batch) -> Expected:
        # An unknown account id differs from an entity without an account.
        named = [(grant.name, grant.by_id and grant.name not in self.accounts) for grant in command.grants]
        wrong = {"duplicate_account"} if len(set(named)) < len(named) else set()
        if command.campaign >= len(self.campaigns):
            return wrong or {"campaign_not_found"}
        campaign = self.campaigns[command.campaign]
        amounts = [campaign.amount(grant) for grant in command.grants]
        if None in amounts:
            wrong.add("validation_error")
        if wrong:
            return wrong
        if campaign.status(self.now) != "active" or (campaign.starts is not None and self.now < campaign.starts):
            return {"campaign_not_active"}
        results = [self._result(campaign, grant, amount or 0) for grant, amount in zip(command.grants, amounts, strict=True)]
        new = [amount for status, duplicate, amount in results if status == "granted" and not duplicate]
        if errors := self._over_limits(campaign, new, force=command.force):
            return errors
        for grant, (status, duplicate, amount) in zip(command.grants, results, strict=True):
            if status == "granted" and not duplicate:
                campaign.paid[grant.name] = amount
                if grant.name not in self.accounts:
                    self.accounts.append(grant.name)
                self.give(grant.name, campaign.pool, amount, campaign.ttl)
        campaign.spent += sum(new)
        return 201 if new else 200, (results, campaign.budget - campaign.spent)

    def _result(self, campaign: ModelCampaign, grant: Grant, amount: int) -> tuple[str, bool, int]:
        if grant.name in campaign.paid:
            return "granted", True, campaign.paid[grant.name]
        if grant.by_id and grant.name not in self.accounts:
            return "failed", False, amount
        return ("granted" if amount else "skipped"), False, amount

    def _over_limits(self, campaign: ModelCampaign, new: list[int], *, force: bool) -> set[str]:
        # The order of the ceiling among the other limits is not specified.
        ceiling = {"amount_too_large"} if sum(new) > CEILING else set[str]()
        if any(amount > campaign.cap for amount in new):
            return {"per_wallet_cap_exceeded"} | ceiling
        if not force and any(amount > LARGE for amount in new):
            return {"large_grant_requires_force"} | ceiling
        if sum(new) > campaign.budget - campaign.spent:
            return {"budget_exceeded"} | ceiling
        return ceiling


# --- the book ---


class ModelClock(Clock):
    """A clock that shows the time of the model."""

    time_us = START_US

    def now_us(self) -> int:
        return self.time_us


class Run:
    """Run the same commands on a book and on the model, and compare."""

    def __init__(self, book: Book, clock: ModelClock) -> None:
        self.book = book
        self.clock = clock
        self.model = Model()
        self.ids: dict[str, str] = {}

    async def story(self, story: list[Command]) -> None:
        for command in story:
            await self.do(command)
            await self.compare()

    async def do(self, command: Command) -> None:
        match command:
            case Open(name):
                answer = await self.write(open_account, body=Entity("person", name))
                assert answer[0] == (200 if name in self.model.accounts else 201)
                self.model.accounts += [] if name in self.model.accounts else [name]
                self.ids[name] = answer[1]["id"]
            case Mint():
                answer = await self.write(mint, **self.mint_arguments(command))
                self.expect(self.model.mint(command), answer, lambda a: a["balance"]["availableMicro"])
            case Create():
                answer = await self.write(create_campaign, created_by="model", body=self.create_body(command))
                self.expect(self.model.create(command), answer, lambda a: a["status"])
            case Transition(campaign, name):
                answer = await self.write(transition_campaign, campaign_id=campaign_id(campaign), transition=name)
                self.expect(self.model.transition(command), answer, lambda a: a["status"])
            case Edit(campaign, budget, cap, ends_s):
                body = _EDIT.decode(encode({
                    "budgetMicro": text(budget), "perWalletCapMicro": text(cap), "expiresAt": self.time(ends_s),
                }))  # fmt: skip
                answer = await self.write(edit_campaign, campaign_id=campaign_id(campaign), body=body)
                self.expect(self.model.edit(command), answer, lambda a: a["status"])
            case Batch(campaign, sent, force):
                batch = _BATCH.decode(encode({"grants": [self.item(grant) for grant in sent], "force": force}))
                check_batch(batch)
                answer = await self.write(pay_batch, campaign_id=campaign_id(campaign), body=batch, ceiling_micro=CEILING)
                self.expect(self.model.batch(command), answer, self.batch_answer)
                if answer[0] in (200, 201):
                    paid = zip(sent, answer[1]["grants"], strict=True)
                    self.ids |= {grant.name: result["accountId"] for grant, result in paid if result["status"] == "granted"}
            case Pass(passed):
                self.model.now += passed
                self.clock.time_us += passed * US_PER_SECOND
            case Sweep():
                await self.book.sweep()

    async def write(self, operation: Callable[..., Any], **arguments: Any) -> tuple[int, Json]:
        """Return status and response, or 0 and the error code. An error must change nothing."""
        before = await self.book.writer.run(totals)
        try:
            written = await self.book.write(bind(operation, **arguments), caller=CALLER, origin=NOWHERE)
        except Problem as problem:
            assert await self.book.writer.run(totals) == before
            return 0, problem.code
        return written.status, json.loads(written.body)

    def expect(self, expected: Expected, answer: tuple[int, Json], value_of: Callable[[Json], Json]) -> None:
        status, body = answer
        if isinstance(expected, set):
            assert status == 0, f"expected an error, one of {expected}: {body}"
            assert body in expected
        else:
            assert (status, body if status == 0 else value_of(body)) == expected

    @staticmethod
    def batch_answer(answer: Json) -> Json:
        results = [(grant["status"], grant["duplicate"], int(grant["amountMicro"])) for grant in answer["grants"]]
        new = [amount for status, duplicate, amount in results if status == "granted" and not duplicate]
        counted = (len(new), sum(new), sum(d for _, d, _ in results), sum(s == "skipped" for s, _, _ in results))
        totals = ("totalGranted", "totalAmountMicro", "totalDuplicates", "totalSkipped")
        assert counted == tuple(int(answer[name]) for name in totals)
        assert answer["totalFailed"] == sum(s == "failed" for s, _, _ in results)
        return results, int(answer["remainingMicro"])

    # --- arguments of the operations ---

    def time_us(self, offset_s: int | None) -> int | None:
        return None if offset_s is None else self.clock.time_us + offset_s * US_PER_SECOND

    def time(self, offset_s: int | None) -> str | None:
        return optional_time(self.time_us(offset_s))

    def account_id(self, name: str) -> str:
        return self.ids.get(name, f"acct_{name}")

    def item(self, grant: Grant) -> Json:
        named = (
            {"accountId": self.account_id(grant.name)}
            if grant.by_id
            else {"entity": {"entityType": "person", "entityId": grant.name}}
        )
        formula_input = None if grant.loss is None else {"lossMicro": str(grant.loss), "who": grant.name}
        return {**named, "amountMicro": text(grant.amount), "formulaInput": formula_input}

    def mint_arguments(self, command: Mint) -> dict[str, Any]:
        expires_at_us = self.time_us(command.lives_s)
        return {
            "account_id": self.account_id(command.name),
            "body": MintBody(
                amount_micro=Micro(command.amount),
                pool_id=command.pool,
                expires_at=None if expires_at_us is None else TimeUs(expires_at_us),
            ),
            "ceiling_micro": CEILING,
        }

    def create_body(self, command: Create) -> CreateBody:
        formula, config = FORMULAS[command.formula]
        return _CREATE.decode(encode({
            "name": "x", "campaignType": "loyalty", "budgetMicro": text(command.budget), "grantFormula": formula,
            "grantConfig": config, "poolId": command.pool, "perWalletCapMicro": text(command.cap),
            "startsAt": self.time(command.starts_s), "expiresAt": self.time(command.ends_s),
            "grantTtlSeconds": command.ttl_s,
        }))  # fmt: skip

    # --- comparison ---

    async def compare(self) -> None:
        model, reading = self.model, RequestReader(self.book.readers, SequenceTracker())
        accounts, campaigns = await self.book.writer.run(rows)
        assert [name for name, _ in accounts] == model.accounts
        for name, key in accounts:
            account_id = ids.encode(ids.ACCOUNT, key)
            balance = await reads.balance(
                reading, account_id=account_id, pool_id=None, at_us=None, now_us=self.clock.time_us
            )
            found = {pool.pool_id: int(pool.available_micro) for pool in balance.pools}
            assert dict.fromkeys(POOLS, 0) | found == {pool: model.available(name, pool) for pool in POOLS}
        assert [
            (row.status_at(self.clock.time_us), row.budget_micro, row.spent_micro, row.grant_count) for row in campaigns
        ] == [(each.status(model.now), each.budget, each.spent, len(each.paid)) for each in model.campaigns]


def rows(conn: Connection) -> tuple[list[tuple[str, int]], list[CampaignRow]]:
    """Return accounts by name and key, and campaigns, in the order of creation; check the invariants."""
    assert violations(conn) == {}
    accounts = conn.execute("SELECT entity_id, id FROM credit_accounts ORDER BY id").fetchall()
    keys = conn.execute("SELECT id FROM credit_campaigns ORDER BY id").fetchall()
    found = [CAMPAIGNS.find_campaign.one(conn, campaign_id=key) for (key,) in keys]
    return accounts, [CampaignRow(*row) for row in found if row is not None]


def text(micro: int | None) -> str | None:
    """Return an amount in its JSON form."""
    return None if micro is None else str(micro)


def campaign_id(number: int) -> str:
    return ids.encode(ids.CAMPAIGN, number + 1)


def totals(conn: Connection) -> list[int]:
    """Return the number of rows of each table."""
    return [
        conn.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        for table in (
            "credit_accounts",
            "credit_lots",
            "credit_ledger",
            "credit_campaigns",
            "credit_grants",
            "admin_audit_log",
        )
    ]


# --- the test ---


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("random-batches")


@given(story=stories())
@settings(
    max_examples=int(os.environ.get("MINIBILL_TEST_EXAMPLES", "50")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
def test_random_histories_match_the_model(folder: Path, migrated_file: Path, loop: Loop, story: list[Command]) -> None:
    path = folder / "book.db"
    for old in folder.iterdir():
        old.unlink()
    shutil.copyfile(migrated_file, path)

    async def run() -> None:
        clock = ModelClock()
        book = await Book.open(path, clock=clock)
        try:
            await Run(book, clock).story(story)
        finally:
            await book.close()

    loop.run(run())
