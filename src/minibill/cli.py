"""The command line: one click group, each command in a module of its own under `commands/`.

Exit codes: 0 done; 1 the answer is "no"; 2 wrong usage or configuration, with one line that says what to do.
"""

from importlib import import_module

import click

import minibill

# In the order of the help; a command has the name of its function, which is in this module under `commands/`.
COMMANDS = {
    "demo": "demo",
    "serve": "serve",
    "token": "token",
    "migrate": "migrate",
    "verify": "verify",
    "backup": "backup",
    "restore": "backup",
    "campaign": "campaign",
}


class CommandGroup(click.Group):
    """Imports a command when it is asked for: a server has no use for what the other commands import."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module = COMMANDS.get(cmd_name)
        if module is None:
            return None
        command: click.Command = getattr(import_module(f"minibill.commands.{module}"), cmd_name)
        return command


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(minibill.__version__, prog_name="minibill")
def main() -> None:
    """Prepaid credits and promotional campaigns on one SQLite file.

    \b
    minibill demo                     a whole campaign, start to end, on a fresh database
    minibill serve --dev              a server on minibill.db, with a token to paste
    minibill campaign import --help   pay a list of any length, once
    """


if __name__ == "__main__":
    main()
