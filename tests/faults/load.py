"""Requests with countable effects, and callers that send them and record the time of each response."""

import asyncio
import itertools
import json
import random
from collections.abc import Callable
from typing import Any, NamedTuple

import httpx

from minibill.core import ids
from minibill.db.sqlite import sqlite3
from tests.api_client import UNIT, Api, Json

ADMIN, SERVICE = "/admin/billing", "/api/internal/billing"

GRANTS_MAX = 40
CHARGES_MAX = 40

# The query that counts the effects of each kind of request, by its key or its row.
_COUNTS = {
    "open": "SELECT count(*) FROM credit_accounts WHERE entity_id = :key",
    "mint": "SELECT count(*) FROM credit_lots WHERE source_id = :key",
    "reserve": "SELECT count(*) FROM credit_reservations WHERE metadata ->> 'key' = :key",
    "finalize": "SELECT count(*) FROM credit_reservations WHERE id = :row AND status = 'finalized'",
    "charge": "SELECT count(*) FROM credit_charges WHERE source_id = :key",
    "usage": "SELECT count(*) FROM credit_charges WHERE source_id GLOB :key || '-*'",
    "draft": "SELECT count(*) FROM credit_campaigns WHERE name = :key",
    "activate": "SELECT count(*) FROM credit_campaigns WHERE id = :row AND status = 'active'",
    "batch": "SELECT count(*) FROM credit_grants g JOIN credit_accounts a ON a.id = g.account_id "
    "WHERE a.entity_id GLOB :key || '-*'",
}


class Request(NamedTuple):
    """A write with its own key; once done, the query of its `kind` counts `effects`."""

    kind: str
    key: str
    path: str
    body: Json
    effects: int = 1
    row: int | None = None

    def count(self, conn: sqlite3.Connection) -> int:
        """Return the number of its effects in a database."""
        found: int = conn.execute(_COUNTS[self.kind], {"key": self.key, "row": self.row}).fetchone()[0]
        return found


class ResponseBody(NamedTuple):
    """A success response, and the step of the disk at its first byte."""

    step: int
    body: bytes
    replayed: bool


