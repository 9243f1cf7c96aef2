"""Machines whose books are backed up and restored."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.api_client import Loop
from tests.epochs.machine import Machine


@pytest.fixture
def new_machine(tmp_path: Path, migrated_file: Path, loop: Loop) -> Iterator[Callable[..., Machine]]:
    """Return a function that makes machines with empty books. At the end, every book must pass all checks."""
    machines: list[Machine] = []

    def new_machine(**environment: str) -> Machine:
        folder = tmp_path / f"machine-{len(machines)}"
        folder.mkdir()
        shutil.copyfile(migrated_file, folder / "book.db")
        machines.append(Machine(folder / "book.db", loop, **environment))
        return machines[-1]

    yield new_machine
    for machine in machines:
        machine.verify()


@pytest.fixture
def machine(new_machine: Callable[..., Machine]) -> Machine:
    return new_machine()
