"""Odd values in every member of a body, every parameter, every path segment, and headers.

None causes an internal error or takes long. Rejected values change nothing, and accepted text comes back unchanged.
"""

import copy
import itertools
import json
import time
import unicodedata
from collections.abc import Callable, Iterator
from urllib.parse import quote

import httpx
import msgspec
import pytest

from minibill.api.openapi.operation import OPERATIONS
from minibill.api.routing import Route
from minibill.app import ROUTES
from tests.api_client import Api, Json, ok
from tests.faults.odd_values import NAUGHTY, NUMBERS_AS_TEXT, OF_OTHER_KINDS

# The short form gives each member the next few of the odd texts.
SHORT = 40

# Much longer than any of these requests should take, and shorter than a hang.
SECONDS_MAX = 5.0

BRACKETS: Json = {"brackets": [{"minMicro": "1", "maxMicro": "5", "amountMicro": "2"}]}

# A valid body with every member, by the name of its struct. A test replaces one value at a time.
WHOLE: dict[str, Json] = {
    "Entity": {"entityType": "person", "entityId": "ada"},
    "MintBody": {
        "amountMicro": "5", "sourceType": "grant", "sourceId": "order-9", "poolId": "gpu", "priority": 7, "expiresAt":
        "2100-01-01T00:00:00Z", "description": "x", "metadata": {"a": 1},
    },
    "ReserveBody": {
        "accountId": "{account_id}", "amountMicro": "1", "poolId": "gpu", "ttlSeconds": 60, "billingMode": "live",
        "description": "x", "metadata": {"a": 1},
    },
    "ChargeBody": {
        "accountId": "{account_id}", "costMicro": "1", "sourceId": "call-9", "poolId": "gpu", "billingMode": "live",
        "description": "x", "metadata": {"a": 1},
    },
    "AdminChargeBody": {
        "costMicro": "1", "sourceId": "call-9", "poolId": "gpu", "billingMode": "live", "description": "x",
        "metadata": {"a": 1},
    },
    "ChargeBatchBody": {
        "charges": [
            {"accountId": "{account_id}", "costMicro": "1", "sourceId": "call-8", "poolId": "gpu", "billingMode": "live",
             "description": "x", "metadata": {"a": 1}},
            {"entity": {"entityType": "mod", "entityId": "x"}, "costMicro": "1", "sourceId": "call-9"},
        ],
    },
    "AdminFinalizeBody": {"actualCostMicro": "1", "reservationId": "{reservation_id}"},
    "FinalizeBody": {"reservationId": "{reservation_id}", "actualCostMicro": "1"},
    "ReleaseBody": {"reservationId": "{reservation_id}"},
    "AdminReleaseBody": {"reservationId": "{reservation_id}"},
    "TiersBody": {"tiers": [{"tier": "gold", "rateBps": 100, "maxDiscountMicro": "5"}, {"tier": "free", "rateBps": 1}]},
    "MembershipBody": {"tier": "gold", "expiresAt": "2100-01-01T00:00:00Z"},
    "CreateBody": {
        "name": "x", "description": "x", "campaignType": "loyalty", "budgetMicro": "9", "grantFormula": "tiered",
        "grantConfig": BRACKETS, "poolId": "gpu", "perWalletCapMicro": "5", "startsAt": "2030-01-01T00:00:00Z", "expiresAt":
        "2100-01-01T00:00:00Z", "grantTtlSeconds": 60,
    },
    "EditBody": {"name": "x", "description": "x", "budgetMicro": "900000", "expiresAt": "2100-01-01T00:00:00Z"},
    "BatchBody": {
        "grants": [
            {"accountId": "{account_id}", "amountMicro": "5", "formulaInput": {"lossMicro": "7"}},
            {"entity": {"entityType": "mod", "entityId": "x"}, "amountMicro": "5"},
        ],
        "force": False,
    },
    "RevokeBody": {"reason": "x"},
    "ThresholdsBody": {"thresholds": [{"belowMicro": "5", "poolId": "gpu", "recoveredMicro": "6"}, {"belowMicro": "7"}]},
    "CreateWebhookBody": {"url": "https://93.184.215.14/", "types": ["ledger.grant"], "description": "x"},
    "EditWebhookBody": {"url": "https://93.184.215.14/x", "types": ["ledger.*"], "description": "x", "enabled": False},
    "ReplayBody": {"after": "{event_id}"},
    "AdvanceBody": {"seconds": 0},
    "ForgiveBody": {"reason": "x"},
    "RevokeTokensBody": {"sub": "x", "issuedBefore": "2026-01-01T00:00:00Z"},
    "NoBody": {},
}  # fmt: skip

