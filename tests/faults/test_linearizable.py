"""Linearizability: with many clients on a few accounts, each response shows the ledger at its `Ledger-Sequence`.

Afterwards plain Python replays the entries in order. Each response must show the state of the ledger at its number. An
operation that began after the response of another must have no lower number. Each entry must belong to exactly one
acknowledged write.
"""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from minibill.auth.tokens import sign_token
from minibill.core import ids
from minibill.core.clock import monotonic_s
from minibill.db.connection import open_reader
from minibill.db.queries import Row
from tests.api_client import Api, Json

CLIENTS = 24
ACCOUNTS = 3
SHORT, LONG = 5_000, 1_000_000
# Operations per round in the short form.
ROUND = 1_000
# Reservations that clients choose from: few, so that clients often use the same one.
KNOWN = 40


class Answered(NamedTuple):
    """An operation: the order of its begin and its response among all events, and the response."""

    kind: str
    began: int
    ended: int
    sequence: int
    status: int
    replayed: bool
    about: Json
    answer: Json


class Clients:
    """Send random operations from many clients, and record their responses."""

    def __init__(self, api: Api, seed: int) -> None:
        self.api = api
        self.random = random.Random(seed)
        self.heard: list[Answered] = []
        self.reservations: list[str] = []
        self._moments = count()
        self._names = count()
        # Account, cost and source of the latest charges.
        self.usage: list[tuple[str, int, str]] = []
        self.accounts = [api.account() for _ in range(ACCOUNTS)]

    def round(self, operations: int) -> list[Answered]:
        """Run at least that many operations."""
        self.heard = []
        self.api.loop.run(self._round(operations))
        return self.heard

    async def _round(self, operations: int) -> None:
        self._admin = self._token("admin", ["admin:*"])
        self._service = self._token("service", [])
        await asyncio.gather(*[self._client(operations) for _ in range(CLIENTS)])

    def _token(self, kind: Any, scopes: list[str]) -> bytes:
        return b"Bearer " + sign_token(self.api.settings, kind, sub="clients", scopes=scopes, ttl=300).encode()

    async def _client(self, operations: int) -> None:
        choices = [self._balance, self._history, self._reservation, self._mint, self._reserve, self._finalize, self._release,
                   self._charge, self._charge_all]  # fmt: skip
        while len(self.heard) < operations:
            [operation] = self.random.choices(choices, [35, 8, 10, 18, 20, 9, 4, 8, 3])
            await operation(self.random.choice(self.accounts))

    # --- operations ---

    async def _balance(self, account: str) -> None:
        await self._send("balance", "GET", f"/admin/billing/accounts/{account}/balance", None, account)

    async def _history(self, account: str) -> None:
        path = f"/admin/billing/accounts/{account}/history"
        await self._send("history", "GET", path, None, account, query=b"limit=1")

    async def _reservation(self, _: str) -> None:
        if self.reservations:
            known = self.random.choice(self.reservations)
            await self._send("reservation", "GET", f"/api/internal/billing/reservations/{known}", None, known)

    async def _mint(self, account: str) -> None:
        body = {"amountMicro": str(self.random.randint(1, 20)), "sourceId": f"order-{next(self._names)}"}
        await self._write("mint", f"/admin/billing/accounts/{account}/mint", body, (account, int(body["amountMicro"])))

    async def _reserve(self, account: str) -> None:
        amount = self.random.randint(1, 20)
        body = {"accountId": account, "amountMicro": str(amount), "ttlSeconds": 86_400}
        answer = await self._write("reserve", "/api/internal/billing/reservations", body, (account, amount))
        if answer.status == 201:
            self.reservations = [*self.reservations[1 - KNOWN :], answer.answer["reservationId"]]

    async def _finalize(self, _: str) -> None:
        if self.reservations:
            known = self.random.choice(self.reservations)
            body = {"reservationId": known, "actualCostMicro": str(self.random.randint(0, 20))}
            await self._write("finalize", "/api/internal/billing/finalize", body, known)

    async def _release(self, _: str) -> None:
        if self.reservations:
            known = self.random.choice(self.reservations)
            await self._write("release", "/api/internal/billing/release", {"reservationId": known}, known)

    async def _charge(self, account: str) -> None:
        account, cost, source = self._record(account)
        body = {"accountId": account, "costMicro": str(cost), "sourceId": source}
        await self._write("charge", "/api/internal/billing/charges", body, (account, cost))

    async def _charge_all(self, account: str) -> None:
        records = [self._record(account) for _ in range(self.random.randint(1, 6))]
        items = [{"accountId": account, "costMicro": str(cost), "sourceId": source} for account, cost, source in records]
        await self._write("charges", "/api/internal/billing/charges/batch", {"charges": items}, records)

    def _record(self, account: str) -> tuple[str, int, str]:
        """Return a new usage record, or one that another client may be charging."""
        if self.usage and self.random.random() < 0.2:
            return self.random.choice(self.usage)
        record = account, self.random.randint(1, 12), f"call-{next(self._names)}"
        self.usage = [*self.usage[1 - KNOWN :], record]
        return record

    async def _write(self, kind: str, path: str, body: Json, about: Json) -> Answered:
        """Send a write; some have a key, and some of these are sent twice at once."""
        key = f"key-{next(self._names)}" if self.random.random() < 0.4 else None
        again = key is not None and self.random.random() < 0.5
        send = [self._send(kind, "POST", path, body, about, key=key) for _ in range(2 if again else 1)]
        first, *others = await asyncio.gather(*send)
        assert all(other.answer == first.answer or 402 <= first.status <= 409 for other in others)
        return first

    async def _send(
        self, kind: str, method: str, path: str, body: Json, about: Json, *, query: bytes = b"", key: str | None = None
    ) -> Answered:
        token = self._admin if path.startswith("/admin") else self._service
        headers = [(b"authorization", token), (b"content-type", b"application/json")]
        headers += [] if key is None else [(b"idempotency-key", key.encode())]
        scope: Json = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
            "path": path, "raw_path": path.encode(), "query_string": query, "headers": headers, "root_path": "",
            "server": ("minibill.test", 80), "client": ("192.0.2.7", 4711), "state": {}, "extensions": {},
        }  # fmt: skip
        content = b"" if body is None else json.dumps(body).encode()
        sent: list[Json] = []

        async def receive() -> Json:
            return {"type": "http.request", "body": content, "more_body": False}

        async def send(message: Json) -> None:
            sent.append(message)

        began = next(self._moments)
        await self.api.app(scope, receive, send)
        ended = next(self._moments)
        found = dict(sent[0]["headers"])
        sequence, replayed = int(found.get(b"ledger-sequence", NEVER)), b"idempotency-replayed" in found
        answer = Answered(kind, began, ended, sequence, sent[0]["status"], replayed, about, json.loads(sent[1]["body"]))
        self.heard.append(answer)
        return answer


