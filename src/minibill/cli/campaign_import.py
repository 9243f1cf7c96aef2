"""`minibill campaign import`: read a list to its end, check it against the campaign, and pay it in batches.

grants_csv.py reads the file, import_rows.py stores its rows, import_batches.py sends them, import_report.py reports them.
"""

import contextlib
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO, cast, get_args

import click

from minibill.api.types import EntityType
from minibill.campaigns.batch import BATCH_GRANTS_MAX
from minibill.campaigns.schemas import BatchResult
from minibill.cli.grants_csv import DECIMALS_MAX, Layout, UnreadableList, read_rows
from minibill.cli.help import Command
from minibill.cli.import_batches import Batches, DoesNotFit
from minibill.cli.import_progress import exit_code_of, import_progress, sigterm_as_interrupt
from minibill.cli.import_report import EXIT_NO, EXIT_USAGE, Report, write_report
from minibill.cli.import_rows import Result, Rows, TemporaryFileError
from minibill.cli.import_summary import print_bad_rows, print_summary
from minibill.cli.options import campaign_argument, service_options
from minibill.cli.output import USER_AGENT, UsageError, money
from minibill.client import Client, Unreachable, WrongAccess
from minibill.core.problems import Problem

# --- the command ---


def input_column(text: str) -> tuple[str, str]:
    """Parse `KEY=COLUMN`. The column may contain further equals signs."""
    key, equals, column = text.partition("=")
    if not key or not equals:
        raise click.BadParameter(f'{text!r}: expected KEY=COLUMN such as lossMicro="ETH to recover"')
    return key, column


def one_character(text: str) -> str:
    """Parse a delimiter. The word `tab` is easier to type than a tab."""
    delimiter = "\t" if text in ("tab", "\\t") else text
    if len(delimiter) != 1 or delimiter in '"\r\n\0':
        raise click.BadParameter(f"{text!r}: expected one character, such as ';', or the word tab")
    return delimiter


