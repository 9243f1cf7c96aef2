"""The methods of the client: `minibill.open` and `AsyncClient` run the same story."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

import minibill
import minibill.embedded
from minibill.app import INTERNAL, ROUTES
from minibill.client import AsyncClient, Entity, GrantTo, ThresholdOf, TierOf, UsageOf
from minibill.client._async.methods import AsyncMethods
from minibill.client.operation import SERVICE_OPERATIONS, Operation
from minibill.core.problems import (
    AccountNotFound,
    IdempotencyKeyReused,
    InsufficientBalance,
    InvalidRequest,
    InvalidTransition,
    NotReady,
)
from minibill.db.file_lock import DatabaseLocked
from tests.api_client import UNIT, Api, Loop

# Routes without a method: for people, scrapers and orchestrators.
WITHOUT_A_METHOD = {"/health/live", "/health/ready", "/metrics", "/schema", "/schema/docs"}

WITH_WEBHOOKS = {"MINIBILL_WEBHOOK_SECRET": "a-secret-for-webhooks " * 3}


@asynccontextmanager
async def over_http(api: Api) -> AsyncIterator[AsyncMethods]:
    transport = httpx.ASGITransport(api.app)  # type: ignore[arg-type]
    async with AsyncClient("http://minibill.test", api.token, transport=transport) as book:
        yield book


@asynccontextmanager
async def as_a_service(api: Api) -> AsyncIterator[AsyncMethods]:
    transport = httpx.ASGITransport(api.app)  # type: ignore[arg-type]
    async with AsyncClient("http://minibill.test", api.sign_service(), service=True, transport=transport) as book:
        yield book


Story = Callable[[AsyncMethods], Awaitable[None]]


@pytest.fixture(params=["inside", "over HTTP"])
def tell(request: pytest.FixtureRequest, loop: Loop, tmp_path: Path) -> Callable[[Story], None]:
    """Run a story on a new book, embedded or over HTTP."""

    async def inside(story: Story) -> None:
        async with minibill.open(tmp_path / "inside.db", actor="operator", settings=WITH_WEBHOOKS, test_clock=True) as book:
            await story(book)

    async def outside(story: Story) -> None:
        async with over_http(request.getfixturevalue("api")) as book:
            await story(book)

    if request.param == "inside":
        return lambda story: loop.run(inside(story))
    request.getfixturevalue("api")
    return lambda story: loop.run(outside(story))


async def everything(book: AsyncMethods) -> None:
    """Call every method once."""
    ada = await book.open_account("person", "ada")
    assert await book.account(ada.id) == ada
    assert [account.entity_id async for account in book.accounts(entity_id="ada")] == ["ada"]
    later = datetime(2100, 1, 1, tzinfo=UTC)
    minted = await book.mint(ada.id, 5 * UNIT, source_id="order-7", expires_at=later, metadata={"shop": 3})
    assert (minted.amount_micro, minted.expires_at) == (str(5 * UNIT), "2100-01-01T00:00:00.000000Z")
    [lot] = [lot async for lot in book.lots(ada.id, state="live")]
    assert (lot.id, lot.metadata) == (minted.lot_id, {"shop": 3})

    held = await book.reserve(ada.id, 1000, explain=True)
    assert held.explanation and held.explanation.lots[0].drawn_micro == "1000"
    assert (await book.finalize(held.reservation_id, 700)).released_micro == "300"
    assert (await book.reservation(held.reservation_id)).status == "finalized"
    again = await book.reserve(ada.id, 1000)
    assert (await book.release(again.reservation_id)).released_micro == "1000"
    balance = await book.balance(ada.id, pool_id="general")
    assert balance.total_available_micro == str(5 * UNIT - 700)
    history = [entry.entry_type async for entry in book.history(ada.id)]
    assert history == ["release", "reserve", "release", "finalize", "reserve", "grant"]
    assert [e.entry_seq async for e in book.history(ada.id, entry_type="finalize", until=later)] == [3]

    assert (await book.put_tiers("club", [TierOf("gold", 1000, max_discount_micro=50)])).tiers[0].max_discount_micro == "50"
    assert (await book.tiers("club")).tiers[0].tier == "gold"
    await book.put_membership(ada.id, "club", "gold", expires_at=later)
    assert [membership.tier async for membership in book.memberships(ada.id)] == ["gold"]
    assert (await book.quote(ada.id, 1000)).payable_micro == "950"
    await book.delete_membership(ada.id, "club")
    assert (await book.quote(ada.id, 1000)).payable_micro == "1000"

    campaign = await book.create_campaign(
        "Losses", "reverse_airdrop", 10 * UNIT, grant_formula="proportional_loss", grant_config={"ratioBps": 5000}
    )
    assert (await book.edit_campaign(campaign.id, name="Made whole")).name == "Made whole"
    assert (await book.activate_campaign(campaign.id)).status == "active"
    assert (await book.pause_campaign(campaign.id)).status == "paused"
    assert (await book.activate_campaign(campaign.id)).status == "active"
    batch = [GrantTo(ada.id, 5), GrantTo(Entity("mod", "m"), formula_input={"lossMicro": "300000"})]
    would = await book.pay_batch(campaign.id, batch, dry_run=True)
    assert (would.total_amount_micro, (await book.campaign(campaign.id)).spent_micro) == ("150005", "0")
    paid = await book.pay_batch(campaign.id, batch)
    assert paid.total_granted == 2
    more = await book.pay_encoded_batch(campaign.id, b'{"grants":[{"accountId":"%s","amountMicro":"5"}]}' % ada.id.encode())
    assert more.total_duplicates == 1
    grants = [grant async for grant in book.grants(campaign.id, account_id=ada.id)]
    assert [grant.amount_micro for grant in grants] == ["5"]
    assert (await book.revoke_grant(campaign.id, grants[0].grant_id, "not a person")).revoked_micro == "5"
    assert (await book.revoke_campaign(campaign.id, "wrong list")).total_revoked == 2
    assert (await book.campaign_stats(campaign.id)).revoked_micro == "150005"
    assert (await book.complete_campaign(campaign.id)).status == "completed"
    assert [c.id async for c in book.campaigns(status="completed")] == [campaign.id]

    charged = await book.charge(ada.id, 100, source_id="call-1", explain=True)
    assert charged.explanation and charged.explanation.lots[0].drawn_micro == "100"
    assert (await book.charge(ada.id, 100, source_id="call-1")).duplicate
    assert (await book.charge_by_id(charged.charge_id, explain=True)).source_id == "call-1"
    assert [charge.charge_id async for charge in book.charges(ada.id, source_id="call-1")] == [charged.charge_id]

    bea = await book.open_account("person", "bea")
    owed = await book.reserve(bea.id, 5, billing_mode="soft")
    await book.finalize(owed.reservation_id, 5)
    [debt] = [debt async for debt in book.debts(bea.id, is_open=True)]
    assert (debt.reservation_id, debt.original_micro) == (owed.reservation_id, "5")
    assert (await book.forgive_debt(bea.id, debt.debt_id, "our mistake")).forgiven_micro == "5"
    assert [debt.paid_micro async for debt in book.debts(bea.id, is_open=False)] == ["5"]

    assert (await book.put_thresholds(ada.id, [ThresholdOf(10 * UNIT, 20 * UNIT)])).thresholds[0].state == "below"
    assert (await book.thresholds(ada.id)).thresholds[0].recovered_micro == str(20 * UNIT)
    first = await book.events(limit=2)
    assert [event.type for event in first.items] == ["account.opened", "ledger.grant"]
    assert (first.items[0].data["id"], first.next_cursor) == (ada.id, first.items[1].id)
    latest = await book.events(after="latest")
    assert (await book.events(after=latest.next_cursor, types=["ledger.*"])).items == []
    # An event type that never occurs, so that nothing is sent.
    webhook = await book.create_webhook("https://192.88.98.1/hook", types=["campaign.expired"])
    assert webhook.secret != (await book.rotate_webhook_secret(webhook.id)).secret
    assert (await book.edit_webhook(webhook.id, description="books")).description == "books"
    assert [each.id async for each in book.webhooks()] == [webhook.id]
    assert (await book.replay_events(webhook.id, after=first.next_cursor)).after == first.next_cursor
    assert (await book.webhook(webhook.id)).enabled and [each async for each in book.deliveries(webhook.id)] == []
    await book.delete_webhook(webhook.id)

    audited = [row async for row in book.audit(action="account.mint", until=later)]
    assert [(row.actor_id, row.details["amountMicro"]) for row in audited] == [("operator", str(5 * UNIT))]
    assert (await book.revoke_token("a-token")).token_id == "a-token"
    assert (await book.revoke_tokens("eve", "2026-01-01T00:00:00Z")).issued_before == "2026-01-01T00:00:00.000000Z"
    assert (await book.reconcile()).status == (await book.last_reconciliation()).status == "healthy"
    before = await book.now()
    assert (await book.advance_clock(60)).now > before.now
    accepted = await book.accept_clock()
    assert accepted.before == accepted.now


async def everything_of_a_service(book: AsyncMethods, account_id: str) -> None:
    """Call every method of a service once. The account has a unit."""
    bot = await book.open_account("agent", "bot")
    assert [account async for account in book.accounts(entity_type="agent", entity_id="bot")] == [bot]
    assert (await book.balance(account_id)).total_available_micro == str(UNIT)
    assert (await book.quote(account_id, 5)).payable_micro == "5"
    start = (await book.events(after="latest")).next_cursor
    held = await book.reserve(account_id, 10, explain=True)
    assert (await book.reservation(held.reservation_id)).created_by == "service:loa"
    assert (await book.finalize(held.reservation_id, 4)).finalized_micro == "4"
    other = await book.reserve(account_id, 5)
    assert (await book.release(other.reservation_id)).released_micro == "5"
    page = await book.events(after=start, types=["ledger.reserve"], wait=5)
    assert [event.account_id for event in page.items] == [account_id] * 2


def test_every_method_calls_its_route(tell: Callable[[Story], None]) -> None:
    tell(everything)


async def charges_in_a_batch(book: AsyncMethods) -> None:
    """Send a batch, of which one usage record is rejected."""
    records = [
        UsageOf(Entity("person", "ada"), 10, "call-2", description="a call", metadata={"model": "m"}),
        UsageOf("acct_nobody", 10, "call-3"),
    ]
    batch = await book.charge_batch(records)
    assert [(item.status, item.code) for item in batch.charges] == [("charged", None), ("rejected", "account_not_found")]
    again = await book.charge_batch(records)
    assert (again.total_duplicates, again.charges[0].charge_id) == (1, batch.charges[0].charge_id)


def test_every_route_has_a_method(loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, api: Api) -> None:
    asked: set[str] = set()
    for kind in (minibill.embedded.EmbeddedClient, AsyncClient):

        async def noted(self: AsyncMethods, ask: Operation, on: Callable[..., Awaitable[bytes]] = kind.send) -> bytes:
            prefix = {"admin": "/admin/billing", "service": "/api/internal/billing"}[ask.kind]
            asked.add(f"{ask.method} {prefix}{ask.route}")
            return await on(self, ask)

        monkeypatch.setattr(kind, "send", noted)

    async def stories() -> None:
        async with minibill.open(tmp_path / "inside.db", actor="operator", settings=WITH_WEBHOOKS, test_clock=True) as book:
            await everything(book)
            await charges_in_a_batch(book)
        async with over_http(api) as book:
            await everything(book)
            cleo = await book.open_account("person", "cleo")
            await book.mint(cleo.id, UNIT)
        async with as_a_service(api) as book:
            await everything_of_a_service(book, cleo.id)

    loop.run(stories())
    there_are = {f"{route.method} {route.path}" for route in ROUTES}
    assert there_are - asked == {f"GET {path}" for path in WITHOUT_A_METHOD}


def test_an_error_is_the_problem_of_its_code_with_its_extensions(tell: Callable[[Story], None]) -> None:
    async def story(book: AsyncMethods) -> None:
        ada = await book.open_account("person", "ada")
        with pytest.raises(AccountNotFound) as nobody:
            await book.balance("acct_nobody")
        assert nobody.value.extensions == {"account_id": "acct_nobody"}
        with pytest.raises(InsufficientBalance) as poor:
            await book.reserve(ada.id, 5)
        assert (poor.value.extensions["available_micro"], poor.value.extensions["requested_micro"]) == ("0", "5")
        with pytest.raises(InvalidRequest) as wrong:
            await book.mint(ada.id, 0, pool_id="General")
        assert [error.path for error in wrong.value.extensions["errors"]] == ["poolId"]
        campaign = await book.create_campaign("x", "loyalty", 1)
        with pytest.raises(InvalidTransition) as step:
            await book.pause_campaign(campaign.id)
        assert step.value.extensions == {"from": "draft", "to": "paused"}

    tell(story)


def test_a_write_with_a_key_has_one_effect(tell: Callable[[Story], None]) -> None:
    async def story(book: AsyncMethods) -> None:
        ada = await book.open_account("person", "ada")
        first = await book.mint(ada.id, 5, key="once")
        assert await book.mint(ada.id, 5, key="once") == first
        with pytest.raises(IdempotencyKeyReused):
            await book.mint(ada.id, 6, key="once")
        assert (await book.balance(ada.id)).total_available_micro == "5"

    tell(story)


def test_lists_follow_all_pages(tell: Callable[[Story], None]) -> None:
    async def story(book: AsyncMethods) -> None:
        ada = await book.open_account("person", "ada")
        for _ in range(105):
            await book.mint(ada.id, 1)
        assert [entry.entry_seq async for entry in book.history(ada.id)] == list(range(105, 0, -1))

    tell(story)


def test_a_service_token_spends_by_entity_only(api: Api, loop: Loop) -> None:
    account = api.account(UNIT)
    entity = api.get(f"/accounts/{account}")["entityId"]

    async def story() -> None:
        async with as_a_service(api) as book:
            held = await book.reserve(Entity("person", entity), 10, metadata={"job": 1})
            assert held.account_id == account
            assert (await book.finalize(held.reservation_id, 4)).finalized_micro == "4"
            other = await book.reserve(account, 5)
            assert (await book.release(other.reservation_id)).released_micro == "5"
            assert (await book.reservation(other.reservation_id)).status == "released"
            charged = await book.charge(Entity("person", entity), 10, source_id="call-1")
            assert (charged.account_id, (await book.charge_by_id(charged.charge_id)).charged_micro) == (account, "10")
            batch = await book.charge_batch([UsageOf(account, 5, "call-2"), UsageOf(account, 10, "call-1")])
            assert [item.status for item in batch.charges] == ["charged", "duplicate"]
        async with over_http(api) as book:
            with pytest.raises(TypeError, match="only services may name an entity"):
                await book.charge(Entity("person", entity), 10)
            with pytest.raises(TypeError, match="only services charge in batches"):
                await book.charge_batch([UsageOf(account, 5, "call-4")])
            with pytest.raises(TypeError, match="only services may name an entity"):
                await book.reserve(Entity("person", entity), 10)

    loop.run(story())


def test_the_client_knows_the_operations_of_services() -> None:
    assert {(method, path) for method, path, _ in INTERNAL} == SERVICE_OPERATIONS


@pytest.mark.parametrize("inside", [True, False])
def test_a_service_has_no_dry_run_in_the_client(api: Api, loop: Loop, tmp_path: Path, inside: bool) -> None:
    async def story(book: AsyncMethods) -> None:
        for write in (
            book.reserve("acct_1", 5, dry_run=True),
            book.finalize("res_1", 5, dry_run=True),
            book.release("res_1", dry_run=True),
        ):
            with pytest.raises(TypeError, match="services have no dry run"):
                await write
        # A program is an admin of its book, and spends as a service does.
        if inside:
            assert (await book.open_account("agent", "bot", dry_run=True)).entity_id == "bot"
            return
        with pytest.raises(TypeError, match="services have no dry run"):
            await book.open_account("agent", "bot", dry_run=True)

    async def stories() -> None:
        async with minibill.open(tmp_path / "inside.db") if inside else as_a_service(api) as book:
            await story(book)
            assert [account async for account in book.accounts()] == []

    loop.run(stories())


def test_a_service_is_told_before_sending_what_it_may_not_call(loop: Loop) -> None:
    def cut(request: httpx.Request) -> httpx.Response:
        raise AssertionError("something was sent")

    async def story() -> None:
        async with AsyncClient("http://minibill.test", "t", service=True, transport=httpx.MockTransport(cut)) as book:
            with pytest.raises(
                TypeError, match=r"services have no POST /accounts/\{account_id\}/mint; use an admin's client"
            ):
                await book.mint("acct_1", 5)
            for call in (book.account("acct_1"), book.delete_membership("acct_1", "club"), book.delete_webhook("hook_1")):
                with pytest.raises(TypeError, match="services have no"):
                    await call
            with pytest.raises(TypeError, match="services have no"):
                await book.pay_encoded_batch("camp_1", b"{}")
            with pytest.raises(TypeError, match="services have no"):
                _ = [lot async for lot in book.lots("acct_1")]

    loop.run(story())


# --- embedded use ---


def test_an_embedded_book_is_persisted_and_locked(loop: Loop, tmp_path: Path) -> None:
    path = tmp_path / "inside.db"

    async def story() -> None:
        async with minibill.open(path) as book:
            ada = await book.open_account("person", "ada")
            await book.mint(ada.id, 5)
            with pytest.raises(DatabaseLocked):
                async with minibill.open(path):
                    pass
        with pytest.raises(NotReady):
            await book.balance(ada.id)
        async with minibill.open(str(path), settings={"MINIBILL_CEILING_MICRO": "4"}) as book:
            assert (await book.balance(ada.id)).total_available_micro == "5"
            assert (await book.reconcile()).status == "healthy"

    loop.run(story())
    assert not path.with_name("inside.db-wal").exists()


@pytest.mark.parametrize("actor", ["", " ", "x" * 129])
def test_an_actor_needs_a_name(tmp_path: Path, actor: str) -> None:
    with pytest.raises(ValueError, match="actor"):
        minibill.open(tmp_path / "inside.db", actor=actor)
