"""`minibill serve`: the options of the service. `server/process.py` runs it."""

import os
import sys
from functools import partial
from pathlib import Path

import click
import msgspec

from minibill.cli.help import Command
from minibill.cli.options import database_option, require_folder
from minibill.config import SETTINGS, ConfigurationError, SettingMissing, Settings, read_settings, unknown_variables


def _settings_help() -> str:
    lines = ["\b", "Settings, from the environment:"]
    for setting in SETTINGS:
        default = "no default" if setting.default is None else f"default {setting.default or 'none'}"
        lines += [f"  {setting.variable} ({setting.unit}; {default})", f"      {setting.reason}"]
    return "\n".join(lines)


@click.command(
    cls=Command,
    short_help="Serve the HTTP API on one database file",
    epilog=_settings_help(),
    exit_codes={0: "stopped by SIGTERM or Ctrl-C", 1: "the service failed", 2: "wrong usage or configuration"},
    examples="""
        minibill serve --dev                       # on minibill.db, with secrets and a token made for you
        minibill serve --dev --reset --seed        # the same, on a fresh example database
        minibill serve --db /var/lib/credits.db    # needs the two secrets in the environment
        minibill serve --dev --port 0              # on a free port, which the first line names
    """,
)
@database_option
@click.option(
    "--host",
    default="127.0.0.1",
    envvar="MINIBILL_HOST",
    show_default=True,
    show_envvar=True,
    help="Address to listen on.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8080,
    envvar="MINIBILL_PORT",
    show_default=True,
    show_envvar=True,
    help="Port to listen on; 0 picks a free one.",
)
@click.option("--dev", is_flag=True, help="Keep generated secrets next to the database; print a token and a curl line.")
@click.option("--test-clock", is_flag=True, help="With --dev: allow admins to move the ledger's time forward.")
@click.option("--reset", is_flag=True, help="With --dev: delete the database first, after confirmation.")
@click.option("--yes", is_flag=True, help="With --reset: do not ask for confirmation.")
@click.option("--seed", is_flag=True, help="With --dev: fill an empty database with an example month.")
@click.option("--accept-loss", is_flag=True, help="Start even if acknowledged commits are missing; logs what was lost.")
def serve(
    *,
    db: Path,
    host: str,
    port: int,
    dev: bool,
    test_clock: bool,
    reset: bool,
    yes: bool,
    seed: bool,
    accept_loss: bool,
) -> None:
    """Serve the HTTP API on one database file.

    The service first migrates the file. Only one process can serve a file. On SIGTERM the service finishes the requests
    that it has accepted, then stops.
    """
    for option, is_given in (("--test-clock", test_clock), ("--reset", reset), ("--seed", seed)):
        if is_given and not dev:
            raise click.UsageError(f"{option} is for development only: add --dev")
    if yes and not reset:
        raise click.UsageError("--yes confirms --reset: add --reset")
    require_folder(db)
    # Imported on use: completion takes a tenth of the time without it.
    from minibill.cli import dev as development

    try:
        settings = read_settings(development.with_dev_secrets(db, os.environ) if dev else os.environ)
    except SettingMissing as error:
        raise click.UsageError(f"{error}, or use --dev to have one made") from None
    except ConfigurationError as error:
        raise click.UsageError(str(error)) from None
    settings = msgspec.structs.replace(settings, cors_loopback=dev)
    for name in unknown_variables(os.environ):
        click.echo(f"warning: unknown setting {name}; run `minibill serve --help` for the list", err=True)
    if reset:
        development.reset(db, is_confirmed=yes)

    from minibill.server.process import ServeOptions, StartError, StartupFailed, run

    def announce(url: str) -> None:
        click.echo(f"minibill is listening on {url}")
        if dev:
            development.announce(url, settings=settings)

    options = ServeOptions(
        db,
        host,
        port,
        settings,
        has_console_log=dev or sys.stderr.isatty(),
        has_test_clock=test_clock,
        # On a developer's machine, files are deleted by hand. The log reports the loss, and the service starts.
        accept_loss=accept_loss or dev,
    )
    try:
        run(options, prepare=partial(_prepare, db, settings, seed=seed), announce=announce)
    except StartError as error:
        raise click.UsageError(str(error)) from None
    except StartupFailed as error:
        raise click.ClickException(str(error)) from None


async def _prepare(db: Path, settings: Settings, *, seed: bool) -> None:
    """Fill a new database with the example month, with `--seed`."""
    if not seed:
        return
    # Imported on use: a service does not need it.
    from minibill.cli.seed import BookNotEmpty, seed_book

    try:
        await seed_book(db, settings)
    except BookNotEmpty as error:
        raise click.UsageError(f"--seed: {error}; add --reset to start with an empty one") from None