BEHIND_A_TOKEN = [route for route in ROUTES if route.kind is not None]


class World:
    """A book with one of each target that a path can name."""

    def __init__(self, api: Api) -> None:
        self.api = api
        account = api.account(1_000)
        api.mint(account, 1_000, poolId="gpu")
        campaign = api.campaign(1_000_000)
        paid = ok(api.batch(campaign, (account, 5)))["grants"][0]["grantId"]
        ok(api.call("PUT", "/discounts/guild/tiers", {"tiers": [{"tier": "gold", "rateBps": 1}]}))
        ok(api.call("PUT", f"/accounts/{account}/memberships/guild", {"tier": "gold"}))
        self.names = {
            "account_id": account, "campaign_id": campaign, "grant_id": paid, "reservation_id": api.reserve(account, 5),
            "community_id": "guild", "token_id": "some-id", "event_id": api.get("/events", limit=1)["items"][0]["id"],
            "debt_id": "", "webhook_id": ok(api.post("/webhooks", {"url": "https://93.184.215.14/"}), 201)["id"],
        }  # fmt: skip
        charged = api.internal("POST", "/charges", {"accountId": account, "costMicro": "1"})
        self.names["charge_id"] = ok(charged, 201)["chargeId"]
        # More than the rest in `general`.
        ok(api.finalize(api.reserve(account, 0, billingMode="soft"), 2_000))
        self.names["debt_id"] = api.get(f"/accounts/{account}/debts")["items"][0]["debtId"]
        self.slowest_s = 0.0
        self.asked = 0

    def path(self, route: Route, **odd: str) -> str:
        return route.path.format(**{**self.names, **odd})

    def body(self, route: Route) -> Json:
        kind = OPERATIONS[route.handler].body
        if kind is None:
            return None
        text = json.dumps(WHOLE[kind.__name__])
        for name, value in self.names.items():
            text = text.replace(f"{{{name}}}", value)
        return json.loads(text)

    def ask(
        self, route: Route, *, path: str | None = None, body: Json = None, query: str = "", headers: Json = ()
    ) -> httpx.Response:
        """Send a request that changes nothing: writes are dry runs. Services have none, so the book makes one of theirs."""
        token = (self.api.token if route.kind == "admin" else self.api.sign_service()).encode()
        own = [(b"authorization", b"Bearer " + token), (b"content-type", b"application/json")]
        raw = b"" if body is None else json.dumps(body).encode()
        if route.method != "GET" and route.kind == "admin":
            query = f"dryRun=true&{query}".rstrip("&")
        began_s = time.monotonic()
        response = self.api.ask(
            route.method, path or self.path(route), headers=[*own, *headers], query=query.encode(),
            messages=[{"type": "http.request", "body": raw}],
        )  # fmt: skip
        self.slowest_s = max(self.slowest_s, time.monotonic() - began_s)
        self.asked += 1
        assert response.status_code < 500, (route.method, path, body, query, response.text)
        return response


@pytest.fixture
def world(api: Api, monkeypatch: pytest.MonkeyPatch, long: bool, record: Callable[[str], None]) -> Iterator[World]:
    world = World(api)
    write = api.book.write
    monkeypatch.setattr(api.book, "write", lambda operation, **options: write(operation, **options | {"dry_run": True}))
    with api.unchanged():
        yield world
    assert world.slowest_s < SECONDS_MAX
    record(f"{world.asked:,} requests, the slowest {world.slowest_s * 1000:.0f} ms")


Step = str | int


