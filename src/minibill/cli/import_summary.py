"""Summary of `minibill campaign import` for people: bad rows, figures with their lines, and the reason for an early end."""

import shutil
import textwrap

import click

from minibill.cli.import_report import EXIT_USAGE, Lines, Report, Stop
from minibill.cli.import_rows import Rows
from minibill.cli.output import LISTED_MAX, LOG_COLUMNS, escaped, money, units

# Column of the figures. The lines that a figure counts are listed below it.
_INDENT = " " * 12


def print_bad_rows(rows: Rows) -> None:
    """Print the rows that can't be paid on stderr: one line for all rows with the same error."""
    lines_by_reason: dict[str, Lines] = {}
    first_value: dict[str, str] = {}
    more = 0
    for line, error in rows.errors():
        if error.reason not in lines_by_reason and len(lines_by_reason) == LISTED_MAX:
            more += 1
            continue
        lines_by_reason.setdefault(error.reason, Lines()).add(line)
        first_value.setdefault(error.reason, error.value)
    for reason, lines in lines_by_reason.items():
        value = first_value[reason]
        if lines.count == 1:
            click.echo(f"{lines}: {reason} {value}".rstrip(), err=True)
        else:
            text = f"{lines}: {reason.rstrip(':')}" + (f" (the first: {value})" if value else "")
            click.echo(_wrapped(text, indent="") if len(lines.ranges) > 1 else text, err=True)
    if more:
        click.echo(f"and {more} more rows with other errors; --report lists them all", err=True)


def print_summary(report: Report, *, as_json: bool) -> None:
    """Print the figures on stdout, and on stderr the changed amounts and the reason for an early end."""
    if report.batches and not as_json:
        click.echo("\n".join(_figures(report)))
    for line, account, paid_micro, listed_micro in report.different:
        amounts = f"was paid {units(paid_micro)} before; the list says {units(listed_micro)}"
        click.echo(f"line {line}: {escaped(account)} {amounts}", err=True)
    if (more := report.different_count - len(report.different)) > 0:
        click.echo(f"and {more} more were paid a different amount before; --report lists them all", err=True)
    if report.stop is not None:
        click.echo(f"Error: {_stop_text(report, report.stop)}", err=True)


def _stop_text(report: Report, stop: Stop) -> str:
    """Explain an early end, and that the import is safe to run again. A usage error stays on one line."""
    if stop.why in ("bad_rows", "over_limits", "over_budget") or report.dry_run:
        return stop.message
    nothing = "" if report.count("granted") or "mayHaveBeenPaid" in stop.members else "Nothing new was paid. "
    again = f"{nothing}It is safe to run this again: no account is paid twice."
    if stop.exit_code != EXIT_USAGE:
        return f"{stop.message}\n{again}"
    return f"{stop.message}{'' if stop.message.endswith('?') else '.'} {again}"


def _figures(report: Report) -> list[str]:
    revoked, duplicates = report.lines("revoked"), report.lines("duplicate")
    revoked_text = f" ({revoked.count} of them revoked; they stay revoked)" if revoked.count else ""
    lines = [
        _figure("granted", f"{report.count('granted')} ({money(report.granted_micro)})"),
        *_lines_below("", report.lines("granted")),
        _figure("duplicates", f"{duplicates.count + revoked.count}{revoked_text}"),
        *_lines_below("granted" if revoked.count else "", duplicates),
        *_lines_below("revoked", revoked),
        _figure("skipped", _counted(report, "skipped")),
        *_lines_by_reason(report, "skipped"),
        _figure("failed", str(report.count("failed"))),
        *_lines_by_reason(report, "failed"),
    ]
    for status, label in (("summed", "added up"), ("bad", "left out"), ("unknown", "in doubt")):
        if count := report.count(status):
            lines += [_figure(label, str(count)), *_lines_below("", report.lines(status))]
    for status, label in (("refused", "over limit"), ("not_paid", "not paid")):
        if count := report.count(status):
            lines += [_figure(label, str(count)), *_lines_by_reason(report, status)]
    if report.remaining_micro is not None and not report.missing_micro:
        lines.append(_figure("remaining", money(report.remaining_micro)))
    if report.dry_run:
        lines.insert(0, "dry run, nothing was paid; a real run would result in:")
    elif report.stop is not None:
        lines.insert(0, "stopped before the end; until then:")
    elif not report.count("granted"):
        lines.append("nothing new was paid")
    return lines


def _figure(label: str, value: str) -> str:
    return f"{label:<{len(_INDENT)}}{value}"


def _lines_by_reason(report: Report, status: str) -> list[str]:
    return [text for (of, reason), lines in report.by_reason.items() if of == status for text in _lines_below(reason, lines)]


def _lines_below(label: str, lines: Lines) -> list[str]:
    """Format line numbers to stand below a figure, after a label such as a reason."""
    if not lines.count:
        return []
    return [_wrapped(f"{label}: {lines}" if label else str(lines))]


def _wrapped(text: str, *, indent: str = _INDENT) -> str:
    columns = shutil.get_terminal_size((LOG_COLUMNS, 0)).columns
    return textwrap.fill(
        text, columns, initial_indent=indent, subsequent_indent=_INDENT, break_long_words=False, break_on_hyphens=False
    )


def _counted(report: Report, status: str) -> str:
    """Format as `315 (300 comes_to_zero, 15 amount_is_zero)`."""
    counts = sorted(
        ((lines.count, reason) for (of, reason), lines in report.by_reason.items() if of == status), reverse=True
    )
    reasons = ", ".join(f"{count} {reason}" for count, reason in counts)
    return f"{report.count(status)} ({reasons})" if counts else "0"
