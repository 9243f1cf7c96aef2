"""The wall clock jumps back and forth, past 2038 and to 1970, also between a stop and a start.

The book's time never decreases, and follows no jump ahead until an operator accepts it. Nothing expires early, and retention
periods do not depend on the wall clock.
"""

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from minibill.api.tokens import prune_revocations
from minibill.core.clock import JUMP_MAX_SECONDS_DEFAULT, US_PER_SECOND, parse_time
from minibill.db.connection import open_reader
from tests.api_client import Api, Json, ok, problem_of

HOUR, DAY, YEAR = 3_600, 86_400, 365 * 86_400
# A month before the seconds since 1970 exceed 31 bits.
START_US = parse_time("2037-12-19T00:00:00Z")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Wall:
    """The wall clock and the steady clock that all code reads."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.us = START_US
        self.steady_us = 0
        monkeypatch.setattr("minibill.core.clock.steady_now_us", lambda: self.steady_us)
        for module in ("minibill.core.clock", "minibill.auth.tokens", "minibill.api.tokens"):
            monkeypatch.setattr(f"{module}.real_now_us", lambda: self.us)
        wall = self

        class Datetime(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> Any:
                return EPOCH + timedelta(microseconds=wall.us)

        monkeypatch.setattr("jwt.api_jwt.datetime", Datetime)

    def jump(self, seconds: int) -> None:
        self.us = max(0, self.us + seconds * US_PER_SECOND)

    def wait(self, seconds: int) -> None:
        """Advance both clocks."""
        self.us += seconds * US_PER_SECOND
        self.steady_us += seconds * US_PER_SECOND


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Wall:
    """Replace the clocks. List this fixture before the application."""
    return Wall(monkeypatch)


def forget_what_is_old(api: Api) -> None:
    """Prune, as the background job does every ten minutes."""
    api.loop.run(api.book.prune())
    uptime_us = api.book.uptime.now_us()
    api.loop.run(api.book.writer.run(partial(prune_revocations, settings=api.settings, uptime_us=uptime_us)))
    api.app._state.verifier.replace_denied(api.book.denied_tokens())  # type: ignore[attr-defined]


# --- retention ---


@pytest.mark.parametrize("jump_s", [10 * YEAR, 3 * DAY, -50 * YEAR])
@pytest.mark.parametrize("restarts", [False, True])
def test_a_clock_jump_prunes_no_idempotency_key(wall: Wall, start: Callable[..., Api], jump_s: int, restarts: bool) -> None:
    api = start()
    account = api.account()
    first = api.post(f"/accounts/{account}/mint", {"amountMicro": "5"}, key="order-1")
    right_us = wall.us
    wall.jump(jump_s)
    api = start() if restarts else api
    forget_what_is_old(api)
    wall.us = right_us
    api = start() if restarts else api
    forget_what_is_old(api)
    again = api.post(f"/accounts/{account}/mint", {"amountMicro": "5"}, key="order-1")
    assert (again.content, again.headers["idempotency-replayed"]) == (first.content, "true")
    assert api.available(account) == 5


@pytest.mark.parametrize("jump_s", [10 * YEAR, 2 * HOUR, -HOUR])
def test_a_clock_jump_makes_no_revoked_token_valid(wall: Wall, start: Callable[..., Api], jump_s: int) -> None:
    api = start()
    stolen = api.sign(sub="stolen")
    token_id = token_id_of(stolen)
    ok(api.call("GET", "/accounts", token=stolen))
    ok(api.post(f"/tokens/{token_id}/revoke"))
    right_us = wall.us
    wall.jump(jump_s)
    forget_what_is_old(api)
    wall.us = right_us
    problem_of(api.call("GET", "/accounts", token=stolen), 401, "unauthorized")


def token_id_of(token: str) -> str:
    import jwt

    found: str = jwt.decode(token, options={"verify_signature": False})["jti"]
    return found


# --- tokens and rate limits ---


def test_a_cached_token_expires_by_the_wall_clock(wall: Wall, start: Callable[..., Api]) -> None:
    api = start()
    for jump_s, status in ((0, 200), (2 * HOUR, 401), (-2 * HOUR, 200), (-HOUR, 401), (HOUR, 200), (YEAR, 401)):
        wall.jump(jump_s)
        assert api.call("GET", "/accounts").status_code == status


@pytest.mark.parametrize("jump_s", [YEAR, -YEAR])
def test_a_clock_jump_does_not_reset_a_rate_limit(wall: Wall, start: Callable[..., Api], jump_s: int) -> None:
    api = start(MINIBILL_ADMIN_RATE_PER_MINUTE="2")
    for _ in range(2):
        ok(api.call("GET", "/accounts"))
    wall.jump(jump_s)
    response = api.call("GET", "/accounts", token=api.sign())
    problem_of(response, 429, "rate_limited")
    assert 1 <= int(response.headers["retry-after"]) <= 60


# --- the book ---

JUMPS_S = [0, 0, 1, 5, 60, HOUR, DAY, 10 * DAY, -1, -60, -HOUR, -DAY, -40 * DAY, -YEAR, -80 * YEAR]


class Story:
    """Random writes, each repeated later, while the clock jumps and the service restarts."""

    def __init__(self, wall: Wall, start: Callable[..., Api], seed: int) -> None:
        self.random = random.Random(seed)
        self.wall, self.start = wall, start
        self.api = start()
        self.right_us = START_US
        self.sent: list[tuple[str, str, Json, httpx.Response]] = []
        self.reservations: list[str] = []
        self.keys = 0
        self.book_us = self.api.book.clock.now_us()
        self.jumps = self.restarts = self.replays = self.accepted = 0
        self.renew()
        self.account = self.api.account(1_000)

    def renew(self) -> None:
        """Sign a new token, because the clock has left the lifetime of the previous one."""
        self.api.token = self.api.sign()

    def step(self) -> None:
        before_steady_us, may_follow = self.wall.steady_us, False
        choices = ["jump", "right", "restart", "again", "write", "sweep", "accept"]
        match self.random.choices(choices, [30, 5, 5, 25, 30, 5, 2])[0]:
            case "jump":
                self.jumps += 1
                self.wall.jump(self.random.choice(JUMPS_S))
            case "right":
                # An operator corrects it after an hour.
                self.right_us += HOUR * US_PER_SECOND
                self.wall.wait(HOUR)
                self.wall.us = self.right_us
            case "restart":
                self.restarts += 1
                self.api = self.start()
                # Unrecorded time is lost: the clock may start as early as the newest row.
                self.book_us, may_follow = 0, True
            case "accept":
                self.renew()
                ok(self.api.post("/clock/accept"))
                self.accepted += 1
                may_follow = True
            case "sweep":
                self.api.loop.run(self.api.book.sweep())
                forget_what_is_old(self.api)
            case "write":
                self.write()
            case "again" if self.sent:
                self.again()
        self.renew()
        now_us = self.api.book.clock.now_us()
        assert now_us >= self.book_us
        if not may_follow:
            passed_us = self.wall.steady_us - before_steady_us
            assert now_us - self.book_us <= passed_us + JUMP_MAX_SECONDS_DEFAULT * US_PER_SECOND
        self.book_us = now_us

    def write(self) -> None:
        self.keys += 1
        key = f"key-{self.keys}"
        choice = self.random.choice(["mint", "lapsing", "reserve", "finalize", "release"])
        if choice == "mint":
            self.send(key, f"/accounts/{self.account}/mint", {"amountMicro": "50"})
        elif choice == "lapsing":
            expires_at = self.api.after(self.random.choice([1, HOUR, 2 * DAY]))
            self.send(key, f"/accounts/{self.account}/mint", {"amountMicro": "50", "expiresAt": expires_at})
        elif choice == "reserve" or not self.reservations:
            body = {"amountMicro": "20", "ttlSeconds": self.random.choice([1, 300, DAY])}
            answer = self.send(key, f"/accounts/{self.account}/reservations", body)
            if answer.status_code == 201:
                self.reservations.append(answer.json()["reservationId"])
        else:
            body = {"actualCostMicro": "7"} if choice == "finalize" else {}
            self.send(key, f"/reservations/{self.random.choice(self.reservations)}/{choice}", body)

    def send(self, key: str, path: str, body: Json) -> httpx.Response:
        response = self.api.post(path, body, key=key)
        assert response.status_code in (200, 201, 402, 409), response.text
        if response.status_code < 400:
            self.sent.append((key, path, body, response))
        return response

    def again(self) -> None:
        """Repeat the successful writes; none may have a second effect."""
        self.replays += 1
        key, path, body, first = self.random.choice(self.sent)
        before = self.api.everything()
        response = self.api.post(path, body, key=key)
        assert (response.content, response.headers.get("idempotency-replayed")) == (first.content, "true")
        assert self.api.everything() == before


def test_clock_jumps_never_reverse_time_or_expire_early(
    wall: Wall, start: Callable[..., Api], long: bool, record: Callable[[str], None]
) -> None:
    steps = 20_000 if long else 200
    story = Story(wall, start, seed=7)
    for _ in range(steps):
        story.step()
    require_times_in_order(story.api.book.path)
    record(
        f"{steps:,} steps: {story.jumps:,} jumps, {story.restarts:,} restarts, {story.accepted:,} accepted, "
        f"{story.replays:,} replays, no fault"
    )


def require_times_in_order(path: Path) -> None:
    """Assert by the rows that times never decrease, and that no recorded expiry was early."""
    conn = open_reader(path)
    try:
        for table, key in (("credit_ledger", "id"), ("admin_audit_log", "seq"), ("credit_reservations", "id")):
            times = [time for (time,) in conn.execute(f"SELECT created_at_us FROM {table} ORDER BY {key}")]
            assert times == sorted(times), table
            assert len(times) > 10
        early = conn.execute(
            "SELECT e.id FROM credit_ledger e JOIN credit_lots l ON l.id = e.lot_id"
            " WHERE e.entry_type = 'expire' AND e.created_at_us < l.expires_at_us"
        ).fetchall()
        early += conn.execute(
            "SELECT id FROM credit_reservations WHERE status = 'expired' AND closed_at_us < expires_at_us"
        ).fetchall()
        assert early == []
        counts = conn.execute(
            "SELECT (SELECT count(*) FROM credit_ledger WHERE entry_type = 'expire'),"
            "       (SELECT count(*) FROM credit_reservations WHERE status = 'expired')"
        ).fetchone()
        assert min(counts) > 0
    finally:
        conn.close()


def test_lots_expire_exactly_at_their_time_across_2038(wall: Wall, start: Callable[..., Api]) -> None:
    end = "2038-01-19T03:14:08Z"
    wall.us = parse_time(end) - US_PER_SECOND
    api = start()
    account = api.account()
    api.mint(account, 5, expiresAt=end)
    reservation = api.reserve(account, 2, ttlSeconds=1)
    wall.us = parse_time(end) - 1
    assert api.available(account) == 3
    # Back within the clock skew of a token: the time stays the same.
    wall.jump(-20)
    assert api.get(f"/accounts/{account}/balance")["at"] == "2038-01-19T03:14:07.999999Z"
    assert api.get(f"/reservations/{reservation}")["status"] == "pending"
    wall.us = parse_time(end) - 1
    wall.steady_us += 1
    assert api.available(account) == 0
    assert api.get(f"/reservations/{reservation}")["status"] == "expired"
    api.loop.run(api.book.sweep())
    entries = api.get(f"/accounts/{account}/history")["items"]
    assert {entry["createdAt"] for entry in entries if entry["entryType"] == "expire"} == {"2038-01-19T03:14:08.000000Z"}
    # One second past 31 bits, and four thousand years later.
    for moment in ("2038-01-19T03:14:09Z", "6038-01-01T00:00:00Z"):
        wall.us = parse_time(moment)
        api.token = api.sign()
        ok(api.post("/clock/accept"))
        assert parse_time(api.mint(account, 1, expiresAt=api.after(60))["expiresAt"]) == wall.us + 60 * US_PER_SECOND
        ok(api.release(api.reserve(account, 1)))
