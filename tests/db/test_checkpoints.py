"""Checkpoints of the write-ahead log: by minibill itself, or by another program."""

import asyncio
from contextlib import closing
from pathlib import Path

import pytest

from minibill.api.types import Entity
from minibill.auth.tokens import Caller
from minibill.book import Book
from minibill.core.write_result import Origin
from minibill.db.connection import open_reader, open_writer
from minibill.db.write_operation import bind
from minibill.ledger.accounts import open_account
from tests.api_client import Loop

PAGE_BYTES = 4_096

# Fewer pages than the accounts of a test fill.
FEW_PAGES = 1_000


ACCOUNTS = 2_000


def fill(book: Book, loop: Loop) -> None:
    """Write more pages than trigger a checkpoint, in several transactions."""
    caller, origin = Caller("admin", "operator", None, frozenset()), Origin(None, None, None, None)

    async def write() -> None:
        for start in range(0, ACCOUNTS, 100):
            names = [f"{number}".ljust(200, "x") for number in range(start, start + 100)]
            await asyncio.gather(
                *(
                    book.write(bind(open_account, body=Entity("person", name)), caller=caller, origin=origin)
                    for name in names
                )
            )

    loop.run(write())


def log_bytes(db: Path) -> int:
    log = db.with_name(db.name + "-wal")
    return log.stat().st_size if log.exists() else 0


@pytest.mark.parametrize("pages", [FEW_PAGES, 0])
def test_with_0_pages_another_program_runs_the_checkpoints(db: Path, loop: Loop, pages: int) -> None:
    # The other program keeps the file open, as Litestream does.
    with closing(open_reader(db)) as other:
        book = loop.run(Book.open(db, checkpoint_pages=pages))
        try:
            before = db.stat().st_size
            fill(book, loop)
            folded = db.stat().st_size > before
            written = log_bytes(db)
        finally:
            loop.run(book.close())
        assert other.execute("SELECT count(*) FROM credit_accounts").fetchone()[0] == ACCOUNTS
        if pages:
            assert folded and log_bytes(db) == 0
        else:
            # The close writes the newest link into the same log.
            assert not folded and log_bytes(db) >= written > FEW_PAGES * PAGE_BYTES
    # A later checkpoint finds everything in the log.
    with closing(open_writer(db)) as conn:
        assert conn.execute("SELECT count(*) FROM credit_accounts").fetchone()[0] == ACCOUNTS