def places(body: Json, *above: Step) -> Iterator[tuple[tuple[Step, ...], Json]]:
    """Yield the place of every value in a body, including itself, with the value. Stored JSON may hold any value."""
    yield above, body
    if above[-1:] in (("metadata",), ("formulaInput",)):
        return
    inner = body.items() if isinstance(body, dict) else enumerate(body) if isinstance(body, list) else ()
    for step, value in inner:
        yield from places(value, *above, step)


def put(body: Json, place: tuple[Step, ...], value: Json) -> Json:
    """Return a copy of the body with another value in a place."""
    if not place:
        return value
    changed = copy.deepcopy(body)
    inner = changed
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value
    return changed


@pytest.fixture
def texts(long: bool) -> Callable[[], list[str]]:
    """Return a function that returns odd texts for a member: all of them, or the next few in the short form."""
    turns = itertools.count()

    def texts() -> list[str]:
        every = NUMBERS_AS_TEXT + NAUGHTY
        return every if long else every[next(turns) % SHORT :: SHORT]

    return texts


def test_an_odd_value_in_any_member_causes_no_internal_error(world: World, texts: Callable[[], list[str]]) -> None:
    for route in BEHIND_A_TOKEN:
        body = world.body(route)
        if body is None:
            continue
        for place, good in places(body):
            for value in [*OF_OTHER_KINDS, *texts()]:
                response = world.ask(route, body=put(body, place, value))
                # Nothing is taken for what it is not: no text for a number, no 1.0 for 1, no 1 for true.
                if value is not None and type(value) is not type(good):
                    assert response.status_code == 400, (route.path, place, value)


def test_the_bodies_of_the_table_are_valid_and_complete(world: World) -> None:
    for route in BEHIND_A_TOKEN:
        kind = OPERATIONS[route.handler].body
        if kind is None:
            continue
        response = world.ask(route, body=world.body(route))
        # The campaign is active, so it can't become active. The reservation is still pending.
        assert response.is_success or response.json()["code"] == "invalid_transition", (route.path, response.text)
        missing = {field.encode_name for field in msgspec.structs.fields(kind)} - WHOLE[kind.__name__].keys()
        # One of two exclusive members is set. Members that are locked in an active campaign are left out.
        assert missing <= {"entity", "eventIds"} or kind.__name__ == "EditBody", (kind, missing)


def test_an_unknown_member_is_rejected_whatever_its_name(world: World, texts: Callable[[], list[str]]) -> None:
    for route in BEHIND_A_TOKEN:
        body = world.body(route)
        if body is None:
            continue
        for name in texts():
            if name not in body:
                assert world.ask(route, body={**body, name: 1}).status_code == 400, (route.path, name)


def test_an_odd_parameter_causes_no_internal_error(world: World, texts: Callable[[], list[str]]) -> None:
    for route in BEHIND_A_TOKEN:
        kind = OPERATIONS[route.handler].query
        names = [field.encode_name for field in msgspec.structs.fields(kind)] if kind is not None else []
        body = world.body(route)
        for name in [*names, "dryRun", "unknown"]:
            for value in texts():
                world.ask(route, body=body, query=f"{name}={quote(value, safe='')}")
            for text in (
                "",
                "=",
                "=%",
                "=%f",
                "=%ff",
                "=%00",
                "=&" + name + "=",
                "[]=1",
                "=1;x=2",
                "=" + "1" * 9_000,
                "=" + "%41" * 3_000,
            ):
                world.ask(route, body=body, query=name + text)
        for query in ("&", "=", "&&&", "?", "a=1&" * 60, "%", "limit=1&limit=1", "\x7f", "a" * 9_000):
            world.ask(route, body=body, query=query)


def test_an_odd_path_segment_causes_no_internal_error(world: World, texts: Callable[[], list[str]]) -> None:
    for route in BEHIND_A_TOKEN:
        body = world.body(route)
        for name in world.names:
            if f"{{{name}}}" in route.path:
                # With an empty segment the path belongs to another route.
                for value in filter(None, texts()):
                    path = world.path(route, **{name: value})
                    response = world.ask(route, path=path, body=body)
                    # Dry runs of a token revocation and of tiers accept any name.
                    assert not response.is_success or name in ("token_id", "community_id") or value == world.names[name]


