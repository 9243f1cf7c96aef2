"""A book for tests: the real service on a real file, with short methods for common steps."""

from collections.abc import Mapping
from datetime import datetime
from os import PathLike
from typing import Any, NamedTuple

import httpx

from minibill.api.types import EntityType
from minibill.app import app_of
from minibill.auth.scopes import EVERYTHING
from minibill.auth.tokens import SERVICE_TOKEN_MAX_TTL, sign_token
from minibill.client._sync.methods import Methods
from minibill.client.operation import Operation
from minibill.db.epochs import current_epoch
from minibill.db.files import require_file_name
from minibill.db.memory_copy import MemoryCopy
from minibill.db.sqlite import Connection
from minibill.embedded import EmbeddedClient, open_state
from minibill.ledger.schemas import Entry, Minted
from minibill.metrics.totals import Totals
from minibill.server.in_process import InProcessServer
from minibill.testing.clock import START, FrozenClock, us_of
from minibill.testing.loop import LoopThread, LoopTransport

# An account in a test: the name of a person, or entity type and id.
Named = str | tuple[EntityType, str]

ACTOR = "test"
IN_PROCESS_URL = "http://minibill.test"


class Snapshot(NamedTuple):
    """The contents and the time of a book; `BookForTests.restore` restores them."""

    content: MemoryCopy
    now_us: int


class _Api(Methods):
    """The operations of the API, called from the thread of the test."""

    _spending = "service"

    def __init__(self, loop: LoopThread, inside: EmbeddedClient) -> None:
        self._loop = loop
        self._inside = inside

    def _new_key(self) -> str | None:
        return None

    def send(self, ask: Operation) -> bytes:
        return self._loop.run(self._inside.send(ask))


