"""`minibill campaign`: campaigns on a running service, over HTTP.

Reading a list is the business of loss_list.py, waiting and sending again that of client.py. Results go to stdout;
notes, faults and the progress bar to stderr.
"""

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar, get_args

import click
import msgspec
from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.progress_bar import ProgressBar

from minibill.campaigns.structs import CampaignType, Formula
from minibill.commands.client import Service, ServiceRefusal, Unreachable, WrongAccess
from minibill.commands.loss_list import (
    BATCH_ITEMS_MAX,
    BadRow,
    Batch,
    Layout,
    LossList,
    UnreadableList,
    batches,
    read_loss_list,
)
from minibill.money import MICRO_PER_UNIT, parse_micro
from minibill.wire import EntityType

# More would scroll the first, which is the one to mend, off the screen; --json has them all.
LISTED_MAX = 20

EXIT_DONE, EXIT_NO, EXIT_MISUSE, EXIT_INTERRUPTED = 0, 1, 2, 130

_CAMPAIGN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_GRANT_PATH = re.compile(r"\bgrants\[([0-9]{1,6})\](\.?)")
# A smaller batch gets past these, so say so.
_REFUSALS_OF_SIZE = frozenset({"amount_too_large", "payload_too_large", "batch_too_large"})

T = TypeVar("T")
Command = TypeVar("Command", bound=Callable[..., Any])


# --- options ---


def micro_amount(text: str) -> str:
    """An amount in micro-units, as the API wants it: a string of digits."""
    try:
        return str(parse_micro(text))
    except ValueError:
        raise click.BadParameter(f"{text!r}: expected micro-units, a whole number such as 1000000 (1 unit)") from None


def json_object(text: str) -> dict[str, Any]:
    """A JSON object."""
    try:
        decoded = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise click.BadParameter(f"not JSON: {error}") from None
    if not isinstance(decoded, dict):
        raise click.BadParameter("expected a JSON object such as '{\"ratioBps\": 5000}'")
    return decoded


def campaign_id_of(text: str) -> str:
    """An id that can't change the path it is put in."""
    if not _CAMPAIGN_ID.fullmatch(text):
        raise click.BadParameter(f"{text!r}: expected a campaign's id, camp_ and so on")
    return text


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


