"""The option that names the database file, for the commands that open one, and what is said when it can't be."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from minibill.db.files import require_file_name


def file_path(context: click.Context, parameter: click.Parameter, path: Path) -> Path:
    """The path of a database file; `:memory:` and URIs are none."""
    try:
        return require_file_name(path)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _database_option(what: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(
        "--db",
        type=click.Path(path_type=Path, dir_okay=False),
        callback=file_path,
        default=Path("minibill.db"),
        envvar="MINIBILL_DB",
        show_default=True,
        show_envvar=True,
        help=what,
    )


database_option = _database_option("The database file; made when it is not there.")
existing_database_option = _database_option("The database file.")


def require_folder(path: Path) -> None:
    """Ends the command where a file, behind links, could not be made for want of a folder."""
    folder = Path(os.path.realpath(path)).parent
    if not folder.is_dir():
        raise click.UsageError(f"there is no folder {folder} for {path.name}: make it, or name a file elsewhere")
