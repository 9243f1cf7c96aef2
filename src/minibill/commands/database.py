"""The option that names the database file, for the commands that open one."""

from pathlib import Path

import click

database_option = click.option(
    "--db",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("minibill.db"),
    envvar="MINIBILL_DB",
    show_default=True,
    show_envvar=True,
    help="The database file; made when it is not there.",
)