HEADERS = [
    b"idempotency-key", b"x-correlation-id", b"user-agent", b"content-type", b"content-length", b"accept", b"host",
    b"origin", b"authorization", b"x-forwarded-for", b"x-http-method-override", b"transfer-encoding", b"expect",
    b"range", b"cookie", b"if-none-match", b"accept-encoding", b"",
]  # fmt: skip


def test_an_odd_header_causes_no_internal_error(world: World, texts: Callable[[], list[str]], long: bool) -> None:
    # What is done about headers is done for all routes alike.
    for route in BEHIND_A_TOKEN if long else BEHIND_A_TOKEN[::6]:
        body = world.body(route)
        for name in HEADERS:
            for value in texts():
                response = world.ask(route, body=body, headers=[(name, value.encode())])
                assert "x-injected" not in response.headers


# --- accepted text ---


def fits(text: str, longest: int) -> bool:
    return 1 <= len(text) <= longest and "\0" not in text


def test_accepted_text_comes_back_unchanged(api: Api, long: bool) -> None:
    account, campaign = api.account(), api.campaign(10_000_000, grantFormula="proportional_loss")
    for number, text in enumerate(NAUGHTY if long else NAUGHTY[::4]):
        opened = api.post("/accounts", {"entityType": "mod", "entityId": text})
        # tests/ledger/test_entity_ids.py has the rejected ids and the stored form of the others.
        assert opened.status_code in (201, 400), repr(text)
        if opened.is_success:
            assert opened.json()["entityId"] == unicodedata.normalize("NFC", text)
            assert api.get("/accounts", entityType="mod", entityId=text)["items"] == [opened.json()]
        pool = f"pool-{number}"
        body = {"amountMicro": "1", "sourceId": text, "description": text, "poolId": pool}
        minted = api.post(f"/accounts/{account}/mint", body)
        assert minted.status_code == (201 if fits(text, 200) else 400), repr(text)
        if minted.is_success:
            assert api.get(f"/accounts/{account}/history", poolId=pool)["items"][0]["description"] == text
        usage = {"costMicro": "0", "sourceId": text, "description": text, "metadata": {"text": text}}
        charged = api.post(f"/accounts/{account}/charges", usage)
        assert charged.status_code == (201 if fits(text, 200) else 400), repr(text)
        if charged.is_success:
            [shown] = api.get(f"/accounts/{account}/charges", sourceId=text)["items"]
            assert {name: shown[name] for name in usage if name != "costMicro"} == {
                "sourceId": text, "description": text, "metadata": {"text": text},
            }  # fmt: skip
        named = api.post("/campaigns", {"name": text, "campaignType": "loyalty", "budgetMicro": "1", "description": text})
        assert named.status_code == (201 if fits(text, 200) else 400), repr(text)
        if named.is_success:
            shown = api.get(f"/campaigns/{named.json()['id']}")
            assert (shown["name"], shown["description"]) == (text, text)
        # Stored JSON may contain U+0000, and has a limit in bytes.
        evidence = {"lossMicro": "1", text[:100]: text[:100]}
        item = {"entity": {"entityType": "agent", "entityId": str(number)}, "formulaInput": evidence}
        grant = ok(api.batch(campaign, item), 201)["grants"][0]
        of_account = {"accountId": grant["accountId"]}
        assert api.get(f"/campaigns/{campaign}/grants", **of_account)["items"][0]["formulaInput"] == evidence
        revoked = api.post(f"/campaigns/{campaign}/grants/{grant['grantId']}/revoke", {"reason": text})
        assert revoked.status_code == (200 if fits(text, 500) else 400), repr(text)
        if revoked.is_success:
            assert api.get(f"/campaigns/{campaign}/grants", **of_account)["items"][0]["revokeReason"] == text
        tiers = api.call("PUT", "/discounts/guild/tiers", {"tiers": [{"tier": text, "rateBps": 1}]})
        assert tiers.status_code == (200 if fits(text, 64) else 400), repr(text)
        if tiers.is_success:
            assert api.get("/discounts/guild/tiers")["tiers"][0]["tier"] == text
    assert ok(api.post("/reconciliation"))["status"] == "healthy"
