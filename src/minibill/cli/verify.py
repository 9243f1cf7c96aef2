"""`minibill verify`: check a database file without a service."""

import sys
from pathlib import Path

import click

from minibill.cli.help import Command
from minibill.cli.options import existing_database_option, json_option
from minibill.cli.output import print_json
from minibill.cli.verification import cli_errors, print_checks, progress_bar, report_json, summary, verify_with_progress


@click.command(
    cls=Command,
    short_help="Check a database file for any damage",
    exit_codes={0: "healthy", 1: "a check failed, or the file is damaged", 2: "no database that could be checked"},
    examples="""
        minibill verify --db /var/lib/credits.db
        minibill verify --json | jq '.checks | map_values(select(.status == "fail"))'
    """,
)
@existing_database_option
@json_option
def verify(*, db: Path, as_json: bool) -> None:
    """Recompute a database from its ledger entries and check its file.

    The command only reads, and runs next to a service without waiting for it. It runs all checks of a reconciliation,
    and three more:

    \b
    file_integrity  pages, indexes and constraints, by SQLite's own check; the schema
                    must be the one of this version
    commit_chain    rows that never change must match the hash chain, and no commit
                    that FILE-anchor records may be missing
    stored_responses  the responses stored for idempotency keys
    """
    with cli_errors("verify", db), progress_bar() as on_progress:
        verified = verify_with_progress(db, on_progress)
    if as_json:
        print_json({"db": str(db), "anchored": verified.anchored, **report_json(verified.report)})
    else:
        print_checks(verified)
        if not verified.anchored:
            click.echo(f"\nThere is no anchor next to {db}, so missing commits can't be detected.")
        click.echo(f"\n{summary(db, verified.report)}")
    sys.exit(0 if verified.report.status == "healthy" else 1)