def access_options(command: Command) -> Command:
    """The options of every command here: which service, who asks, and how to answer."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Answer in JSON on stdout, for programs."),
        click.option(
            "--token",
            envvar="MINIBILL_TOKEN",
            show_envvar=True,
            required=True,
            help="Admin token; `minibill token` prints one. The environment keeps it out of the process list.",
        ),
        click.option(
            "--url",
            envvar="MINIBILL_URL",
            show_envvar=True,
            default="http://127.0.0.1:8080",
            show_default=True,
            help="Where the service runs.",
        ),
    ):
        command = option(command)
    return command


# --- commands ---


@click.group(short_help="Campaigns on a running service: create, activate, import, show.")
def campaign() -> None:
    """Campaigns on a running service: make one, open it, pay a list, look at it.

    \b
    export MINIBILL_TOKEN=$(minibill token)
    id=$(minibill campaign create "Summer" --type promotional --budget 1000000000 --quiet)
    minibill campaign activate "$id"
    minibill campaign import "$id" wallets.csv --account-column wallet --entity-type person --amount-column amount
    minibill campaign show "$id"

    Amounts in options are micro-units (1 unit = 1,000,000 micro); amounts in lists are units.
    """


@campaign.command()
@click.argument("name")
@click.option("--type", "campaign_type", type=click.Choice(get_args(CampaignType)), required=True, help="Kind of campaign.")
@click.option("--budget", type=micro_amount, metavar="MICRO", required=True, help="All that it may pay, in micro-units.")
@click.option("--formula", type=click.Choice(get_args(Formula)), help="What a grant comes to. [default: fixed_amount]")
@click.option("--config", type=json_object, metavar="JSON", help="The formula's config, as JSON.")
@click.option("--pool", help="Pool that the credits go to. [default: general]")
@click.option(
    "--cap", type=micro_amount, metavar="MICRO", help="The most for one wallet, in micro-units. [default: 5000000]"
)
@click.option("--starts-at", metavar="TIME", help="Pays nothing before; RFC 3339, such as 2027-01-31T12:00:00Z.")
@click.option("--expires-at", metavar="TIME", help="Pays nothing from then on.")
@click.option(
    "--grant-ttl",
    type=click.IntRange(min=1),
    metavar="SECONDS",
    help="How long granted credits live. [default: for ever]",
)
@click.option("--description", help="For people.")
@click.option("--dry-run", is_flag=True, help="Have the service judge it, and change nothing.")
@click.option("-q", "--quiet", is_flag=True, help="Print the id and nothing else.")
@access_options
def create(
    *,
    name: str,
    campaign_type: str,
    budget: str,
    formula: str | None,
    config: dict[str, Any] | None,
    pool: str | None,
    cap: str | None,
    starts_at: str | None,
    expires_at: str | None,
    grant_ttl: int | None,
    description: str | None,
    dry_run: bool,
    quiet: bool,
    url: str,
    token: str,
    as_json: bool,
) -> None:
    """Make a campaign called NAME. It is a draft and pays nothing until it is activated.

    \b
    minibill campaign create "CRV losses" --type reverse_airdrop --budget 5000000000 \\
        --formula proportional_loss --config '{"ratioBps": 10000, "minLossMicro": "10000"}'
    id=$(minibill campaign create "Summer" --type promotional --budget 1000000000 --quiet)
    """
    if quiet and as_json:
        raise click.UsageError("--quiet and --json exclude each other")
    members = {
        "name": name,
        "campaignType": campaign_type,
        "budgetMicro": budget,
        "description": description,
        "grantFormula": formula,
        "grantConfig": config,
        "poolId": pool,
        "perWalletCapMicro": cap,
        "startsAt": starts_at,
        "expiresAt": expires_at,
        "grantTtlSeconds": grant_ttl,
    }
    body = msgspec.json.encode({member: value for member, value in members.items() if value is not None})
    with _service(url, token) as service:
        answer = service.post("/campaigns", body, dry_run=dry_run)
        made = _as(answer, CampaignView)
    if as_json:
        _print_json(answer)
    elif dry_run:
        # The id is not printed: no such campaign remains.
        click.echo(f"dry run: {made.name} would be created with a budget of {_money(made.budget_micro)}", err=quiet)
    elif quiet:
        click.echo(made.id)
    else:
        click.echo(f"{made.id} created as a {made.status}: {made.name}, budget {_money(made.budget_micro)}")
        click.echo(f"next: minibill campaign activate {made.id}")


@campaign.command()
@click.argument("campaign_id", metavar="CAMPAIGN", type=campaign_id_of)
@access_options
def activate(*, campaign_id: str, url: str, token: str, as_json: bool) -> None:
    """Open a draft or paused CAMPAIGN: from now on it pays.

    \b
    minibill campaign activate camp_0000000000001
    """
    _change_state(campaign_id, "activate", url=url, token=token, as_json=as_json)


@campaign.command()
@click.argument("campaign_id", metavar="CAMPAIGN", type=campaign_id_of)
@access_options
def pause(*, campaign_id: str, url: str, token: str, as_json: bool) -> None:
    """Stop an active CAMPAIGN from paying until it is activated again.

    \b
    minibill campaign pause camp_0000000000001
    """
    _change_state(campaign_id, "pause", url=url, token=token, as_json=as_json)


@campaign.command()
@click.argument("campaign_id", metavar="CAMPAIGN", type=campaign_id_of)
@access_options
def complete(*, campaign_id: str, url: str, token: str, as_json: bool) -> None:
    """End a CAMPAIGN for good. It never pays again; what it granted stays.

    \b
    minibill campaign complete camp_0000000000001
    """
    _change_state(campaign_id, "complete", url=url, token=token, as_json=as_json)


@campaign.command()
@click.argument("campaign_id", metavar="CAMPAIGN", type=campaign_id_of)
@access_options
def show(*, campaign_id: str, url: str, token: str, as_json: bool) -> None:
    """Show a CAMPAIGN: its state, its formula, and how much of the budget is spent.

    \b
    minibill campaign show camp_0000000000001
    minibill campaign show camp_0000000000001 --json | jq -r .remainingMicro
    """
    with _service(url, token) as service:
        answer = service.get(f"/campaigns/{campaign_id}")
        shown = _as(answer, CampaignView)
    if as_json:
        _print_json(answer)
    else:
        _print_campaign(shown)


@campaign.command("import")
@click.argument("campaign_id", metavar="CAMPAIGN", type=campaign_id_of)
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
@click.pass_context
def import_list(
    ctx: click.Context,
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
        ctx.exit(EXIT_INTERRUPTED)
    items, bad_rows = loss_list.items, loss_list.bad_rows
    report = Report(campaign_id=campaign_id, dry_run=dry_run, bad_rows=bad_rows)
    _tell_bad_rows(bad_rows)
    if bad_rows and not (skip_bad_rows and items):
        report.stop_at_bad_rows(good=len(items))
    else:
        _pay(batches(items, size_max=batch_size, force=force), report, rows=len(items), url=url, token=token)
    _tell(report, as_json=as_json)
    ctx.exit(report.exit_code)


# --- asking the service ---


Micro = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,19}\Z")]


class CampaignView(msgspec.Struct, rename="camel"):
    """What the commands show of a campaign."""

    id: str
    name: str
    description: str | None
    campaign_type: str
    status: str
    budget_micro: Micro
    spent_micro: Micro
    remaining_micro: Micro
    grant_formula: str
    grant_config: dict[str, Any] | None
    pool_id: str
    per_wallet_cap_micro: Micro
    starts_at: str | None
    expires_at: str | None
    grant_ttl_seconds: int | None
    grant_count: int


class GrantView(msgspec.Struct, rename="camel"):
    """What one item of a batch came to."""

    status: str
    duplicate: bool
    code: str | None = None
    reason: str | None = None


class BatchView(msgspec.Struct, rename="camel"):
    """What a batch came to, its items in the order sent."""

    total_granted: int
    total_amount_micro: Micro
    remaining_micro: Micro
    grants: list[GrantView]


class Misuse(click.ClickException):
    """The command can't be carried out as it was given or configured; printed as one line."""

    exit_code = EXIT_MISUSE


