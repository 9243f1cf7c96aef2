"""`minibill serve`: the service on one database file, until it is told to stop."""

import asyncio
import contextlib
import gc
import json
import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType

import click
import msgspec
import uvicorn

import minibill
from minibill.app import create_app
from minibill.auth.scopes import EVERYTHING
from minibill.auth.tokens import sign_token
from minibill.book import Book
from minibill.clock import monotonic_s
from minibill.commands.database import database_option
from minibill.config import SETTINGS, ConfigurationError, Settings, read_settings, unknown_variables
from minibill.connections import Patience, connections_max, limited_to
from minibill.db.anchor import BehindItsAnchor
from minibill.db.connect import DatabaseLocked, NotABook
from minibill.db.migrate import MigrationRefused
from minibill.db.sqlite import SqliteTooOld, sqlite3
from minibill.logs import configure_logs

log = logging.getLogger("minibill.serve")

# Requests that are under way have this long when the service stops; closing the book has the rest of the 10 s.
STOP_SECONDS = 8

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

# Objects that are made before the youngest are looked at: some hundred requests.
GC_THRESHOLD = 20_000

# The server ticks ten times a second; connections are looked at once.
TICKS_BETWEEN_LOOKS = 10

# Connections that the kernel holds until they are taken on.
BACKLOG = 2_048


def _settings_help() -> str:
    lines = ["\b", "Settings come from the environment:"]
    for setting in SETTINGS:
        default = "no default" if setting.default is None else f"default {setting.default or 'none'}"
        lines += [f"  {setting.variable} ({setting.unit}; {default})", f"      {setting.reason}"]
    return "\n".join(lines)


_EXAMPLES = """\b
Examples:
  minibill serve --dev                       on minibill.db, with secrets and a token made for you
  minibill serve --db /var/lib/credits.db    needs the two secrets in the environment
  minibill serve --dev --port 0              on a free port; the first line says which"""


@click.command(epilog=f"{_EXAMPLES}\n\n{_settings_help()}")
@database_option
@click.option(
    "--host",
    default="127.0.0.1",
    envvar="MINIBILL_HOST",
    show_default=True,
    show_envvar=True,
    help="The address to listen on.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8080,
    envvar="MINIBILL_PORT",
    show_default=True,
    show_envvar=True,
    help="0 picks a free one.",
)
@click.option("--dev", is_flag=True, help="Make and keep secrets beside the database; print a token and a curl line.")
@click.option("--test-clock", is_flag=True, help="With --dev: let admins move the book's time forward.")
@click.option("--accept-loss", is_flag=True, help="Serve a book that has lost what was answered; the log says how much.")
def serve(*, db: Path, host: str, port: int, dev: bool, test_clock: bool, accept_loss: bool) -> None:
    """Serve the HTTP API on one database file.

    Migrates the file first. One process serves a file; a second one is refused. SIGTERM finishes what was taken on.
    """  # fmt: skip
    if test_clock and not dev:
        raise click.UsageError("--test-clock is for development only: add --dev")
    try:
        settings = read_settings(_with_dev_secrets(db, os.environ) if dev else os.environ)
    except ConfigurationError as error:
        raise click.UsageError(str(error)) from None
    for name in unknown_variables(os.environ):
        click.echo(f"warning: {name} is no setting of this minibill; minibill serve --help lists them", err=True)
    configure_logs(settings.log_level, for_people=dev or sys.stderr.isatty(), stream=sys.stderr)
    with asyncio.Runner(loop_factory=_new_loop) as runner:
        runner.run(_serve(db, host, port, settings, dev=dev, test_clock=test_clock, accept_loss=accept_loss))


async def _serve(
    db: Path, host: str, port: int, settings: Settings, *, dev: bool, test_clock: bool, accept_loss: bool
) -> None:
    # From here on a signal to stop ends in a stop, also one that comes before there is a server that could hear it.
    loop, stop_asked = asyncio.get_running_loop(), asyncio.Event()
    for signum in STOP_SIGNALS:
        loop.add_signal_handler(signum, stop_asked.set)
    try:
        book = await Book.open(db, accept_loss=accept_loss)
    except (
        DatabaseLocked, NotABook, MigrationRefused, SqliteTooOld, BehindItsAnchor, sqlite3.Error, OSError
    ) as error:  # fmt: skip
        raise click.UsageError(f"can't open {db}: {error}") from None
    try:
        listener = _listen(host, port)
        app = create_app(book, settings, has_test_clock=test_clock)
        server = _Server(
            book,
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=STOP_SECONDS,
                http=limited_to(connections_max()),
                proxy_headers=bool(settings.trusted_proxies),
                forwarded_allow_ips=settings.trusted_proxies or None,
            ),
        )
        _tame_garbage_collection()
        _announce(listener, settings, dev=dev)
        log.info("started", extra={"version": minibill.__version__, "sqlite": sqlite3.sqlite_version, "database": str(db)})
        server.should_exit = stop_asked.is_set()
        await server.serve([listener])
        if not server.started:
            raise click.ClickException("the service did not start; the lines above say why")
    finally:
        await book.close()
    log.info("stopped")


class _Server(uvicorn.Server):
    """uvicorn, but a signal that stops it is not raised again afterwards: a stop that was asked for is a success."""

    def __init__(self, book: Book, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._book = book
        self._patience = Patience()

    async def on_tick(self, counter: int) -> bool:
        if counter % TICKS_BETWEEN_LOOKS == 0:
            self._patience.look(self.server_state.connections, now_s=monotonic_s())
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # A reconciliation that is waited for would take the time that the others have to finish.
        self._book.reconciler.stop()
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


def _announce(listener: socket.socket, settings: Settings, *, dev: bool) -> None:
    host, port = listener.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    click.echo(f"minibill is listening on {url}")
    if dev:
        token = sign_token(settings, "admin", sub="developer", scopes=[EVERYTHING], ttl=settings.admin_token_max_ttl)
        click.echo(
            f"\nAn admin token, good for {settings.admin_token_max_ttl // 60} minutes (minibill token makes another):\n"
        )
        click.echo(f"export MINIBILL_URL={url}\nexport MINIBILL_TOKEN={token}\n")
        click.echo('curl -H "Authorization: Bearer $MINIBILL_TOKEN" $MINIBILL_URL/admin/billing/campaigns')
    sys.stdout.flush()


def _with_dev_secrets(db: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment, with secrets kept in `<db>.secrets` where it sets none."""
    names = ("BILLING_ADMIN_JWT_SECRET", "BILLING_INTERNAL_JWT_SECRET")
    return {**dev_secrets(db, names), **environment} if any(name not in environment for name in names) else dict(environment)


def dev_secrets(db: Path, names: tuple[str, ...] = ()) -> dict[str, str]:
    """The secrets kept beside a development database; made for `names` when there are none. Only the owner may read them."""
    file = db.with_name(db.name + ".secrets")
    try:
        return msgspec.json.decode(file.read_bytes(), type=dict[str, str])
    except FileNotFoundError:
        if not names:
            return {}
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigurationError(f"can't read {file}: {error}; delete it to have new secrets made") from None
    made = {name: secrets.token_urlsafe(48) for name in names}
    try:
        with os.fdopen(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="utf-8") as handle:
            json.dump(made, handle)
    except OSError as error:
        raise ConfigurationError(f"can't keep secrets in {file}: {error.strerror}") from None
    return made


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
