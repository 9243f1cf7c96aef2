"""The account cache of a book's writer, for tests."""

from minibill.book import Book
from minibill.ledger.account_cache import AccountCache
from minibill.ledger.cache_check import check


def stale_cache_entries(book: Book) -> list[str]:
    """Return each difference between the cache and the database. No write may be running."""
    return book.readers.point_read(lambda conn: check(conn, book.writer.cache))


def count_cached(book: Book) -> tuple[int, int]:
    """Return the numbers of cached accounts and of cached reservations that are valid."""
    accounts: AccountCache = book.writer.cache.values.get("ledger", AccountCache())
    return len(accounts.accounts), len(accounts.reservations)