@contextmanager
def _service(url: str, token: str) -> Iterator[Service]:
    """The service for one short request; what goes wrong ends the command with one line."""
    try:
        with Service(url=url, token=token, on_wait=_tell_wait) as service:
            yield service
    except (WrongAccess, Unreachable) as error:
        raise Misuse(str(error)) from None
    except ServiceRefusal as refusal:
        message = "\n".join(_refusal_lines(refusal, batch=None))
        raise (Misuse(message) if refusal.is_of_access else click.ClickException(message)) from None


def _tell_wait(seconds: float, reason: str) -> None:
    click.echo(f"{reason}: trying again in {seconds:g} s", err=True)


def _as(answer: dict[str, Any], expected: type[T]) -> T:
    try:
        return msgspec.convert(answer, expected)
    except msgspec.ValidationError as error:
        raise _strange(str(error)) from None


def _as_batch(answer: dict[str, Any], *, size: int) -> BatchView:
    batch = _as(answer, BatchView)
    if len(batch.grants) != size:
        raise _strange(f"{len(batch.grants)} grants for {size} asked for")
    return batch


def _strange(why: str) -> Unreachable:
    return Unreachable(f"the service does not answer like minibill: {why}", may_have_arrived=True)


def _change_state(campaign_id: str, verb: str, *, url: str, token: str, as_json: bool) -> None:
    with _service(url, token) as service:
        answer = service.post(f"/campaigns/{campaign_id}/{verb}")
        changed = _as(answer, CampaignView)
    if as_json:
        _print_json(answer)
    else:
        click.echo(f"{changed.id} is {changed.status}: {changed.name}, {_money(changed.remaining_micro)} left to pay")


# --- import ---


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


def _tell_bad_rows(bad_rows: Sequence[BadRow]) -> None:
    for row in bad_rows[:LISTED_MAX]:
        click.echo(f"line {row.line}: {row.reason}", err=True)
    if len(bad_rows) > LISTED_MAX:
        click.echo(f"and {len(bad_rows) - LISTED_MAX} more", err=True)


