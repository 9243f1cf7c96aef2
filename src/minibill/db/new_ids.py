"""Ids of new rows: the next ones of each table, above the base of the current epoch.

The writer's connection caches them, so that a reservation needs no statement to find them.
"""

from minibill.db.cache import OperationCache
from minibill.db.epochs import SQL
from minibill.db.sqlite import Connection


class NextIds:
    """The next id of each table. The operation that inserts rows moves it on, right before the INSERT.

    Entries and reservations are inserted without an id, which is faster: SQLite continues from the newest row. Only the
    first one of an epoch gets its id from here: `first_entry` and `first_reservation`, None once it exists. `newest_entry`
    is the id of the newest entry; in an epoch without entries, its base.
    """

    __slots__ = (
        "accounts", "audit_rows", "campaigns", "charges", "debts", "first_entry", "first_reservation", "grants", "lots",
        "newest_entry",
    )  # fmt: skip

    def __init__(self, conn: Connection) -> None:
        newest = SQL.newest_ids.one(conn)
        assert newest is not None
        first_id: int = newest[0] + 1
        _, audit_rows, accounts, lots, reservations, charges, debts, entries, campaigns, grants, _ = (
            max(key + 1, first_id) for key in newest
        )
        self.accounts: int = accounts
        self.lots: int = lots
        self.charges: int = charges
        self.debts: int = debts
        self.campaigns: int = campaigns
        self.grants: int = grants
        self.audit_rows: int = audit_rows
        self.newest_entry: int = entries - 1
        self.first_entry: int | None = first_id if entries == first_id else None
        self.first_reservation: int | None = first_id if reservations == first_id else None


def next_ids(conn: Connection) -> NextIds:
    """Return the next ids, cached on the writer's connection and read from the book on any other."""
    cache: OperationCache | None = getattr(conn, "cache", None)
    if cache is None:
        return NextIds(conn)
    if cache.ids is None:
        cache.ids = NextIds(conn)
    return cache.ids
