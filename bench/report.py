"""Reports: tables for the terminal and for bench/RESULTS.md, from the same rows."""

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table as RichTable

from minibill.db.connection import open_reader
from minibill.integrity.checks import violations


class Unfit(Exception):
    """A measurement that must not be printed: a response was unexpected, or the book fails a check."""


class Table(NamedTuple):
    """A benchmark: its description, its results, and the verdicts on its aims."""

    title: str
    about: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    # Text columns; the others are numbers.
    left: tuple[str, ...]
    verdicts: tuple[str, ...] = ()


def require_whole(path: Path) -> None:
    """Raise `Unfit` if the book in a file fails a check."""
    conn = open_reader(path)
    try:
        if broken := violations(conn):
            raise Unfit(f"the book is not whole: {', '.join(broken)}")
    finally:
        conn.close()


def show(console: Console, table: Table) -> None:
    """Print a table."""
    grid = RichTable(title=table.title, title_justify="left", title_style="bold", caption_justify="left")
    for column in table.columns:
        grid.add_column(column, justify="left" if column in table.left else "right")
    for row in table.rows:
        grid.add_row(*row)
    console.print()
    console.print(grid)
    console.print(f"[dim]{table.about}[/dim]", highlight=False)
    for verdict in table.verdicts:
        console.print(verdict, highlight=False)


def markdown(machine: Iterable[tuple[str, str]], date: str, tables: Iterable[Table]) -> str:
    """Return the report as Markdown."""
    parts = [f"# Measurements of {date}", "Made by `make bench`. Numbers compare only with others of the same run."]
    parts.append("\n".join(f"- {what}: {which}" for what, which in machine))
    for table in tables:
        rule = ["---" if column in table.left else "---:" for column in table.columns]
        parts += [f"## {table.title}", table.about, "\n".join(_line(row) for row in (table.columns, rule, *table.rows))]
        if table.verdicts:
            parts.append("\n".join(f"- {verdict}" for verdict in table.verdicts))
    return "\n\n".join(parts) + "\n"


def verdict(what: str, ratio: float, at_most: float) -> str:
    """The verdict on an aim."""
    return f"{what}: {ratio:.2f}, aim at most {at_most:.1f}: {'holds' if ratio <= at_most else 'DOES NOT HOLD'}"


def median_ms(seconds: Sequence[float]) -> float:
    return statistics.median(seconds) * 1000


def number(value: float) -> str:
    """Return a number with at least three significant digits and with separators."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
