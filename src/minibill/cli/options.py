"""Options that several commands share: the database file, JSON output, and access to a running service."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from minibill.db.files import require_file_name

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
force_option = click.option("--force", is_flag=True, help="Replace an existing file.")


# --- database files ---


def file_path(context: click.Context, parameter: click.Parameter, path: Path) -> Path:
    """Return the path of a database file. Reject `:memory:` and `file:` names as a usage error."""
    try:
        return require_file_name(path)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _database_option(text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(
        "--db",
        type=click.Path(path_type=Path, dir_okay=False),
        callback=file_path,
        default=Path("minibill.db"),
        envvar="MINIBILL_DB",
        show_default=True,
        show_envvar=True,
        help=text,
    )


database_option = _database_option("Database file; created if it does not exist.")
existing_database_option = _database_option("Database file.")


def require_folder(path: Path) -> None:
    """Raise a usage error if the folder of a file, behind links, does not exist."""
    folder = Path(os.path.realpath(path)).parent
    if not folder.is_dir():
        raise click.UsageError(f"there is no folder {folder} for {path.name}: make it, or name a file elsewhere")


# --- a running service ---


def campaign_id(text: str) -> str:
    """Return a campaign id. Other text could change the path that it becomes part of."""
    if not _ID.fullmatch(text):
        raise click.BadParameter(f"{text!r}: expected a campaign id such as camp_0000000000001")
    return text


def grant_id(text: str) -> str:
    """Return a grant id. Other text could change the path that it becomes part of."""
    if not _ID.fullmatch(text):
        raise click.BadParameter(f"{text!r}: expected a grant id such as grant_0000000000001")
    return text


campaign_argument = click.argument("campaign_id", metavar="CAMPAIGN", type=campaign_id)


def service_options(command: Decorated) -> Decorated:
    """Add `--url`, `--token` and `--json` to a command that calls a running service."""
    for option in (
        json_option,
        click.option(
            "--token",
            envvar="MINIBILL_TOKEN",
            show_envvar=True,
            required=True,
            help="Admin token; `minibill token` prints one. In the environment, other users can't see it.",
        ),
        click.option(
            "--url",
            envvar="MINIBILL_URL",
            show_envvar=True,
            default="http://127.0.0.1:8080",
            show_default=True,
            help="Address of the service.",
        ),
    ):
        command = option(command)
    return command
