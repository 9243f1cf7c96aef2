"""The service as a process: opens the book, listens, and stops when it is told to. Its command line is in serve.py.

Imported when it is time to serve: the other commands, and the completion of a command line, have no use for a server.
"""

import asyncio
import contextlib
import gc
import logging
import os
import shlex
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import FrameType

import click
import uvicorn

import minibill
from minibill.app import create_app
from minibill.book import Book
from minibill.config import Settings
from minibill.core.clock import Clock, monotonic_s
from minibill.db.anchor import BehindItsAnchor
from minibill.db.connection import NotABook
from minibill.db.file_lock import DatabaseLocked, lock_file
from minibill.db.files import companions_of, open_to_others, others_may_exchange, reason_of
from minibill.db.migrations import MigrationRefused
from minibill.db.mounts import is_mounted_by_itself
from minibill.db.sqlite import VERSION as SQLITE_VERSION
from minibill.db.sqlite import DatabaseError, SqliteTooOld, configure_sqlite
from minibill.server.connection_limits import StalledConnectionReaper, connections_max, protocol_with_limit
from minibill.server.event_loop import new_loop
from minibill.server.logging import configure_logs
from minibill.server.systemd import ServiceNotifier, keep_alive

log = logging.getLogger("minibill.serve")

# Requests that are under way have this long when the service stops; closing the book has the rest of the 10 s.
STOP_SECONDS = 8

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

# Objects that are made before the youngest are looked at: some hundred requests.
GC_THRESHOLD = 20_000

# For how long a thread leaves the interpreter to another before it asks for it. With Python's own 5 ms a COMMIT is begun
# only when the event loop has nothing else to do; so the disk works while requests are read.
SWITCH_SECONDS = 0.001

# The server ticks ten times a second; connections are looked at once.
TICKS_BETWEEN_LOOKS = 10

# Connections that the kernel holds until they are taken on.
BACKLOG = 2_048


def run(
    db: Path,
    host: str,
    port: int,
    settings: Settings,
    *,
    for_people: bool,
    test_clock: bool,
    accept_loss: bool,
    prepare: Callable[[], Awaitable[None]],
    announce: Callable[[str], None],
) -> None:
    """Serve until a signal says to stop.

    `prepare` runs before the book is opened, `announce` with the URL once the service listens. Raises `click.UsageError`
    when the database can't be opened or the address can't be bound.
    """
    configure_logs(settings.log_level, for_people=for_people, stream=sys.stderr)
    if not configure_sqlite():
        log.info("SQLite is used as it comes: about a tenth slower")
    sys.setswitchinterval(SWITCH_SECONDS)
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(_serve(db, host, port, settings, test_clock, accept_loss, prepare, announce))


async def _serve(
    db: Path,
    host: str,
    port: int,
    settings: Settings,
    test_clock: bool,
    accept_loss: bool,
    prepare: Callable[[], Awaitable[None]],
    announce: Callable[[str], None],
) -> None:
    # From here on a signal to stop ends in a stop, also one that comes before there is a server that could hear it.
    loop, stop_asked = asyncio.get_running_loop(), asyncio.Event()
    for signum in STOP_SIGNALS:
        loop.add_signal_handler(signum, stop_asked.set)
    manager = ServiceNotifier(os.environ)
    try:
        await prepare()
        clock = Clock(jump_max_seconds=settings.clock_jump_seconds)
        book = await Book.open(db, clock=clock, checkpoint_pages=settings.checkpoint_pages, accept_loss=accept_loss)
    except (DatabaseLocked, NotABook, MigrationRefused, SqliteTooOld, BehindItsAnchor, DatabaseError, OSError) as error:
        raise click.UsageError(f"can't open {db}: {reason_of(error, db)}") from None
    watchdog: asyncio.Task[None] | None = None
    try:
        listener = _listen(host, port)
        app = create_app(book, settings, has_test_clock=test_clock)
        server = _Server(
            book,
            manager,
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=STOP_SECONDS,
                http=protocol_with_limit(connections_max()),
                # The gate reads them, as addresses.
                proxy_headers=False,
                # Requests to upgrade are ignored, whatever libraries are installed.
                ws="none",
                timeout_keep_alive=settings.keep_alive_seconds,
            ),
        )
        _tame_garbage_collection()
        url = _url(listener)
        click.echo(f"minibill is listening on {url}")
        announce(url)
        sys.stdout.flush()
        _warn_of_exposure(book.path)
        log.info("started", extra={"version": minibill.__version__, "sqlite": SQLITE_VERSION, "database": str(db)})
        server.should_exit = stop_asked.is_set()
        watchdog = asyncio.create_task(keep_alive(manager, book))
        await server.serve([listener])
        if not server.started:
            raise click.ClickException("the service did not start; the lines above say why")
    finally:
        if watchdog is not None:
            watchdog.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watchdog
        await book.close()
    log.info("stopped")


def _warn_of_exposure(db: Path) -> None:
    """Log what lets other users or other machines at the book's files, and how to mend it."""
    exposed = open_to_others([db, *companions_of(db), lock_file(db)])
    if exposed:
        names = [file.name for file in exposed]
        mend = f"chmod 600 {' '.join(map(shlex.quote, map(str, exposed)))}"
        log.warning("other users may open files of the book; make them private", extra={"files": names, "mend": mend})
    if others_may_exchange(db.parent):
        mend = f"chmod o-w {shlex.quote(str(db.parent))}"
        log.warning(
            "other users may exchange the files in the book's folder", extra={"folder": str(db.parent), "mend": mend}
        )
    if is_mounted_by_itself(db):
        reason = "its write-ahead log, with acknowledged writes, lies in the folder around the mount"
        log.warning(
            "the database file is a mount of its own; mount its folder", extra={"database": str(db), "reason": reason}
        )


class _Server(uvicorn.Server):
    """uvicorn, but a signal that stops it is not raised again afterwards: a stop that was asked for is a success."""

    def __init__(self, book: Book, manager: ServiceNotifier, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._book = book
        self._manager = manager
        self._patience = StalledConnectionReaper(config.timeout_keep_alive)

    async def on_tick(self, counter: int) -> bool:
        if counter % TICKS_BETWEEN_LOOKS == 0:
            self._patience.look(self.server_state.connections, now_s=monotonic_s())
        return await super().on_tick(counter)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._manager.tell("READY=1")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._manager.tell("STOPPING=1")
        # A reconciliation, or news, that is waited for would take the time that the others have to finish.
        self._book.reconciler.stop()
        self._book.feed.stop()
        super().handle_exit(sig, frame)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for signum in STOP_SIGNALS:
            loop.add_signal_handler(signum, self.handle_exit, signum, None)
        try:
            yield
        finally:
            for signum in STOP_SIGNALS:
                loop.remove_signal_handler(signum)


def _tame_garbage_collection() -> None:
    """What is there by now stays: it is taken out of the collector's sight, and what comes is looked at less often.

    Without this a full collection held up every request for up to 34 ms at 64 connections.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 100)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise click.UsageError(f"can't listen on {host} port {port}: {error.strerror}; try another --port") from None
    listener.listen(BACKLOG)
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
