"""Report of `minibill campaign import`: one row for each row of the list, their totals, and the exit code.

The rows are read from the temporary file and written one by one, so that memory does not grow with the list.
import_summary.py prints the totals for people.
"""

import csv
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TextIO

from minibill.cli.import_batches import GRANT_PATH, index_in_path
from minibill.cli.import_rows import Item, Outcome, Rows
from minibill.cli.output import (
    LISTED_MAX,
    UsageError,
    errors_of,
    escaped_json,
    extensions_of,
    is_usage_error,
    problem_text,
    units,
)
from minibill.core.problems import Problem

EXIT_DONE, EXIT_NO, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, UsageError.exit_code, 130

REPORT_HEADER = ("line", "accountId", "entityId", "status", "amount", "grantId", "reason")

# Statuses that are reported with their reasons.
STATUSES_WITH_REASON = ("skipped", "failed", "refused", "not_paid")

# Ranges of lines listed for one figure; --report has every line.
RANGES_MAX = 100


class ReportRow(NamedTuple):
    """One line of the report: the result of one row of the list."""

    line: int
    status: str
    amount_micro: int | None = None
    account_id: str | None = None
    entity_id: str | None = None
    grant_id: str | None = None
    reason: str | None = None

    def csv_fields(self) -> tuple[object, ...]:
        """Return the fields in the order of `REPORT_HEADER`, with the amount in units."""
        return (
            self.line, self.account_id, self.entity_id, self.status, self._amount(), self.grant_id, self.reason
        )  # fmt: skip

    def json_members(self) -> dict[str, Any]:
        """Return the members of the row in JSON output."""
        return {
            "line": self.line,
            "accountId": self.account_id,
            "entityId": self.entity_id,
            "status": self.status,
            "amount": self._amount(),
            "amountMicro": None if self.amount_micro is None else str(self.amount_micro),
            "grantId": self.grant_id,
            "reason": self.reason,
        }

    def _amount(self) -> str | None:
        return None if self.amount_micro is None else units(self.amount_micro)


@dataclass
class Lines:
    """Ascending line numbers, as inclusive ranges. Beyond `RANGES_MAX` ranges, lines are only counted."""

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
        """Format as `lines 2-841, 843`."""
        ranges = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in self.ranges)
        more = f" and {self.count - self.listed} more" if self.count > self.listed else ""
        return f"{'line' if self.count == 1 else 'lines'} {ranges}{more}"


class Stop(NamedTuple):
    """Reason for an early end: `why` is a word for programs, `message` is for people."""

    why: str
    message: str
    exit_code: int
    members: Mapping[str, Any]


class DifferentAmount(NamedTuple):
    """An account that was paid before, with another amount than the list has."""

    line: int
    account: str
    paid_micro: int
    listed_micro: int


