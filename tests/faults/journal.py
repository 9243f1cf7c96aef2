"""Clients with a journal: it has every request before it is sent, and its response afterwards.

A request without a response is sent again with the same key until it has one. Half of the charges have no key: their
sources alone keep them from being charged twice. `differences` then compares the database with
the effects of all responses.
"""

import json
import random
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

from minibill.auth.scopes import EVERYTHING
from minibill.auth.tokens import SERVICE_TOKEN_MAX_TTL, sign_token
from minibill.cli.dev import dev_secrets
from minibill.config import read_settings
from minibill.core import ids
from minibill.db.connection import open_reader
from tests.faults.http_client import Line, ResponseBody, request_bytes

Json = Any
CallerKind = Literal["admin", "service"]

PREFIX = {"admin": "/admin/billing", "service": "/api/internal/billing"}

# Longer than any test: nothing expires on its own, so balances follow from the responses.
TTL_SECONDS = 86_400


class Passes:
    """Tokens of one admin and one service, for a database that `serve --dev` has served."""

    def __init__(self, db: Path) -> None:
        self._settings = read_settings(dev_secrets(db))
        self._tokens: dict[CallerKind, str] = {}
        self.renew()

    def renew(self) -> None:
        """Sign new tokens for the same callers: service tokens live for five minutes."""
        lives: dict[CallerKind, int] = {"admin": self._settings.admin_token_max_ttl, "service": SERVICE_TOKEN_MAX_TTL}
        for kind, ttl in lives.items():
            self._tokens[kind] = "Bearer " + sign_token(self._settings, kind, sub="ada", scopes=[EVERYTHING], ttl=ttl)

    def request(self, kind: CallerKind, method: str, path: str, body: bytes = b"", *, key: str | None = None) -> bytes:
        """Return the bytes of a request; `path` follows the prefix of its kind."""
        return request_bytes(method, PREFIX[kind] + path, authorization=self._tokens[kind], key=key, body=body)

    def bytes_of(self, sent: "Sent") -> bytes:
        """Return the bytes of a write of the journal, with its key."""
        return self.request(sent.kind, sent.method, sent.path, sent.body, key=sent.key)


class Sent:
    """A write in the journal. `answer` is its last response; None while there is none.

    `passes` is true if its lot or reservation expires soon. Without a `key`, its sources identify its charges.
    """

    __slots__ = ("answer", "body", "key", "kind", "method", "passes", "path")

    def __init__(self, kind: CallerKind, method: str, path: str, body: Json, *, key: str | None, passes: bool) -> None:
        self.kind: CallerKind = kind
        self.method = method
        self.path = path
        self.body = json.dumps(body).encode()
        self.key = key
        self.passes = passes
        self.answer: ResponseBody | None = None

    @property
    def done(self) -> bool:
        """Return true after a success response."""
        return self.answer is not None and self.answer.status < 300

    @property
    def said(self) -> Json:
        """Return the JSON of its response."""
        assert self.answer is not None
        return json.loads(self.answer.body)

    async def by(self, line: Line, passes: Passes) -> ResponseBody:
        """Send it, for the first time or again."""
        return await line.ask(passes.bytes_of(self))


class Journal:
    """The writes of all clients, in the order of their first attempt."""

    def __init__(self, passes: Passes) -> None:
        self.passes = passes
        self.sent: list[Sent] = []

    def write(
        self, kind: CallerKind, method: str, path: str, body: Json, *, has_key: bool = True, passes: bool = False
    ) -> Sent:
        """Record a write before it is sent."""
        key = f"key-{len(self.sent)}" if has_key else None
        self.sent.append(Sent(kind, method, path, body, key=key, passes=passes))
        return self.sent[-1]

    @property
    def done(self) -> list[Sent]:
        return [sent for sent in self.sent if sent.done]

    async def ask(self, line: Line, kind: CallerKind, method: str, path: str, body: Json) -> Json:
        """Send a setup write that must succeed at once."""
        sent = self.write(kind, method, path, body)
        sent.answer = await sent.by(line, self.passes)
        assert sent.done, sent.answer
        return sent.said