@dataclass(frozen=True)
class Stop:
    """Why an import did not get to the end: a word for programs, lines for people."""

    why: str
    message: str
    exit_code: int
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True)
class Report:
    """What an import came to, so far or as a whole. `stop` says why it did not get to the end."""

    campaign_id: str
    dry_run: bool
    bad_rows: Sequence[BadRow]
    batches: int = 0
    granted: int = 0
    granted_micro: int = 0
    remaining_micro: int | None = None
    duplicates: list[tuple[int, str]] = field(default_factory=list)
    skipped: list[tuple[int, str]] = field(default_factory=list)
    failed: list[tuple[int, str, str]] = field(default_factory=list)
    stop: Stop | None = None

    def add(self, batch: Batch, answer: BatchView) -> None:
        """Takes in what became of one batch."""
        self.batches += 1
        self.granted += answer.total_granted
        amount_micro, remaining_micro = int(answer.total_amount_micro), int(answer.remaining_micro)
        self.granted_micro += amount_micro
        # The dry runs of the batches know nothing of each other: each answers what it alone would leave.
        self.remaining_micro = remaining_micro + (amount_micro - self.granted_micro if self.dry_run else 0)
        for item, grant in zip(batch.items, answer.grants, strict=True):
            if grant.duplicate:
                self.duplicates.append((item.line, grant.status))
            elif grant.status == "skipped":
                self.skipped.append((item.line, grant.reason or "no_reason_given"))
            elif grant.status != "granted":
                self.failed.append((item.line, item.account, grant.code or grant.status))

    def stop_at_bad_rows(self, *, good: int) -> None:
        """Nothing is sent, because rows can't be read."""
        bad = len(self.bad_rows)
        advice = "; correct them, or pay the others with --skip-bad-rows" if good else ""
        self.stop = Stop("bad_rows", f"nothing was paid: {bad} of {bad + good} rows can't be paid{advice}", EXIT_MISUSE)

    def stop_at_refusal(self, refusal: ServiceRefusal, batch: Batch | None) -> None:
        """The service has refused a batch as a whole."""
        message = "\n".join(_refusal_lines(refusal, batch=batch))
        exit_code = EXIT_MISUSE if refusal.is_of_access else EXIT_NO
        self.stop = Stop("refused", message, exit_code, facts=_refusal_json(refusal, batch))

    def stop_midway(self, why: str, message: str, exit_code: int, *, batch_in_doubt: Batch | None) -> None:
        """The last answer is missing; the batch in doubt may have been paid."""
        facts: dict[str, Any] = {}
        if batch_in_doubt is not None and not self.dry_run:
            first, last = batch_in_doubt.items[0].line, batch_in_doubt.items[-1].line
            message += f"\nlines {first} to {last} were on their way and may have been paid"
            facts = {"mayHaveBeenPaid": {"firstLine": first, "lastLine": last}}
        self.stop = Stop(why, message, exit_code, facts=facts)

    @property
    def over_budget_micro(self) -> int:
        """By how much a dry run of the whole list would exceed the budget."""
        return max(0, -(self.remaining_micro or 0))

    @property
    def exit_code(self) -> int:
        if self.stop is not None:
            return self.stop.exit_code
        return EXIT_NO if self.failed or self.bad_rows or self.over_budget_micro else EXIT_DONE


def _pay(plan: Iterator[Batch], report: Report, *, rows: int, url: str, token: str) -> None:
    """Sends the batches one after the other until the end, or until something stops it; the report has it all."""
    batch = None
    path = f"/campaigns/{report.campaign_id}/grants/batch"
    try:
        with (
            _progress(rows, dry_run=report.dry_run) as bar,
            Service(url=url, token=token, on_wait=bar.wait) as service,
        ):
            for batch in plan:
                answer = service.post(path, batch.body, dry_run=report.dry_run)
                report.add(batch, _as_batch(answer, size=len(batch.items)))
                bar.advance(len(batch.items))
                batch = None
    except WrongAccess as error:
        raise Misuse(f"nothing was paid: {error}") from None
    except ServiceRefusal as refusal:
        report.stop_at_refusal(refusal, batch)
    except Unreachable as error:
        in_doubt = batch if error.may_have_arrived else None
        report.stop_midway("unreachable", str(error), EXIT_MISUSE, batch_in_doubt=in_doubt)
    except KeyboardInterrupt:
        report.stop_midway("interrupted", "interrupted", EXIT_INTERRUPTED, batch_in_doubt=batch)


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


