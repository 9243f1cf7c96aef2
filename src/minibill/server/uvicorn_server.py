"""uvicorn's server with this service's signals, and a sweep of stalled connections once a second."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Iterator
from types import FrameType

import uvicorn
from litestar.types import ASGIApp

from minibill.book import Book
from minibill.core.clock import monotonic_s
from minibill.server.connection_limits import StalledConnectionReaper, connections_max
from minibill.server.http_protocol import protocol_with_limit
from minibill.server.systemd import ServiceNotifier

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

# Requests in flight have this long when the service stops; closing the book has the rest of the 10 s.
STOP_SECONDS = 8

# uvicorn ticks ten times a second.
TICKS_BETWEEN_SWEEPS = 10


def server_config(app: ASGIApp, *, keep_alive_seconds: int) -> uvicorn.Config:
    """Return the configuration under which uvicorn serves this application."""
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=STOP_SECONDS,
        http=protocol_with_limit(connections_max()),
        # The middleware reads X-Forwarded-For.
        proxy_headers=False,
        # Requests to upgrade are ignored, whatever libraries are installed.
        ws="none",
        timeout_keep_alive=keep_alive_seconds,
    )


class Server(uvicorn.Server):
    """uvicorn's server. A signal that stops it is not raised again afterwards, since a requested stop is a success."""

    def __init__(self, book: Book, notifier: ServiceNotifier, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._book = book
        self._notifier = notifier
        self._reaper = StalledConnectionReaper(config.timeout_keep_alive)

    async def on_tick(self, counter: int) -> bool:
        """Sweep the connections, and return True if the server is to stop."""
        if counter % TICKS_BETWEEN_SWEEPS == 0:
            self._reaper.sweep(self.server_state.connections, now_s=monotonic_s())
        return await super().on_tick(counter)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and notify the service manager."""
        await super().startup(sockets)
        if self.started:
            self._notifier.notify("READY=1")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop."""
        self._notifier.notify("STOPPING=1")
        # Requests that wait for a reconciliation or for events would use up the time of the others.
        self._book.reconciler.stop()
        self._book.feed.stop()
        super().handle_exit(sig, frame)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle `STOP_SIGNALS` on the event loop."""
        loop = asyncio.get_running_loop()
        for signum in STOP_SIGNALS:
            loop.add_signal_handler(signum, self.handle_exit, signum, None)
        try:
            yield
        finally:
            for signum in STOP_SIGNALS:
                loop.remove_signal_handler(signum)
