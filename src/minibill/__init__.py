"""minibill: a prepaid-credits ledger and campaign engine on one SQLite file.

`minibill.open` opens a book inside a program. `minibill.client` calls a service that runs elsewhere. `minibill.testing` has
pytest fixtures.
"""

from collections.abc import Mapping
from os import PathLike
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from minibill.embedded import EmbeddedBook

__version__ = "0.1.0"


def open(  # noqa: A001 - `minibill.open` is the expected name, and users import it with its module.
    path: str | PathLike[str],
    *,
    actor: str = "program",
    settings: Mapping[str, str] | None = None,
    test_clock: bool = False,
) -> "EmbeddedBook":
    """Open a book inside this program; create it if there is none. `async with` gives its operations.

        async with minibill.open("book.db") as book:
            account = await book.open_account("person", "ada")
            await book.mint(account.id, 5_000_000, source_id="order-7")

    One process may open a file at a time. The audit log names `actor`. `settings` are those of the service, by variable,
    such as `{"MINIBILL_CEILING_MICRO": "5000000"}`; no secrets are needed. With `test_clock`, `advance_clock` moves the
    book's time. Raises `ValueError` for `:memory:` and `file:` URIs. Entering raises `DatabaseLocked`, `NotABook`,
    `MigrationRefused`, `UnsafeFile` or `BehindItsAnchor`.
    """
    from minibill.db.files import require_file_name
    from minibill.embedded import EmbeddedBook

    return EmbeddedBook(require_file_name(path), actor=actor, settings=settings or {}, has_test_clock=test_clock)
