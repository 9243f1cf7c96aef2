"""Webhook delivery: every event, signed, in order per account, whatever the receiver responds."""

import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from minibill.core.clock import real_now_us
from minibill.db.connection import open_reader
from minibill.db.lanes import Lane
from minibill.webhooks import dispatcher, endpoint_health, endpoint_worker, progress
from minibill.webhooks.endpoints import ROTATION_SECONDS
from minibill.webhooks.sender import EndpointResponse, Sender
from tests.api_client import Api, Json, ok
from tests.events.feed_client import drain, latest
from tests.webhooks.conftest import Running
from tests.webhooks.receiver import Receiver, is_in_order_by_account

Deliver = Callable[[], Running]


def make(api: Api, receiver: Receiver, **body: Json) -> Json:
    return ok(api.post("/webhooks", {"url": receiver.url, **body}), 201)


def work(api: Api, accounts: int = 5) -> None:
    """Emit several types of events for several accounts."""
    for account in [api.account(100) for _ in range(accounts)]:
        api.finalize(api.reserve(account, 60), 30)
        ok(api.batch(api.campaign(), (account, 5)))


def until(is_so: Callable[[], bool]) -> None:
    ends_s = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < ends_s
        time.sleep(0.01)


def delivered(api: Api, webhook: Json) -> str:
    position: str = api.get(f"/webhooks/{webhook['id']}")["delivered"]
    return position


# --- complete and signed ---


def test_a_webhook_gets_every_event_since_its_creation(api: Api, receiver: Receiver, deliver: Deliver) -> None:
    work(api)
    after = latest(api)
    webhook = make(api, receiver)
    work(api)
    deliver()
    work(api)
    expected = drain(api, after)
    receiver.wait_for(lambda: len(receiver.messages) >= len(expected))
    assert sorted(receiver.accepted(), key=lambda event: event["id"]) == expected
    assert is_in_order_by_account(receiver.accepted())
    until(lambda: delivered(api, webhook) == latest(api))
    assert len(receiver.messages) == len(expected)


def test_the_progress_of_deliveries_is_saved_in_the_background(
    api: Api, receiver: Receiver, deliver: Deliver, monkeypatch: pytest.MonkeyPatch
) -> None:
    webhook = make(api, receiver)
    work(api)
    run, lanes = api.book.writer.run, list[Lane]()

    async def running(*args: Any, lane: Lane = Lane.REQUEST, **options: Any) -> Any:
        lanes.append(lane)
        return await run(*args, lane=lane, **options)

    monkeypatch.setattr(api.book.writer, "run", running)
    deliver()
    until(lambda: delivered(api, webhook) == latest(api))
    assert lanes and set(lanes) == {Lane.BACKGROUND}


def test_a_message_is_signed_as_the_standard_specifies(api: Api, receiver: Receiver, deliver: Deliver) -> None:
    secret = make(api, receiver)["secret"]
    deliver()
    api.account(5)
    receiver.wait_for(lambda: len(receiver.messages) == 2)
    for message in receiver.messages:
        assert Webhook(secret).verify(message.body, message.headers) == message.event
        assert message.headers["webhook-id"] == message.event["id"]
        assert abs(int(message.headers["webhook-timestamp"]) - time.time()) < 60
        assert message.headers["content-type"] == "application/json"
        assert message.headers["host"] == f"127.0.0.1:{receiver.port}"
        for body in (message.body + b" ", message.body.replace(b"acct_", b"acct-")):
            with pytest.raises(WebhookVerificationError):
                Webhook(secret).verify(body, message.headers)