class Client:
    """A client that mints, reserves, finalizes, releases, charges, pays wallets, and edits a campaign. It has an account."""

    def __init__(self, journal: Journal, rng: random.Random, *, account: str, draft: str, campaign: str) -> None:
        self.journal = journal
        self.account = account
        self.pending: Sent | None = None
        self._rng = rng
        self.campaign = campaign
        self._draft = draft
        self._open: list[str] = []
        # The cost of each usage record.
        self._usage: list[int] = []

    @classmethod
    async def new(cls, journal: Journal, line: Line, rng: random.Random, *, number: int, campaign: str) -> "Client":
        """Return a client whose account has credits."""
        account = await journal.ask(line, "admin", "POST", "/accounts", {"entityType": "person", "entityId": f"c-{number}"})
        await journal.ask(line, "admin", "POST", f"/accounts/{account['id']}/mint", {"amountMicro": "100000"})
        draft = await journal.ask(line, "admin", "POST", "/campaigns", _campaign(f"draft-{number}"))
        return cls(journal, rng, account=account["id"], draft=draft["id"], campaign=campaign)

    async def work(self, line: Line) -> None:
        """Send one write after the other, starting with the ones without a response, until `Lost`."""
        while True:
            await self.ask_once(line)

    async def ask_once(self, line: Line) -> ResponseBody:
        """Send one write. Raises `Lost`; the next call then sends the same write again."""
        if self.pending is None:
            write = self._next()
            has_key = not write[2].startswith("/charges") or self._rng.random() < 0.5
            self.pending = self.journal.write(*write, has_key=has_key)
        sent = self.pending
        sent.answer = await sent.by(line, self.journal.passes)
        self.pending = None
        if sent.done and sent.path == "/reservations":
            self._open.append(sent.said["reservationId"])
        return sent.answer

    def _next(self) -> tuple[CallerKind, str, str, Json]:
        rng = self._rng
        what = rng.choices(("mint", "reserve", "end", "charge", "charges", "batch", "edit"), (20, 40, 40, 20, 6, 4, 4))[0]
        match what:
            case "mint":
                body = {"amountMicro": str(rng.randint(1, 1000)), "priority": rng.randint(0, 3)}
                return "admin", "POST", f"/accounts/{self.account}/mint", body
            case "charge":
                return "service", "POST", "/charges", self._usage_record(repeats=0.1)
            case "charges":
                items = [self._usage_record(repeats=0.2) for _ in range(rng.randint(1, 20))]
                return "service", "POST", "/charges/batch", {"charges": [*items, {**items[0], "accountId": "acct_none"}]}
            case "batch":
                wallets = [*rng.sample(range(1_000_000), rng.randint(1, 20)), rng.randint(-9, -1)]
                grants = [{"entity": {"entityType": "person", "entityId": f"w-{wallet}"}} for wallet in wallets]
                return "admin", "POST", f"/campaigns/{self.campaign}/grants/batch", {"grants": grants}
            case "edit":
                return "admin", "PATCH", f"/campaigns/{self._draft}", {"budgetMicro": str(rng.randint(0, 10**9))}
            case "end" if self._open:
                reservation = self._open.pop(rng.randrange(len(self._open)))
                if rng.random() < 0.3:
                    return "service", "POST", "/release", {"reservationId": reservation}
                return (
                    "service",
                    "POST",
                    "/finalize",
                    {"reservationId": reservation, "actualCostMicro": str(rng.randint(0, 90))},
                )
            case _:
                body = {"accountId": self.account, "amountMicro": str(rng.randint(1, 100)), "ttlSeconds": TTL_SECONDS}
                return "service", "POST", "/reservations", body

    def _usage_record(self, *, repeats: float) -> Json:
        """Return a new usage record, with a description, or an earlier one, now and then with another cost."""
        rng, usage = self._rng, self._usage
        if usage and rng.random() < repeats:
            number, new = rng.randrange(len(usage)), {}
            cost = usage[number] + (rng.random() < 0.2)
        else:
            number, new = len(usage), {"description": "new"}
            cost = rng.randint(0, 60)
            usage.append(cost)
        return {"accountId": self.account, "costMicro": str(cost), "sourceId": f"{self.account}-{number}", **new}


async def meet(db: Path, port: int, rng: random.Random, *, number: int) -> list[Client]:
    """Return that many clients of a service, with a common journal."""
    journal = Journal(Passes(db))
    line = await Line.open(port)
    campaign = await open_campaign(journal, line)
    clients = [await Client.new(journal, line, rng, number=n, campaign=campaign) for n in range(number)]
    line.close()
    return clients


async def open_campaign(journal: Journal, line: Line) -> str:
    """Open an active campaign that pays 7 micro-units to each wallet; return its id."""
    campaign = await journal.ask(line, "admin", "POST", "/campaigns", _campaign("wallets"))
    await journal.ask(line, "admin", "POST", f"/campaigns/{campaign['id']}/activate", {})
    identity: str = campaign["id"]
    return identity


def _campaign(name: str) -> Json:
    return {
        "name": name,
        "campaignType": "promotional",
        "budgetMicro": "1000000000000",
        "grantConfig": {"amountMicro": "7"},
    }


# --- the expected contents of the database ---


