"""The feed across kill -9: a consumer that continues from its last cursor gets every event once, in order."""

import signal
import threading
from contextlib import closing
from pathlib import Path

import httpx

from minibill.core import ids
from minibill.db.connection import open_reader
from minibill.integrity.checks import violations
from tests.api_client import Json
from tests.service_process import Server, open_account, serving

KILLS = 4
# Events that the consumer gets from each service process before it is killed during its writes.
EVENTS_A_LIFE = 60
WRITERS = 4


class Consumer(threading.Thread):
    """Poll the feed by its cursor alone, across restarts of the service, and keep the events."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.events: list[Json] = []
        self.cursor: str | None = None
        self.base = ""
        self.is_over = False
        self.seen_enough = threading.Event()
        self._enough = 0

    def watch(self, server: Server) -> None:
        """Poll this service from now on; `seen_enough` is set after `EVENTS_A_LIFE` more events."""
        self.seen_enough.clear()
        self._enough = len(self.events) + EVENTS_A_LIFE
        self.base = str(server.http.base_url).rstrip("/")
        self.headers = dict(server.http.headers)

    def run(self) -> None:
        while not self.is_over:
            after = {} if self.cursor is None else {"after": self.cursor}
            try:
                answer = httpx.get(
                    f"{self.base}/events", params={"wait": 1, **after}, headers=self.headers, timeout=10, trust_env=False
                )
            except httpx.TransportError:
                continue
            page = answer.raise_for_status().json()
            self.events += page["items"]
            self.cursor = page["nextCursor"]
            if len(self.events) >= self._enough:
                self.seen_enough.set()


def work(server: Server, account: str) -> None:
    """Write mints, reservations, threshold crossings and campaigns until the service is gone."""
    with httpx.Client(base_url=server.http.base_url, headers=server.http.headers, trust_env=False) as http:
        try:
            while True:
                http.post(f"/accounts/{account}/mint", json={"amountMicro": "30"})
                held = http.post(f"/accounts/{account}/reservations", json={"amountMicro": "25"}).json()
                http.post(f"/reservations/{held['reservationId']}/finalize", json={"actualCostMicro": "20"})
                campaign = http.post(
                    "/campaigns", json={"name": "Airdrop", "campaignType": "loyalty", "budgetMicro": "5"}
                ).json()["id"]
                http.post(f"/campaigns/{campaign}/activate")
                grant = {"grants": [{"accountId": account, "amountMicro": "5"}]}
                http.post(f"/campaigns/{campaign}/grants/batch", json=grant)
        except httpx.TransportError:
            return


def test_a_consumer_gets_every_event_once_across_kills(tmp_path: Path) -> None:
    db = tmp_path / "book.db"
    consumer = Consumer()
    for life in range(KILLS):
        with serving(db) as server:
            consumer.watch(server)
            if life == 0:
                consumer.start()
            account = open_account(server)
            thresholds = {"thresholds": [{"belowMicro": "20"}, {"belowMicro": "40", "recoveredMicro": "50"}]}
            server.http.put(f"/accounts/{account}/thresholds", json=thresholds).raise_for_status()
            writers = [threading.Thread(target=work, args=(server, account)) for _ in range(WRITERS)]
            for writer in writers:
                writer.start()
            assert consumer.seen_enough.wait(60)
            assert server.end(signal.SIGKILL) == -signal.SIGKILL
            for writer in writers:
                writer.join(30)
    with serving(db) as server:
        consumer.watch(server)
        newest = server.http.get("/events", params={"after": "latest"}).json()["nextCursor"]
        while consumer.cursor is None or consumer.cursor < newest:
            assert consumer.is_alive()
            consumer.join(0.05)
        consumer.is_over = True
        consumer.join(30)

    assert len(consumer.events) >= KILLS * EVENTS_A_LIFE
    event_ids = [event["id"] for event in consumer.events]
    assert event_ids == sorted(set(event_ids))
    with closing(open_reader(db)) as conn:
        assert violations(conn) == {}
        entries = conn.execute("SELECT id, account_id, entry_type, amount_micro FROM credit_ledger ORDER BY id").fetchall()
        others = conn.execute("SELECT type, campaign_id FROM events ORDER BY id").fetchall()
        activated = conn.execute("SELECT count(*) FROM credit_campaigns WHERE status = 'active'").fetchone()[0]
        created = conn.execute("SELECT count(*) FROM credit_campaigns").fetchone()[0]
    assert [
        (event["data"]["id"], event["accountId"], event["type"], event["data"]["amountMicro"])
        for event in consumer.events
        if event["type"].startswith("ledger.")
    ] == [
        (ids.encode(ids.ENTRY, key), ids.encode(ids.ACCOUNT, account_id), f"ledger.{kind}", str(amount_micro))
        for key, account_id, kind, amount_micro in entries
    ]
    assert [event["type"] for event in consumer.events if not event["type"].startswith("ledger.")] == [t for t, _ in others]
    assert sum(kind == "campaign.created" for kind, _ in others) == created
    assert sum(kind == "campaign.activated" for kind, _ in others) == activated
    assert {kind for kind, _ in others} >= {"threshold.below", "threshold.recovered", "campaign.exhausted"}


def test_a_stop_does_not_wait_for_long_polls(tmp_path: Path) -> None:
    with serving(tmp_path / "book.db") as server:
        base = str(server.http.base_url).rstrip("/")
        cursor = server.http.get("/events").json()["nextCursor"]
        answers: list[httpx.Response] = []

        def poll() -> None:
            params = {"after": cursor, "wait": "30"}
            answers.append(
                httpx.get(f"{base}/events", params=params, headers=server.http.headers, timeout=40, trust_env=False)
            )

        polls = [threading.Thread(target=poll) for _ in range(5)]
        for each in polls:
            each.start()
        metrics = base.removesuffix("/admin/billing") + "/metrics"
        while "minibill_feed_waiters 5.0" not in httpx.get(metrics, trust_env=False).text:
            assert server.process.poll() is None
        assert server.end() == 0
        for each in polls:
            each.join(10)
    assert [(answer.status_code, answer.json()) for answer in answers] == [(200, {"items": [], "nextCursor": cursor})] * 5
