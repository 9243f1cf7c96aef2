"""The report of `minibill campaign import`: what became of every row, as text, as JSON and as CSV, and the exit code.

Figures go to stdout; faults, with places in a batch as lines of the file, to stderr. The rows are read from the temporary
file and written one by one, so that memory does not grow with the list.
"""

import csv
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

import click

from minibill.cli.import_batches import GRANT_PATH, place_of
from minibill.cli.import_rows import Item, Outcome, Result, Rows
from minibill.cli.output import (
    LISTED_MAX,
    LOG_COLUMNS,
    UsageError,
    errors_of,
    escaped,
    escaped_json,
    facts_of,
    is_usage_error,
    money,
    refusal_text,
    units,
)
from minibill.core.problems import Problem

EXIT_DONE, EXIT_NO, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, UsageError.exit_code, 130

REPORT_HEADER = ("line", "accountId", "entityId", "status", "amount", "grantId", "reason")

# Ranges of lines that a figure lists; --report has every line.
RANGES_MAX = 100


@dataclass
class Lines:
    """Ascending line numbers as ranges, both ends included; after `RANGES_MAX` of them only their count goes on."""

    count: int = 0
    ranges: list[tuple[int, int]] = field(default_factory=list)
    listed: int = 0

    def add(self, line: int) -> None:
        self.count += 1
        if self.count - 1 != self.listed:
            return
        if self.ranges and line == self.ranges[-1][1] + 1:
            self.ranges[-1] = (self.ranges[-1][0], line)
        elif len(self.ranges) < RANGES_MAX:
            self.ranges.append((line, line))
        else:
            return
        self.listed += 1

    def __str__(self) -> str:
        """`lines 2-841, 843`."""
        told = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in self.ranges)
        more = f" and {self.count - self.listed} more" if self.count > self.listed else ""
        return f"{'line' if self.count == 1 else 'lines'} {told}{more}"


@dataclass(frozen=True)
class Stop:
    """Why an import did not get to the end: a word for programs, lines for people."""

    why: str
    message: str
    exit_code: int
    facts: Mapping[str, Any]


@dataclass(kw_only=True)
class Report:
    """The outcome of an import. `stop` names the reason for an early end."""

    campaign_id: str
    dry_run: bool
    by_entity: bool
    strict: bool = False
    batches: int = 0
    remaining_micro: int | None = None
    missing_micro: int = 0
    stop: Stop | None = None
    # Of the rows: by status, and by status and reason.
    by_status: dict[str, Lines] = field(default_factory=dict)
    by_reason: dict[tuple[str, str], Lines] = field(default_factory=dict)
    granted_micro: int = 0
    different: list[tuple[int, str, int, int]] = field(default_factory=list)
    different_count: int = 0

    def stop_early(self, why: str, message: str, exit_code: int, *, facts: Mapping[str, Any] | None = None) -> None:
        """The import does not get to the end."""
        self.stop = Stop(why, message, exit_code, facts or {})

    def stop_in_doubt(
        self, why: str, message: str, exit_code: int, sending: Sequence[Item], facts: Mapping[str, Any] | None = None
    ) -> None:
        """The response to a batch is missing, if one was sent: its rows may have been paid."""
        facts = facts or {}
        if sending:
            first, last = sending[0].line, sending[-1].line
            doubt = f"lines {first} to {last} were on their way and may have been paid"
            message += f" ({doubt})" if exit_code == EXIT_USAGE else f"\n{doubt}"
            facts = {**facts, "mayHaveBeenPaid": {"firstLine": first, "lastLine": last}}
        self.stop_early(why, message, exit_code, facts=facts)

    def stop_at_refusal(self, refusal: Problem, items: Sequence[Item], *, url: str, in_doubt: bool) -> None:
        """The service has refused a batch as a whole."""
        message = _placed(refusal_text(refusal, url), items)
        exit_code = EXIT_USAGE if is_usage_error(refusal) else EXIT_NO
        self.stop_in_doubt("refused", message, exit_code, items if in_doubt else (), _refusal_json(refusal, items))

    def count(self, status: str) -> int:
        lines = self.by_status.get(status)
        return 0 if lines is None else lines.count

    @property
    def exit_code(self) -> int:
        """The exit code of the command."""
        if self.stop is not None:
            return self.stop.exit_code
        negative = any(self.count(status) for status in ("failed", "refused", "bad", "not_paid", "unknown"))
        return EXIT_NO if negative or (self.strict and self.different_count) else EXIT_DONE


# --- the rows ---


def _count(report: Report, result: Result) -> None:
    report.by_status.setdefault(result.status, Lines()).add(result.line)
    if result.status in ("skipped", "failed", "refused", "not_paid"):
        report.by_reason.setdefault((result.status, result.reason or ""), Lines()).add(result.line)
    if result.status == "granted":
        report.granted_micro += result.amount_micro or 0


