"""`minibill clock`: the ledger's time on a running service, over HTTP."""

import click

from minibill.cli.help import SERVICE_EXIT_CODES, Group
from minibill.cli.options import service_options
from minibill.cli.output import print_json
from minibill.cli.service import service_client


@click.group(
    cls=Group,
    short_help="Accept a wall clock that jumped ahead",
    examples="""
        export MINIBILL_TOKEN=$(minibill token)
        minibill clock accept --dry-run
        minibill clock accept
    """,
)
def clock() -> None:
    """Manage the ledger's time on a running service.

    The ledger's time does not follow a wall clock that jumps ahead. While it does not, /health/ready reports the jump.
    """


@clock.command(
    short_help="Follow the wall clock again",
    exit_codes=SERVICE_EXIT_CODES,
    examples="minibill clock accept --dry-run",
)
@click.option("--dry-run", is_flag=True, help="Print the time that would be accepted, and change nothing.")
@service_options
def accept(*, dry_run: bool, url: str, token: str, as_json: bool) -> None:
    """Move the ledger's time to the wall clock, however far ahead that is.

    Credits and reservations that expire by that time expire for good. If the wall clock is wrong, correct it instead.
    """
    with service_client(url, token) as client:
        accepted = client.accept_clock(dry_run=dry_run)
    if as_json:
        print_json(accepted, dry_run=dry_run)
    elif accepted.now == accepted.before:
        click.echo(f"nothing to accept: the ledger's time is {accepted.now}")
    else:
        moved = "dry run: the ledger's time would move" if dry_run else "the ledger's time moved"
        click.echo(f"{moved} from {accepted.before} to {accepted.now}")
