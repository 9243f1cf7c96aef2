"""The event feed: every event once and in one order; pages, filters and long polls."""

import re
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from minibill.api.types import Entity
from minibill.auth.tokens import Caller
from minibill.core.clock import monotonic_s
from minibill.core.problems import Overloaded
from minibill.core.write_result import NOWHERE
from minibill.db.write_operation import bind
from minibill.events import feed as feed_module
from minibill.events.feed import Feed, FeedPage
from minibill.events.position import Position, event_id, parse_position
from minibill.events.schemas import TYPES
from minibill.ledger.accounts import open_account
from tests.api_client import UNIT, Api, Json, ok, problem_of
from tests.events.feed_client import drain, latest, new_types, types_of
from tests.service_process import serving

# --- events of each type ---


def _emit_every_type(api: Api) -> None:
    """Emit each type of event at least once."""
    account = api.account()
    put_thresholds(api, account, {"belowMicro": "50", "recoveredMicro": "80"})
    api.mint(account, 100, sourceType="deposit", description="an order")
    api.finalize(api.reserve(account, 60), 55)
    api.release(api.reserve(account, 10))
    api.finalize(api.reserve(account, 40, billingMode="soft"), 70)
    api.mint(account, 200)
    api.finalize(api.reserve(account, 7, billingMode="shadow"), 7)
    api.mint(account, 5, expiresAt=api.after(10))
    api.advance(20)
    campaign = api.draft(100, expiresAt=api.after(100))
    ok(api.call("PATCH", f"/campaigns/{campaign}", {"name": "Another", "budgetMicro": "30"}))
    for verb in ("activate", "pause", "activate"):
        ok(api.post(f"/campaigns/{campaign}/{verb}"))
    grant = ok(api.batch(campaign, (account, 30)))["grants"][0]["grantId"]
    ok(api.post(f"/campaigns/{campaign}/grants/{grant}/revoke", {"reason": "a mistake"}))
    ok(api.post(f"/campaigns/{campaign}/complete"))
    api.campaign(expiresAt=api.after(100))
    api.advance(200)
    debtor = api.account()
    api.finalize(api.reserve(debtor, 5, billingMode="soft"), 5)
    [debt] = api.get(f"/accounts/{debtor}/debts")["items"]
    ok(api.post(f"/accounts/{debtor}/debts/{debt['debtId']}/forgive", {"reason": "a mistake"}))
    api.mint(debtor, 10)
    for mode in ("live", "shadow"):
        ok(api.post(f"/accounts/{debtor}/charges", {"costMicro": "4", "billingMode": mode}), 201)


def put_thresholds(api: Api, account: str, *thresholds: Json) -> Json:
    return ok(api.call("PUT", f"/accounts/{account}/thresholds", {"thresholds": list(thresholds)}))


def test_every_event_type_is_emitted_in_the_order_of_the_writes(api: Api) -> None:
    _emit_every_type(api)
    events = drain(api)
    assert set(types_of(events)) == set(TYPES)
    assert types_of(events) == [
        "account.opened", "ledger.deposit", "threshold.recovered",
        "ledger.reserve", "threshold.below", "ledger.finalize", "ledger.release",
        "ledger.reserve", "ledger.release",
        "ledger.reserve", "ledger.finalize", "ledger.finalize", "ledger.debt_incurred",
        "ledger.grant", "threshold.recovered", "ledger.debt_paid",
        "ledger.shadow_reserve", "ledger.shadow_finalize",
        "ledger.grant", "ledger.expire",
        "campaign.created", "campaign.edited", "campaign.activated", "campaign.paused", "campaign.activated",
        "ledger.grant", "campaign.exhausted",
        "ledger.revoke", "grant.revoked", "campaign.completed",
        "campaign.created", "campaign.activated", "campaign.expired",
        "account.opened", "ledger.debt_incurred", "ledger.grant", "ledger.debt_paid", "debt.forgiven",
        "ledger.grant", "ledger.charge", "ledger.shadow_charge",
    ]  # fmt: skip