@click.command(
    "import",
    cls=Command,
    short_help="Pay a CSV list, each account once",
    exit_codes={
        0: "every row is paid, was paid before, or is skipped by the formula",
        1: "some rows failed, were left out, or were rejected",
        2: "wrong usage, list, URL or token; or the list exceeds the budget",
        130: "interrupted",
        143: "terminated",
    },
    examples="""
        minibill campaign import camp_0000000000001 wallets.csv --account-column account --amount-column amount
        minibill campaign import camp_0000000000001 losses.csv --entity-type person --account-column User \\
            --input-column lossMicro="ETH to recover" --input-column row=Index --round down --dry-run
        minibill campaign import camp_0000000000001 wei.csv --entity-type person --account-column wallet \\
            --amount-column wei --decimals 18 --round down --sum --report paid.csv
    """,
)
@campaign_argument
@click.argument("file", metavar="FILE.csv", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option(
    "--account-column",
    required=True,
    metavar="COLUMN",
    help="Column of account ids, or of entity ids with --entity-type.",
)
@click.option(
    "--entity-type",
    type=click.Choice(get_args(EntityType)),
    help="Entity type of the accounts; new accounts are opened.",
)
@click.option("--amount-column", metavar="COLUMN", help="Column of amounts, in units; at most 6 decimal places.")
@click.option(
    "--input-column",
    "input_columns",
    type=input_column,
    multiple=True,
    metavar="KEY=COLUMN",
    help="Input of the campaign's formula; repeatable. A KEY that ends in Micro is an amount in units, any other is stored "
    "as evidence.",
)
@click.option("--round", "rounding", type=click.Choice(["down"]), help="Cut off more than 6 decimal places.")
@click.option(
    "--delimiter",
    type=one_character,
    metavar="CHARACTER",
    default=",",
    show_default=True,
    help="Separator of columns: one character, or the word tab.",
)
@click.option(
    "--decimals",
    type=click.IntRange(0, DECIMALS_MAX),
    metavar="N",
    help="Read amounts as integers in base units of 10^-N, such as 18 for wei.",
)
@click.option("--sum", "sum_rows", is_flag=True, help="Add up several rows of one account instead of rejecting the list.")
@click.option("--skip-bad-rows", is_flag=True, help="Pay the other rows if some can't be read, and exit with 1.")
@click.option("--partial", is_flag=True, help="Over the budget, pay rows in order until one does not fit, and exit with 1.")
@click.option("--strict", is_flag=True, help="Exit with 1 if an account was paid a different amount before.")
@click.option("--force", is_flag=True, help="Allow grants of more than 50 units each.")
@click.option("--dry-run", is_flag=True, help="Have the service check the whole list, and pay nothing.")
@click.option(
    "--report",
    "report_path",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.csv",
    help="Write one line for each row: its status, amount and grant.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(1, BATCH_GRANTS_MAX),
    default=BATCH_GRANTS_MAX,
    show_default=True,
    help="Largest number of grants in one request.",
)
@service_options
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
    decimals: int | None,
    sum_rows: bool,
    skip_bad_rows: bool,
    partial: bool,
    strict: bool,
    force: bool,
    dry_run: bool,
    report_path: Path | None,
    batch_size: int,
    url: str,
    token: str,
    as_json: bool,
) -> None:
    """Pay every row of a list in CAMPAIGN. An account is paid once, however often the import runs.

    FILE.csv is UTF-8 with a header line; - reads standard input. The command reads and checks the whole list before it pays
    anything. A row that can't be read, an account named twice, or a sum over the remaining budget stops the import.

    Give --amount-column, --input-column or both. With both, the amount is paid and the input is stored as evidence.

    An import that was interrupted is safe to run again.
    """
    if amount_column is None and not input_columns:
        raise click.UsageError(
            "give --amount-column, or --input-column KEY=COLUMN with the input of the campaign's formula "
            "(for a fixed amount, any column will do as evidence: --input-column wallet=COLUMN)"
        )
    if len(dict(input_columns)) != len(input_columns):
        raise click.UsageError("--input-column: a key is given twice")
    layout = Layout(
        account_column=account_column.strip(),
        entity_type=entity_type,
        amount_column=None if amount_column is None else amount_column.strip(),
        input_columns={key: column.strip() for key, column in input_columns},
        delimiter=delimiter,
        round_down=rounding == "down",
        decimals=decimals,
    )
    report = Report(campaign_id=campaign_id, dry_run=dry_run, by_entity=entity_type is not None, strict=strict)
    with sigterm_as_interrupt(), ExitStack() as stack:
        try:
            rows = stack.enter_context(_read(file, layout, sum_rows=sum_rows))
        except KeyboardInterrupt as interrupt:
            click.echo("Interrupted: nothing was paid.", err=True)
            sys.exit(exit_code_of(interrupt))
        table = None if report_path is None else stack.enter_context(_open_report(report_path, file))
        if rows.bad:
            print_bad_rows(rows)
        if rows.bad and not (skip_bad_rows and rows.good):
            advice = "; correct them, or pay the others with --skip-bad-rows" if rows.good else ""
            message = f"nothing was paid: {rows.bad} of {rows.bad + rows.good} rows can't be paid{advice}"
            report.stop_early("bad_rows", message, EXIT_USAGE)
        else:
            _pay(
                rows,
                report,
                url=url,
                token=token,
                entity_type=entity_type,
                force=force,
                partial=partial,
                batch_size=batch_size,
            )
        write_error = _write(rows, report, table, as_json=as_json)
        print_summary(report, as_json=as_json)
        if write_error is not None:
            raise UsageError(f"the report {report_path} can't be written: {write_error}; the payments above are done")
    sys.exit(report.exit_code)


# --- reading and writing files ---


def _read(file: str, layout: Layout, *, sum_rows: bool) -> Rows:
    no_room = "nothing was paid: the list can't be kept in a temporary file: {}; is there room in TMPDIR?"
    try:
        rows = Rows()
    except (OSError, TemporaryFileError) as error:
        raise UsageError(no_room.format(error)) from None
    try:
        with click.open_file(file, "rb") as source:
            rows.add(read_rows(cast(BinaryIO, source), layout=layout), sum_rows=sum_rows)
    except OSError as error:
        raise UsageError(f"nothing was paid: the list can't be read: {error.strerror}") from None
    except UnreadableList as error:
        raise UsageError(f"nothing was paid: {error}") from None
    except TemporaryFileError as error:
        raise UsageError(no_room.format(error)) from None
    if not rows.good and not rows.bad:
        raise UsageError("nothing was paid: the list has no rows")
    return rows


@contextmanager
def _open_report(path: Path, list_file: str) -> Iterator[TextIO]:
    """Open the report file before anything is paid."""
    if list_file != "-" and path.exists() and path.samefile(list_file):
        raise UsageError(f"nothing was paid: the report would replace the list {list_file}; name another file")
    try:
        file = path.open("w", encoding="utf-8", newline="")
    except OSError as error:
        raise UsageError(f"nothing was paid: the report {path} can't be written: {error.strerror}") from None
    with file:
        yield file


