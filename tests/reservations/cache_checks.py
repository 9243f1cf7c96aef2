"""What the writer remembers of a book, held against the book."""

from minibill.book import Book
from minibill.db.new_ids import NextIds
from minibill.db.queries import queries
from minibill.db.sqlite import sqlite3
from minibill.ledger.account_cache import AccountCache, CachedAccount, ReservationRow
from minibill.ledger.limits import PENDING_MAX
from minibill.ledger.posting import load_balances

LEDGER, RESERVATIONS, ACCOUNTS = queries("ledger"), queries("reservations"), queries("accounts")


def misremembered(book: Book) -> list[str]:
    """What is not as the book has it; nothing may be under way. A front may be unknown, and a due time too early."""
    memory, ids = (book.writer._remembered.get(name) for name in ("ledger", "ids"))
    found = [] if memory is None else book.readers.point_read(lambda conn: _differences(conn, memory))
    return found if ids is None else found + book.readers.point_read(lambda conn: _other_ids(conn, ids))


def count_remembered(book: Book) -> tuple[int, int]:
    """How many accounts and reservations are remembered."""
    memory = book.writer._remembered.get("ledger", AccountCache())
    return len(memory._spenders), sum(hold.spender.current for hold in memory._holds.values())


def _differences(conn: sqlite3.Connection, memory: AccountCache) -> list[str]:
    found = [difference for spender in memory._spenders.values() for difference in _of_spender(conn, spender)]
    for key, hold in memory._holds.items():
        if not hold.spender.current:
            continue
        if hold.spender is not memory._spenders.get(hold.row.account_id):
            found.append(f"reservation {key} has an account of its own")
        row = RESERVATIONS.find_reservation.one(conn, reservation_id=key)
        if row is None or ReservationRow(*row) != hold.row or hold.row.status != "pending":
            found.append(f"reservation {key}: {hold.row} is {row}")
        lots = RESERVATIONS.lots_of_reservation.all(conn, reservation_id=key)
        if lots != hold.lots:
            found.append(f"the lots of reservation {key}: {hold.lots} are {lots}")
    return found


def _other_ids(conn: sqlite3.Connection, ids: NextIds) -> list[str]:
    real = NextIds(conn)
    return [
        f"the next id of {name}: {getattr(ids, name)} is {getattr(real, name)}"
        for name in NextIds.__slots__
        if getattr(ids, name) != getattr(real, name)
    ]


def _of_spender(conn: sqlite3.Connection, spender: CachedAccount) -> list[str]:
    found = list[str]()
    key = spender.account_id
    if not spender.current:
        found.append(f"account {key} was forgotten and is there")
    balances = load_balances(conn, list(spender.balances))
    if balances != spender.balances:
        found.append(f"the balances of account {key}: {spender.balances} are {balances}")
    row = ACCOUNTS.find_account_and_when_it_falls_due.one(conn, account_id=key, pending_max=PENDING_MAX)
    assert row is not None
    if spender.pending != row[2]:
        found.append(f"the pending reservations of account {key}: {spender.pending} are {row[2]}")
    if spender.due_us > row[0] or spender.has_memberships != bool(row[1]):
        found.append(f"account {key}: due {spender.due_us}, memberships {spender.has_memberships}, and it is {row}")
    for pool, front in spender.first_lots.items():
        first = LEDGER.lots_in_drawdown_order.one(conn, account_id=key, pool_id=pool)
        if first != (front.lot_id, front.available_micro, front.expires_at_us):
            found.append(f"the front of account {key} in {pool}: {front} is {first}")
    return found