@dataclass
class Held:
    """A reservation by its entries: amounts, and the entries of its begin and end."""

    account: str
    made: list[int] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)
    held: int = 0
    consumed: int = 0
    returned: int = 0


class Ledger:
    """The state of the ledger after each entry."""

    def __init__(self, path: Path) -> None:
        self._conn = open_reader(path)
        self._read: list[Row] = []
        self.sequence = 0
        self.available: Counter[str] = Counter()
        self.reserved: Counter[str] = Counter()
        self.newest: dict[str, list[str]] = {}
        # Account, amount and entry by lot.
        self.minted: dict[str, tuple[str, int, int]] = {}
        self.held: dict[str, Held] = {}
        # Account, amount and entries by charge.
        self.charged: dict[str, tuple[str, int, list[int]]] = {}
        # Entries that no acknowledged write has claimed.
        self.unclaimed: set[int] = set()

    def close(self) -> None:
        self._conn.close()

    def go_to(self, sequence: int) -> None:
        """Return the state at an entry."""
        while self.sequence < sequence:
            if not self._read:
                self._read = self._conn.execute(NEXT_ENTRIES, (self.sequence,)).fetchall()[::-1]
            self._enter(*self._read.pop())

    def claim(self, entries: list[int]) -> bool:
        """Claim entries for a write; return false if one is missing or claimed."""
        is_theirs = self.unclaimed >= set(entries)
        self.unclaimed -= set(entries)
        return is_theirs

    def _enter(
        self, number: int, account_id: int, kind: str, lot_id: int, held_id: int | None, charge_id: int | None, amount: int,
        available: int, reserved: int,
    ) -> None:  # fmt: skip
        assert number == self.sequence + 1, "a number is missing"
        self.sequence = number
        self.unclaimed.add(number)
        account = ids.encode(ids.ACCOUNT, account_id)
        self.available[account] += available
        self.reserved[account] += reserved
        self.newest[account] = [ids.encode(ids.ENTRY, number)]
        if charge_id is not None:
            charge = ids.encode(ids.CHARGE, charge_id)
            _, charged, own = self.charged.get(charge, (account, 0, []))
            self.charged[charge] = account, charged - amount, [*own, number]
            return
        if held_id is None:
            assert kind == "grant"
            self.minted[ids.encode(ids.LOT, lot_id)] = account, amount, number
            return
        held = self.held.setdefault(ids.encode(ids.RESERVATION, held_id), Held(account))
        (held.made if kind == "reserve" else held.ended).append(number)
        match kind:
            case "reserve":
                held.held -= amount
            case "finalize":
                held.consumed -= amount
            case "release":
                held.returned += amount


