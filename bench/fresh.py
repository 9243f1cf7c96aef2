"""The time that a test needs for a new book: `minibill.testing` compared with the alternatives."""

import shutil
import statistics
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.report import Table, number
from bench.sizes import Sizes
from minibill.db.connection import open_writer
from minibill.db.migrations import migrate_file
from minibill.testing import BookForTests

# A prepared book of a typical suite.
ACCOUNTS = 200

TIMES_A_ROUND = 20


def table(sizes: Sizes) -> Table:
    """Measure the median milliseconds for a new book."""
    times = sizes.rounds * TIMES_A_ROUND
    with TemporaryDirectory() as folder:
        template = Path(folder, "template.db")
        migrate_file(template)
        book = BookForTests(Path(folder, "book.db"))
        for n in range(ACCOUNTS):
            book.give(f"person-{n}", 5_000_000)
        prepared = book.snapshot()

        def reset_and_mint() -> None:
            book.reset()
            book.give("ada", 1)

        rows: list[tuple[str, ...]] = [
            ("a file made by the migrations", _ms(lambda: _migrated(folder), sizes.rounds)),
            ("a migrated file, copied and opened for writing", _ms(lambda: _copied(template), times)),
            ("`minibill_book`: the running service, emptied", _ms(book.reset, times)),
            ("the same, and the first account and mint", _ms(reset_and_mint, times)),
            (f"`snapshot()` of {ACCOUNTS} accounts", _ms(book.snapshot, times)),
            ("`restore()` of it", _ms(lambda: book.restore(prepared), times)),
        ]
        book.verify()
        book.close()
    about = (
        "Medians; a test-suite pays the start of the service once. The first two rows are files alone, without a service."
    )
    return Table("A fresh book for a test", about, ("what", "ms"), rows, ("what",))


def _migrated(folder: str) -> None:
    path = Path(folder, "made.db")
    migrate_file(path)
    path.unlink()


def _copied(template: Path) -> None:
    path = template.with_name("copied.db")
    shutil.copyfile(template, path)
    with closing(open_writer(path)) as conn:
        conn.execute("BEGIN IMMEDIATE")
        conn.execute("ROLLBACK")
    path.unlink()


def _ms(what: Callable[[], object], times: int) -> str:
    taken_s = []
    for _ in range(times):
        began_s = time.perf_counter()
        what()
        taken_s.append(time.perf_counter() - began_s)
    return number(statistics.median(taken_s) * 1000)