def test_the_data_of_an_event_equals_the_api_resource(api: Api) -> None:
    account = api.account(100)
    campaign = api.campaign(50)
    grant = ok(api.batch(campaign, {"accountId": account, "amountMicro": "20", "formulaInput": {"lossMicro": "9"}}))
    api.finalize(api.reserve(account, 30, metadata={"job": 7}), 20)
    path = f"/campaigns/{campaign}"
    ok(api.post(f"{path}/grants/{grant['grants'][0]['grantId']}/revoke", {"reason": "a mistake"}))
    by_type = {event["type"]: event for event in drain(api)}
    assert by_type["account.opened"]["data"] == api.get(f"/accounts/{account}")
    assert by_type["campaign.activated"]["data"] == {
        **api.get(path), "spentMicro": "0", "remainingMicro": "50", "grantCount": 0,
        "updatedAt": by_type["campaign.activated"]["createdAt"],
    }  # fmt: skip
    assert by_type["grant.revoked"]["data"] == api.get(f"{path}/grants")["items"][0]
    for kind in ("account.opened", "grant.revoked", "ledger.reserve"):
        assert by_type[kind]["accountId"] == account
    assert by_type["account.opened"]["campaignId"] is None and by_type["campaign.activated"]["accountId"] is None
    assert by_type["campaign.activated"]["campaignId"] == by_type["grant.revoked"]["campaignId"] == campaign
    # The campaign of an entry is the one that granted its lot.
    assert by_type["ledger.revoke"]["campaignId"] == campaign


def test_ledger_events_equal_the_history(api: Api) -> None:
    accounts = [api.account(100, 50) for _ in range(3)]
    campaign = api.campaign()
    ok(api.batch(campaign, *((account, 5) for account in accounts)))
    for account in accounts:
        api.finalize(api.reserve(account, 120), 110)
    events = [event for event in drain(api, types="ledger.*") if event["accountId"] in accounts]
    for account in accounts:
        history = api.get(f"/accounts/{account}/history")["items"][::-1]
        own = [event for event in events if event["accountId"] == account]
        assert [event["data"] for event in own] == history
        assert [event["createdAt"] for event in own] == [entry["createdAt"] for entry in history]
        assert [event["type"] for event in own] == [f"ledger.{entry['entryType']}" for entry in history]
    paid = [event["campaignId"] for event in events if event["data"]["lotId"] and event["type"] == "ledger.grant"]
    assert paid.count(campaign) == 3 and paid.count(None) == 6


def test_errors_dry_runs_and_empty_changes_emit_no_event(api: Api) -> None:
    account, campaign = api.account(10), api.campaign(50)
    after = latest(api)
    problem_of(api.ask_to_reserve(account, 11), 402, "insufficient_balance")
    problem_of(api.post(f"/campaigns/{campaign}/activate"), 409, "invalid_transition")
    ok(api.post(f"/accounts/{account}/mint", {"amountMicro": "5"}, dryRun="true"))
    ok(api.post(f"/campaigns/{campaign}/complete", dryRun="true"))
    ok(api.call("PATCH", f"/campaigns/{campaign}", {"name": "Airdrop"}))
    ok(api.post("/accounts", api_entity(api, account)))
    assert new_types(api, after) == []


def api_entity(api: Api, account: str) -> Json:
    found = api.get(f"/accounts/{account}")
    return {"entityType": found["entityType"], "entityId": found["entityId"]}


def test_a_retry_with_a_key_emits_no_second_event(api: Api) -> None:
    account = api.account()
    after = latest(api)
    for _ in range(3):
        ok(api.post(f"/accounts/{account}/mint", {"amountMicro": "5"}, key="k-1"))
    assert new_types(api, after) == ["ledger.grant"]


# --- positions ---


def test_event_ids_sort_in_feed_order_and_never_change(api: Api, start: Callable[..., Api]) -> None:
    _emit_every_type(api)
    events = drain(api)
    ids = [event["id"] for event in events]
    assert ids == sorted(set(ids)) and all(len(each) <= 64 for each in ids)
    assert drain(start()) == events


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 1000])
def test_pages_of_any_size_hold_the_same_events(api: Api, limit: int) -> None:
    _emit_every_type(api)
    assert drain(api, limit=limit) == drain(api)


