"""`minibill completion`: what a shell reads in order to complete minibill's commands, options and choices."""

import click
from click.shell_completion import get_completion_class

from minibill.cli.main import COMPLETION_VARIABLE


@click.command(
    epilog="""\b
Examples:
  source <(minibill completion bash)                          in this shell, or as a line of ~/.bashrc
  minibill completion zsh > ~/.zfunc/_minibill                with ~/.zfunc in fpath, before compinit"""
)
@click.argument("shell", type=click.Choice(["bash", "zsh"]))
@click.pass_context
def completion(context: click.Context, *, shell: str) -> None:
    """Print what bash or zsh reads to complete a command line with the Tab key."""
    kind = get_completion_class(shell)
    assert kind is not None
    script = kind(context.find_root().command, {}, "minibill", COMPLETION_VARIABLE)
    # Not source(), which first starts a bash to ask for its version: the file may be made for another machine.
    click.echo(script.source_template % script.source_vars())