def _write(rows: Rows, report: Report, table: TextIO | None, *, as_json: bool) -> str | None:
    """Write the report file and the JSON. Return the reason if the file can't be written."""
    try:
        write_report(rows, report, table=table, as_json=as_json)
        if table is not None:
            table.close()
    except OSError as error:
        if table is None:
            raise
        with contextlib.suppress(OSError):
            table.close()
        return error.strerror
    return None


# --- paying ---


def _pay(
    rows: Rows,
    report: Report,
    *,
    url: str,
    token: str,
    entity_type: str | None,
    force: bool,
    partial: bool,
    batch_size: int,
) -> None:
    """Check the list against the limits, then pay it to the end, or until an error stops it."""
    batches: Batches | None = None
    try:
        with (
            import_progress(rows.good, dry_run=report.dry_run) as bar,
            Client(url, token, on_wait=bar.wait, user_agent=USER_AGENT) as client,
        ):
            batches = Batches(
                client,
                report.campaign_id,
                rows,
                entity_type=entity_type,
                force=force,
                size_max=batch_size,
                on_progress=bar.advance,
            )
            campaign = batches.read_campaign()
            is_sure = campaign is not None and batches.is_within_limits(campaign)
            if report.dry_run or not is_sure:
                bar.begin("checking")
                batches.check()
                _compare_with_limits(batches, report, partial=partial)
            if not report.dry_run and report.stop is None:
                bar.begin("paying")
                _pay_rows(batches, report, partial=partial)
    except WrongAccess as error:
        raise UsageError(f"nothing was paid: {error}") from None
    except Problem as problem:
        assert batches is not None, "the first request comes after"
        in_doubt = bool(batches.sending) and problem.may_have_arrived
        report.stop_at_problem(problem, batches.current, url=url, in_doubt=in_doubt)
        _mark_in_doubt(rows, batches, in_doubt)
    except Unreachable as error:
        assert batches is not None, "the first request comes after"
        _mark_in_doubt(rows, batches, error.may_have_arrived)
        report.stop_in_doubt("unreachable", str(error), EXIT_USAGE, batches.sending if error.may_have_arrived else ())
    except KeyboardInterrupt as interrupt:
        _mark_in_doubt(rows, batches, True)
        sending = batches.sending if batches is not None else ()
        report.stop_in_doubt("interrupted", "interrupted", exit_code_of(interrupt), sending)
    except TemporaryFileError as error:
        sending = batches.sending if batches is not None else ()
        report.stop_in_doubt("no_room", f"the temporary file can't be written: {error}", EXIT_USAGE, sending)
    if batches is not None and batches.remaining_micro is not None:
        report.remaining_micro = batches.remaining_micro - (batches.needed_micro if report.dry_run else 0)


def _compare_with_limits(batches: Batches, report: Report, *, partial: bool) -> None:
    """Stop the import if rows exceed a limit, or all of them together the budget."""
    report.batches = batches.requests
    remaining_micro = batches.remaining_micro or 0
    report.missing_micro = max(0, batches.needed_micro - remaining_micro)
    nothing = "" if report.dry_run else "nothing was paid: "
    if batches.over_limits:
        message = f"{nothing}{batches.over_limits} rows are over a limit; correct them, or change the campaign"
        report.stop_early("over_limits", message, EXIT_NO)
    elif report.missing_micro and not (partial and not report.dry_run):
        needed, remaining, missing = map(money, (batches.needed_micro, remaining_micro, report.missing_micro))
        message = (
            f"{nothing}the new grants add up to {needed}, {missing} more than the remaining {remaining}; raise the budget, "
            "or pay as many rows as it covers with --partial"
        )
        # A usage error is one line, without figures.
        report.batches = batches.requests if report.dry_run else 0
        report.stop_early("over_budget", message, EXIT_NO if partial else EXIT_USAGE)


def _pay_rows(batches: Batches, report: Report, *, partial: bool) -> None:
    def on_paid(_: BatchResult) -> None:
        report.batches += 1

    try:
        batches.pay(partial=partial, on_paid=on_paid)
    except DoesNotFit:
        line, remaining = batches.current[0].line, money(batches.remaining_micro or 0)
        report.batches += 1
        report.stop_early("budget_exceeded", f"line {line} does not fit: the campaign has {remaining} remaining", EXIT_NO)


def _mark_in_doubt(rows: Rows, batches: Batches | None, in_doubt: bool) -> None:
    """Mark the rows whose response is missing."""
    if batches is not None and in_doubt:
        with contextlib.suppress(TemporaryFileError):
            rows.record(Result(item.line, "unknown", item.expected_micro) for item in batches.sending)
