"""The service as a process: open the book, listen, and stop on a signal. `minibill serve` runs it.

Other commands, and the completion of a command line, do not import it: a server takes long to import.
"""

import asyncio
import contextlib
import gc
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import minibill
from minibill.app import create_app
from minibill.book import Book
from minibill.config import Settings
from minibill.core.clock import Clock
from minibill.db.anchor import BehindItsAnchor
from minibill.db.connection import NotABook
from minibill.db.file_lock import DatabaseLocked
from minibill.db.files import reason_of
from minibill.db.migrations import MigrationRefused
from minibill.db.sqlite import VERSION as SQLITE_VERSION
from minibill.db.sqlite import DatabaseError, SqliteTooOld, configure_sqlite
from minibill.server.event_loop import new_loop
from minibill.server.file_warnings import warn_of_exposed_files
from minibill.server.logging import configure_logs
from minibill.server.systemd import ServiceNotifier, send_heartbeats
from minibill.server.uvicorn_server import STOP_SIGNALS, Server, server_config

log = logging.getLogger("minibill.serve")

# Allocations between collections of the youngest objects: some hundred requests.
GC_THRESHOLD = 20_000

# The time after which a waiting thread asks for the interpreter. With Python's own 5 ms a COMMIT begins only when the event
# loop is idle; with 1 ms the disk works while requests are read.
SWITCH_SECONDS = 0.001

# Connections that the kernel queues until the server accepts them.
BACKLOG = 2_048


class StartError(Exception):
    """The database can't be opened, or the address can't be bound; the message says why."""


class StartupFailed(Exception):
    """The application failed to start; the log says why."""


class ServeOptions(NamedTuple):
    """The options of a service. `accept_loss` starts it even if acknowledged commits are missing."""

    db: Path
    host: str
    port: int
    settings: Settings
    has_console_log: bool
    has_test_clock: bool
    accept_loss: bool


def run(options: ServeOptions, *, prepare: Callable[[], Awaitable[None]], announce: Callable[[str], None]) -> None:
    """Serve until a signal says to stop.

    `prepare` runs before the book is opened, `announce` with the URL once the service listens. Raises `StartError` and
    `StartupFailed`.
    """
    configure_logs(options.settings.log_level, for_people=options.has_console_log, stream=sys.stderr)
    if not configure_sqlite():
        log.info("SQLite tuning unavailable; writes are about 10% slower")
    sys.setswitchinterval(SWITCH_SECONDS)
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(_serve(options, prepare, announce))


async def _serve(options: ServeOptions, prepare: Callable[[], Awaitable[None]], announce: Callable[[str], None]) -> None:
    stop_requested = _stop_event()
    notifier = ServiceNotifier(os.environ)
    book = await _open_book(options, prepare)
    try:
        listener = _listen(options.host, options.port)
        app = create_app(book, options.settings, has_test_clock=options.has_test_clock)
        server = Server(book, notifier, server_config(app, keep_alive_seconds=options.settings.keep_alive_seconds))
        _freeze_garbage_collection()
        announce(_url(listener))
        sys.stdout.flush()
        warn_of_exposed_files(book.path)
        versions = {"version": minibill.__version__, "sqlite": SQLITE_VERSION}
        log.info("started", extra={**versions, "database": str(options.db)})
        server.should_exit = stop_requested.is_set()
        async with _in_background(send_heartbeats(notifier, book)):
            await server.serve([listener])
        if not server.started:
            raise StartupFailed("the service did not start; the lines above say why")
    finally:
        await book.close()
    log.info("stopped")


def _stop_event() -> asyncio.Event:
    """Return an event that signals set. So a signal that arrives before the server handles signals stops it, too."""
    loop, requested = asyncio.get_running_loop(), asyncio.Event()
    for signum in STOP_SIGNALS:
        loop.add_signal_handler(signum, requested.set)
    return requested


async def _open_book(options: ServeOptions, prepare: Callable[[], Awaitable[None]]) -> Book:
    settings = options.settings
    try:
        await prepare()
        return await Book.open(
            options.db,
            clock=Clock(jump_max_seconds=settings.clock_jump_seconds),
            checkpoint_pages=settings.checkpoint_pages,
            accept_loss=options.accept_loss,
        )
    except (DatabaseLocked, NotABook, MigrationRefused, SqliteTooOld, BehindItsAnchor, DatabaseError, OSError) as error:
        raise StartError(f"can't open {options.db}: {reason_of(error, options.db)}") from None


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise StartError(f"can't listen on {host} port {port}: {error.strerror}; try another --port") from None
    listener.listen(BACKLOG)
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _freeze_garbage_collection() -> None:
    """Exempt all objects that exist now from garbage collection, and collect new ones less often.

    Without this a full collection delayed every request by up to 34 ms at 64 connections.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 100)


@contextlib.asynccontextmanager
async def _in_background(work: Awaitable[None]) -> AsyncIterator[None]:
    task = asyncio.ensure_future(work)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