def test_both_secrets_sign_for_a_day_after_a_rotation(
    api: Api, receiver: Receiver, deliver: Deliver, monkeypatch: pytest.MonkeyPatch
) -> None:
    webhook = make(api, receiver)
    first, path = webhook["secret"], f"/webhooks/{webhook['id']}"
    second = ok(api.post(f"{path}/rotate-secret"))["secret"]
    assert second != first
    deliver()
    account = api.account()
    receiver.wait_for(lambda: len(receiver.messages) == 1)
    for secret in (first, second):
        Webhook(secret).verify(receiver.messages[0].body, receiver.messages[0].headers)
    later_us = real_now_us() + ROTATION_SECONDS * 1_000_000
    monkeypatch.setattr("minibill.webhooks.endpoints.real_now_us", lambda: later_us)
    api.mint(account, 5)
    receiver.wait_for(lambda: len(receiver.messages) == 2)
    Webhook(second).verify(receiver.messages[1].body, receiver.messages[1].headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(first).verify(receiver.messages[1].body, receiver.messages[1].headers)


def test_secrets_of_both_master_keys_sign_during_their_rotation(start: Callable[..., Api], receiver: Receiver) -> None:
    networks = {"MINIBILL_WEBHOOK_ALLOW_NETWORKS": "127.0.0.0/8"}
    secret = make(start(**networks, MINIBILL_WEBHOOK_SECRET="old " * 10), receiver)["secret"]
    api = start(**networks, MINIBILL_WEBHOOK_SECRET="new " * 10, MINIBILL_WEBHOOK_SECRET_PREV="old " * 10)
    running = Running(api)
    api.account()
    receiver.wait_for(lambda: len(receiver.messages) == 1)
    running.stop()
    Webhook(secret).verify(receiver.messages[0].body, receiver.messages[0].headers)
    assert len(receiver.messages[0].headers["webhook-signature"].split()) == 2


def test_a_webhook_gets_only_its_event_types(api: Api, receiver: Receiver, deliver: Deliver) -> None:
    after = latest(api)
    webhook = make(api, receiver, types=["campaign.*", "ledger.finalize"])
    deliver()
    work(api)
    expected = drain(api, after, types="campaign.*,ledger.finalize")
    until(lambda: delivered(api, webhook) == latest(api))
    assert sorted(receiver.accepted(), key=lambda event: event["id"]) == expected


def test_later_events_are_delivered_without_a_request(api: Api, receiver: Receiver, deliver: Deliver) -> None:
    make(api, receiver)
    deliver()
    account = api.account()
    for number in range(1, 6):
        receiver.wait_for(lambda number=number: len(receiver.messages) == number)  # type: ignore[misc]
        api.mint(account, 5)


# --- failing receivers ---


@pytest.mark.usefixtures("short_delays")
def test_a_receiver_that_was_down_gets_every_event_in_order(api: Api, deliver: Deliver) -> None:
    down = Receiver()
    down.close()
    after = latest(api)
    webhook = make(api, down)
    deliver()
    work(api, 10)
    until(lambda: api.get(f"/webhooks/{webhook['id']}")["failingSince"] is not None)
    work(api, 10)
    receiver = Receiver(down.port)
    try:
        expected = drain(api, after)
        receiver.wait_for(lambda: len(receiver.messages) >= len(expected))
        assert sorted(receiver.accepted(), key=lambda event: event["id"]) == expected
        assert is_in_order_by_account(receiver.accepted())
        until(lambda: delivered(api, webhook) == latest(api))
        assert api.get(f"/webhooks/{webhook['id']}")["failingSince"] is None
    finally:
        receiver.close()


@pytest.mark.usefixtures("short_delays")
def test_an_unreliable_receiver_gets_each_event_once_in_order(api: Api, receiver: Receiver, deliver: Deliver) -> None:
    tries: Counter[str] = Counter()

    def answer(event: Json) -> int:
        tries[event["id"]] += 1
        return 500 if tries[event["id"]] < 3 and hash(event["id"]) % 3 == 0 else 200

    receiver.answer = answer
    after = latest(api)
    make(api, receiver)
    deliver()
    work(api, 10)
    expected = drain(api, after)
    receiver.wait_for(lambda: len(receiver.accepted()) >= len(expected))
    assert sorted(receiver.accepted(), key=lambda event: event["id"]) == expected
    assert is_in_order_by_account(receiver.accepted())


@pytest.mark.usefixtures("short_delays")
def test_a_rejected_event_survives_a_restart_and_blocks_its_account_only(
    api: Api, receiver: Receiver, deliver: Deliver
) -> None:
    rejected_account, other = api.account(), api.account()
    is_rejected = [True]
    receiver.answer = lambda event: 400 if event["accountId"] == rejected_account and is_rejected[0] else 200
    webhook = make(api, receiver)
    running = deliver()
    for _ in range(3):
        api.mint(rejected_account, 5)
        api.mint(other, 5)
    receiver.wait_for(lambda: len(receiver.accepted()) == 3)
    receiver.wait_for(lambda: len(receiver.messages) >= 6)
    rejected_events = {m.event["id"] for m in receiver.messages if m.status == 400}
    assert len(rejected_events) == 1, "later events of an account wait for the rejected one"
    # A restart sends no accepted event again, and still sends the events that wait behind the rejected one.
    running.stop()
    is_rejected[0] = False
    deliver()
    receiver.wait_for(lambda: len(receiver.accepted()) == 6)
    until(lambda: delivered(api, webhook) == latest(api) and rows_set_aside(api) == [])
    accepted = [event["id"] for event in receiver.accepted()]
    assert len(accepted) == len(set(accepted)) and is_in_order_by_account(receiver.accepted())
    # The attempts of the rejected event are counted across the restart.
    attempts = [
        d for d in api.get(f"/webhooks/{webhook['id']}/deliveries", limit=100)["items"] if d["eventId"] in rejected_events
    ]
    assert [d["attempt"] for d in attempts] == list(range(len(attempts), 0, -1)) and len(attempts) > 1
    assert [d["outcome"] for d in attempts] == ["accepted", *["failed"] * (len(attempts) - 1)]


@pytest.mark.usefixtures("short_delays")
@pytest.mark.parametrize("restarts", [False, True])
def test_a_rejected_event_delays_its_own_account_only(
    api: Api, receiver: Receiver, deliver: Deliver, monkeypatch: pytest.MonkeyPatch, restarts: bool
) -> None:
    monkeypatch.setattr(endpoint_worker, "WINDOW_EVENTS", 5)
    monkeypatch.setattr(endpoint_worker, "_READ_EVENTS", 3)
    monkeypatch.setattr(endpoint_worker, "_RESUME_EVENTS", 2)
    rejected, other = api.account(), api.account()
    is_rejected = [True]
    receiver.answer = lambda event: 400 if event["accountId"] == rejected and is_rejected[0] else 200
    after = latest(api)
    webhook = make(api, receiver)
    running = deliver()
    # More events of both accounts than fit in memory, and than one read resumes.
    for _ in range(9):
        api.mint(rejected, 5)
        api.mint(other, 5)
    receiver.wait_for(lambda: len(receiver.accepted()) == 9)
    until(lambda: delivered(api, webhook) == latest(api))
    if restarts:
        running.stop()
        running = deliver()
        api.mint(rejected, 5)
        api.mint(other, 5)
        receiver.wait_for(lambda: len(receiver.accepted()) == 10)
    is_rejected[0] = False
    receiver.wait_for(lambda: len(receiver.accepted()) == (20 if restarts else 18))
    api.mint(rejected, 5)
    expected = drain(api, after)
    receiver.wait_for(lambda: len(receiver.accepted()) >= len(expected))
    assert sorted(receiver.accepted(), key=lambda event: event["id"]) == expected
    assert is_in_order_by_account(receiver.accepted())
    until(lambda: rows_set_aside(api) == [])


@pytest.mark.usefixtures("short_delays")
def test_a_replay_sends_set_aside_events_once(api: Api, receiver: Receiver, deliver: Deliver) -> None:
    rejected, other = api.account(), api.account()
    is_rejected = [True]
    receiver.answer = lambda event: 400 if event["accountId"] == rejected and is_rejected[0] else 200
    after = latest(api)
    webhook = make(api, receiver)
    running = deliver()
    for _ in range(3):
        api.mint(rejected, 5)
        api.mint(other, 5)
    until(lambda: delivered(api, webhook) == latest(api) and len(rows_set_aside(api)) == 3)
    running.stop()
    receiver.messages.clear()
    is_rejected[0] = False
    ok(api.post(f"/webhooks/{webhook['id']}/replay", {"after": after}))
    deliver()
    expected = drain(api, after)
    until(lambda: delivered(api, webhook) == latest(api))
    assert sorted(receiver.accepted(), key=lambda event: event["id"]) == expected


@pytest.mark.usefixtures("short_delays")
def test_too_many_rejected_accounts_pause_the_reading_of_the_feed(
    api: Api, receiver: Receiver, deliver: Deliver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint_worker, "REJECTED_KEYS_MAX", 2)
    accounts = [api.account() for _ in range(3)]
    rejected = set(accounts[:2])
    receiver.answer = lambda event: 400 if event["accountId"] in rejected else 200
    webhook = make(api, receiver)
    deliver()
    for account in accounts[:2]:
        api.mint(account, 5)
    until(lambda: len(rows_set_aside(api)) == 2)
    api.mint(accounts[2], 5)
    tries = len(receiver.messages)
    receiver.wait_for(lambda: len(receiver.messages) > tries + 5)
    assert receiver.accepted() == []
    rejected.clear()
    until(lambda: delivered(api, webhook) == latest(api) and rows_set_aside(api) == [])
    assert len(receiver.accepted()) == 3


def rows_set_aside(api: Api) -> list[tuple[object, ...]]:
    conn = open_reader(api.book.path)
    try:
        rows: list[tuple[object, ...]] = conn.execute("SELECT * FROM webhook_set_aside").fetchall()
        return rows
    finally:
        conn.close()


def test_a_message_is_sent_only_over_a_certificate_of_its_host(
    api: Api, deliver: Deliver, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *more, **named: find("127.0.0.1", *more, **named))
    folder = Path(__file__).parent / "tls"
    monkeypatch.setattr(dispatcher, "_new_tls", lambda: ssl.create_default_context(cafile=folder / "authority.pem"))
    receiver = Receiver(certificate=folder / "a.test.pem")
    ok(api.post("/webhooks", {"url": f"https://a.test:{receiver.port}/", "types": ["account.opened"]}), 201)
    b = ok(api.post("/webhooks", {"url": f"https://b.test:{receiver.port}/", "types": ["campaign.created"]}), 201)
    deliver()
    # The connection to a.test is idle when the message to b.test is sent, to the same address.
    api.account()
    receiver.wait_for_messages(1)
    api.draft()
    until(lambda: bool(api.get(f"/webhooks/{b['id']}/deliveries")["items"]))
    [delivery] = api.get(f"/webhooks/{b['id']}/deliveries")["items"][-1:]
    receiver.close()
    assert [message.headers["host"] for message in receiver.messages] == [f"a.test:{receiver.port}"]
    assert "certificate" in delivery["error"]


def test_deleting_a_webhook_while_its_worker_starts_logs_no_error(
    api: Api, receiver: Receiver, deliver: Deliver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    begun, may_continue, new_tls = threading.Event(), threading.Event(), dispatcher._new_tls

    def slow() -> ssl.SSLContext:
        begun.set()
        assert may_continue.wait(30)
        return new_tls()

    monkeypatch.setattr(dispatcher, "_new_tls", slow)
    deliver()
    deleted = make(api, receiver)
    assert begun.wait(30)
    assert api.call("DELETE", f"/webhooks/{deleted['id']}").status_code == 204
    kept = make(api, receiver)
    may_continue.set()
    api.account()
    receiver.wait_for_messages(1)
    until(lambda: delivered(api, kept) == latest(api))
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.mark.usefixtures("short_delays")
def test_a_failing_receiver_gets_one_message_at_a_time(api: Api, receiver: Receiver, deliver: Deliver) -> None:
    receiver.answer = lambda _: 503
    make(api, receiver)
    work(api, 40)
    deliver()
    receiver.wait_for(lambda: len(receiver.messages) >= 30)
    # The first messages are sent together; after their failure they are sent one at a time.
    assert len({m.event["id"] for m in receiver.messages[:8]}) == 8


@pytest.mark.usefixtures("short_delays")
def test_an_internal_error_in_a_delivery_restarts_the_worker(
    api: Api, receiver: Receiver, deliver: Deliver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint_worker, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(endpoint_worker, "RESTART_SECONDS", 0.02)
    post, errors = Sender.post, [RuntimeError("an error made by the test")]

    async def failing(self: Sender, url: str, headers: dict[str, str], body: bytes) -> EndpointResponse:
        if errors:
            raise errors.pop()
        return await post(self, url, headers, body)

    monkeypatch.setattr(Sender, "post", failing)
    after = latest(api)
    make(api, receiver)
    deliver()
    work(api, accounts=2)
    expected = drain(api, after)
    receiver.wait_for(lambda: {event["id"] for event in receiver.accepted()} >= {event["id"] for event in expected})
    assert errors == []
    assert is_in_order_by_account(receiver.accepted())


def test_retry_after_delays_the_next_attempt(
    api: Api, receiver: Receiver, deliver: Deliver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint_health, "DELAYS_S", (0.01,))
    receiver.headers = {"Retry-After": "2"}
    receiver.answer = lambda _: 429
    make(api, receiver)
    deliver()
    api.account()
    receiver.wait_for(lambda: len(receiver.messages) == 1)
    began_s = time.monotonic()
    receiver.wait_for(lambda: len(receiver.messages) == 2)
    assert time.monotonic() - began_s > 1.5


@pytest.mark.usefixtures("short_delays")
def test_no_redirect_is_followed(api: Api, receiver: Receiver, deliver: Deliver) -> None:
    elsewhere = Receiver()
    receiver.headers = {"Location": elsewhere.url}
    receiver.answer = lambda _: 307
    webhook = make(api, receiver)
    deliver()
    api.account()
    receiver.wait_for(lambda: len(receiver.messages) >= 3)
    elsewhere.close()
    assert elsewhere.messages == []
    until(lambda: bool(api.get(f"/webhooks/{webhook['id']}/deliveries")["items"]))
    assert api.get(f"/webhooks/{webhook['id']}/deliveries")["items"][0]["error"] == "responded 307"


@pytest.mark.usefixtures("short_delays")
def test_a_receiver_that_fails_for_days_is_disabled_until_enabled_again(
    api: Api, receiver: Receiver, deliver: Deliver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint_health, "DISABLE_US", 200_000)
    receiver.answer = lambda _: 500
    webhook = make(api, receiver)
    path = f"/webhooks/{webhook['id']}"
    deliver()
    api.account(5)
    until(lambda: api.get(path)["enabled"] is False)
    tried = len(receiver.messages)
    api.account(5)
    receiver.answer = lambda _: 200
    ok(api.call("PATCH", path, {"enabled": True}))
    receiver.wait_for(lambda: len(receiver.accepted()) == 4)
    assert len(receiver.messages) <= tried + 8 + 4
    assert is_in_order_by_account(receiver.accepted())


def test_a_response_410_disables_the_webhook_at_once(api: Api, receiver: Receiver, deliver: Deliver) -> None:
    receiver.answer = lambda _: 410
    webhook = make(api, receiver)
    deliver()
    api.account()
    until(lambda: api.get(f"/webhooks/{webhook['id']}")["enabled"] is False)
    assert len(receiver.messages) == 1


@pytest.mark.usefixtures("short_delays")
def test_an_event_rejected_for_days_is_abandoned(
    api: Api, receiver: Receiver, deliver: Deliver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint_health, "ABANDON_US", 100_000)
    account, other = api.account(), api.account()
    receiver.answer = lambda event: 400 if event["data"].get("amountMicro") == "13" else 200
    webhook = make(api, receiver)
    deliver()
    api.mint(account, 13)
    api.mint(account, 5)
    receiver.wait_for(lambda: bool(receiver.messages))
    api.mint(other, 7)
    receiver.wait_for(lambda: [e["data"]["amountMicro"] for e in receiver.accepted()] == ["7", "5"])
    until(lambda: delivered(api, webhook) == latest(api))
    outcomes = {d["outcome"] for d in api.get(f"/webhooks/{webhook['id']}/deliveries")["items"]}
    assert outcomes == {"accepted", "failed", "abandoned"}


# --- replays and edits ---


def test_a_replay_sends_every_later_event_again_in_order(api: Api, receiver: Receiver, deliver: Deliver) -> None:
    webhook = make(api, receiver)
    deliver()
    work(api)
    until(lambda: delivered(api, webhook) == latest(api))
    events = drain(api)
    receiver.messages.clear()
    after = events[len(events) // 2]["id"]
    assert ok(api.post(f"/webhooks/{webhook['id']}/replay", {"after": after})) == {
        "webhookId": webhook["id"], "after": after, "events": 0,
    }  # fmt: skip
    expected = drain(api, after)
    receiver.wait_for(lambda: len(receiver.messages) >= len(expected))
    until(lambda: delivered(api, webhook) == latest(api))
    assert sorted(receiver.accepted(), key=lambda event: event["id"]) == expected
    assert is_in_order_by_account(receiver.accepted())


def test_a_replay_can_start_before_the_webhook_was_created(api: Api, receiver: Receiver, deliver: Deliver) -> None:
    work(api)
    webhook = make(api, receiver)
    beginning = "evt_" + "0" * 26
    ok(api.post(f"/webhooks/{webhook['id']}/replay", {"after": beginning}))
    deliver()
    expected = drain(api)
    receiver.wait_for(lambda: len(receiver.messages) >= len(expected))
    assert sorted(receiver.accepted(), key=lambda event: event["id"]) == expected


def test_single_events_are_sent_again_once(api: Api, receiver: Receiver, deliver: Deliver) -> None:
    webhook = make(api, receiver)
    running = deliver()
    work(api, 2)
    until(lambda: delivered(api, webhook) == latest(api))
    events = drain(api)
    receiver.messages.clear()
    chosen = [events[0]["id"], events[3]["id"], events[3]["id"]]
    assert ok(api.post(f"/webhooks/{webhook['id']}/replay", {"eventIds": chosen}))["events"] == 2
    receiver.wait_for(lambda: len(receiver.messages) == 2)
    account = api.account()
    receiver.wait_for(lambda: len(receiver.messages) == 3)
    running.stop()
    deliver()
    api.mint(account, 5)
    receiver.wait_for(lambda: len(receiver.messages) == 4)
    assert sorted(event["id"] for event in receiver.accepted()[:2]) == sorted(set(chosen))


def test_a_new_url_gets_the_events_that_the_old_one_did_not_accept(api: Api, receiver: Receiver, deliver: Deliver) -> None:
    down = Receiver()
    down.close()
    webhook = make(api, down)
    deliver()
    api.account(5)
    until(lambda: api.get(f"/webhooks/{webhook['id']}")["failingSince"] is not None)
    ok(api.call("PATCH", f"/webhooks/{webhook['id']}", {"url": receiver.url}))
    receiver.wait_for(lambda: len(receiver.accepted()) == 2)


def test_a_disabled_or_deleted_webhook_gets_nothing(api: Api, receiver: Receiver, deliver: Deliver) -> None:
    other = Receiver()
    webhook, deleted = make(api, receiver), make(api, receiver)
    make(api, other)
    ok(api.call("PATCH", f"/webhooks/{webhook['id']}", {"enabled": False}))
    assert api.call("DELETE", f"/webhooks/{deleted['id']}").status_code == 204
    deliver()
    api.account(5)
    other.wait_for(lambda: len(other.messages) == 2)
    other.close()
    assert receiver.messages == []
    # A webhook that was disabled gets the events since then.
    ok(api.call("PATCH", f"/webhooks/{webhook['id']}", {"enabled": True}))
    receiver.wait_for(lambda: len(receiver.accepted()) == 2)


def test_the_delivery_log_lists_every_attempt(api: Api, receiver: Receiver, deliver: Deliver) -> None:
    webhook = make(api, receiver)
    running = deliver()
    account = api.account(5)
    until(lambda: delivered(api, webhook) == latest(api))
    log = api.get(f"/webhooks/{webhook['id']}/deliveries")["items"]
    assert [(d["attempt"], d["outcome"], d["status"], d["error"]) for d in log] == [(1, "accepted", 204, None)] * 2
    assert [d["eventId"] for d in log] == [event["id"] for event in drain(api) if event["accountId"] == account][::-1]
    assert running.deliveries.counts == {"accepted": 2}


def test_a_stop_saves_the_progress(api: Api, receiver: Receiver, deliver: Deliver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SAVE_SECONDS", 3600)
    begins = latest(api)
    webhook = make(api, receiver)
    running = deliver()
    account = api.account(5)
    receiver.wait_for_messages(2)
    assert delivered(api, webhook) == begins
    running.stop()
    assert delivered(api, webhook) == latest(api)
    deliver()
    api.mint(account, 7)
    receiver.wait_for_messages(3)
    assert [event["type"] for event in receiver.accepted()] == ["account.opened", "ledger.grant", "ledger.grant"]


def test_more_events_than_fit_in_memory_are_all_delivered(
    api: Api, receiver: Receiver, deliver: Deliver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint_worker, "WINDOW_EVENTS", 7)
    monkeypatch.setattr(endpoint_worker, "_READ_EVENTS", 3)
    after = latest(api)
    webhook = make(api, receiver)
    work(api, 10)
    deliver()
    until(lambda: delivered(api, webhook) == latest(api))
    assert sorted(receiver.accepted(), key=lambda event: event["id"]) == drain(api, after)
    assert is_in_order_by_account(receiver.accepted())