@dataclass(kw_only=True)
class Report:
    """Totals of an import. `stop` is set if the import ended early."""

    campaign_id: str
    dry_run: bool
    by_entity: bool
    strict: bool = False
    batches: int = 0
    remaining_micro: int | None = None
    missing_micro: int = 0
    stop: Stop | None = None
    by_status: dict[str, Lines] = field(default_factory=dict)
    by_reason: dict[tuple[str, str], Lines] = field(default_factory=dict)
    granted_micro: int = 0
    # The first LISTED_MAX of them, and the number of all.
    different: list[DifferentAmount] = field(default_factory=list)
    different_count: int = 0

    # --- an early end ---

    def stop_early(self, why: str, message: str, exit_code: int, *, members: Mapping[str, Any] | None = None) -> None:
        """Record that the import ends before the end of the list."""
        self.stop = Stop(why, message, exit_code, members or {})

    def stop_in_doubt(
        self, why: str, message: str, exit_code: int, sending: Sequence[Item], members: Mapping[str, Any] | None = None
    ) -> None:
        """Record an early end at which the response for `sending` is missing. These items may have been paid."""
        members = members or {}
        if sending:
            first, last = sending[0].line, sending[-1].line
            doubt = f"lines {first} to {last} were in flight and may have been paid"
            message += f" ({doubt})" if exit_code == EXIT_USAGE else f"\n{doubt}"
            members = {**members, "mayHaveBeenPaid": {"firstLine": first, "lastLine": last}}
        self.stop_early(why, message, exit_code, members=members)

    def stop_at_problem(self, problem: Problem, items: Sequence[Item], *, url: str, in_doubt: bool) -> None:
        """Record that the service rejected a batch as a whole."""
        message = _with_lines(problem_text(problem, url), items)
        exit_code = EXIT_USAGE if is_usage_error(problem) else EXIT_NO
        self.stop_in_doubt("refused", message, exit_code, items if in_doubt else (), _problem_json(problem, items))

    # --- the rows ---

    def add(self, outcome: Outcome) -> ReportRow:
        """Count a row of the list and return its line of the report."""
        row = self._row(outcome)
        self.by_status.setdefault(row.status, Lines()).add(row.line)
        if row.status in STATUSES_WITH_REASON:
            self.by_reason.setdefault((row.status, row.reason or ""), Lines()).add(row.line)
        if row.status == "granted":
            self.granted_micro += row.amount_micro or 0
        return row

    def _row(self, outcome: Outcome) -> ReportRow:
        row = ReportRow(
            outcome.line,
            "granted" if outcome.status == "new" and self.dry_run else outcome.status or "",
            outcome.amount_micro,
            outcome.account_id if self.by_entity else outcome.account,
            outcome.account if self.by_entity else None,
            outcome.grant_id,
            outcome.reason,
        )
        if outcome.error is not None:
            return row._replace(status="bad", amount_micro=None, grant_id=None, reason=str(outcome.error))
        if outcome.into_line is not None:
            return row._replace(status="summed", amount_micro=None, reason=f"added to line {outcome.into_line}")
        if row.status in ("", "new"):
            why = self.stop.why if self.stop is not None else "not_sent"
            return row._replace(status="not_paid", amount_micro=outcome.expected_micro, reason=why)
        if row.status in ("duplicate", "revoked") and outcome.expected_micro not in (None, outcome.amount_micro):
            return row._replace(reason=self._add_different(outcome))
        return row

    def _add_different(self, outcome: Outcome) -> str:
        different = DifferentAmount(
            outcome.line, outcome.account or "", outcome.amount_micro or 0, outcome.expected_micro or 0
        )
        self.different_count += 1
        if len(self.different) < LISTED_MAX:
            self.different.append(different)
        return f"paid {units(different.paid_micro)} before; the list says {units(different.listed_micro)}"

    # --- the result ---

    def count(self, status: str) -> int:
        """Return the number of rows with a status."""
        return self.lines(status).count

    def lines(self, status: str) -> Lines:
        """Return the lines of rows with a status."""
        return self.by_status.get(status) or Lines()

    @property
    def exit_code(self) -> int:
        """Exit code of the command."""
        if self.stop is not None:
            return self.stop.exit_code
        is_negative = any(self.count(status) for status in ("failed", "refused", "bad", "not_paid", "unknown"))
        return EXIT_NO if is_negative or (self.strict and self.different_count) else EXIT_DONE


def write_report(rows: Rows, report: Report, *, table: TextIO | None, as_json: bool) -> None:
    """Count all rows. Write each one to the report file, and as JSON to stdout."""
    writerow: Callable[[Iterable[object]], object] | None = None
    if table is not None:
        writerow = csv.writer(table, lineterminator="\n").writerow
        writerow(REPORT_HEADER)
    stdout = sys.stdout
    if as_json:
        stdout.write('{"rows":[')
    separator = ""
    for outcome in rows.outcomes():
        row = report.add(outcome)
        if writerow is not None:
            writerow(row.csv_fields())
        if as_json:
            stdout.write(separator + escaped_json(row.json_members()))
            separator = ",\n"
    if as_json:
        stdout.write("]," + escaped_json(_totals_json(report))[1:] + "\n")
        stdout.flush()
    if table is not None:
        table.flush()


def _totals_json(report: Report) -> dict[str, Any]:
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
        "stopped": None if stop is None else {"why": stop.why, "message": stop.message, **stop.members},
    }


# --- paths of a request as lines of the list ---


def _with_lines(text: str, items: Sequence[Item]) -> str:
    """Replace `grants[3].amountMicro` by `line 5, amountMicro`."""

    def line_text(match: re.Match[str]) -> str:
        line = _line_of(match[0], items)
        return match[0] if line is None else f"line {line}" + (", " if match[2] else "")

    return GRANT_PATH.sub(line_text, text)


def _line_of(path: str, items: Sequence[Item]) -> int | None:
    index = index_in_path(path, items)
    return None if index is None else items[index].line


def _problem_json(problem: Problem, items: Sequence[Item]) -> dict[str, Any]:
    return {
        "code": problem.code,
        "status": problem.status,
        "detail": problem.detail,
        "facts": extensions_of(problem),
        # With these a program can map any `grants[3]` in the other members to its line.
        "linesOfGrants": [item.line for item in items],
        "errors": [
            {"line": _line_of(path, items), "path": path, "message": message} for path, message in errors_of(problem)
        ],
    }
