"""Example database of `serve --dev --seed`: a month of Harbor, a small product whose agents write and draw for people.

All of it is made by requests to the application, on a clock that begins a month ago. Therefore it is validated, audited and
reconciles like any other database. Only times and hashes differ from run to run.
"""

import asyncio
import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from minibill.app import create_app
from minibill.auth.scopes import EVERYTHING
from minibill.auth.tokens import SERVICE_TOKEN_MAX_TTL, sign_token
from minibill.book import Book, row_counts
from minibill.config import MODES, Settings
from minibill.core.clock import US_PER_SECOND, Clock, format_time

Json = dict[str, Any]

HOUR = 3_600
DAY = 24 * HOUR
STORY_DAYS = 30

# Settings of the story. Those of the service that starts afterwards may differ.
_RULES = {
    "admin_rate_per_minute": 0,
    "service_rate_per_minute": 0,
    "billing_mode": "live",
    "service_billing_modes": MODES,
    "ceiling_micro": 1_000_000_000_000,
    "max_body_bytes": 1_048_576,
}

_PEOPLE = ("ada", "bruno", "chidi", "dalia", "emre", "farah", "goran", "hana", "ines", "jonas", "keiko", "lars")
_AGENTS = ("scribe", "atlas", "pixel", "echo")
_OTHERS = (
    ("community", "night-owls"),
    ("community", "makers-guild"),
    ("mod", "juno"),
    ("protocol", "harbor"),
    ("foundation", "harbor-foundation"),
    ("commons", "harbor-commons"),
)


class BookNotEmpty(Exception):
    """The database is in use: it has rows."""


async def seed_book(path: Path, settings: Settings) -> None:
    """Fill an empty database, created if it does not exist. Raise `BookNotEmpty`, or an error of `Book.open`."""
    clock = Clock(offset_us=-STORY_DAYS * DAY * US_PER_SECOND)
    book = await Book.open(path, clock=clock)
    try:
        if any(book.readers.point_read(row_counts).values()):
            raise BookNotEmpty(f"{path} is not empty")
        await _Story(book, msgspec.structs.replace(settings, **_RULES)).run()
    finally:
        await book.close()


