"""Checks of a database file, as verify, backup, restore and demo run and print them."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table

from minibill.cli.output import LOG_COLUMNS, UsageError, escaped
from minibill.db.connection import NotABook
from minibill.db.file_lock import DatabaseLocked
from minibill.db.files import reason_of
from minibill.db.migrations import MigrationRefused
from minibill.db.snapshot import SnapshotInvalidated
from minibill.db.sqlite import DatabaseError, OperationalError, SqliteTooOld
from minibill.integrity.report import Report, failed_checks
from minibill.integrity.verify import STEPS, Verified, verify_file

# Called with the step's name, the finished and the total amount of its work.
ProgressCallback = Callable[[str, int, int], None]


@contextmanager
def progress_bar() -> Iterator[ProgressCallback]:
    """Show a progress bar on stderr, if that is a terminal. Yield the function that updates it."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with Progress(*columns, console=Console(file=sys.stderr), disable=not sys.stderr.isatty(), transient=True) as progress:
        task = progress.add_task("", total=None)
        yield lambda step, done, total: progress.update(task, description=step, completed=done, total=total)


@contextmanager
def cli_errors(action: str, path: Path) -> Iterator[None]:
    """Turn file and database errors into one line. The exit code is 1 for a damaged database, otherwise 2."""
    failed = f"can't {action} {path}"
    try:
        yield
    except FileNotFoundError as error:
        raise UsageError(f"{failed}: {reason_of(f'{error.filename} does not exist', path)}") from None
    except (DatabaseLocked, NotABook, MigrationRefused, SqliteTooOld, SnapshotInvalidated) as error:
        raise UsageError(f"{failed}: {reason_of(error, path)}") from None
    except OSError as error:
        raise UsageError(f"{failed}: {error.filename or ''} {error.strerror}") from None
    except OperationalError as error:
        raise UsageError(f"{failed}: {reason_of(error, path)}") from None
    except DatabaseError as error:
        raise click.ClickException(f"{failed}: {error}") from None


def verify_with_progress(path: Path, on_progress: ProgressCallback, *, paced: bool = False) -> Verified:
    """Check a file and report each step. `paced` is that of `verify_file`."""
    steps = iter(range(STEPS))
    return verify_file(path, on_step=lambda name: on_progress(f"checking {name}", next(steps, STEPS), STEPS), paced=paced)


def report_json(report: Report) -> dict[str, Any]:
    """Return a report as JSON members."""
    members: dict[str, Any] = msgspec.to_builtins(report)
    return {name: value for name, value in members.items() if name != "lastReconciliationAt"}


def print_checks(verified: Verified) -> None:
    """Print the checks as a table, then the violations of each failed check."""
    table = Table("check", "", box=None, pad_edge=False, header_style="bold")
    table.add_column("checked", justify="right")
    table.add_column("violations", justify="right")
    for name, check in verified.report.checks.items():
        mark = "[green]pass[/]" if check.status == "pass" else "[red bold]FAIL[/]"
        table.add_row(name, mark, f"{check.checked:,}", f"{check.violations:,}")
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else LOG_COLUMNS).print(table, highlight=False)
    for name in failed_checks(verified.report):
        check = verified.report.checks[name]
        click.echo(f"\n{name}: {', '.join(verified.broken[name])}".rstrip(": "))
        for example in check.examples:
            click.echo(f"  {escaped(example)}")
        if check.violations > len(check.examples) > 0:
            click.echo(f"  and {check.violations - len(check.examples):,} more")


def summary(path: Path, report: Report) -> str:
    """Format the result in one line: `book.db is healthy: 11 checks pass (1.2 s)`."""
    failed = failed_checks(report)
    result = (
        f"{', '.join(failed)} {'fails' if len(failed) == 1 else 'fail'}" if failed else f"{len(report.checks)} checks pass"
    )
    return f"{path} is {report.status}: {result} ({(report.duration_ms or 0) / 1000:.1f} s)"
