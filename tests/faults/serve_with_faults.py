"""Run `minibill serve` on a disk that fails as soon as a given file exists.

python -m tests.faults.serve_with_faults KIND FILE --db book.db …      KIND: read, write, sync, truncate, delete, create
"""

import sys
from pathlib import Path

from minibill.cli.main import main
from tests.faults import vfs


class FailsOnceFileExists:
    """Make one kind of operation fail as soon as a file exists."""

    def __init__(self, kind: str, told: Path) -> None:
        self._kind, self._told = kind, told

    def about_to(self, kind: str, path: Path) -> int:
        return vfs.ERRORS[kind] if kind == self._kind and self._told.exists() else vfs.OK

    def did(self, kind: str, path: Path, where: int, data: bytes) -> None:
        pass


if __name__ == "__main__":
    kind, told, *arguments = sys.argv[1:]
    vfs.watch(FailsOnceFileExists(kind, Path(told)))
    main(["serve", *arguments])
