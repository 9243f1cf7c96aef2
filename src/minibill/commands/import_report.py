"""The report of `minibill campaign import`: what became of every row, how that is told, and the exit code it comes to.

Figures go to stdout; faults, with places in a batch as lines of the file, to stderr.
"""

import re
import shutil
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import click

from minibill.campaigns.structs import BatchResult
from minibill.client.errors import not_like_minibill
from minibill.commands.loss_list import BadRow, Batch
from minibill.commands.output import (
    LISTED_MAX,
    LOG_COLUMNS,
    Misuse,
    errors_of,
    facts_of,
    is_misuse,
    money,
    print_json,
    refusal_text,
)
from minibill.problems import Problem

EXIT_DONE, EXIT_NO, EXIT_MISUSE, EXIT_INTERRUPTED = 0, 1, Misuse.exit_code, 130

_GRANT_PATH = re.compile(r"\bgrants\[([0-9]{1,6})\](\.?)")
# A smaller batch gets past these, so say so.
_REFUSALS_OF_SIZE = frozenset({"amount_too_large", "payload_too_large", "batch_too_large"})


@dataclass(frozen=True)
class Stop:
    """Why an import did not get to the end: a word for programs, lines for people."""

    why: str
    message: str
    exit_code: int
    facts: Mapping[str, Any]


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
    granted_lines: list[int] = field(default_factory=list)
    duplicates: list[tuple[int, str]] = field(default_factory=list)
    skipped: list[tuple[int, str]] = field(default_factory=list)
    failed: list[tuple[int, str, str]] = field(default_factory=list)
    stop: Stop | None = None

    def add(self, batch: Batch, paid: BatchResult) -> None:
        """Takes in what the service says became of one batch."""
        if len(paid.grants) != len(batch.items):
            raise not_like_minibill(f"{len(paid.grants)} grants for {len(batch.items)} asked for")
        self.batches += 1
        self.granted += paid.total_granted
        amount_micro, remaining_micro = int(paid.total_amount_micro), int(paid.remaining_micro)
        self.granted_micro += amount_micro
        # The dry runs of the batches know nothing of each other: each answers what it alone would leave.
        self.remaining_micro = remaining_micro + (amount_micro - self.granted_micro if self.dry_run else 0)
        for item, grant in zip(batch.items, paid.grants, strict=True):
            if grant.duplicate:
                self.duplicates.append((item.line, grant.status))
            elif grant.status == "skipped":
                self.skipped.append((item.line, grant.reason or "no_reason_given"))
            elif grant.status == "granted":
                self.granted_lines.append(item.line)
            else:
                self.failed.append((item.line, item.account, grant.code or grant.status))

    def stop_at_bad_rows(self, *, good: int) -> None:
        """Nothing is sent, because rows can't be read."""
        bad = len(self.bad_rows)
        advice = "; correct them, or pay the others with --skip-bad-rows" if good else ""
        self.stop_early("bad_rows", f"nothing was paid: {bad} of {bad + good} rows can't be paid{advice}", EXIT_MISUSE)

    def stop_at_refusal(self, refusal: Problem, batch: Batch, *, url: str) -> None:
        """The service has refused a batch as a whole."""
        message = _placed(refusal_text(refusal, url), batch)
        if refusal.code in _REFUSALS_OF_SIZE:
            message += "\n  a smaller --batch-size may help"
        self.stop_early(
            "refused",
            message,
            EXIT_MISUSE if is_misuse(refusal) else EXIT_NO,
            facts=_refusal_json(refusal, batch),
            in_doubt=batch if refusal.may_have_arrived else None,
        )

    def stop_early(
        self,
        why: str,
        message: str,
        exit_code: int,
        *,
        facts: Mapping[str, Any] | None = None,
        in_doubt: Batch | None = None,
    ) -> None:
        """It does not get to the end. A batch is in doubt when its answer is missing: it may have been paid."""
        facts = facts or {}
        if in_doubt is not None and not self.dry_run:
            first, last = in_doubt.items[0].line, in_doubt.items[-1].line
            doubt = f"lines {first} to {last} were on their way and may have been paid"
            message += f" ({doubt})" if exit_code == EXIT_MISUSE else f"\n{doubt}"
            facts = {**facts, "mayHaveBeenPaid": {"firstLine": first, "lastLine": last}}
        self.stop = Stop(why, message, exit_code, facts)

    @property
    def over_budget_micro(self) -> int:
        """By how much a dry run of the whole list would exceed the budget."""
        return max(0, -(self.remaining_micro or 0))

    @property
    def exit_code(self) -> int:
        """The exit code of the command."""
        if self.stop is not None:
            return self.stop.exit_code
        return EXIT_NO if self.failed or self.bad_rows or self.over_budget_micro else EXIT_DONE


def tell_bad_rows(bad_rows: Sequence[BadRow]) -> None:
    """The rows that can't be paid, on stderr, before anything is sent: the first with their reasons, all by their lines."""
    for row in bad_rows[:LISTED_MAX]:
        click.echo(f"line {row.line}: {row.reason}", err=True)
    if more := [row.line for row in bad_rows[LISTED_MAX:]]:
        click.echo(_wrapped(f"and {len(more)} more: {_lines_of(more)}", indent=""), err=True)


