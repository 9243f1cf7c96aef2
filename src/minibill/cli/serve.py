"""`minibill serve`: the options of the service; server.py runs it."""

import os
import sys
from functools import partial
from pathlib import Path

import click
import msgspec

from minibill.cli.options import database_option, require_folder
from minibill.config import SETTINGS, ConfigurationError, SettingMissing, Settings, read_settings, unknown_variables


def _settings_help() -> str:
    lines = ["\b", "Settings come from the environment:"]
    for setting in SETTINGS:
        default = "no default" if setting.default is None else f"default {setting.default or 'none'}"
        lines += [f"  {setting.variable} ({setting.unit}; {default})", f"      {setting.reason}"]
    return "\n".join(lines)


_EXAMPLES = """\b
Examples:
  minibill serve --dev                       on minibill.db, with secrets and a token made for you
  minibill serve --dev --reset --seed        the same on a fresh example book
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
@click.option("--reset", is_flag=True, help="With --dev: delete the database first, after a question.")
@click.option("--yes", is_flag=True, help="With --reset: do not ask.")
@click.option("--seed", is_flag=True, help="With --dev: fill an empty database with an example book of a month.")
@click.option(
    "--accept-loss",
    is_flag=True,
    help="Serve a book that has lost what was answered, in a new epoch of ids; the log says how much.",
)
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

    Migrates the file first. One process serves a file; a second one is refused. SIGTERM finishes what was taken on.
    """  # fmt: skip
    for option, given in (("--test-clock", test_clock), ("--reset", reset), ("--seed", seed)):
        if given and not dev:
            raise click.UsageError(f"{option} is for development only: add --dev")
    if yes and not reset:
        raise click.UsageError("--yes answers the question that --reset asks: add --reset")
    require_folder(db)
    # Imported when it is time to serve: to complete a command line takes a tenth of the time without.
    from minibill.cli import dev as development

    try:
        settings = read_settings(development.with_dev_secrets(db, os.environ) if dev else os.environ)
    except SettingMissing as error:
        raise click.UsageError(f"{error}, or use --dev to have one made") from None
    except ConfigurationError as error:
        raise click.UsageError(str(error)) from None
    settings = msgspec.structs.replace(settings, cors_loopback=dev)
    for name in unknown_variables(os.environ):
        click.echo(f"warning: {name} is no setting of this minibill; minibill serve --help lists them", err=True)
    if reset:
        development.reset(db, sure=yes)

    from minibill.server.process import run

    # A laptop is where files are deleted by hand: what was lost there is said in the log, and in nobody's way.
    accept_loss = accept_loss or dev
    run(
        db,
        host,
        port,
        settings,
        for_people=dev or sys.stderr.isatty(),
        test_clock=test_clock,
        accept_loss=accept_loss,
        prepare=partial(_prepare, db, settings, seed=seed),
        announce=partial(development.announce, settings=settings) if dev else lambda url: None,
    )


async def _prepare(db: Path, settings: Settings, *, seed: bool) -> None:
    """Put an example book into a new database, if that is asked for."""
    if not seed:
        return
    # Imported for those who want it: a server has no use for it.
    from minibill.cli.seed import BookNotEmpty, seed_book

    try:
        await seed_book(db, settings)
    except BookNotEmpty as error:
        raise click.UsageError(f"--seed: {error}; add --reset to begin anew") from None
