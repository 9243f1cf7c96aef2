"""Run `minibill serve` on a disk that fails as soon as a given file exists.

python -m tests.faults.serve_with_faults KIND FILE --db book.db …      KIND: read, write, sync, truncate, delete, create
"""

import sys
from pathlib import Path

from minibill.cli.main import main
from tests.faults import vfs


class FailsOnceFileExists:
    """Make one kind of operation fail as soon as a file exists."""

    def __init__(self, kind: str, trigger: Path) -> None:
        self._kind, self._trigger = kind, trigger

    def about_to(self, kind: str, path: Path) -> int:
        return vfs.ERRORS[kind] if kind == self._kind and self._trigger.exists() else vfs.OK

    def did(self, kind: str, path: Path, where: int, data: bytes) -> None:
        pass


if __name__ == "__main__":
    kind, trigger, *arguments = sys.argv[1:]
    vfs.watch(FailsOnceFileExists(kind, Path(trigger)))
    main(["serve", *arguments])