def test_an_event_id_is_a_cursor(api: Api) -> None:
    _emit_every_type(api)
    events = drain(api)
    for number, event in enumerate(events):
        assert drain(api, event["id"]) == events[number + 1 :]


def test_the_cursor_of_an_empty_feed_misses_nothing(api: Api) -> None:
    page = api.get("/events")
    assert page["items"] == []
    api.account(5)
    assert new_types(api, page["nextCursor"]) == ["account.opened", "ledger.grant"]


POSITIONS = [Position(0, 0), Position(1, 0), Position(7, 3), Position(2**63 - 1, 2**63 - 1)]


def test_a_position_is_parsed_from_its_event_id(subtests: pytest.Subtests) -> None:
    for position in POSITIONS:
        with subtests.test(position=position):
            assert parse_position(event_id(position)) == position


INVALID_CURSORS = ["", "evt_", "evt_0", "entry_0000000000001", "evt_" + "0" * 25, "evt_" + "0" * 27, "LATEST"]


def test_text_that_is_no_position_is_an_invalid_cursor(api: Api, subtests: pytest.Subtests) -> None:
    for text in INVALID_CURSORS:
        with subtests.test(text=text):
            problem_of(api.call("GET", "/events", after=text), 400, "invalid_cursor")


@pytest.mark.parametrize("further", [Position(1, 0), Position(0, 1)])
def test_a_cursor_ahead_of_the_feed_is_rejected(api: Api, further: Position) -> None:
    # As after a restore from a backup: a consumer that waits there would miss events.
    api.account(5)
    newest = api.book.feed.newest()
    beyond = event_id(Position(newest.entry_id + further.entry_id, newest.event_id + further.event_id))
    problem = problem_of(api.call("GET", "/events", after=beyond), 400, "invalid_cursor")
    assert "restore" in problem["detail"]


# --- types ---


def test_the_feed_is_filtered_by_type(api: Api) -> None:
    _emit_every_type(api)
    events = drain(api)
    for kind in TYPES:
        assert drain(api, types=kind) == [event for event in events if event["type"] == kind]
    for chosen in ("ledger.*", "campaign.*,threshold.below", "ledger.grant,ledger.reserve,account.opened", "threshold.*"):
        wanted = chosen.split(",")
        expected = [e for e in events if e["type"] in wanted or f"{e['type'].partition('.')[0]}.*" in wanted]
        assert expected and drain(api, types=chosen, limit=3) == expected


UNKNOWN_TYPES = ["", "ledger", "ledger.", "*", ".*", "ledger.grants", "ledger.grant,", "campaign.e*", "LEDGER.*"]


def test_an_unknown_type_is_rejected(api: Api, subtests: pytest.Subtests) -> None:
    for types in UNKNOWN_TYPES:
        with subtests.test(types=types):
            problem_of(api.call("GET", "/events", types=types), 400, "validation_error", "types")


OUT_OF_RANGE: list[tuple[str, Any]] = [
    ("limit", 0),
    ("limit", 1001),
    ("limit", "x"),
    ("wait", 31),
    ("wait", -1),
    ("wait", "1.5"),
    ("cursor", 1),
]


def test_a_parameter_outside_its_range_is_rejected(api: Api, subtests: pytest.Subtests) -> None:
    for name, value in OUT_OF_RANGE:
        with subtests.test(name=name, value=value):
            problem_of(api.call("GET", "/events", **{name: value}), 400, "validation_error", name)


@pytest.mark.parametrize(
    "types", [None, "threshold.*", "campaign.created,ledger.expire", "ledger.debt_paid", "ledger.*", "account.*"]
)
def test_a_search_in_several_scans_finds_every_event(api: Api, monkeypatch: pytest.MonkeyPatch, types: str | None) -> None:
    _emit_every_type(api)
    query = {} if types is None else {"types": types}
    expected = drain(api, **query)
    for rows in (1, 2, 5):
        monkeypatch.setattr(feed_module, "SCAN_ROWS_MAX", rows)
        assert drain(api, limit=4, **query) == expected