class BookForTests:
    """A book for tests.

        book.give("ada", 5_000_000)
        run_job("ada", url=book.url, token=book.service_token())
        assert book.story("ada") == [("grant", 5_000_000), ("reserve", -700), ("finalize", -700)]

    `api` has the methods of `minibill.client.Client`. `http` is an httpx client with an admin token. `url` is the address of
    the same service on a local port. `"ada"` names a person, `("community", "dao")` another entity. `account` and `give`
    open the account; methods that only read, such as `balance`, raise `LookupError` if there is none.

    Time stands still at `start` until `advance` moves it and expires overdue items. `settings` are those of the service, by
    variable; by default there is no rate limit, and secrets are generated. The file is not synced to disk, and no background
    jobs run.
    """

    __test__ = False

    def __init__(
        self, path: str | PathLike[str], *, settings: Mapping[str, str] | None = None, start: datetime = START
    ) -> None:
        """Open a database file; create it if there is none."""
        self.path = path = require_file_name(path)
        self._loop = LoopThread()
        self._clock = FrozenClock(us_of(start))
        given = {"MINIBILL_ADMIN_RATE_PER_MINUTE": "0", **(settings or {})}
        self._service = self._loop.run(open_state(path, given, clock=self._clock, has_test_clock=True))
        self._loop.run(self._service.book.writer.alone(_do_not_sync))
        # For an ASGI client of the test's own.
        self.app = app_of(self._service)
        self.api: Methods = _Api(self._loop, EmbeddedClient(self._service, actor=ACTOR))
        self.http = httpx.Client(
            base_url=IN_PROCESS_URL,
            headers={"Authorization": f"Bearer {self.token()}"},
            transport=LoopTransport(self._loop, self.app),
        )
        self._server: InProcessServer | None = None
        self._empty = self.snapshot()

    def close(self) -> None:
        """Stop the service and close the book."""
        self.http.close()
        self._loop.run(self._close())
        self._loop.close()

    # --- snapshots ---

    def snapshot(self) -> Snapshot:
        """Return a copy of the book in memory; takes about a millisecond."""
        return self._loop.run(self._snapshot())

    def restore(self, snapshot: Snapshot) -> None:
        """Restore a snapshot, including its time."""
        self._loop.run(self._restore(snapshot))

    def reset(self) -> None:
        """Restore the empty book."""
        self.restore(self._empty)

    def verify(self) -> None:
        """Assert that every check of a reconciliation passes."""
        failed = {name: check for name, check in self.api.reconcile(dry_run=True).checks.items() if check.status != "pass"}
        assert failed == {}, f"reconciliation checks failed: {failed}"

    # --- time ---

    @property
    def now(self) -> datetime:
        """Return the book's time."""
        return datetime.fromisoformat(self.api.now().now)

    def advance(self, seconds: int) -> None:
        """Move the book's time forward and expire overdue items."""
        self.api.advance_clock(seconds)

    # --- accounts ---

    def account(self, who: Named) -> str:
        """Return the id of an account; open it if there is none."""
        return self.api.open_account(*_entity(who)).id

    def give(self, who: Named, amount_micro: int, **options: Any) -> Minted:
        """Mint credits in micro-units; `options` are those of `mint`."""
        return self.api.mint(self.account(who), amount_micro, **options)

    def balance(self, who: Named, pool_id: str | None = None) -> int:
        """Return the available credits in micro-units, of all pools or of one."""
        return int(self.api.balance(self._existing(who), pool_id=pool_id).total_available_micro)

    def reserved(self, who: Named, pool_id: str | None = None) -> int:
        """Return the reserved credits in micro-units."""
        return int(self.api.balance(self._existing(who), pool_id=pool_id).total_reserved_micro)

    def debt(self, who: Named) -> int:
        """Return the open debt in micro-units."""
        return int(self.api.balance(self._existing(who)).debt_micro)

    def entries(self, who: Named) -> list[Entry]:
        """Return the ledger entries of an account, oldest first."""
        return list(self.api.history(self._existing(who)))[::-1]

    def story(self, who: Named) -> list[tuple[str, int]]:
        """Return type and amount of each ledger entry, oldest first: `[("grant", 5000000), ("reserve", -700)]`."""
        return [(entry.entry_type, int(entry.amount_micro)) for entry in self.entries(who)]

    def _existing(self, who: Named) -> str:
        entity_type, entity_id = _entity(who)
        for account in self.api.accounts(entity_type=entity_type, entity_id=entity_id):
            return account.id
        raise LookupError(f"{entity_type}:{entity_id} has no account in this book; open it with account() or give()")

    # --- tokens and the server ---

    def token(self, *scopes: str, sub: str = ACTOR) -> str:
        """Return an admin token with these scopes; by default with all."""
        settings = self._service.settings
        return sign_token(settings, "admin", sub=sub, scopes=list(scopes or (EVERYTHING,)), ttl=settings.admin_token_max_ttl)

    def service_token(self, *, sub: str = ACTOR) -> str:
        """Return a service token."""
        return sign_token(self._service.settings, "service", sub=sub, scopes=[], ttl=SERVICE_TOKEN_MAX_TTL)

    @property
    def url(self) -> str:
        """Return the URL of the service on a free local port; the first use starts the server."""
        return self.listen()

    def listen(self, port: int = 0) -> str:
        """Start the server on a port, 0 for a free one, and return its URL. A running server keeps its port."""
        if self._server is None:
            self._server = self._loop.run(InProcessServer.start(self.app, port))
        return self._server.url

    # --- on the loop ---

    async def _snapshot(self) -> Snapshot:
        content = await self._service.book.writer.alone(MemoryCopy)
        return Snapshot(content, self._clock.now_us())

    async def _restore(self, snapshot: Snapshot) -> None:
        book = self._service.book
        await book.writer.alone(snapshot.content.restore)
        self._clock.go_to(snapshot.now_us)
        self._service.verifier.replace_denied(book.denied_tokens())
        book.totals = Totals(book.readers)
        book.epoch = book.readers.point_read(current_epoch)
        book.reconciler.last = None

    async def _close(self) -> None:
        if self._server is not None:
            await self._server.stop()
        await self._service.book.close()


def _entity(who: Named) -> tuple[EntityType, str]:
    return ("person", who) if isinstance(who, str) else who


def _do_not_sync(conn: Connection) -> None:
    conn.execute("PRAGMA synchronous = OFF")
