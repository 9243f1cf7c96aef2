"""The option that names the database file, for the commands that open one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click


def _database_option(what: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(
        "--db",
        type=click.Path(path_type=Path, dir_okay=False),
        default=Path("minibill.db"),
        envvar="MINIBILL_DB",
        show_default=True,
        show_envvar=True,
        help=what,
    )


database_option = _database_option("The database file; made when it is not there.")
existing_database_option = _database_option("The database file.")
