"""`minibill campaign import`: reads a list to its end, and pays it in batches until the end or until something stops it.

Reading is the business of loss_list.py, sending that of the client, and what is said about it that of import_report.py.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import get_args

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from minibill.client import Client, Unreachable, WrongAccess
from minibill.commands.import_report import EXIT_INTERRUPTED, EXIT_MISUSE, Report, tell, tell_bad_rows
from minibill.commands.loss_list import (
    BATCH_ITEMS_MAX,
    Batch,
    Layout,
    LossList,
    UnreadableList,
    batches,
    read_loss_list,
)
from minibill.commands.output import USER_AGENT, Misuse, access_options, campaign_argument
from minibill.problems import Problem
from minibill.wire import EntityType


def input_column(text: str) -> tuple[str, str]:
    """`KEY=COLUMN`; the column may hold further equals signs."""
    key, equals, column = text.partition("=")
    if not key or not equals:
        raise click.BadParameter(f'{text!r}: expected KEY=COLUMN such as lossMicro="ETH to recover"')
    return key, column


def one_character(text: str) -> str:
    """A delimiter; `tab` is easier to type than a tab."""
    delimiter = "\t" if text in ("tab", "\\t") else text
    if len(delimiter) != 1 or delimiter in '"\r\n\0':
        raise click.BadParameter(f"{text!r}: expected one character, such as ';', or the word tab")
    return delimiter


@click.command("import")
@campaign_argument
@click.argument("file", metavar="FILE.csv", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option(
    "--account-column",
    required=True,
    metavar="COLUMN",
    help="Whom to pay: account ids, or entity ids with --entity-type.",
)
@click.option(
    "--entity-type",
    type=click.Choice(get_args(EntityType)),
    help="The accounts are entities of this type; new ones are opened.",
)
@click.option("--amount-column", metavar="COLUMN", help="How much to pay, in units; 6 decimal places at most.")
@click.option(
    "--input-column",
    "input_columns",
    type=input_column,
    multiple=True,
    metavar="KEY=COLUMN",
    help="Input of the campaign's formula; may be given again. A KEY that ends in Micro is an amount in units, "
    "any other is kept as evidence.",
)
@click.option("--round", "rounding", type=click.Choice(["down"]), help="Cut off what is beyond 6 decimal places.")
@click.option(
    "--delimiter",
    type=one_character,
    metavar="CHARACTER",
    default=",",
    show_default=True,
    help="Between columns: one character, or tab.",
)
@click.option("--skip-bad-rows", is_flag=True, help="Pay the other rows when some can't be read, and exit with 1.")
@click.option("--force", is_flag=True, help="Allow grants of more than 50 units each.")
@click.option("--dry-run", is_flag=True, help="Have the service judge every batch, and pay nothing.")
@click.option(
    "--batch-size",
    type=click.IntRange(1, BATCH_ITEMS_MAX),
    default=BATCH_ITEMS_MAX,
    show_default=True,
    help="Grants in one request.",
)
@access_options
def import_list(
    *,
    campaign_id: str,
    file: str,
    account_column: str,
    entity_type: str | None,
    amount_column: str | None,
    input_columns: tuple[tuple[str, str], ...],
    rounding: str | None,
    delimiter: str,
    skip_bad_rows: bool,
    force: bool,
    dry_run: bool,
    batch_size: int,
    url: str,
    token: str,
    as_json: bool,
) -> None:
    """Pay every row of a list in CAMPAIGN, each account once, however often this is run.

    FILE.csv is UTF-8 with a header line; - reads standard input. The whole file is read and checked before anything is
    paid: a row that can't be read, or an account named twice, stops it. Needs --amount-column, --input-column or both;
    with both the amount is paid and the input is kept as evidence.

    \b
    minibill campaign import camp_0000000000001 wallets.csv --account-column account --amount-column amount
    minibill campaign import camp_0000000000001 losses.csv --entity-type person --account-column User \\
        --input-column lossMicro="ETH to recover" --input-column row=Index --round down --dry-run

    \b
    Exit codes: 0 every row is paid, was paid before or is skipped by the formula; 1 rows failed, were left out or were
    refused; 2 wrong usage, list, URL or token; 130 interrupted. After any of them it is safe to run it again.
    """  # fmt: skip
    if amount_column is None and not input_columns:
        raise click.UsageError(
            "give --amount-column, or --input-column KEY=COLUMN for what the campaign's formula needs "
            "(for a fixed amount any column will do as evidence: --input-column wallet=COLUMN)"
        )
    if len(dict(input_columns)) != len(input_columns):
        raise click.UsageError("--input-column: a key is given twice")
    layout = Layout(
        account_column=account_column,
        entity_type=entity_type,
        amount_column=amount_column,
        input_columns=dict(input_columns),
        delimiter=delimiter,
        round_down=rounding == "down",
    )
    try:
        loss_list = _read(file, layout)
    except KeyboardInterrupt:
        click.echo("Interrupted: nothing was paid.", err=True)
        sys.exit(EXIT_INTERRUPTED)
    items, bad_rows = loss_list.items, loss_list.bad_rows
    report = Report(campaign_id=campaign_id, dry_run=dry_run, bad_rows=bad_rows)
    tell_bad_rows(bad_rows)
    if bad_rows and not (skip_bad_rows and items):
        report.stop_at_bad_rows(good=len(items))
    else:
        _pay(batches(items, size_max=batch_size, force=force), report, rows=len(items), url=url, token=token)
    tell(report, as_json=as_json)
    sys.exit(report.exit_code)


def _read(file: str, layout: Layout) -> LossList:
    try:
        with click.open_file(file, "rb") as source:
            loss_list = read_loss_list(source.read(), layout=layout)
    except OSError as error:
        raise Misuse(f"nothing was paid: the list can't be read: {error.strerror}") from None
    except UnreadableList as error:
        raise Misuse(f"nothing was paid: {error}") from None
    if not loss_list.items and not loss_list.bad_rows:
        raise Misuse("nothing was paid: the list has no rows")
    return loss_list


def _pay(plan: Iterator[Batch], report: Report, *, rows: int, url: str, token: str) -> None:
    """Sends the batches one after the other until the end, or until something stops it; the report has it all."""
    batch = None
    try:
        with (
            _progress(rows, dry_run=report.dry_run) as bar,
            Client(url, token, on_wait=bar.wait, user_agent=USER_AGENT) as client,
        ):
            for batch in plan:
                paid = client.pay_encoded_batch(report.campaign_id, batch.body, dry_run=report.dry_run)
                report.add(batch, paid)
                bar.advance(len(batch.items))
                batch = None
    except WrongAccess as error:
        raise Misuse(f"nothing was paid: {error}") from None
    except Problem as refusal:
        assert batch is not None, "only what is asked for is refused"
        report.stop_at_refusal(refusal, batch, url=url)
    except Unreachable as error:
        in_doubt = batch if error.may_have_arrived else None
        report.stop_early("unreachable", str(error), EXIT_MISUSE, in_doubt=in_doubt)
    except KeyboardInterrupt:
        report.stop_early("interrupted", "interrupted", EXIT_INTERRUPTED, in_doubt=batch)


class _Bar:
    """The progress of an import, on a terminal."""

    def __init__(self, progress: Progress, *, rows: int, dry_run: bool) -> None:
        self._progress = progress
        self._doing = "judging" if dry_run else "paying"
        self._task = progress.add_task(self._doing, total=rows)

    def advance(self, rows: int) -> None:
        self._progress.update(self._task, advance=rows, description=self._doing)

    def wait(self, seconds: float, reason: str) -> None:
        self._progress.update(self._task, description=f"waiting {seconds:g} s ({reason})")


@contextmanager
def _progress(rows: int, *, dry_run: bool) -> Iterator[_Bar]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(file=sys.stderr), disable=not sys.stderr.isatty()) as progress:
        yield _Bar(progress, rows=rows, dry_run=dry_run)