def _result_of(outcome: Outcome, report: Report) -> Result:
    line, account_id, grant_id = outcome.line, outcome.account_id, outcome.grant_id
    if not report.by_entity:
        account_id = outcome.account
    if outcome.fault is not None:
        return Result(line, "bad", None, account_id, None, str(outcome.fault))
    if outcome.into_line is not None:
        return Result(line, "summed", None, account_id, grant_id, f"added to line {outcome.into_line}")
    status = outcome.status
    if status is None or (status == "new" and not report.dry_run):
        why = report.stop.why if report.stop is not None else "not_sent"
        return Result(line, "not_paid", outcome.expected_micro, account_id, None, why)
    status = "granted" if status == "new" else status
    reason = outcome.reason
    if status in ("duplicate", "revoked") and outcome.expected_micro not in (None, outcome.amount_micro):
        listed_micro, paid_micro = outcome.expected_micro or 0, outcome.amount_micro or 0
        reason = f"paid {units(paid_micro)} before; the list says {units(listed_micro)}"
        report.different_count += 1
        if len(report.different) < LISTED_MAX:
            report.different.append((line, outcome.account or "", paid_micro, listed_micro))
    return Result(line, status, outcome.amount_micro, account_id, grant_id, reason)


def write_report(rows: Rows, report: Report, *, table: TextIO | None, as_json: bool) -> None:
    """Go through all rows once: count them, and write the report file and the JSON as they come."""
    writerow: Callable[[Iterable[object]], object] | None = None
    if table is not None:
        writerow = csv.writer(table, lineterminator="\n").writerow
        writerow(REPORT_HEADER)
    stdout = sys.stdout
    if as_json:
        stdout.write('{"rows":[')
    separator = ""
    for outcome in rows.outcomes():
        result = _result_of(outcome, report)
        _count(report, result)
        entity_id = outcome.account if report.by_entity else None
        amount = None if result.amount_micro is None else units(result.amount_micro)
        if writerow is not None:
            writerow((result.line, result.account_id, entity_id, result.status, amount, result.grant_id, result.reason))
        if as_json:
            members = {
                "line": result.line,
                "accountId": result.account_id,
                "entityId": entity_id,
                "status": result.status,
                "amount": amount,
                "amountMicro": None if result.amount_micro is None else str(result.amount_micro),
                "grantId": result.grant_id,
                "reason": result.reason,
            }
            stdout.write(separator + escaped_json(members))
            separator = ",\n"
    if as_json:
        stdout.write("]," + escaped_json(_totals_json(report))[1:] + "\n")
        stdout.flush()
    if table is not None:
        table.flush()


def tell_bad_rows(rows: Rows) -> None:
    """The rows that can't be paid, on stderr, before anything is sent: a line for all rows with an equal fault."""
    lines: dict[str, Lines] = {}
    first_value: dict[str, str] = {}
    more = 0
    for line, fault in rows.faults():
        if fault.what not in lines and len(lines) == LISTED_MAX:
            more += 1
            continue
        lines.setdefault(fault.what, Lines()).add(line)
        first_value.setdefault(fault.what, fault.value)
    for what, those in lines.items():
        value = first_value[what]
        if those.count == 1:
            click.echo(f"{those}: {what} {value}".rstrip(), err=True)
        else:
            told = f"{those}: {what.rstrip(':')}" + (f" (the first: {value})" if value else "")
            click.echo(_wrapped(told, indent="") if len(those.ranges) > 1 else told, err=True)
    if more:
        click.echo(f"and {more} more rows with other faults; --report lists them all", err=True)


def tell(report: Report, *, as_json: bool) -> None:
    """The figures on stdout; on stderr the amounts that changed, and why it stopped."""
    if report.batches and not as_json:
        click.echo("\n".join(_report_lines(report)))
    for line, account, paid_micro, listed_micro in report.different:
        amounts = f"was paid {units(paid_micro)} before; the list says {units(listed_micro)}"
        click.echo(f"line {line}: {escaped(account)} {amounts}", err=True)
    if (more := report.different_count - len(report.different)) > 0:
        click.echo(f"and {more} more were paid a different amount before; --report lists them all", err=True)
    if report.stop is not None:
        click.echo(f"Error: {_stop_text(report, report.stop)}", err=True)


# --- for people ---


def _stop_text(report: Report, stop: Stop) -> str:
    """Why it stopped and that it may be run again: on a line of its own, but wrong usage is one line."""
    if stop.why in ("bad_rows", "over_limits", "over_budget") or report.dry_run:
        return stop.message
    nothing = "" if report.count("granted") or "mayHaveBeenPaid" in stop.facts else "Nothing new was paid. "
    again = f"{nothing}It is safe to run this again: who was paid is not paid twice."
    if stop.exit_code != EXIT_USAGE:
        return f"{stop.message}\n{again}"
    return f"{stop.message}{'' if stop.message.endswith('?') else '.'} {again}"


