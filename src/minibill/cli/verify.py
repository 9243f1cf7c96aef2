"""`minibill verify`: recomputes a book and says whether it is whole."""

import sys
from pathlib import Path

import click

from minibill.cli.options import existing_database_option
from minibill.cli.output import print_json
from minibill.cli.verification import cli_errors, json_option, print_checks, progress_bar, summary, verdict_json, verified


@click.command(
    epilog="""\b
Examples:
  minibill verify --db /var/lib/credits.db
  minibill verify --json | jq '.checks | map_values(select(.status == "fail"))'

Exit codes: 0 healthy; 1 something is wrong; 2 there is no book to check."""
)
@existing_database_option
@json_option
def verify(*, db: Path, as_json: bool) -> None:
    """Recompute a book from its entries, and check the file itself.

    Reads only, and never waits for a service that writes the file meanwhile. What is checked is what
    POST /admin/billing/reconciliation checks, and file_integrity: SQLite's own check of pages, indexes and constraints,
    and whether the schema is the one that this version makes; commit_chain: whether rows that never change are what the
    chain hashed, and nothing is missing of what FILE-anchor says was committed; kept_answers: the answers that are kept
    for idempotency keys.
    """  # fmt: skip
    with cli_errors("verify", db), progress_bar() as say:
        found = verified(db, say)
    if as_json:
        print_json({"db": str(db), "anchored": found.anchored, **verdict_json(found.report)})
    else:
        print_checks(found)
        if not found.anchored:
            click.echo(f"\nThere is no anchor beside {db}: nothing tells whether its newest commits are missing.")
        click.echo(f"\n{summary(db, found.report)}")
    sys.exit(0 if found.report.status == "healthy" else 1)
