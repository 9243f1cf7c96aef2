"""The command line: one click group, each command in a module of its own under `commands/`.

Exit codes: 0 done; 1 the answer is "no"; 2 wrong usage or configuration, with one line that says what to do.
"""

import click

import minibill
from minibill.commands.campaign import campaign
from minibill.commands.demo import demo
from minibill.commands.migrate import migrate
from minibill.commands.serve import serve
from minibill.commands.token import token


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(minibill.__version__, prog_name="minibill")
def main() -> None:
    """Prepaid credits and promotional campaigns on one SQLite file.

    \b
    minibill demo                     a whole campaign, start to end, on a fresh database
    minibill serve --dev              a server on minibill.db, with a token to paste
    minibill campaign import --help   pay a list of any length, once
    """


main.add_command(demo)
main.add_command(serve)
main.add_command(token)
main.add_command(migrate)
main.add_command(campaign)

if __name__ == "__main__":
    main()