# Where the figures begin; the lines that they are of are told below them.
_INDENT = " " * 12


def _report_lines(report: Report) -> list[str]:
    revoked = report.by_status.get("revoked", Lines())
    duplicates = report.by_status.get("duplicate", Lines())
    lines = [
        f"granted     {report.count('granted')} ({money(report.granted_micro)})",
        *_lines_below("", report.by_status.get("granted")),
        f"duplicates  {duplicates.count + revoked.count}"
        + (f" ({revoked.count} of them were revoked and stay so)" if revoked.count else ""),
        *_lines_below("granted" if revoked.count else "", duplicates),
        *_lines_below("revoked", revoked),
        f"skipped     {_counted(report, 'skipped')}",
        *_lines_by_reason(report, "skipped"),
        f"failed      {report.count('failed')}",
        *_lines_by_reason(report, "failed"),
    ]
    for status, label in (("summed", "added up"), ("bad", "left out"), ("unknown", "in doubt")):
        if report.count(status):
            lines += [f"{label:<12}{report.count(status)}", *_lines_below("", report.by_status[status])]
    for status, label in (("refused", "over limit"), ("not_paid", "not paid")):
        if report.count(status):
            lines += [f"{label:<12}{report.count(status)}", *_lines_by_reason(report, status)]
    if report.remaining_micro is not None and not report.missing_micro:
        lines.append(f"remaining   {money(report.remaining_micro)}")
    if report.dry_run:
        lines.insert(0, "dry run, nothing was paid; it would come to:")
    elif report.stop is not None:
        lines.insert(0, "stopped before the end; until then:")
    elif not report.count("granted"):
        lines.append("nothing new was paid")
    return lines


def _lines_by_reason(report: Report, status: str) -> list[str]:
    return [text for (of, reason), those in report.by_reason.items() if of == status for text in _lines_below(reason, those)]


def _lines_below(word: str, those: Lines | None) -> list[str]:
    """The lines of the file that are of a word, such as a reason; of "" without one."""
    if those is None or not those.count:
        return []
    return [_wrapped(f"{word}: {those}" if word else str(those))]


def _wrapped(text: str, *, indent: str = _INDENT) -> str:
    columns = shutil.get_terminal_size((LOG_COLUMNS, 0)).columns
    return textwrap.fill(
        text, columns, initial_indent=indent, subsequent_indent=_INDENT, break_long_words=False, break_on_hyphens=False
    )


def _counted(report: Report, status: str) -> str:
    """`315 (300 comes_to_zero, 15 amount_is_zero)`."""
    counts = sorted(
        ((those.count, reason) for (of, reason), those in report.by_reason.items() if of == status), reverse=True
    )
    told = ", ".join(f"{count} {reason}" for count, reason in counts)
    return f"{report.count(status)} ({told})" if counts else "0"


def _placed(text: str, items: Sequence[Item]) -> str:
    """`grants[3].amountMicro` as `line 5, amountMicro`."""

    def placed(found: re.Match[str]) -> str:
        line = _line_of(found[0], items)
        return found[0] if line is None else f"line {line}" + (", " if found[2] else "")

    return GRANT_PATH.sub(placed, text)


def _line_of(path: str, items: Sequence[Item]) -> int | None:
    place = place_of(path, items)
    return None if place is None else items[place].line


# --- for programs ---


def _totals_json(report: Report) -> dict[str, Any]:
    """The report for programs, without its rows: the API's own names."""
    stop = report.stop
    return {
        "campaignId": report.campaign_id,
        "dryRun": report.dry_run,
        "totalGranted": report.count("granted"),
        "totalDuplicates": report.count("duplicate") + report.count("revoked"),
        "totalDifferent": report.different_count,
        "totalSkipped": report.count("skipped"),
        "totalFailed": report.count("failed"),
        "totalRefused": report.count("refused"),
        "totalBad": report.count("bad"),
        "totalSummed": report.count("summed"),
        "totalNotPaid": report.count("not_paid"),
        "totalUnknown": report.count("unknown"),
        "totalAmountMicro": str(report.granted_micro),
        "remainingMicro": None if report.remaining_micro is None else str(report.remaining_micro),
        "missingMicro": str(report.missing_micro),
        "stopped": None if stop is None else {"why": stop.why, "message": stop.message, **stop.facts},
    }


def _refusal_json(refusal: Problem, items: Sequence[Item]) -> dict[str, Any]:
    return {
        "code": refusal.code,
        "status": refusal.status,
        "detail": refusal.detail,
        "facts": facts_of(refusal),
        # So that a program can tell the line of any `grants[3]` in the above.
        "linesOfGrants": [item.line for item in items],
        "errors": [
            {"line": _line_of(path, items), "path": path, "message": message} for path, message in errors_of(refusal)
        ],
    }
