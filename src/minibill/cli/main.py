"""The command line: one click group, with each command in a module of its own.

Exit codes: 0 done; 1 a negative result; 2 wrong usage or configuration, with one line that states what to do.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

import click
from click.shell_completion import CompletionItem, add_completion_class

from minibill.cli.bash_completion import Bash
from minibill.cli.help import Group
from minibill.cli.streams import flush_output, safe_streams

# In the order of the help. A command has the name of its function, which is in this module of `minibill.cli`.
COMMANDS = {
    "demo": "demo",
    "serve": "serve",
    "token": "token",
    "migrate": "migrate",
    "verify": "verify",
    "backup": "backup",
    "restore": "backup",
    "campaign": "campaign",
    "clock": "clock",
    "completion": "completion",
}

# The completion script of a shell asks for completions with this variable, under whatever name the program is installed.
COMPLETION_VARIABLE = "_MINIBILL_COMPLETE"
add_completion_class(Bash)


class LazyGroup(Group):
    """A group that imports a command when it is used. The service does not need what other commands import."""

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, **options: Any) -> NoReturn:  # type: ignore[override]
        """Run the command line and exit. A usage error is printed as one line."""
        with safe_streams():
            sys.exit(self._run(sys.argv[1:] if args is None else list(args), prog_name, options))

    def _run(self, args: list[str], prog_name: str | None, options: dict[str, Any]) -> int | str | None:
        """Return the exit code of a command line."""
        try:
            _require_values(args)
            try:
                code = super().main(args, prog_name, COMPLETION_VARIABLE, standalone_mode=False, **options) or 0
            except SystemExit as error:
                code = error.code
            flush_output()
            return code
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            return error.exit_code
        except click.UsageError as error:
            see = f" (see {error.ctx.command_path} --help)" if error.ctx else ""
            click.echo(f"Error: {' '.join(error.format_message().split())}{see}", err=True)
            return error.exit_code
        except click.ClickException as error:
            error.show()
            return error.exit_code
        except click.Abort:
            click.echo("Aborted.", err=True)
            return 1

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete command names without importing the commands, as click's own method would."""
        names = [CompletionItem(name) for name in COMMANDS if name.startswith(incomplete)]
        return names + click.Command.shell_complete(self, ctx, incomplete)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module = COMMANDS.get(cmd_name)
        if module is None:
            return None
        command: click.Command = getattr(import_module(f"minibill.cli.{module}"), cmd_name)
        return command


def _require_values(args: list[str]) -> None:
    """Reject empty values. A shell passes one where a variable is not set."""
    option = ""
    for argument in args:
        if argument == "--":
            return
        if argument == "":
            raise click.UsageError(
                f"{option or 'an argument'} is empty: give a value" + (", or leave it out" if option else "")
            )
        if argument.startswith("--") and argument.endswith("=") and argument.count("=") == 1:
            raise click.UsageError(f"{argument[:-1]} is empty: give a value, or leave it out")
        option = argument if argument.startswith("-") else ""


def _print_version(ctx: click.Context, _: click.Parameter, is_given: bool) -> None:
    if is_given:
        # Imported on use, like the commands.
        from minibill.cli.version import version_line

        click.echo(version_line())
        ctx.exit()


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    examples="""
        minibill demo                     # run a whole campaign on a fresh database
        minibill serve --dev              # serve minibill.db, and print a token to paste
        minibill campaign import --help   # pay a CSV list of any length, each account once
    """,
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Show the version and exit."
)
def main() -> None:
    """Prepaid credits and promotional campaigns on one SQLite file."""


if __name__ == "__main__":
    main()
