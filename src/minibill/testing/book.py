"""A running book for tests: the real service on a real file, with short words for what many tests do."""

import asyncio
import socket
from collections.abc import Mapping
from datetime import datetime
from os import PathLike
from typing import Any, NamedTuple

import httpx
import uvicorn

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
from minibill.testing.clock import START, FrozenClock, us_of
from minibill.testing.loop import LoopThread, LoopTransport

# An account as tests name it: a person, or an entity of another type.
Named = str | tuple[EntityType, str]

ACTOR = "test"
IN_PROCESS_URL = "http://minibill.test"


class Snapshot(NamedTuple):
    """A book as it was at a moment; `BookForTests.restore` brings it back."""

    content: MemoryCopy
    now_us: int


class _Api(Methods):
    """The operations, from the thread of the test."""

    _spending = "service"

    def __init__(self, loop: LoopThread, inside: EmbeddedClient) -> None:
        self._loop = loop
        self._inside = inside

    def _new_key(self) -> str | None:
        return None

    def send(self, ask: Operation) -> bytes:
        return self._loop.run(self._inside.send(ask))


class _Server(uvicorn.Server):
    """uvicorn, which says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()


class BookForTests:
    """A book of a test's own.

    `api` has every operation, as `minibill.client.Client` has them; `http` is a plain httpx client with an admin's token;
    `url` is where the same service listens on a port, for a program that is tested from outside. An account is named as a
    test names it: "ada" is a person, `("community", "dao")` something else. `account` and `give` open it. What only reads,
    such as `balance`, raises `LookupError` for an account that nobody has opened.

    Time stands still, at `start`, until `advance` moves it; what falls due is then settled. The file is not synced: a test's
    book need not survive a loss of power. `settings` are those of the service by their variables; unless they say otherwise
    no rate is limited, and secrets are made. Nothing runs in the background.
    """

    __test__ = False

    def __init__(
        self, path: str | PathLike[str], *, settings: Mapping[str, str] | None = None, start: datetime = START
    ) -> None:
        """On a file that is made where there is none yet."""
        self.path = path = require_file_name(path)
        self._loop = LoopThread()
        self._clock = FrozenClock(us_of(start))
        given = {"MINIBILL_ADMIN_RATE_PER_MINUTE": "0", **(settings or {})}
        self._service = self._loop.run(open_state(path, given, clock=self._clock, has_test_clock=True))
        self._loop.run(self._service.book.writer.alone(_do_not_sync))
        # What an ASGI client of the tests' own talks to.
        self.app = app_of(self._service)
        self.api: Methods = _Api(self._loop, EmbeddedClient(self._service, actor=ACTOR))
        self.http = httpx.Client(
            base_url=IN_PROCESS_URL,
            headers={"Authorization": f"Bearer {self.token()}"},
            transport=LoopTransport(self._loop, self.app),
        )
        self._server: tuple[uvicorn.Server, asyncio.Task[None], str] | None = None
        self._empty = self.snapshot()

    def close(self) -> None:
        """Ends the service and closes the book."""
        self.http.close()
        self._loop.run(self._close())
        self._loop.close()

    # --- the whole of it ---

    def snapshot(self) -> Snapshot:
        """The book as it is now, kept in memory: a millisecond or so."""
        return self._loop.run(self._snapshot())

    def restore(self, snapshot: Snapshot) -> None:
        """Brings a book back as it was, time included."""
        self._loop.run(self._restore(snapshot))

    def reset(self) -> None:
        """Empties the book."""
        self.restore(self._empty)

    def verify(self) -> None:
        """Asserts that the book is sound: every check of a reconciliation passes."""
        failed = {name: check for name, check in self.api.reconcile(dry_run=True).checks.items() if check.status != "pass"}
        assert failed == {}, f"the book is not sound: {failed}"

    # --- time ---

    @property
    def now(self) -> datetime:
        """The book's time."""
        return datetime.fromisoformat(self.api.now().now)

    def advance(self, seconds: int) -> None:
        """Moves the book's time forward, and settles what falls due."""
        self.api.advance_clock(seconds)

    # --- accounts, by the names that tests give them ---

    def account(self, who: Named) -> str:
        """The id of an account, which is opened where there is none yet."""
        return self.api.open_account(*_entity(who)).id

    def give(self, who: Named, amount_micro: int, **how: Any) -> Minted:
        """Mints credits; `how` is what `mint` takes besides."""
        return self.api.mint(self.account(who), amount_micro, **how)

    def balance(self, who: Named, pool_id: str | None = None) -> int:
        """What is available, in micro-units: in all pools, or in one."""
        return int(self.api.balance(self._existing(who), pool_id=pool_id).total_available_micro)

    def reserved(self, who: Named, pool_id: str | None = None) -> int:
        """What is held by reservations, in micro-units."""
        return int(self.api.balance(self._existing(who), pool_id=pool_id).total_reserved_micro)

    def debt(self, who: Named) -> int:
        """What is owed, in micro-units."""
        return int(self.api.balance(self._existing(who)).debt_micro)

    def entries(self, who: Named) -> list[Entry]:
        """The ledger of an account, oldest first."""
        return list(self.api.history(self._existing(who)))[::-1]

    def story(self, who: Named) -> list[tuple[str, int]]:
        """The ledger of an account as pairs that are good to compare: `[("grant", 5000000), ("reserve", -700)]`."""
        return [(entry.entry_type, int(entry.amount_micro)) for entry in self.entries(who)]

    def _existing(self, who: Named) -> str:
        entity_type, entity_id = _entity(who)
        for account in self.api.accounts(entity_type=entity_type, entity_id=entity_id):
            return account.id
        raise LookupError(f"{entity_type}:{entity_id} has no account in this book; open it with account() or give()")

    # --- tokens and doors ---

    def token(self, *scopes: str, sub: str = ACTOR) -> str:
        """An admin token with these scopes; without any it may do everything."""
        settings = self._service.settings
        return sign_token(settings, "admin", sub=sub, scopes=list(scopes or (EVERYTHING,)), ttl=settings.admin_token_max_ttl)

    def service_token(self, *, sub: str = ACTOR) -> str:
        """A token of a service that spends."""
        return sign_token(self._service.settings, "service", sub=sub, scopes=[], ttl=SERVICE_TOKEN_MAX_TTL)

    @property
    def url(self) -> str:
        """Where the service listens, on a free port of this machine; it begins to when this is first asked."""
        return self.listen()

    def listen(self, port: int = 0) -> str:
        """The same, on a port of one's own choice; once it listens, that is where."""
        if self._server is None:
            self._server = self._loop.run(self._serve(port))
        return self._server[2]

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

    async def _serve(self, port: int) -> tuple[uvicorn.Server, asyncio.Task[None], str]:
        listener = socket.create_server(("127.0.0.1", port))
        server = _Server(uvicorn.Config(self.app, log_config=None, access_log=False, lifespan="off"))
        task = asyncio.create_task(server.serve([listener]))
        await server.listening.wait()
        return server, task, f"http://127.0.0.1:{listener.getsockname()[1]}"

    async def _close(self) -> None:
        if self._server is not None:
            server, task, _ = self._server
            server.should_exit = True
            await task
        await self._service.book.close()


def _entity(who: Named) -> tuple[EntityType, str]:
    return ("person", who) if isinstance(who, str) else who


def _do_not_sync(conn: Connection) -> None:
    conn.execute("PRAGMA synchronous = OFF")
