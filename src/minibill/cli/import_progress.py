"""Progress bar of an import, and its two ways to be interrupted: Ctrl-C and SIGTERM."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from minibill.cli.import_report import EXIT_INTERRUPTED

EXIT_TERMINATED = 128 + signal.SIGTERM


class _Terminated(KeyboardInterrupt):
    """SIGTERM."""


def exit_code_of(interrupt: KeyboardInterrupt) -> int:
    """Return the exit code that a shell reports for this signal."""
    return EXIT_TERMINATED if isinstance(interrupt, _Terminated) else EXIT_INTERRUPTED


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Raise SIGTERM as a KeyboardInterrupt, so that it ends with a report as Ctrl-C does."""

    def terminate(signum: int, frame: FrameType | None) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class ProgressBar:
    """Progress of an import through its list."""

    def __init__(self, progress: Progress, *, rows: int, dry_run: bool) -> None:
        self._progress = progress
        self._step = "checking" if dry_run else "paying"
        self._task = progress.add_task(self._step, total=rows)

    def begin(self, step: str) -> None:
        """Start again at the first row, for another step."""
        self._step = step
        self._progress.update(self._task, completed=0, description=step)

    def advance(self, rows: int) -> None:
        """Count finished rows."""
        self._progress.update(self._task, advance=rows, description=self._step)

    def wait(self, seconds: float, reason: str) -> None:
        """Show that the client waits before it sends a request again."""
        self._progress.update(self._task, description=f"waiting {seconds:g} s ({reason})")


@contextmanager
def import_progress(rows: int, *, dry_run: bool) -> Iterator[ProgressBar]:
    """Show a progress bar on stderr, if that is a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(file=sys.stderr), disable=not sys.stderr.isatty()) as progress:
        yield ProgressBar(progress, rows=rows, dry_run=dry_run)