class _Story:
    def __init__(self, book: Book, settings: Settings) -> None:
        self._book = book
        self._app = create_app(book, settings)
        admin = sign_token(settings, "admin", sub="juno", scopes=[EVERYTHING], ttl=settings.admin_token_max_ttl)
        service = sign_token(settings, "service", sub="gateway", scopes=[], ttl=SERVICE_TOKEN_MAX_TTL)
        self._tokens = {"/admin": admin, "/api": service}
        self._accounts: dict[str, str] = {}
        # A fixed seed, so that every run makes the same database. Nothing here is a secret.
        self._chance = random.Random(2026)  # noqa: S311

    async def run(self) -> None:
        """Run the month day by day, and expire overdue credits and reservations after each day."""
        chapters = {0: self._open, 2: self._launch, 9: self._outage, 12: self._after_the_outage, 15: self._images,
                    20: self._welcome, 22: self._usage, 25: self._plans, 27: self._debts}  # fmt: skip
        for day in range(STORY_DAYS - 1):
            if day in chapters:
                await chapters[day]()
            await self._work_of_a_day(day)
            await self._pass(DAY)
        await self._last_day()

    # --- chapters ---

    async def _open(self) -> None:
        entities = [("person", name) for name in _PEOPLE] + [("agent", name) for name in _AGENTS] + list(_OTHERS)
        opened = await self._all(
            self._admin("POST", "/accounts", {"entityType": kind, "entityId": name}) for kind, name in entities
        )
        self._accounts = {name: account["id"] for (_, name), account in zip(entities, opened, strict=True)}
        for number, (name, units) in enumerate(zip(_PEOPLE, (40, 25, 60, 15, 30, 20, 80, 25, 35, 20, 50, 15), strict=True)):
            await self._deposit(name, units, f"order-{1001 + number}")
        for name, units in (("scribe", 120), ("atlas", 90), ("pixel", 60), ("harbor-foundation", 500), ("makers-guild", 75)):
            await self._deposit(name, units, f"invoice-{name}")
        await self._admin("PUT", "/discounts/night-owls/tiers", {"tiers": [
            {"tier": "gold", "rateBps": 2000, "maxDiscountMicro": "2000000"}, {"tier": "silver", "rateBps": 1000},
        ]})  # fmt: skip
        await self._admin("PUT", "/discounts/makers-guild/tiers", {"tiers": [{"tier": "maker", "rateBps": 500}]})
        for name, community, tier, expires in (
            ("ada", "night-owls", "gold", None), ("bruno", "night-owls", "silver", None),
            ("chidi", "makers-guild", "maker", None), ("scribe", "makers-guild", "maker", None),
            ("dalia", "night-owls", "gold", self._after(10 * DAY)),
        ):  # fmt: skip
            path = f"/accounts/{self._accounts[name]}/memberships/{community}"
            await self._admin("PUT", path, {"tier": tier, "expiresAt": expires})

    async def _launch(self) -> None:
        """Grant credits that most accounts never spend, in a campaign that expires."""
        campaign = await self._campaign(
            "Launch week", "promotional", 40, grantConfig={"amountMicro": "2000000"}, expiresAt=self._after(7 * DAY),
            grantTtlSeconds=14 * DAY, description="2 units for everybody who was there, good for two weeks.",
        )  # fmt: skip
        await self._pay(campaign, [{"accountId": self._accounts[name]} for name in _PEOPLE[:10]])

    async def _outage(self) -> None:
        campaign = await self._campaign(
            "The outage, made whole", "reverse_airdrop", 60, grantFormula="proportional_loss",
            grantConfig={"ratioBps": 10000, "minLossMicro": "10000"}, perWalletCapMicro="10000000",
        )  # fmt: skip
        losses = {
            "ada": 7_400_000,
            "chidi": 12_250_000,
            "emre": 830_000,
            "goran": 3_100_000,
            "ines": 5_000,
            "keiko": 1_999_999,
        }
        grants = await self._pay(campaign, [
            {"accountId": self._accounts[name], "formulaInput": {"lossMicro": str(loss), "ticket": f"T-{number}"}}
            for number, (name, loss) in enumerate(losses.items(), 311)
        ])  # fmt: skip
        self._made_whole, self._of_goran = campaign, grants[3]["grantId"]

    async def _after_the_outage(self) -> None:
        path = f"/campaigns/{self._made_whole}"
        await self._admin("POST", f"{path}/grants/{self._of_goran}/revoke", {"reason": "was on holiday, lost nothing"})
        await self._admin("POST", f"{path}/complete")

    async def _images(self) -> None:
        """Grant credits in a pool of their own, and pause the campaign."""
        campaign = await self._campaign(
            "Autumn of images", "loyalty", 100, poolId="images", grantFormula="tiered",
            grantConfig={"brackets": [{"minMicro": "1000000", "maxMicro": "10000000", "amountMicro": "1000000"},
                                      {"minMicro": "10000000", "maxMicro": None, "amountMicro": "4000000"}]},
        )  # fmt: skip
        spent = {"ada": 14_000_000, "bruno": 6_000_000, "farah": 3_500_000, "hana": 400_000, "lars": 10_000_000}
        await self._pay(campaign, [
            {"accountId": self._accounts[name], "formulaInput": {"lossMicro": str(micro)}} for name, micro in spent.items()
        ])  # fmt: skip
        for name, micro in (("ada", 1_250_000), ("lars", 800_000)):
            await self._spend(name, micro, micro, poolId="images", description="a picture")
        await self._admin("POST", f"/campaigns/{campaign}/pause")

    async def _welcome(self) -> None:
        """Begin a campaign that stays active and opens the accounts that it pays."""
        campaign = await self._campaign(
            "Welcome", "promotional", 250, grantConfig={"amountMicro": "1500000"}, grantTtlSeconds=90 * DAY,
            description="1.5 units for everybody who is new.",
        )  # fmt: skip
        newcomers = ("mira", "noor", "oskar", "priya", "quinn")
        grants = await self._pay(campaign, [{"entity": {"entityType": "person", "entityId": name}} for name in newcomers])
        self._accounts |= {name: grant["accountId"] for name, grant in zip(newcomers, grants, strict=True)}

    async def _plans(self) -> None:
        await self._admin("POST", "/campaigns", {
            "name": "Bring a friend", "campaignType": "referral", "budgetMicro": "100000000",
            "grantConfig": {"amountMicro": "3000000"}, "startsAt": self._after(20 * DAY),
        })  # fmt: skip

    async def _debts(self) -> None:
        """Spend more than the balance twice: a deposit pays the first debt, the second stays open."""
        await self._deposit("echo", 2, "invoice-echo-1")
        await self._spend("echo", 2_000_000, 3_500_000, billingMode="soft", description="a long conversation")
        await self._deposit("echo", 4, "invoice-echo-2")
        await self._spend("echo", 2_500_000, 6_200_000, billingMode="soft", description="a longer conversation")

    async def _usage(self) -> None:
        """Meter a day's calls in one batch: charged, a duplicate, a shadow, and one that no credits cover."""
        calls = [("scribe", 340_000), ("atlas", 95_000), ("pixel", 410_000), ("scribe", 120_000), ("pixel", 90_000_000)]
        records = [
            {
                "accountId": self._accounts[name],
                "costMicro": str(micro),
                "sourceId": f"call-{number}",
                "description": "calls",
            }
            for number, (name, micro) in enumerate(calls, 9_001)
        ]
        trial = {
            **records[1],
            "sourceId": "trial-1",
            "billingMode": "shadow",
            "description": "the new price list, tried out",
        }
        await self._service("POST", "/charges/batch", {"charges": [*records, records[0], trial]})

    async def _last_day(self) -> None:
        """Leave reservations in each state: released, overdue, shadow, and pending. The story ends an hour ago."""
        released = await self._reserve("bruno", 900_000, description="a letter, not sent")
        await self._service("POST", "/release", {"reservationId": released})
        await self._reserve("farah", 1_100_000, ttlSeconds=60, description="a job that never came back")
        shadowed = await self._reserve("atlas", 700_000, billingMode="shadow", description="the new price list, tried out")
        await self._service("POST", "/finalize", {"reservationId": shadowed, "actualCostMicro": "650000"})
        await self._pass(DAY - HOUR)
        await self._reserve("ada", 2_400_000, ttlSeconds=DAY, description="a book cover", metadata={"job": "job-4711"})
        await self._reserve("scribe", 5_000_000, ttlSeconds=DAY, description="a translation", metadata={"job": "job-4712"})

    async def _work_of_a_day(self, day: int) -> None:
        spenders = self._chance.sample(
            ("ada", "bruno", "chidi", "emre", "goran", "ines", "keiko", "scribe", "atlas", "pixel"), 3
        )
        jobs = []
        for name in spenders:
            price = self._chance.randrange(100_000, 1_400_000, 1_000)
            cost = price * self._chance.randrange(60, 101) // 100
            jobs.append(self._spend(name, price, cost, description=f"work of day {day + 1}"))
        await self._all(jobs)

    # --- operations ---

    async def _deposit(self, name: str, units: int, source: str) -> None:
        body = {"amountMicro": f"{units}000000", "sourceType": "deposit", "sourceId": source}
        await self._admin("POST", f"/accounts/{self._accounts[name]}/mint", body)

    async def _campaign(self, name: str, kind: str, units: int, **terms: Any) -> str:
        body = {"name": name, "campaignType": kind, "budgetMicro": f"{units}000000", **terms}
        campaign: str = (await self._admin("POST", "/campaigns", body))["id"]
        await self._admin("POST", f"/campaigns/{campaign}/activate")
        return campaign

    async def _pay(self, campaign: str, grants: list[Json]) -> list[Json]:
        response = await self._admin("POST", f"/campaigns/{campaign}/grants/batch", {"grants": grants})
        paid: list[Json] = response["grants"]
        return paid

    async def _reserve(self, name: str, micro: int, **terms: Any) -> str:
        body = {"accountId": self._accounts[name], "amountMicro": str(micro), **terms}
        reservation: str = (await self._service("POST", "/reservations", body))["reservationId"]
        return reservation

    async def _spend(self, name: str, price_micro: int, cost_micro: int, **terms: Any) -> None:
        reservation = await self._reserve(name, price_micro, **terms)
        await self._service("POST", "/finalize", {"reservationId": reservation, "actualCostMicro": str(cost_micro)})

    async def _all(self, requests: Iterable[Any]) -> list[Json]:
        """Run requests concurrently. They share a COMMIT, in the same order every time."""
        return list(await asyncio.gather(*requests))

    async def _pass(self, seconds: int) -> None:
        self._book.clock.advance(seconds)
        await self._book.sweep()

    def _after(self, seconds: int) -> str:
        return format_time(self._book.clock.now_us() + seconds * US_PER_SECOND)

    # --- requests ---

    async def _admin(self, method: str, path: str, body: Json | None = None) -> Json:
        return await self._request(method, "/admin", f"/billing{path}", body or {})

    async def _service(self, method: str, path: str, body: Json) -> Json:
        return await self._request(method, "/api", f"/internal/billing{path}", body)

    async def _request(self, method: str, root: str, rest: str, body: Json) -> Json:
        """Send a request to the application and return its JSON. An error response is a bug in the story."""
        path, content = root + rest, json.dumps(body).encode()
        headers = {
            "authorization": f"Bearer {self._tokens[root]}",
            "content-type": "application/json",
            "user-agent": "minibill serve --seed",
        }
        scope: Any = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
            "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "", "server": ("localhost", 80),
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            "client": ("127.0.0.1", 0), "state": {}, "extensions": {},
        }  # fmt: skip
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": content, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        await self._app(scope, receive, send)
        response: Json = json.loads(b"".join(message.get("body", b"") for message in sent))
        assert sent[0]["status"] < 300, (path, response)
        return response
