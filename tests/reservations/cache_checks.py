"""Checks that compare the account cache of a book's writer with its database."""

from minibill.book import Book
from minibill.db.new_ids import NextIds
from minibill.db.queries import queries
from minibill.db.sqlite import Connection
from minibill.ledger.account_cache import AccountCache, CachedAccount, ReservationRow
from minibill.ledger.limits import PENDING_MAX
from minibill.ledger.posting import load_balances
from minibill.ledger.rows import AccountState, ReservationRow

LEDGER, RESERVATIONS, ACCOUNTS = queries("ledger"), queries("reservations"), queries("accounts")


def stale_cache_entries(book: Book) -> list[str]:
    """Return each difference between the cache and the database. No write may be running.

    A first lot may be missing from the cache, and `next_expiry_us` may be too early.
    """
    cache, ids = (book.writer._remembered.get(name) for name in ("ledger", "ids"))
    found = [] if cache is None else book.readers.point_read(lambda conn: _differences(conn, cache))
    return found if ids is None else found + book.readers.point_read(lambda conn: _other_ids(conn, ids))


def count_cached(book: Book) -> tuple[int, int]:
    """Return the numbers of cached accounts and of cached reservations that are valid."""
    cache = book.writer._remembered.get("ledger", AccountCache())
    return len(cache._accounts), sum(each.account.current for each in cache._reservations.values())


def _differences(conn: Connection, memory: AccountCache) -> list[str]:
    found = [difference for spender in memory._spenders.values() for difference in _of_spender(conn, spender)]
    for key, hold in memory._holds.items():
        if not hold.spender.current:
            continue
        if cached.account is not cache._accounts.get(cached.row.account_id):
            found.append(f"reservation {key} refers to another copy of its account")
        row = RESERVATIONS.find_reservation.one(conn, reservation_id=key)
        if row is None or ReservationRow(*row) != cached.row or cached.row.status != "pending":
            found.append(f"reservation {key}: cached {cached.row}, stored {row}")
        lots = RESERVATIONS.lots_of_reservation.all(conn, reservation_id=key)
        if lots != cached.lots:
            found.append(f"lots of reservation {key}: cached {cached.lots}, stored {lots}")
    return found


def _other_ids(conn: Connection, ids: NextIds) -> list[str]:
    real = NextIds(conn)
    return [
        f"next id of {name}: cached {getattr(ids, name)}, stored {getattr(stored, name)}"
        for name in NextIds.__slots__
        if getattr(ids, name) != getattr(stored, name)
    ]


def _of_spender(conn: Connection, spender: CachedAccount) -> list[str]:
    found = list[str]()
    key = account.account_id
    if not account.current:
        found.append(f"account {key} was evicted and is still cached")
    balances = load_balances(conn, list(account.balances))
    if balances != account.balances:
        found.append(f"balances of account {key}: cached {account.balances}, stored {balances}")
    row = ACCOUNTS.account_state.one(conn, account_id=key, pending_max=PENDING_MAX)
    assert row is not None
    state = AccountState(*row)
    if account.pending != state.pending:
        found.append(f"pending reservations of account {key}: cached {account.pending}, stored {state.pending}")
    if account.next_expiry_us > state.next_expiry_us or account.has_memberships != bool(state.has_memberships):
        found.append(f"account {key}: cached {account}, stored {state}")
    for pool, cached in account.first_lots.items():
        first = LEDGER.lots_in_drawdown_order.one(conn, account_id=key, pool_id=pool)
        if first != (cached.lot_id, cached.available_micro, cached.expires_at_us):
            found.append(f"first lot of account {key} in {pool}: cached {cached}, stored {first}")
    return found