# --- the report of an import ---


def _tell(report: Report, *, as_json: bool) -> None:
    """The figures on stdout; on stderr why it stopped, or why it is a no although it got to the end."""
    if as_json:
        _print_json(_report_json(report))
    elif report.batches:
        click.echo("\n".join(_report_lines(report)))
    if report.over_budget_micro:
        click.echo(f"Error: the whole list would exceed the budget by {_money(report.over_budget_micro)}", err=True)
    if report.stop is not None:
        click.echo(f"Error: {report.stop.message}", err=True)
        if report.stop.why != "bad_rows" and not report.dry_run:
            nothing = "" if report.granted or "mayHaveBeenPaid" in report.stop.facts else "Nothing new was paid. "
            click.echo(f"{nothing}It is safe to run this again: who was paid is not paid twice.", err=True)


def _report_lines(report: Report) -> list[str]:
    revoked = sum(status == "revoked" for _, status in report.duplicates)
    lines = [
        f"granted     {report.granted} ({_money(report.granted_micro)})",
        f"duplicates  {len(report.duplicates)}" + (f" ({revoked} of them were revoked and stay so)" if revoked else ""),
        f"skipped     {_counted([reason for _, reason in report.skipped])}",
        f"failed      {len(report.failed)}",
    ]
    for code in dict.fromkeys(code for _, _, code in report.failed):
        failed_lines = [line for line, _, of in report.failed if of == code]
        lines.append(f"            {code}: {_lines_of(failed_lines)}")
    if report.bad_rows:
        lines.append(f"left out    {len(report.bad_rows)}: {_lines_of([row.line for row in report.bad_rows])}")
    if report.remaining_micro is not None and not report.over_budget_micro:
        lines.append(f"remaining   {_money(report.remaining_micro)}")
    if report.dry_run:
        lines.insert(0, "dry run, nothing was paid; it would come to:")
    elif report.stop is not None:
        lines.insert(0, "stopped before the end; until then:")
    elif not report.granted:
        lines.append("nothing new was paid")
    return lines


def _report_json(report: Report) -> dict[str, Any]:
    """The report for programs: the API's own names, and the line of every row that was not paid."""
    stop = report.stop
    return {
        "campaignId": report.campaign_id,
        "dryRun": report.dry_run,
        "batches": report.batches,
        "totalGranted": report.granted,
        "totalDuplicates": len(report.duplicates),
        "totalSkipped": len(report.skipped),
        "totalFailed": len(report.failed),
        "totalAmountMicro": str(report.granted_micro),
        "remainingMicro": None if report.remaining_micro is None else str(report.remaining_micro),
        "overBudgetMicro": str(report.over_budget_micro),
        "duplicates": [{"line": line, "status": status} for line, status in report.duplicates],
        "skipped": [{"line": line, "reason": reason} for line, reason in report.skipped],
        "failed": [{"line": line, "account": account, "code": code} for line, account, code in report.failed],
        "badRows": [{"line": row.line, "reason": row.reason} for row in report.bad_rows],
        "stopped": None if stop is None else {"why": stop.why, "message": stop.message, **stop.facts},
    }


def _refusal_lines(refusal: ServiceRefusal, *, batch: Batch | None) -> list[str]:
    """The refusal for people; places in a batch become lines of the file."""
    lines = [f"{refusal.code} ({refusal.status}): {_placed(refusal.detail, batch)}"]
    for name, value in refusal.facts.items():
        if isinstance(value, list):
            lines += _listed([_placed(f"{name}: {_fact_text(name, member)}", batch) for member in value])
        else:
            lines.append(_placed(f"  {name}: {_fact_text(name, value)}", batch))
    errors = [f"{path}: {message}" for path, message in refusal.errors]
    lines += _listed([_placed(error, batch) for error in errors if error not in refusal.detail])
    if batch is not None and refusal.code in _REFUSALS_OF_SIZE:
        lines.append("  a smaller --batch-size may help")
    if refusal.status == 401:
        lines.append("  tokens do not live long; `minibill token` prints a new one")
    return lines


