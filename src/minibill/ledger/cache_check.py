"""A check of the writer's cache against the book; tests run it after each request."""

from minibill.db.cache import OperationCache
from minibill.db.new_ids import NextIds
from minibill.db.queries import queries
from minibill.db.sqlite import Connection
from minibill.ledger.account_cache import AccountCache, CachedAccount, CachedReservation
from minibill.ledger.limits import PENDING_MAX
from minibill.ledger.posting import load_balances
from minibill.ledger.rows import AccountState, ReservationRow

LEDGER, RESERVATIONS, ACCOUNTS = queries("ledger"), queries("reservations"), queries("accounts")


def check(conn: Connection, cache: OperationCache) -> list[str]:
    """Return the differences between the cache and the committed state that `conn` reads, while no write is in flight.

    A first lot may be missing from the cache, and `next_expiry_us` may be too early.
    """
    accounts: AccountCache = cache.values.get("ledger", AccountCache())
    found = [difference for account in accounts.accounts for difference in _of_account(conn, account)]
    for reservation in accounts.reservations:
        if reservation.account is not accounts.account(reservation.row.account_id):
            found.append(f"reservation {reservation.row.id} refers to another copy of its account")
        found += _of_reservation(conn, reservation)
    return found if cache.ids is None else found + _of_ids(conn, cache.ids)


def _of_account(conn: Connection, account: CachedAccount) -> list[str]:
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
    for pool, lot in account.first_lots.items():
        first = LEDGER.lots_in_drawdown_order.one(conn, account_id=key, pool_id=pool)
        if first != (lot.lot_id, lot.available_micro, lot.expires_at_us):
            found.append(f"first lot of account {key} in {pool}: cached {lot}, stored {first}")
    return found


def _of_reservation(conn: Connection, reservation: CachedReservation) -> list[str]:
    found = list[str]()
    key = reservation.row.id
    row = RESERVATIONS.find_reservation.one(conn, reservation_id=key)
    if row is None or ReservationRow(*row) != reservation.row or reservation.row.status != "pending":
        found.append(f"reservation {key}: cached {reservation.row}, stored {row}")
    lots = RESERVATIONS.lots_of_reservation.all(conn, reservation_id=key)
    if lots != reservation.lots:
        found.append(f"lots of reservation {key}: cached {reservation.lots}, stored {lots}")
    return found


def _of_ids(conn: Connection, ids: NextIds) -> list[str]:
    stored = NextIds(conn)
    return [
        f"next id of {name}: cached {getattr(ids, name)}, stored {getattr(stored, name)}"
        for name in NextIds.__slots__
        if getattr(ids, name) != getattr(stored, name)
    ]
