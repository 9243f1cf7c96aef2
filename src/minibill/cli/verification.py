"""What verify, backup, restore and demo have in common: how checks are waited for, and how what they came to is told."""

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
from minibill.db.sqlite import SqliteTooOld, sqlite3
from minibill.integrity.report import Report, failed_checks
from minibill.integrity.verify import STEPS, Verified, verify_file

ProgressCallback = Callable[[str, int, int], None]

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
force_option = click.option("--force", is_flag=True, help="Replace what is there.")


@contextmanager
def progress_bar() -> Iterator[ProgressCallback]:
    """A bar on a terminal's stderr, told what is being done, how far it is and of how much."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with Progress(*columns, console=Console(file=sys.stderr), disable=not sys.stderr.isatty(), transient=True) as progress:
        task = progress.add_task("", total=None)
        yield lambda doing, done, total: progress.update(task, description=doing, completed=done, total=total)


@contextmanager
def cli_errors(doing: str, path: Path) -> Iterator[None]:
    """What goes wrong with files ends the command with one line: 1 when a book can't be read, 2 when it is no use to try."""
    cant = f"can't {doing} {path}"
    try:
        yield
    except FileNotFoundError as error:
        raise UsageError(f"{cant}: {reason_of(f'{error.filename} is not there', path)}") from None
    except (DatabaseLocked, NotABook, MigrationRefused, SqliteTooOld, SnapshotInvalidated) as error:
        raise UsageError(f"{cant}: {reason_of(error, path)}") from None
    except OSError as error:
        raise UsageError(f"{cant}: {error.filename or ''} {error.strerror}") from None
    except sqlite3.OperationalError as error:
        raise UsageError(f"{cant}: {reason_of(error, path)}") from None
    except sqlite3.DatabaseError as error:
        raise click.ClickException(f"{cant}: {error}") from None


def verified(path: Path, say: ProgressCallback, *, paced: bool = False) -> Verified:
    """Checks a file, telling the bar of each step; `paced` as in `verify_file`."""
    steps = iter(range(STEPS))
    return verify_file(path, on_step=lambda name: say(f"checking {name}", next(steps, STEPS), STEPS), paced=paced)


def verdict_json(report: Report) -> dict[str, Any]:
    """A report for programs."""
    members: dict[str, Any] = msgspec.to_builtins(report)
    return {name: value for name, value in members.items() if name != "lastReconciliationAt"}


def print_checks(found: Verified) -> None:
    """The checks as a table, and below it what is wrong."""
    table = Table("check", "", box=None, pad_edge=False, header_style="bold")
    table.add_column("checked", justify="right")
    table.add_column("violations", justify="right")
    for name, check in found.report.checks.items():
        mark = "[green]pass[/]" if check.status == "pass" else "[red bold]FAIL[/]"
        table.add_row(name, mark, f"{check.checked:,}", f"{check.violations:,}")
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else LOG_COLUMNS).print(table, highlight=False)
    for name in failed_checks(found.report):
        check = found.report.checks[name]
        click.echo(f"\n{name}: {', '.join(found.broken[name])}".rstrip(": "))
        for example in check.examples:
            click.echo(f"  {escaped(example)}")
        if check.violations > len(check.examples) > 0:
            click.echo(f"  and {check.violations - len(check.examples):,} more")


def summary(path: Path, report: Report) -> str:
    """`book.db is healthy: 11 checks in 1.2 s.`"""
    failed = failed_checks(report)
    which = (
        f"{', '.join(failed)} {'fails' if len(failed) == 1 else 'fail'}" if failed else f"{len(report.checks)} checks pass"
    )
    return f"{path} is {report.status}: {which} ({(report.duration_ms or 0) / 1000:.1f} s)"