class _Expected:
    """The expected contents of a database after the writes of a journal and no others."""

    def __init__(self) -> None:
        self.rows: Counter[str] = Counter()
        self.available: Counter[str] = Counter()
        self.reserved: Counter[str] = Counter()
        self.budgets: dict[str, int] = {}
        self.spent: Counter[str] = Counter()
        self._charges: set[str] = set()

    def add(self, sent: Sent) -> None:
        said = sent.said
        self.rows["idempotency_keys"] += sent.key is not None
        self.rows["admin_audit_log"] += sent.kind == "admin"
        match sent.path.split("/")[1:]:
            case ["accounts"]:
                self.available[said["id"]] += 0
            case ["accounts", account, "mint"]:
                self.rows["credit_lots"] += 1
                self.available[account] += 0 if sent.passes else int(said["amountMicro"])
            case ["reservations"]:
                self.rows["credit_reservations"] += 1
                self._hold(said["accountId"], 0 if sent.passes else int(said["totalReservedMicro"]))
            case ["finalize"]:
                self.reserved[said["accountId"]] -= int(said["finalizedMicro"])
                self._hold(said["accountId"], -int(said["releasedMicro"]))
            case ["release"]:
                self._hold(said["accountId"], -int(said["releasedMicro"]))
            case ["charges", *_]:
                self._charge(json.loads(sent.body), said)
            case ["campaigns", campaign, "grants", "batch"]:
                for grant in said["grants"]:
                    if not grant["duplicate"]:
                        self.rows["credit_grants"] += 1
                        self.rows["credit_lots"] += 1
                        self.available[grant["accountId"]] += int(grant["amountMicro"])
                        self.spent[campaign] += int(grant["amountMicro"])
            case ["campaigns", *_]:
                self.rows["credit_campaigns"] += sent.path == "/campaigns"
                self.budgets[said["id"]] = int(said["budgetMicro"])
            case _:
                raise AssertionError(sent.path)

    def _charge(self, body: Json, said: Json) -> None:
        items, results = body.get("charges", [body]), said.get("charges", [said])
        for item, charged in zip(items, results, strict=True):
            # A duplicate shows the first charge, whose response may have been lost.
            if charged["chargeId"] is not None and charged["chargeId"] not in self._charges:
                self._charges.add(charged["chargeId"])
                self.rows["credit_charges"] += 1
                self.available[item["accountId"]] -= int(charged["chargedMicro"])

    def _hold(self, account: str, amount_micro: int) -> None:
        self.available[account] -= amount_micro
        self.reserved[account] += amount_micro


def differences(db: Path, journal: Journal) -> list[str]:
    """Return the differences between a database and its journal; empty if each write took effect exactly once."""
    expected = _Expected()
    for sent in journal.done:
        expected.add(sent)
    expected.rows["credit_accounts"] = len(expected.available)
    with closing(open_reader(db)) as conn:
        found = []
        for table, number in expected.rows.items():
            rows = conn.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            found += [f"{table} has {rows} rows and not {number}"] if rows != number else []
        balances = conn.execute("SELECT account_id, available_micro, reserved_micro FROM credit_balances").fetchall()
        campaigns = conn.execute("SELECT id, budget_micro, spent_micro FROM credit_campaigns").fetchall()
    for name, want, have in (
        ("available", expected.available, _by_id(ids.ACCOUNT, ((row[0], row[1]) for row in balances))),
        ("reserved", expected.reserved, _by_id(ids.ACCOUNT, ((row[0], row[2]) for row in balances))),
        ("budget", expected.budgets, _by_id(ids.CAMPAIGN, ((row[0], row[1]) for row in campaigns))),
        ("spent", expected.spent, _by_id(ids.CAMPAIGN, ((row[0], row[2]) for row in campaigns))),
    ):
        for key in want.keys() | have.keys():
            if want.get(key, 0) != have.get(key, 0):
                found.append(f"{name} of {key} is {have.get(key, 0)} and not {want.get(key, 0)}")
    return found


def torn_batches(db: Path, clients: Iterable[Client]) -> list[str]:
    """Return the pending batches of charges of which a database has a part. No credits may have been missing."""
    found = []
    with closing(open_reader(db)) as conn:
        for client in clients:
            sent = client.pending
            if sent is None or sent.path != "/charges/batch":
                continue
            items = json.loads(sent.body)["charges"]
            new = {item["sourceId"] for item in items if item["accountId"] == client.account and "description" in item}
            sources = json.dumps(list(new))
            count = "SELECT count(*) FROM credit_charges WHERE source_id IN (SELECT value FROM json_each(?))"
            there = conn.execute(count, (sources,)).fetchone()[0]
            is_kept = conn.execute("SELECT count(*) FROM idempotency_keys WHERE key = ?", (sent.key,)).fetchone()[0] == 1
            if there not in (0, len(new)) or (sent.key is not None and new and is_kept != (there > 0)):
                found.append(f"{there} of {len(new)} new charges of a batch are there, its key: {is_kept}")
    return found


def _by_id(kind: str, rows: Iterable[tuple[int, int]]) -> dict[str, int]:
    return {ids.encode(kind, key): value for key, value in rows}
