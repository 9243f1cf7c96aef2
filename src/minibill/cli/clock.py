"""`minibill clock`: the time of the book on a running service, over HTTP."""

import click

from minibill.cli.output import access_options, print_json
from minibill.cli.service import asked_service


@click.group(short_help="The book's time on a running service: accept a wall clock that jumped.")
def clock() -> None:
    """The book's time on a running service.

    The book's time does not follow a wall clock that jumps ahead; /health/ready says so.

    \b
    export MINIBILL_TOKEN=$(minibill token)
    minibill clock accept --dry-run
    minibill clock accept
    """


@clock.command()
@click.option("--dry-run", is_flag=True, help="Print the time that the book would go on from, and change nothing.")
@access_options
def accept(*, dry_run: bool, url: str, token: str, as_json: bool) -> None:
    """Make the book's time follow the wall clock again, however far that is ahead.

    Credits and reservations that are due at the wall clock's time expire for good. Set a wrong wall clock right first.

    \b
    minibill clock accept --dry-run
    """
    with asked_service(url, token) as client:
        accepted = client.accept_clock(dry_run=dry_run)
    if as_json:
        print_json(accepted, dry_run=dry_run)
    elif accepted.now == accepted.before:
        click.echo(f"nothing to accept: the book's time is {accepted.now}")
    else:
        moved = "dry run: the book's time would move" if dry_run else "the book's time moved"
        click.echo(f"{moved} from {accepted.before} to {accepted.now}")