def tell(report: Report, *, as_json: bool) -> None:
    """The figures on stdout; on stderr why it stopped, or why it is a no although it got to the end."""
    if as_json:
        print_json(_report_json(report))
    elif report.batches:
        click.echo("\n".join(_report_lines(report)))
    if report.over_budget_micro:
        click.echo(f"Error: the whole list would exceed the budget by {money(report.over_budget_micro)}", err=True)
    if report.stop is not None:
        click.echo(f"Error: {_stop_text(report, report.stop)}", err=True)


# --- for people ---


def _stop_text(report: Report, stop: Stop) -> str:
    """Why it stopped and that it may be run again: on a line of its own, but wrong usage is one line."""
    if stop.why == "bad_rows" or report.dry_run:
        return stop.message
    nothing = "" if report.granted or "mayHaveBeenPaid" in stop.facts else "Nothing new was paid. "
    again = f"{nothing}It is safe to run this again: who was paid is not paid twice."
    if stop.exit_code != EXIT_MISUSE:
        return f"{stop.message}\n{again}"
    return f"{stop.message}{'' if stop.message.endswith('?') else '.'} {again}"


# Where the figures begin; the lines that they are of are told below them.
_INDENT = " " * 12


def _report_lines(report: Report) -> list[str]:
    revoked = sum(status == "revoked" for _, status in report.duplicates)
    lines = [
        f"granted     {report.granted} ({money(report.granted_micro)})",
        *_lines_below([("", line) for line in report.granted_lines]),
        f"duplicates  {len(report.duplicates)}" + (f" ({revoked} of them were revoked and stay so)" if revoked else ""),
        *_lines_below([(status if revoked else "", line) for line, status in report.duplicates]),
        f"skipped     {_counted([reason for _, reason in report.skipped])}",
        *_lines_below([(reason, line) for line, reason in report.skipped]),
        f"failed      {len(report.failed)}",
        *_lines_below([(code, line) for line, _, code in report.failed]),
    ]
    if report.bad_rows:
        lines.append(f"left out    {len(report.bad_rows)}")
        lines += _lines_below([("", row.line) for row in report.bad_rows])
    if report.remaining_micro is not None and not report.over_budget_micro:
        lines.append(f"remaining   {money(report.remaining_micro)}")
    if report.dry_run:
        lines.insert(0, "dry run, nothing was paid; it would come to:")
    elif report.stop is not None:
        lines.insert(0, "stopped before the end; until then:")
    elif not report.granted:
        lines.append("nothing new was paid")
    return lines


def _lines_below(of: Iterable[tuple[str, int]]) -> list[str]:
    """The lines of the file that are of a word, such as a reason: a paragraph a word; of "" without one."""
    numbers: dict[str, list[int]] = {}
    for word, line in of:
        numbers.setdefault(word, []).append(line)
    return [_wrapped(f"{word}: {_lines_of(those)}" if word else _lines_of(those)) for word, those in numbers.items()]


def _wrapped(text: str, *, indent: str = _INDENT) -> str:
    columns = shutil.get_terminal_size((LOG_COLUMNS, 0)).columns
    return textwrap.fill(
        text, columns, initial_indent=indent, subsequent_indent=_INDENT, break_long_words=False, break_on_hyphens=False
    )


def _lines_of(numbers: Sequence[int]) -> str:
    """`lines 2-841, 843`."""
    told = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in _ranges(numbers))
    return f"{'line' if len(numbers) == 1 else 'lines'} {told}"


def _ranges(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Ascending numbers as the ranges that they make up, both ends included."""
    ranges: list[tuple[int, int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], number)
        else:
            ranges.append((number, number))
    return ranges


def _counted(reasons: list[str]) -> str:
    """`315 (300 comes_to_zero, 15 amount_is_zero)`."""
    counts = ", ".join(f"{count} {reason}" for reason, count in Counter(reasons).most_common())
    return f"{len(reasons)} ({counts})" if reasons else "0"


def _placed(text: str, batch: Batch) -> str:
    """`grants[3].amountMicro` as `line 5, amountMicro`."""

    def place(found: re.Match[str]) -> str:
        line = _line_of(found[0], batch)
        return found[0] if line is None else f"line {line}" + (", " if found[2] else "")

    return _GRANT_PATH.sub(place, text)


def _line_of(path: str, batch: Batch) -> int | None:
    found = _GRANT_PATH.match(path)
    if not found or int(found[1]) >= len(batch.items):
        return None
    return batch.items[int(found[1])].line


# --- for programs ---


def _report_json(report: Report) -> dict[str, Any]:
    """The report for programs: the API's own names, and the line of every row."""
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
        "granted": [{"firstLine": first, "lastLine": last} for first, last in _ranges(report.granted_lines)],
        "duplicates": [{"line": line, "status": status} for line, status in report.duplicates],
        "skipped": [{"line": line, "reason": reason} for line, reason in report.skipped],
        "failed": [{"line": line, "account": account, "code": code} for line, account, code in report.failed],
        "badRows": [{"line": row.line, "reason": row.reason} for row in report.bad_rows],
        "stopped": None if stop is None else {"why": stop.why, "message": stop.message, **stop.facts},
    }


def _refusal_json(refusal: Problem, batch: Batch) -> dict[str, Any]:
    return {
        "code": refusal.code,
        "status": refusal.status,
        "detail": refusal.detail,
        "facts": facts_of(refusal),
        # So that a program can tell the line of any `grants[3]` in the above.
        "linesOfGrants": [item.line for item in batch.items],
        "errors": [
            {"line": _line_of(path, batch), "path": path, "message": message} for path, message in errors_of(refusal)
        ],
    }
