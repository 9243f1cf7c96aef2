"""Webhooks across kill -9 of the service: the receiver gets every event, in order per account."""

import signal
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import httpx

from minibill.core.clock import monotonic_s
from minibill.db.connection import open_reader
from minibill.integrity.checks import violations
from tests.api_client import Json
from tests.service_process import Server, open_account, serving
from tests.webhooks.receiver import Receiver, is_in_order_by_account

LIVES = 3
# Messages that the receiver gets from each service process before it is killed.
MESSAGES_A_LIFE = 40


def work(server: Server, name: str) -> None:
    """Write to a separate account until the service is gone."""
    with httpx.Client(base_url=server.http.base_url, headers=server.http.headers, trust_env=False) as http:
        try:
            account = http.post("/accounts", json={"entityType": "person", "entityId": name}).json()["id"]
            while True:
                http.post(f"/accounts/{account}/mint", json={"amountMicro": "30"})
                held = http.post(f"/accounts/{account}/reservations", json={"amountMicro": "25"}).json()
                http.post(f"/reservations/{held['reservationId']}/finalize", json={"actualCostMicro": "20"})
        except httpx.TransportError:
            return


def feed_of(server: Server, after: str) -> list[Json]:
    events: list[Json] = []
    while page := server.http.get("/events", params={"after": after, "limit": 1000}).json():
        if not page["items"]:
            break
        events += page["items"]
        after = page["nextCursor"]
    return events


def test_a_receiver_gets_every_event_across_kills_and_its_own_downtime(tmp_path: Path) -> None:
    db = tmp_path / "book.db"
    receivers = [receiver := Receiver()]
    webhook, begins = "", ""
    for life in range(LIVES):
        with serving(db) as server:
            if life == 0:
                open_account(server)
                made = server.http.post("/webhooks", json={"url": receiver.url}).raise_for_status().json()
                webhook, begins = made["id"], made["delivered"]
            wanted = len(receiver.messages) + MESSAGES_A_LIFE
            writers = [threading.Thread(target=work, args=(server, f"{name}-{life}")) for name in "abc"]
            for writer in writers:
                writer.start()
            receiver.wait_for_messages(wanted)
            if life == 1:
                # The receiver stops during the deliveries, and restarts while the service is down.
                receiver.close()
                with httpx.Client(base_url=server.http.base_url, headers=server.http.headers, trust_env=False) as http:
                    while http.get(f"/webhooks/{webhook}").json()["failingSince"] is None:
                        assert server.process.poll() is None
            assert server.end(signal.SIGKILL) == -signal.SIGKILL
            for writer in writers:
                writer.join(30)
            if life == 1:
                receivers.append(receiver := Receiver(receiver.port))
    with serving(db) as server:
        newest = server.http.get("/events", params={"after": "latest"}).json()["nextCursor"]
        while server.http.get(f"/webhooks/{webhook}").json()["delivered"] < newest:
            assert server.process.poll() is None
        expected = feed_of(server, begins)
        assert server.end() == 0
    receiver.close()

    accepted = [event for each in receivers for event in each.accepted()]
    first_times = list({event["id"]: event for event in accepted}.values())
    assert sorted(first_times, key=lambda event: event["id"]) == expected
    assert is_in_order_by_account(first_times)
    # Only events of the last quarter of a second before a kill are sent again.
    assert len(accepted) < len(expected) * 2
    with closing(open_reader(db)) as conn:
        assert violations(conn) == {}
        entries = conn.execute("SELECT count(*) FROM credit_ledger").fetchone()[0]
    assert sum(event["type"].startswith("ledger.") for event in expected) == entries


def test_a_stop_saves_the_progress_so_no_event_is_sent_twice(tmp_path: Path) -> None:
    db = tmp_path / "book.db"
    receiver = Receiver()
    with serving(db) as server:
        server.http.post("/webhooks", json={"url": receiver.url}).raise_for_status()
        account = open_account(server)
        for number in range(20):
            server.http.post(f"/accounts/{account}/mint", json={"amountMicro": f"{number + 1}"}).raise_for_status()
        receiver.wait_for(lambda: len(receiver.messages) >= 5)
        assert server.end() == 0
    with serving(db) as server:
        server.http.post(f"/accounts/{account}/mint", json={"amountMicro": "99"}).raise_for_status()
        receiver.wait_for(lambda: receiver.messages[-1].event["data"].get("amountMicro") == "99")
    receiver.close()
    assert [m.event["data"].get("amountMicro") for m in receiver.messages] == [None, *(str(n) for n in range(1, 21)), "99"]


def test_a_stop_does_not_wait_for_a_silent_resolver(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.webhooks.silent_resolver"]
    with serving(tmp_path / "book.db", serve=command, MINIBILL_WEBHOOK_ALLOW_NETWORKS="127.0.0.0/8") as server:
        made = server.http.post("/webhooks", json={"url": "http://silent.test:9/"})
        assert made.status_code == 201, made.text
        open_account(server)
        # The look-up of the delivery times out after 5 s, but its thread keeps waiting.
        deliveries = f"/webhooks/{made.json()['id']}/deliveries"
        while not server.http.get(deliveries).json()["items"]:
            time.sleep(0.05)
        began_s = monotonic_s()
        assert server.end() == 0
        assert monotonic_s() - began_s < 10