def _refusal_json(refusal: ServiceRefusal, batch: Batch | None) -> dict[str, Any]:
    return {
        "code": refusal.code,
        "status": refusal.status,
        "detail": refusal.detail,
        "facts": refusal.facts,
        # So that a program can tell the line of any `grants[3]` in the above.
        "linesOfGrants": [item.line for item in batch.items] if batch else [],
        "errors": [{"line": _line_of(path, batch), "path": path, "message": message} for path, message in refusal.errors],
    }


def _fact_text(name: str, value: object) -> str:
    if isinstance(value, dict) and "path" in value:
        others = [_fact_text(key, member) for key, member in value.items() if key != "path"]
        return ": ".join([str(value["path"]), ", ".join(others)])
    if isinstance(value, str):
        return _money(value) if name.endswith("Micro") and re.fullmatch("-?[0-9]{1,30}", value) else value
    return msgspec.json.encode(value).decode()


def _placed(text: str, batch: Batch | None) -> str:
    """`grants[3].amountMicro` as `line 5, amountMicro`."""

    def place(found: re.Match[str]) -> str:
        line = _line_of(found[0], batch)
        return found[0] if line is None else f"line {line}" + (", " if found[2] else "")

    return _GRANT_PATH.sub(place, text)


def _line_of(path: str, batch: Batch | None) -> int | None:
    found = _GRANT_PATH.match(path)
    if batch is None or not found or int(found[1]) >= len(batch.items):
        return None
    return batch.items[int(found[1])].line


def _listed(texts: list[str]) -> list[str]:
    more = [f"  and {len(texts) - LISTED_MAX} more"] if len(texts) > LISTED_MAX else []
    return [f"  {text}" for text in texts[:LISTED_MAX]] + more


def _lines_of(numbers: list[int]) -> str:
    return f"{'line' if len(numbers) == 1 else 'lines'} {', '.join(map(str, numbers))}"


def _counted(reasons: list[str]) -> str:
    """`315 (300 comes_to_zero, 15 amount_is_zero)`."""
    counts = ", ".join(f"{count} {reason}" for reason, count in Counter(reasons).most_common())
    return f"{len(reasons)} ({counts})" if reasons else "0"


# --- writing ---


def _print_json(value: dict[str, Any]) -> None:
    click.echo(msgspec.json.encode(value).decode())


def _print_campaign(shown: CampaignView) -> None:
    budget_micro, spent_micro = int(shown.budget_micro), int(shown.spent_micro)
    percent = spent_micro * 100 // budget_micro if budget_micro else 0
    config = msgspec.json.encode(shown.grant_config).decode() if shown.grant_config else ""
    rows = {
        "id": shown.id,
        "status": shown.status,
        "type": shown.campaign_type,
        "about": shown.description,
        "formula": f"{shown.grant_formula} {config}".rstrip(),
        "cap": f"{_money(shown.per_wallet_cap_micro)} per wallet",
        "pool": shown.pool_id,
        "starts": shown.starts_at,
        "expires": shown.expires_at,
        "credits": f"live {shown.grant_ttl_seconds} seconds" if shown.grant_ttl_seconds else "never expire",
        "grants": str(shown.grant_count),
        "budget": _money(budget_micro),
        "spent": f"{_money(spent_micro)}, {percent} %",
        "remaining": _money(shown.remaining_micro),
    }
    click.echo(shown.name)
    for label, value in rows.items():
        if value:
            click.echo(f"{label:<11}{value}")
    bar = ProgressBar(total=100, completed=percent, width=50)
    Console(file=sys.stdout).print(Padding(bar, (0, 0, 0, 11)))


def _money(amount_micro: int | str) -> str:
    """`1,234.5 units (1234500000 micro)`."""
    sign = "-" if int(amount_micro) < 0 else ""
    units, rest = divmod(abs(int(amount_micro)), MICRO_PER_UNIT)
    fraction = f".{rest:06}".rstrip("0") if rest else ""
    return f"{sign}{units:,}{fraction} units ({int(amount_micro)} micro)"