def test_a_long_search_responds_with_its_cursor(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    api.account(*range(1, 8))
    wanted = api.campaign()
    monkeypatch.setattr(feed_module, "SCAN_ROWS_MAX", 2)
    monkeypatch.setattr(feed_module, "SEARCH_SECONDS", 0)
    cursor, pages = None, list[Json]()
    while not pages or not pages[-1]["items"]:
        pages.append(
            api.get("/events", types="campaign.activated,ledger.revoke", **({} if cursor is None else {"after": cursor}))
        )
        cursor = pages[-1]["nextCursor"]
    assert len(pages) > 3 and pages[-1]["items"][0]["campaignId"] == wanted


# --- waiting ---


class Poll:
    """A long poll on a thread of its own."""

    def __init__(self, api: Api, **query: Any) -> None:
        self.answer: Json = None
        self.status = 0
        self.seconds = 0.0
        self._thread = threading.Thread(target=self._ask, args=(api, query))
        self._thread.start()

    def _ask(self, api: Api, query: dict[str, Any]) -> None:
        began_s = monotonic_s()
        response = api.call("GET", "/events", **query)
        self.answer, self.status = response.json(), response.status_code
        self.seconds = monotonic_s() - began_s

    def join(self) -> None:
        self._thread.join(40)
        assert not self._thread.is_alive()

    def result(self) -> Json:
        self.join()
        assert self.status == 200
        return self.answer


def until_waiting(api: Api, polls: int) -> None:
    """Return once that many polls wait for events."""
    while api.book.feed.waiters < polls:
        time.sleep(0.001)


def test_a_waiting_poll_gets_a_new_event_at_once(api: Api) -> None:
    account = api.account()
    polls = [Poll(api, after=latest(api), wait=30) for _ in range(20)]
    until_waiting(api, 20)
    api.mint(account, 5)
    for poll in polls:
        assert types_of(poll.result()["items"]) == ["ledger.grant"]
        assert poll.seconds < 20


def test_a_poll_for_other_types_keeps_waiting(api: Api) -> None:
    account = api.account()
    poll = Poll(api, after=latest(api), wait=30, types="campaign.activated")
    until_waiting(api, 1)
    api.mint(account, 5)
    draft = api.draft()
    assert poll.answer is None
    ok(api.post(f"/campaigns/{draft}/activate"))
    assert types_of(poll.result()["items"]) == ["campaign.activated"]


def test_a_poll_without_events_responds_with_its_cursor(api: Api) -> None:
    account, after = api.account(), latest(api)
    answer = api.get("/events", after=after, wait=1)
    assert answer == {"items": [], "nextCursor": after}
    api.mint(account, 5)
    assert new_types(api, answer["nextCursor"]) == ["ledger.grant"]


def test_a_poll_does_not_wait_if_there_are_events(api: Api) -> None:
    api.account(5)
    began_s = time.monotonic()
    assert len(api.get("/events", wait=30)["items"]) == 2
    assert time.monotonic() - began_s < 20


def test_a_waiting_poll_is_not_logged_as_slow(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    api.get("/events", after="latest", wait=2)
    assert [record for record in caplog.records if record.name == "minibill.http"] == []


def test_a_stop_ends_every_poll_at_once(api: Api) -> None:
    after = latest(api)
    polls = [Poll(api, after=after, wait=30) for _ in range(5)]
    until_waiting(api, 5)

    async def stop() -> None:
        api.book.feed.stop()

    api.loop.run(stop())
    assert [poll.result() for poll in polls] == [{"items": [], "nextCursor": after}] * 5
    assert max(poll.seconds for poll in polls) < 20


def test_the_feed_requires_the_read_scope(api: Api) -> None:
    problem_of(api.call("GET", "/events", token=api.sign(scopes=("admin:accounts:write",))), 403, "insufficient_scope")
    ok(api.call("GET", "/events", token=api.sign(scopes=("admin:billing:read",))))


def test_a_large_batch_emits_every_event(api: Api) -> None:
    campaign = api.campaign(1000 * UNIT)
    after = latest(api)
    items = [{"entity": {"entityType": "person", "entityId": f"p{n}"}, "amountMicro": "5"} for n in range(500)]
    ok(api.batch(campaign, *items))
    assert sorted(new_types(api, after)) == ["account.opened"] * 500 + ["ledger.grant"] * 500


# --- disconnected clients, and many polls ---


def test_a_poll_ends_soon_after_its_client_disconnects(tmp_path: Path) -> None:
    with serving(tmp_path / "book.db") as server:
        metrics = str(server.http.base_url.copy_with(path="/metrics"))

        def waiters() -> float:
            found = re.search(r"^minibill_feed_waiters (\S+)", httpx.get(metrics, trust_env=False).text, re.MULTILINE)
            assert found
            return float(found[1])

        connections = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(5)]
        for connection in connections:
            authorization = server.http.headers["authorization"]
            connection.sendall(
                b"GET /admin/billing/events?after=latest&wait=30 HTTP/1.1\r\nHost: test\r\n"
                b"Authorization: %b\r\n\r\n" % authorization.encode()
            )
        began_s = monotonic_s()
        while waiters() < 5:
            assert monotonic_s() - began_s < 20
        for connection in connections:
            connection.close()
        while waiters() > 0:
            # Undisturbed, the polls would wait for 30 s.
            assert monotonic_s() - began_s < 20


def test_one_read_serves_all_waiting_polls(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    account, campaign = api.account(), api.draft()
    after = latest(api)
    polls = [Poll(api, after=after, wait=30) for _ in range(5)]
    polls += [Poll(api, after=after, wait=30, types="campaign.activated") for _ in range(5)]
    until_waiting(api, 10)
    reads = list[frozenset[str] | None]()
    read = feed_module.Feed.read

    async def counted(self: Feed, after: Position, *, types: frozenset[str] | None, count: int) -> FeedPage:
        reads.append(types)
        return await read(self, after, types=types, count=count)

    monkeypatch.setattr(feed_module.Feed, "read", counted)
    api.mint(account, 5)
    assert [types_of(poll.result()["items"]) for poll in polls[:5]] == [["ledger.grant"]] * 5
    until_waiting(api, 5)
    assert reads == [None]
    ok(api.post(f"/campaigns/{campaign}/activate"))
    assert [types_of(poll.result()["items"]) for poll in polls[5:]] == [["campaign.activated"]] * 5
    assert reads == [None, frozenset({"campaign.activated"})]


def test_a_commit_between_the_read_and_the_wait_wakes_the_poll(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    after = latest(api)
    read = feed_module.Feed.read

    async def overtaken(self: Feed, after: Position, *, types: frozenset[str] | None, count: int) -> FeedPage:
        page = await read(self, after, types=types, count=count)
        monkeypatch.setattr(feed_module.Feed, "read", read)
        admin = Caller("admin", "operator", None, frozenset())
        await api.book.write(bind(open_account, body=Entity("person", "late")), caller=admin, origin=NOWHERE)
        return page

    monkeypatch.setattr(feed_module.Feed, "read", overtaken)
    poll = Poll(api, after=after, wait=30)
    assert types_of(poll.result()["items"]) == ["account.opened"]
    assert poll.seconds < 20


def test_a_backlog_longer_than_one_shared_read_arrives_whole(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "_SHARED_EVENTS", 3)
    campaign = api.campaign(1000 * UNIT)
    after = latest(api)
    polls = [Poll(api, after=after, wait=30, limit=50, types=types) for types in ("campaign.exhausted", "campaign.paused")]
    until_waiting(api, 2)
    ok(
        api.batch(
            campaign, *({"entity": {"entityType": "person", "entityId": f"p{n}"}, "amountMicro": "5"} for n in range(20))
        )
    )
    ok(api.post(f"/campaigns/{campaign}/pause"))
    assert types_of(polls[1].result()["items"]) == ["campaign.paused"]
    draft = api.campaign(5)
    ok(api.batch(draft, (api.account(), 5)))
    assert types_of(polls[0].result()["items"]) == ["campaign.exhausted"]


def test_a_failed_shared_read_ends_every_poll_with_that_error(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    account = api.account()
    after = latest(api)
    polls = [Poll(api, after=after, wait=30) for _ in range(3)]
    until_waiting(api, 3)

    async def overloaded(*_: object, **__: object) -> FeedPage:
        raise Overloaded

    monkeypatch.setattr(feed_module.Feed, "read", overloaded)
    api.mint(account, 5)
    for poll in polls:
        poll.join()
    assert [poll.status for poll in polls] == [503] * 3
