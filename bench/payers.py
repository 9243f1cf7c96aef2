"""Ways to pay the same batches: in process and over HTTP."""

import asyncio
import random
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self, TypeVar

import msgspec
import uvloop

from bench.report import Unfit, require_whole
from bench.servers import Client
from minibill.api.decoding import Decoder
from minibill.api.idempotency import Key, fingerprint
from minibill.api.types import Micro
from minibill.auth.scopes import EVERYTHING
from minibill.auth.tokens import Caller
from minibill.book import Book
from minibill.campaigns.batch import check_batch, pay_batch
from minibill.campaigns.lifecycle import create_campaign, transition_campaign
from minibill.campaigns.schemas import BatchBody, CreateBody
from minibill.core.write_result import Origin
from minibill.db.write_operation import WriteOperation, bind

T = TypeVar("T")

BATCH_GRANTS = 1_000
AMOUNT_MICRO = 1_000_000
BUDGET_MICRO = 10**15
CEILING_MICRO = 10**12

_BODY = Decoder(BatchBody)


class Paid(NamedTuple):
    """A batch: its seconds, its request and its response."""

    seconds: float
    request: bytes
    answer: bytes


class Payer(Protocol):
    """Pay batches on its own empty book."""

    def campaign(self) -> str: ...

    def pay(self, campaign_id: str, body: bytes, key: str) -> Paid: ...


class Payments(NamedTuple):
    """The batches to new accounts, and the batches to the same accounts afterwards."""

    new: list[Paid]
    existing: list[Paid]


def pay_batches(payer: Payer, batches: int) -> Payments:
    """Pay some batches of each kind."""
    first, second = payer.campaign(), payer.campaign()
    bodies = [new_entities(BATCH_GRANTS, seed=number) for number in range(batches)]
    new = [payer.pay(first, body, f"new-{number}") for number, body in enumerate(bodies)]
    bodies = [to_accounts(accounts_paid(paid.answer)) for paid in new]
    existing = [payer.pay(second, body, f"existing-{number}") for number, body in enumerate(bodies)]
    for paid in (*new, *existing):
        if msgspec.json.decode(paid.answer)["totalGranted"] != BATCH_GRANTS:
            raise Unfit(f"not all of a batch was granted: {paid.answer[:300]!r}")
    return Payments(new, existing)


def new_entities(count: int, *, seed: int = 0) -> bytes:
    """Return the body of a batch to entities without an account; each seed gives other entities."""
    wallets = random.Random(seed)
    return _body(
        [{"entity": {"entityType": "person", "entityId": f"0x{wallets.getrandbits(160):040x}"}} for _ in range(count)]
    )


def to_accounts(account_ids: list[str]) -> bytes:
    """Return the body of a batch to these accounts."""
    return _body([{"accountId": account_id} for account_id in account_ids])


def accounts_paid(answer: bytes) -> list[str]:
    """Return the accounts in the response of a batch."""
    return [grant["accountId"] for grant in msgspec.json.decode(answer)["grants"]]


def _body(who: list[dict[str, Any]]) -> bytes:
    return msgspec.json.encode({"grants": [{**one, "amountMicro": str(AMOUNT_MICRO)} for one in who]})


class InProcess:
    """Pay through `Book.write`; decoding is not timed."""

    def __init__(self, db: Path) -> None:
        self._db = db
        self._caller = Caller("admin", "bench", None, frozenset({EVERYTHING}))
        self._origin = Origin("127.0.0.1", "minibill-bench", "bench", None)

    def __enter__(self) -> Self:
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self._book = self._run(Book.open(self._db))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._run(self._book.close())
        self._runner.close()
        if kind is None:
            require_whole(self._db)

    def campaign(self) -> str:
        answer = self._run(
            self._book.write(
                bind(
                    create_campaign,
                    created_by="bench",
                    body=CreateBody(
                        name="Bench",
                        campaign_type="promotional",
                        budget_micro=Micro(BUDGET_MICRO),
                        per_wallet_cap_micro=Micro(AMOUNT_MICRO),
                    ),
                ),
                caller=self._caller,
                origin=self._origin,
            )
        )
        campaign_id: str = msgspec.json.decode(answer.body)["id"]
        activation = self._book.write(
            bind(transition_campaign, campaign_id=campaign_id, transition="activate"),
            caller=self._caller,
            origin=self._origin,
        )
        self._run(activation)
        return campaign_id

    def pay(self, campaign_id: str, body: bytes, key: str) -> Paid:
        decoded = _BODY.decode(body)
        check_batch(decoded)
        operation = bind(pay_batch, campaign_id=campaign_id, body=decoded, ceiling_micro=CEILING_MICRO)
        return self.time(operation, caller=self._caller, path=campaign_id, body=body, key=key, status=201)

    def time(self, operation: WriteOperation, *, caller: Caller, path: str, body: bytes, key: str, status: int) -> Paid:
        """Run a write, whose body was decoded before."""
        own_key = Key(caller.name, key, fingerprint("POST", path.encode(), b"", body))
        return self._run(self._time(operation, caller, own_key, body, status))

    async def _time(self, operation: WriteOperation, caller: Caller, key: Key, body: bytes, status: int) -> Paid:
        began_s = time.perf_counter()
        written = await self._book.write(operation, caller=caller, origin=self._origin, key=key)
        seconds = time.perf_counter() - began_s
        if written.status != status or written.replayed:
            raise Unfit(f"a batch was answered {written.status}")
        return Paid(seconds, body, written.body)

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(coroutine)


class OverHttp:
    """Pay through a server."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def campaign(self) -> str:
        body = {
            "name": "Bench",
            "campaignType": "promotional",
            "budgetMicro": str(BUDGET_MICRO),
            "perWalletCapMicro": str(AMOUNT_MICRO),
        }
        campaign_id: str = msgspec.json.decode(self._client.post("/campaigns", msgspec.json.encode(body)))["id"]
        self._client.post(f"/campaigns/{campaign_id}/activate")
        return campaign_id

    def pay(self, campaign_id: str, body: bytes, key: str) -> Paid:
        return time_request(self._client, f"/campaigns/{campaign_id}/grants/batch", body, key=key)


def time_request(client: Client, path: str, body: bytes, *, key: str) -> Paid:
    """Send a batch."""
    request = client.request("POST", path, body, key=key)
    began_s = time.perf_counter()
    answer = client.sent(request)
    return Paid(time.perf_counter() - began_s, body, answer)