NEXT_ENTRIES = """
SELECT id, account_id, entry_type, lot_id, reservation_id, charge_id, amount_micro, available_delta_micro,
       reserved_delta_micro
  FROM credit_ledger
 WHERE id > ?
 ORDER BY id
 LIMIT 1000"""


class Judge:
    """Compare responses with the ledger."""

    def __init__(self, path: Path) -> None:
        self.ledger = Ledger(path)
        self.wrong: list[tuple[str, Answered]] = []
        # The highest number in a response before this round began.
        self._high = 0

    def judge(self, heard: list[Answered]) -> None:
        """Judge a round, after all of its responses have arrived."""
        floors = self._floors(heard)
        # Writes claim their entries before other responses are compared with them.
        for each in sorted(heard, key=lambda each: (each.sequence, each.replayed, each.ended)):
            self.ledger.go_to(each.sequence)
            own = [] if each.replayed else self._own(each)
            self._hold(each, self.ledger.claim(own), "its entries are not there, or are another's")
            self._hold(each, not own or own[-1] == each.sequence, "its number is not that of its own newest entry")
            self._hold(each, each.sequence >= floors[each.began], "its number is less than what had been answered before")
            self._hold(each, not own or own[0] > floors[each.began], "its entries were seen before it began")
            self._hold(each, self._is_so(each), "it does not say what the ledger says")
        if self.ledger.unclaimed:
            self.wrong.append((f"entries of no acknowledged write: {sorted(self.ledger.unclaimed)[:5]}", heard[-1]))

    def _hold(self, each: Answered, holds: bool, else_: str) -> None:
        if not holds:
            self.wrong.append((else_, each))

    def _floors(self, heard: list[Answered]) -> dict[int, int]:
        """Return, by the begin of an operation, the highest number in a response until then."""
        moments = [(each.began, None) for each in heard] + [(each.ended, each.sequence) for each in heard]
        floors = {}
        for moment, sequence in sorted(moments, key=lambda moment: moment[0]):
            if sequence is None:
                floors[moment] = self._high
            else:
                self._high = max(self._high, sequence)
        return floors

    def _own(self, each: Answered) -> list[int]:
        """Return the entries of a write according to its response."""
        answer, ledger = each.answer, self.ledger
        match each.kind, each.status:
            case "mint", 201:
                return [ledger.minted[answer["lotId"]][2]] if answer["lotId"] in ledger.minted else [NEVER]
            case "reserve", 201:
                return ledger.held[answer["reservationId"]].made if answer["reservationId"] in ledger.held else [NEVER]
            case "charge", 201:
                return self._entries_of(answer["chargeId"])
            case "charges", 200:
                new = [each["chargeId"] for each in answer["charges"] if each["status"] == "charged"]
                return [entry for charge in new for entry in self._entries_of(charge)]
            case (("finalize" | "release"), 200):
                ended = ledger.held[each.about].ended
                # The first of the identical requests was applied; the others got the same response.
                return ended if not ended or ended[0] in ledger.unclaimed else []
        return []

    def _entries_of(self, charge: str) -> list[int]:
        return self.ledger.charged[charge][2] if charge in self.ledger.charged else [NEVER]

    def _is_so(self, each: Answered) -> bool:
        """Return true if a response shows the state of the ledger at its number."""
        try:
            return self._says_what_is(each)
        except KeyError:
            # The response names something that does not exist.
            return False

    def _says_what_is(self, each: Answered) -> bool:
        answer, ledger, about = each.answer, self.ledger, each.about
        match each.kind, each.status:
            case "balance", 200:
                found = int(answer["totalAvailableMicro"]), int(answer["totalReservedMicro"])
                return found == (ledger.available[about], ledger.reserved[about])
            case "history", 200:
                newest: list[str] = [item["id"] for item in answer["items"]]
                return newest == ledger.newest.get(about, [])
            case "reservation", 200:
                held = ledger.held[about]
                figures = int(answer["totalReservedMicro"]), answer["finalizedMicro"], answer["status"] == "pending"
                consumed = None if answer["finalizedMicro"] is None else str(held.consumed)
                return figures == (held.held, consumed, not held.ended)
            case "mint", (200 | 201):
                account, amount, _ = ledger.minted[answer["lotId"]]
                balance = int(answer["balance"]["availableMicro"]), int(answer["balance"]["reservedMicro"])
                is_now = each.replayed or balance == (ledger.available[account], ledger.reserved[account])
                return (account, amount) == about and is_now
            case "reserve", 201:
                held = ledger.held[answer["reservationId"]]
                return (held.account, held.held) == about and int(answer["totalReservedMicro"]) == held.held
            case "charge", (200 | 201):
                is_charged: bool = ledger.charged[answer["chargeId"]][:2] == about
                return is_charged and int(answer["chargedMicro"]) == about[1]
            case "charges", 200:
                charged = [(each["chargeId"], (account, cost)) for each, (account, cost, _)
                           in zip(answer["charges"], about, strict=True) if each["chargeId"] is not None]  # fmt: skip
                return all(ledger.charged[charge][:2] == record for charge, record in charged)
            case (("reserve" | "charge"), 402):
                account, amount = about
                return int(answer["availableMicro"]) == ledger.available[account] and ledger.available[account] < amount
            case "finalize", 200:
                held = ledger.held[about]
                return (int(answer["finalizedMicro"]), int(answer["releasedMicro"])) == (held.consumed, held.returned)
            case "release", 200:
                held = ledger.held[about]
                return held.consumed == 0 and int(answer["releasedMicro"]) == held.returned == held.held
            case (("finalize" | "release"), 409):
                return bool(ledger.held[about].ended)
        return False


