"""Run all benchmarks, print tables, and write bench/RESULTS.md. A run with a fault prints no numbers."""

import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import click
from rich.console import Console

from bench import (
    accounts,
    batches,
    binary,
    charging,
    fairness,
    footprint,
    fresh,
    machine,
    reconciling,
    sequential,
    singles,
    spending,
    upkeep,
)
from bench.report import Table, Unfit, markdown, show
from bench.sizes import FULL, QUICK, Sizes

BENCHMARKS: dict[str, Callable[[Sizes], Table]] = {
    "batch": batches.in_process,
    "batch-http": batches.over_http,
    "charge-batch": charging.in_process,
    "charge-batch-http": charging.over_http,
    "charge": charging.singles,
    "mint": singles.mints,
    "read": singles.reads,
    "spend": spending.in_process,
    "spend-http": spending.over_http,
    "sequential": sequential.table,
    "accounts": accounts.over_http,
    "upkeep": upkeep.table,
    "fresh": fresh.table,
    "footprint": footprint.table,
    "reconcile": reconciling.checks,
    "reconcile-http": reconciling.under_load,
    "fairness": fairness.table,
    # Only if the executable was built.
    **({"binary": binary.table} if binary.BINARY.exists() else {}),
}

RESULTS = Path(__file__).with_name("RESULTS.md")

# The tables are wider than the default of 80 columns.
LOG_COLUMNS = 120


@click.command()
@click.option("--quick", is_flag=True, help="Fewer and shorter rounds: a look, not a result.")
@click.option("--only", type=click.Choice(list(BENCHMARKS)), help="One benchmark.")
def main(*, quick: bool, only: str | None) -> None:
    """Measure minibill and its baselines. A full run without options also writes bench/RESULTS.md."""
    console = Console(width=None if sys.stdout.isatty() else LOG_COLUMNS)
    described, source = machine.describe(), machine.source()
    date = datetime.now(UTC).date().isoformat()
    machine.use_generator_core()
    console.print(f"[bold]minibill benchmarks[/bold], {date}", highlight=False)
    for what, which in described:
        console.print(f"  {what:<12} {which}", highlight=False)
    tables = []
    for name in [only] if only else BENCHMARKS:
        try:
            table = BENCHMARKS[name](QUICK if quick else FULL)
            if machine.source() != source:
                raise Unfit("the source was changed while it ran")
        except Unfit as error:
            raise click.ClickException(f"{name} was not in order, so it has no numbers: {error}") from None
        show(console, table)
        tables.append(table)
    console.print("\nEvery book was checked afterwards and is whole; every answer was the expected one.")
    if not quick and only is None:
        RESULTS.write_text(markdown(described, date, tables), "utf-8")


if __name__ == "__main__":
    main()