class Load:
    """Callers that open accounts and a campaign, and then mint, reserve, finalize, charge and pay batches at random.

    `step` returns the current step of the disk.
    """

    def __init__(self, chance: random.Random, step: Callable[[], int]) -> None:
        self.sent: dict[str, Request] = {}
        self.answers: dict[str, ResponseBody] = {}
        # Error responses by key: status and code.
        self.refused: list[tuple[str, int, str]] = []
        self._chance, self._step = chance, step
        self._numbers = itertools.count(1)
        self._accounts: list[str] = []
        self._campaigns: list[str] = []
        self._reservations: list[tuple[str, int]] = []

    # --- requests ---

    def begin(self, api: Api, *, accounts: int = 3) -> None:
        """Open the accounts, give them credits, and start a campaign."""
        opened = self.send(api, *[self._open() for _ in range(accounts)])
        self._accounts = [answer["id"] for answer in opened if answer]
        self.send(api, *[self._mint(account, 50 * UNIT) for account in self._accounts])
        [campaign] = self.send(api, self._draft())
        if campaign:
            [activated] = self.send(api, self._activate(campaign["id"]))
            self._campaigns = [campaign["id"]] if activated else []

    def go_on(self, api: Api, *, rounds: int, at_once: int = 6) -> None:
        """Send rounds of concurrent random requests; none if no account could be opened."""
        for _ in range(rounds if self._accounts else 0):
            requests = [self._any() for _ in range(self._chance.randint(1, at_once))]
            for request, answer in zip(requests, self.send(api, *requests), strict=True):
                if request.kind == "reserve" and answer:
                    self._reservations.append((answer["reservationId"], int(answer["totalReservedMicro"])))

    def unanswered(self) -> list[Request]:
        """Return the requests without a success response."""
        return [request for key, request in self.sent.items() if key not in self.answers]

    def forget_answers(self, *, after: int) -> None:
        """Drop the responses that were sent after that step."""
        self.answers = {key: answer for key, answer in self.answers.items() if answer.step <= after}

    def _any(self) -> Request:
        match self._chance.choice(("mint", "reserve", "reserve", "finalize", "finalize", "batch", "charge", "usage")):
            case "finalize" if self._reservations:
                return self._finalize(*self._reservations.pop(self._chance.randrange(len(self._reservations))))
            case "batch" if self._campaigns:
                return self._batch(self._chance.choice(self._campaigns), self._chance.randint(1, GRANTS_MAX))
            case "charge":
                return self._charge()
            case "usage":
                return self._usage(self._chance.randint(1, CHARGES_MAX))
            case "reserve":
                return self._reserve(self._chance.choice(self._accounts), self._chance.randint(1, UNIT))
            case _:
                return self._mint(self._chance.choice(self._accounts), self._chance.randint(1, UNIT))

    def _key(self) -> str:
        return f"key-{next(self._numbers)}"

    def _open(self) -> Request:
        key = self._key()
        return Request("open", key, f"{ADMIN}/accounts", {"entityType": "person", "entityId": key})

    def _mint(self, account: str, amount_micro: int) -> Request:
        key = self._key()
        return Request("mint", key, f"{ADMIN}/accounts/{account}/mint", {"amountMicro": str(amount_micro), "sourceId": key})

    def _draft(self) -> Request:
        key = self._key()
        body = {"name": key, "campaignType": "promotional", "budgetMicro": str(10**6 * UNIT)}
        return Request("draft", key, f"{ADMIN}/campaigns", body)

    def _activate(self, campaign: str) -> Request:
        row = ids.decode(ids.CAMPAIGN, campaign)
        return Request("activate", self._key(), f"{ADMIN}/campaigns/{campaign}/activate", {}, row=row)

    def _reserve(self, account: str, amount_micro: int) -> Request:
        """Reserve what there is: a fault may have hit the mint of the account."""
        key = self._key()
        body = {"accountId": account, "amountMicro": str(amount_micro), "billingMode": "soft", "metadata": {"key": key}}
        return Request("reserve", key, f"{SERVICE}/reservations", body)

    def _finalize(self, reservation: str, held_micro: int) -> Request:
        body = {"reservationId": reservation, "actualCostMicro": str(self._chance.randint(0, held_micro))}
        row = ids.decode(ids.RESERVATION, reservation)
        return Request("finalize", self._key(), f"{SERVICE}/finalize", body, row=row)

    def _charge(self) -> Request:
        key = self._key()
        return Request("charge", key, f"{SERVICE}/charges", self._usage_record(key))

    def _usage(self, charges: int) -> Request:
        key = self._key()
        items = [self._usage_record(f"{key}-{number}") for number in range(charges)]
        # The last one is a duplicate.
        return Request("usage", key, f"{SERVICE}/charges/batch", {"charges": [*items, items[0]]}, effects=charges)

    def _usage_record(self, source: str) -> Json:
        """Return a record that is charged or owed, whatever the balance is. It leaves enough for the reservations."""
        cost, account = self._chance.randint(0, UNIT // 100), self._chance.choice(self._accounts)
        return {"accountId": account, "costMicro": str(cost), "sourceId": source, "billingMode": "soft"}

    def _batch(self, campaign: str, grants: int) -> Request:
        key = self._key()
        items = [
            {"entity": {"entityType": "person", "entityId": f"{key}-{number}"}, "amountMicro": str(UNIT)}
            for number in range(grants)
        ]
        return Request("batch", key, f"{ADMIN}/campaigns/{campaign}/grants/batch", {"grants": items}, effects=grants)

    # --- sending ---

    def send(self, api: Api, *requests: Request) -> list[Json | None]:
        """Send all requests at once; return the JSON of each success, and None for each error."""
        tokens = {ADMIN: api.token, SERVICE: api.sign_service()}

        async def one(request: Request) -> Json | None:
            self.sent[request.key] = request
            root = ADMIN if request.path.startswith(ADMIN) else SERVICE
            headers = {"Authorization": f"Bearer {tokens[root]}", "Idempotency-Key": request.key}
            step = 0

            async def app(scope: Any, receive: Any, send: Any) -> None:
                async def heard(message: Any) -> None:
                    nonlocal step
                    if message["type"] == "http.response.start":
                        step = self._step()
                    await send(message)

                await api.app(scope, receive, heard)

            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://minibill.test") as http:
                response = await http.post(request.path, json=request.body, headers=headers)
            if not response.is_success:
                self.refused.append((request.key, response.status_code, response.json()["code"]))
                return None
            replayed = "Idempotency-Replayed" in response.headers
            self.answers[request.key] = ResponseBody(step, response.content, replayed)
            return json.loads(response.content)

        async def all_at_once() -> list[Json | None]:
            return await asyncio.gather(*map(one, requests))

        return api.loop.run(all_at_once())


def faults_of(conn: sqlite3.Connection, load: Load, *, until: int) -> list[str]:
    """Return the faults of a database, given the responses up to a step of the disk.

    Every acknowledged write must be there. Any other write must be there completely, with its key, or not at all.
    """
    kept = {key: bytes(body) for key, body in conn.execute("SELECT key, body FROM idempotency_keys")}
    faults = []
    for key, request in load.sent.items():
        answer, count = load.answers.get(key), request.count(conn)
        if answer is not None and answer.step <= until:
            if kept.get(key) != answer.body or count != request.effects:
                faults.append(f"{request.kind} {key} was answered, and {count} of its {request.effects} effects are there")
        elif count != (request.effects if key in kept else 0):
            faults.append(f"{request.kind} {key} was not answered, and {count} of its {request.effects} effects are there")
    return faults
