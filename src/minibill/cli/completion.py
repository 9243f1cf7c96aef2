"""`minibill completion`: print the completion script of a shell."""

import click
from click.shell_completion import get_completion_class

from minibill.cli.help import Command
from minibill.cli.main import COMPLETION_VARIABLE


@click.command(
    cls=Command,
    short_help="Print the completion script of a shell",
    examples="""
        source <(minibill completion bash)               # in this shell, or in ~/.bashrc
        minibill completion zsh > ~/.zfunc/_minibill     # with ~/.zfunc in fpath, before compinit
    """,
)
@click.argument("shell", type=click.Choice(["bash", "zsh"]))
@click.pass_context
def completion(context: click.Context, *, shell: str) -> None:
    """Print a script for bash or zsh that completes commands, options and their values with the Tab key."""
    shell_class = get_completion_class(shell)
    assert shell_class is not None
    script = shell_class(context.find_root().command, {}, "minibill", COMPLETION_VARIABLE)
    # source() would start a bash to check its version. The script may be made for another machine.
    click.echo(script.source_template % script.source_vars())
