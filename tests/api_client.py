"""An in-process client of the application, with a short method for each common request."""

import asyncio
import json
import logging
import threading
import uuid
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx

from minibill.api import idempotency
from minibill.app import create_app
from minibill.auth.scopes import EVERYTHING
from minibill.auth.tokens import sign_token
from minibill.book import Book
from minibill.config import read_settings
from minibill.core.clock import Clock
from tests.openapi_checks import undocumented

T = TypeVar("T")
Json = Any

UNIT = 1_000_000
SECRETS = {
    "BILLING_ADMIN_JWT_SECRET": "a-secret-for-admins " * 3,
    "BILLING_INTERNAL_JWT_SECRET": "a-secret-for-services " * 3,
    "MINIBILL_WEBHOOK_SECRET": "a-secret-for-webhooks " * 3,
}

# Most tests are about something else.
NO_LIMITS = {"MINIBILL_ADMIN_RATE_PER_MINUTE": "0", "MINIBILL_SERVICE_BILLING_MODES": "live,soft,shadow"}


class Loop:
    """An event loop on a thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Return the result of a coroutine."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Api:
    """An open book with the application in front of it; `opening` goes to `Book.open`."""

    def __init__(self, db: Path, loop: Loop, environment: dict[str, str], **opening: Any) -> None:
        self.loop = loop
        self.settings = read_settings({**SECRETS, **NO_LIMITS, **environment})
        clock = opening.pop("clock", None) or Clock(jump_max_seconds=self.settings.clock_jump_seconds)
        self.book = loop.run(Book.open(db, clock=clock, **opening))
        try:
            self.app = create_app(self.book, self.settings, has_test_clock=True)
        except BaseException:
            loop.run(self.book.close())
            raise
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app, client=("192.0.2.7", 4711)),  # type: ignore[arg-type]
            base_url="http://minibill.test",
        )
        self.token = self.sign()
        self._stopped = False

    def stop(self) -> None:
        """Close the book, once."""
        if not self._stopped:
            self._stopped = True
            self.loop.run(self.http.aclose())
            self.loop.run(self.book.close())

    @property
    def is_whole(self) -> bool:
        """True while the book is open and accepts writes."""
        return not self._stopped and self.book.writer.unavailable_reason is None

    def sign(self, *, sub: str = "operator", scopes: tuple[str, ...] = (EVERYTHING,)) -> str:
        """Return an admin token."""
        return sign_token(self.settings, "admin", sub=sub, scopes=list(scopes), ttl=3600)

    def call(
        self,
        method: str,
        path: str,
        body: Json = None,
        *,
        token: str | None = None,
        key: str | None = None,
        headers: dict[str, str] | None = None,
        raw: bytes | None = None,
        root: str = "/admin/billing",
        **query: object,
    ) -> httpx.Response:
        """Send a request under /admin/billing or another `root`; `raw` is sent as it is."""
        sent = {"Authorization": f"Bearer {token or self.token}", "Content-Type": "application/json"}
        if key is not None:
            sent["Idempotency-Key"] = key
        content = raw if raw is not None else b"" if body is None else json.dumps(body).encode()
        request = self.http.build_request(
            method,
            f"{root}{path}",
            content=content,
            headers={**sent, **(headers or {})},
            params={name.rstrip("_"): str(value) for name, value in query.items()} or None,
        )
        response = self.loop.run(self.http.send(request))
        # The raw path, in which a slash of a variable segment is %2F.
        assert undocumented(method, request.url.raw_path.partition(b"?")[0].decode(), response) == []
        return response

    def ask(
        self,
        method: str,
        path: str,
        *,
        headers: Sequence[tuple[bytes, bytes]] | None = None,
        query: bytes = b"",
        messages: Sequence[Json] = ({"type": "http.request", "body": b"", "more_body": False},),
        address: str = "192.0.2.7",
    ) -> httpx.Response:
        """Send a raw ASGI request: any path and headers, these messages and then nothing.

        Without `headers` it has the admin token and the content type of JSON.
        """
        if headers is None:
            headers = self.admin_headers()
        scope: Json = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
            "path": path, "raw_path": path.encode(), "query_string": query, "headers": list(headers), "root_path": "",
            "server": ("minibill.test", 80), "client": (address, 4711), "state": {}, "extensions": {},
        }  # fmt: skip
        coming, sent = iter(messages), list[Json]()

        async def receive() -> Json:
            for message in coming:
                return message
            return await asyncio.Event().wait()

        async def send(message: Json) -> None:
            sent.append(message)

        async def run() -> None:
            await self.app(scope, receive, send)

        self.loop.run(run())
        start, *bodies = sent
        content = b"".join(message.get("body", b"") for message in bodies)
        response = httpx.Response(start["status"], headers=start["headers"], content=content)
        assert undocumented(method, path, response) == []
        return response

    def admin_headers(self) -> list[tuple[bytes, bytes]]:
        """Return the default headers of `ask`."""
        return [(b"authorization", f"Bearer {self.token}".encode()), (b"content-type", b"application/json")]

    def get(self, path: str, **query: Any) -> Json:
        """Return the JSON of a read that must succeed."""
        return ok(self.call("GET", path, **query))

    def post(self, path: str, body: Json = None, **options: Any) -> httpx.Response:
        return self.call("POST", path, body, **options)

    # --- accounts ---

    def account(self, *amounts: int, **mint: Json) -> str:
        """Open an account with a lot of each amount."""
        account: str = ok(self.post("/accounts", {"entityType": "person", "entityId": uuid.uuid4().hex}))["id"]
        for amount in amounts:
            self.mint(account, amount, **mint)
        return account

    def mint(self, account: str, amount_micro: int, **body: Json) -> Json:
        return ok(self.post(f"/accounts/{account}/mint", {"amountMicro": str(amount_micro), **body}))

    def available(self, account: str, pool: str = "general", **query: object) -> int:
        balance = self.get(f"/accounts/{account}/balance", poolId=pool, **query)
        return int(balance["totalAvailableMicro"])

    def advance(self, seconds: int) -> None:
        ok(self.post("/clock/advance", {"seconds": seconds}))

    def pass_time(self, seconds: int) -> None:
        """Advance the clock without a sweep."""
        self.book.clock.advance(seconds)

    def after(self, seconds: int) -> str:
        """Return the book's time, that many seconds from now."""
        from minibill.core.clock import format_time

        return format_time(self.book.clock.now_us() + seconds * UNIT)

    # --- reservations, as a service makes them ---

    def internal(
        self, method: str, path: str, body: Json = None, *, token: str | None = None, **options: Any
    ) -> httpx.Response:
        """Send a request under /api/internal/billing, with a service token."""
        return self.call(method, path, body, token=token or self.sign_service(), root="/api/internal/billing", **options)

    def sign_service(self, *, sub: str = "loa", ttl: int = 300) -> str:
        """Return a service token."""
        return sign_token(self.settings, "service", sub=sub, scopes=[], ttl=ttl)

    def ask_to_reserve(self, account: str, amount_micro: int, **body: Json) -> httpx.Response:
        return self.internal("POST", "/reservations", {"accountId": account, "amountMicro": str(amount_micro), **body})

    def reserve(self, account: str, amount_micro: int, **body: Json) -> str:
        """Make a reservation."""
        reservation: str = ok(self.ask_to_reserve(account, amount_micro, **body), 201)["reservationId"]
        return reservation

    def finalize(self, reservation: str, cost_micro: int, **options: Any) -> httpx.Response:
        body = {"reservationId": reservation, "actualCostMicro": str(cost_micro)}
        return self.internal("POST", "/finalize", body, **options)

    def release(self, reservation: str, **options: Any) -> httpx.Response:
        return self.internal("POST", "/release", {"reservationId": reservation}, **options)

    # --- campaigns ---

    def draft(self, budget_micro: int = 100 * UNIT, **body: Json) -> str:
        campaign: str = ok(
            self.post(
                "/campaigns",
                {"name": "Airdrop", "campaignType": "reverse_airdrop", "budgetMicro": str(budget_micro), **body},
            )
        )["id"]
        return campaign

    def campaign(self, budget_micro: int = 100 * UNIT, **body: Json) -> str:
        """Make an active campaign."""
        campaign = self.draft(budget_micro, **body)
        ok(self.post(f"/campaigns/{campaign}/activate"))
        return campaign

    def batch(self, campaign: str, *items: Json, force: bool | None = None, **options: Any) -> httpx.Response:
        """Send a batch; an item is a JSON object or a pair (account, amount)."""
        grants = [i if isinstance(i, dict) else {"accountId": i[0], "amountMicro": str(i[1])} for i in items]
        return self.post(
            f"/campaigns/{campaign}/grants/batch",
            {"grants": grants} | ({} if force is None else {"force": force}),
            **options,
        )

    # --- the whole database ---

    def everything(self) -> list[object]:
        """Return all rows of all tables."""
        from minibill.db.connection import open_reader

        conn = open_reader(self.book.path)
        try:
            tables = conn.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name").fetchall()
            return [conn.execute(f"SELECT * FROM {table}").fetchall() for (table,) in tables]
        finally:
            conn.close()

    def audited(self, action: str) -> list[dict[str, Json]]:
        """Return the audit rows of an action, oldest first, by column; `details` is decoded."""
        from minibill.db.connection import open_reader

        conn = open_reader(self.book.path)
        try:
            cursor = conn.execute("SELECT * FROM admin_audit_log WHERE action = ? ORDER BY seq", (action,))
            names = [column[0] for column in cursor.description]
            rows = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
        finally:
            conn.close()
        return [row | {"details": json.loads(row["details"])} for row in rows]

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Assert that the block leaves every table as it was."""
        before = self.everything()
        yield
        assert self.everything() == before


def ok(response: httpx.Response, *statuses: int) -> Json:
    """Return the JSON of a response that must be a success."""
    assert response.status_code in (statuses or (200, 201)), f"{response.status_code} {response.text}"
    return response.json()


def problem_of(response: httpx.Response, status: int, code: str, *paths: str) -> Json:
    """Return the problem of a response that must have this status, code and error paths."""
    assert response.headers["content-type"] == "application/problem+json", response.text
    problem = response.json()
    assert (response.status_code, problem["code"]) == (status, code), problem
    if paths:
        assert tuple(error["path"] for error in problem["errors"]) == paths
    return problem


def log_fields(record: logging.LogRecord) -> dict[str, Json]:
    """Return the fields of a log record."""
    return vars(record)


def record_uptime(api: Api, uptime_us: int) -> None:
    """Record a service uptime in the book, with an idempotency key, so that pruning reaches rows older than it."""
    key = idempotency.Key("admin:operator", f"at-{uptime_us}", bytes(32))
    kept = idempotency.StoredResponse(200, b"{}")
    api.loop.run(api.book.writer.run(lambda conn: idempotency.store_response(conn, key, kept, uptime_us=uptime_us)))