# A number that no entry has.
NEVER = 0


def test_responses_match_the_ledger_at_their_sequence(api: Api, long: bool, record: Callable[[str], None]) -> None:
    clients, judge = Clients(api, seed=14), Judge(api.book.path)
    began_s, answers = monotonic_s(), 0
    kinds: Counter[str] = Counter()
    while answers < (LONG if long else SHORT):
        heard = clients.round(ROUND)
        answers += len(heard)
        judge.judge(heard)
        assert judge.wrong == [], f"{len(judge.wrong)} of {len(heard)}"
        kinds.update(f"{each.kind} {each.status}{' again' if each.replayed else ''}" for each in heard)
    judge.ledger.close()
    # The test proves nothing unless all kinds of operations happened.
    assert set(kinds) >= MUST_HAPPEN
    minutes, seconds = divmod(round(monotonic_s() - began_s), 60)
    entries = judge.ledger.sequence
    record(f"{answers:,} operations, {entries:,} entries, {minutes} min {seconds} s, no violation; {dict(kinds)}")


MUST_HAPPEN = {
    "balance 200", "history 200", "reservation 200", "mint 201", "mint 201 again", "reserve 201", "reserve 201 again",
    "reserve 402", "finalize 200", "finalize 409", "release 200", "release 409", "charge 201", "charge 201 again",
    "charge 200", "charge 402", "charges 200", "charges 200 again",
}  # fmt: skip
