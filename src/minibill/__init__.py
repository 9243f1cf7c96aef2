"""minibill: a prepaid-credits ledger and campaign engine on one SQLite file.

`minibill.open` has a book inside a program, `minibill.client` asks a service that runs elsewhere, and `minibill.testing`
gives a test-suite books of its own.
"""

from collections.abc import Mapping
from os import PathLike
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from minibill.embedded import EmbeddedBook

__version__ = "0.1.0"


def open(  # noqa: A001 - `minibill.open` is what one looks for, and nobody imports it by its bare name.
    path: str | PathLike[str],
    *,
    actor: str = "program",
    settings: Mapping[str, str] | None = None,
    test_clock: bool = False,
) -> "EmbeddedBook":
    """A book inside this program, made where there is none yet: an `async with` opens it and gives its operations.

        async with minibill.open("book.db") as book:
            account = await book.open_account("person", "ada")
            await book.mint(account.id, 5_000_000, source_id="order-7")

    One process has a book at a time. `actor` is whom the audit log names. `settings` are those of the service, by their
    variables, such as `{"MINIBILL_CEILING_MICRO": "5000000"}`; secrets are not needed. With `test_clock` the book's time can
    be moved by `advance_clock`. Raises `ValueError` for `:memory:` and `file:` URIs, and, on entering, what `Book.open`
    raises: `DatabaseLocked`, `NotABook`, `MigrationRefused`, `UnsafeFile`.
    """
    from minibill.db.files import require_file_name
    from minibill.embedded import EmbeddedBook

    return EmbeddedBook(require_file_name(path), actor=actor, settings=settings or {}, has_test_clock=test_clock)
