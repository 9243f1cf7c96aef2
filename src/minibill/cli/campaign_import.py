"""`minibill campaign import`: reads a list to its end, checks it against the campaign, and pays it in batches.

loss_list.py reads the file, import_rows.py holds its rows, import_batches.py sends them, import_report.py reports.
"""

import contextlib
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import BinaryIO, TextIO, cast, get_args

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from minibill.api.types import EntityType
from minibill.campaigns.batch import BATCH_GRANTS_MAX
from minibill.campaigns.schemas import BatchResult
from minibill.cli.grants_csv import DECIMALS_MAX, Layout, UnreadableList, read_rows
from minibill.cli.import_batches import Batches, DoesNotFit
from minibill.cli.import_report import EXIT_INTERRUPTED, EXIT_NO, EXIT_USAGE, Report, tell, tell_bad_rows, write_report
from minibill.cli.import_rows import Result, Rows, TemporaryFileError
from minibill.cli.output import USER_AGENT, UsageError, access_options, campaign_argument, money
from minibill.client import Client, Unreachable, WrongAccess
from minibill.core.problems import Problem

EXIT_TERMINATED = 128 + signal.SIGTERM


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
@click.option(
    "--decimals",
    type=click.IntRange(0, DECIMALS_MAX),
    metavar="N",
    help="Amounts are integers in base units of 10^-N, such as 18 for wei.",
)
@click.option("--sum", "adds_up", is_flag=True, help="Add up the rows of one account instead of rejecting the list.")
@click.option("--skip-bad-rows", is_flag=True, help="Pay the other rows when some can't be read, and exit with 1.")
@click.option("--partial", is_flag=True, help="Over the budget: pay rows in order until one does not fit, and exit with 1.")
@click.option("--strict", is_flag=True, help="Exit with 1 when an account was paid a different amount before.")
@click.option("--force", is_flag=True, help="Allow grants of more than 50 units each.")
@click.option("--dry-run", is_flag=True, help="Have the service judge the whole list, and pay nothing.")
@click.option(
    "--report",
    "report_path",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.csv",
    help="Write a line for every row: what became of it, its amount and grant.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(1, BATCH_GRANTS_MAX),
    default=BATCH_GRANTS_MAX,
    show_default=True,
    help="Grants in one request at most.",
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
    decimals: int | None,
    adds_up: bool,
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
    """Pay every row of a list in CAMPAIGN, each account once, however often this is run.

    FILE.csv is UTF-8 with a header line; - reads standard input. The whole file is read and checked before anything is
    paid: a row that can't be read, an account named twice, or a sum over the remaining budget stops it. Needs
    --amount-column, --input-column or both; with both the amount is paid and the input is kept as evidence.

    \b
    minibill campaign import camp_0000000000001 wallets.csv --account-column account --amount-column amount
    minibill campaign import camp_0000000000001 losses.csv --entity-type person --account-column User \\
        --input-column lossMicro="ETH to recover" --input-column row=Index --round down --dry-run
    minibill campaign import camp_0000000000001 wei.csv --entity-type person --account-column wallet \\
        --amount-column wei --decimals 18 --round down --sum --report paid.csv

    \b
    Exit codes: 0 every row is paid, was paid before or is skipped by the formula; 1 rows failed, were left out or were
    refused; 2 wrong usage, list, URL or token, or over the budget; 130 interrupted, 143 terminated. After any of them it
    is safe to run it again.
    """  # fmt: skip
    if amount_column is None and not input_columns:
        raise click.UsageError(
            "give --amount-column, or --input-column KEY=COLUMN for what the campaign's formula needs "
            "(for a fixed amount any column will do as evidence: --input-column wallet=COLUMN)"
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
    with _terminated_as_interrupted(), ExitStack() as stack:
        try:
            rows = stack.enter_context(_read(file, layout, adds_up=adds_up))
        except KeyboardInterrupt as interrupt:
            click.echo("Interrupted: nothing was paid.", err=True)
            sys.exit(_exit_code_of(interrupt))
        table = None if report_path is None else stack.enter_context(_report_file(report_path, file))
        if rows.bad:
            tell_bad_rows(rows)
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
        fault = _written(rows, report, table, as_json=as_json)
        tell(report, as_json=as_json)
        if fault is not None:
            raise UsageError(f"the report {report_path} can't be written: {fault}; what is above is all the same done")
    sys.exit(report.exit_code)


def _read(file: str, layout: Layout, *, adds_up: bool) -> Rows:
    no_room = "nothing was paid: the list can't be kept in a temporary file: {}; is there room in TMPDIR?"
    try:
        rows = Rows()
    except (OSError, TemporaryFileError) as error:
        raise UsageError(no_room.format(error)) from None
    try:
        with click.open_file(file, "rb") as source:
            rows.add(read_rows(cast(BinaryIO, source), layout=layout), adds_up=adds_up)
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
def _report_file(path: Path, list_file: str) -> Iterator[TextIO]:
    """The report, open before anything is paid."""
    if list_file != "-" and path.exists() and path.samefile(list_file):
        raise UsageError(f"nothing was paid: the report would replace the list {list_file}; name another file")
    try:
        file = path.open("w", encoding="utf-8", newline="")
    except OSError as error:
        raise UsageError(f"nothing was paid: the report {path} can't be written: {error.strerror}") from None
    with file:
        yield file


def _written(rows: Rows, report: Report, table: TextIO | None, *, as_json: bool) -> str | None:
    """Write the report file and the JSON; the reason why the file can't be written, or None."""
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
    """Check the list against the limits, then pay it until the end, or until something stops it."""
    batches: Batches | None = None
    try:
        with (
            _progress(rows.good, dry_run=report.dry_run) as bar,
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
                bar.begin("judging")
                batches.judge()
                _check(batches, report, partial=partial)
            if not report.dry_run and report.stop is None:
                bar.begin("paying")
                _pay_rows(batches, report, partial=partial)
    except WrongAccess as error:
        raise UsageError(f"nothing was paid: {error}") from None
    except Problem as refusal:
        assert batches is not None, "only what is asked for is refused"
        in_doubt = bool(batches.sending) and refusal.may_have_arrived
        report.stop_at_refusal(refusal, batches.current, url=url, in_doubt=in_doubt)
        _in_doubt(rows, batches, in_doubt)
    except Unreachable as error:
        assert batches is not None, "only what is asked for goes unanswered"
        _in_doubt(rows, batches, error.may_have_arrived)
        report.stop_in_doubt("unreachable", str(error), EXIT_USAGE, batches.sending if error.may_have_arrived else ())
    except KeyboardInterrupt as interrupt:
        _in_doubt(rows, batches, True)
        sending = batches.sending if batches is not None else ()
        report.stop_in_doubt("interrupted", "interrupted", _exit_code_of(interrupt), sending)
    except TemporaryFileError as error:
        sending = batches.sending if batches is not None else ()
        report.stop_in_doubt("no_room", f"the temporary file can't be written: {error}", EXIT_USAGE, sending)
    if batches is not None and batches.remaining_micro is not None:
        report.remaining_micro = batches.remaining_micro - (batches.needed_micro if report.dry_run else 0)


def _check(batches: Batches, report: Report, *, partial: bool) -> None:
    """Compare the judged list with the limits."""
    report.batches = batches.requests
    remaining_micro = batches.remaining_micro or 0
    report.missing_micro = max(0, batches.needed_micro - remaining_micro)
    nothing = "" if report.dry_run else "nothing was paid: "
    if batches.over_limits:
        message = f"{nothing}{batches.over_limits} rows are over a limit; correct them, or change the campaign"
        report.stop_early("over_limits", message, EXIT_NO)
    elif report.missing_micro and not (partial and not report.dry_run):
        needed, left, missing = map(money, (batches.needed_micro, remaining_micro, report.missing_micro))
        message = (
            f"{nothing}the new grants come to {needed} and the campaign has {left} left: {missing} are missing; "
            "raise the budget, or pay as far as it goes with --partial"
        )
        # Wrong usage is one line, without figures.
        report.batches = batches.requests if report.dry_run else 0
        report.stop_early("over_budget", message, EXIT_NO if partial else EXIT_USAGE)


def _pay_rows(batches: Batches, report: Report, *, partial: bool) -> None:
    def on_paid(_: BatchResult) -> None:
        report.batches += 1

    try:
        batches.pay(partial=partial, on_paid=on_paid)
    except DoesNotFit:
        line, left = batches.current[0].line, money(batches.remaining_micro or 0)
        report.batches += 1
        report.stop_early("budget_exceeded", f"line {line} does not fit: the campaign has {left} left", EXIT_NO)


def _in_doubt(rows: Rows, batches: Batches | None, in_doubt: bool) -> None:
    """Mark the rows whose response is missing."""
    if batches is not None and in_doubt:
        with contextlib.suppress(TemporaryFileError):
            rows.record(Result(item.line, "unknown", item.expected_micro) for item in batches.sending)


# --- signals ---


class _Terminated(KeyboardInterrupt):
    """SIGTERM."""


def _exit_code_of(interrupt: KeyboardInterrupt) -> int:
    return EXIT_TERMINATED if isinstance(interrupt, _Terminated) else EXIT_INTERRUPTED


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Have SIGTERM end in a report, as Ctrl-C does."""

    def terminate(signum: int, frame: FrameType | None) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# --- progress ---


class _Bar:
    """The progress of an import, on a terminal."""

    def __init__(self, progress: Progress, *, rows: int, dry_run: bool) -> None:
        self._progress = progress
        self._doing = "judging" if dry_run else "paying"
        self._task = progress.add_task(self._doing, total=rows)

    def begin(self, doing: str) -> None:
        self._doing = doing
        self._progress.update(self._task, completed=0, description=doing)

    def advance(self, rows: int) -> None:
        self._progress.update(self._task, advance=rows, description=self._doing)

    def wait(self, seconds: float, reason: str) -> None:
        self._progress.update(self._task, description=f"waiting {seconds:g} s ({reason})")


@contextmanager
def _progress(rows: int, *, dry_run: bool) -> Iterator[_Bar]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(file=sys.stderr), disable=not sys.stderr.isatty()) as progress:
        yield _Bar(progress, rows=rows, dry_run=dry_run)
