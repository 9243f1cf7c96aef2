"""Ids of new rows: the next ones of each table, above the base of the current epoch.

The writer remembers them between operations, so that a reservation needs no statement to find them. It forgets them with
everything else whenever a transaction is rolled back or another program has written.
"""

from minibill.db.epochs import SQL
from minibill.db.sqlite import Connection


class NextIds:
    """The next id of each table. Whoever inserts rows moves it on, right before the INSERT.

    Entries and reservations are inserted without an id, which takes SQLite less time: it counts on from the newest row. Only
    the first one of an epoch is given its id: `first_entry` and `first_reservation`, None once there is one.
    """

    __slots__ = ("accounts", "audit_rows", "campaigns", "debts", "first_entry", "first_reservation", "grants", "lots")

    def __init__(self, conn: Connection) -> None:
        newest = SQL.newest_ids.one(conn)
        assert newest is not None
        first_id: int = newest[0] + 1
        _, audit_rows, accounts, lots, reservations, debts, entries, campaigns, grants, _ = (
            max(key + 1, first_id) for key in newest
        )
        self.accounts: int = accounts
        self.lots: int = lots
        self.debts: int = debts
        self.campaigns: int = campaigns
        self.grants: int = grants
        self.audit_rows: int = audit_rows
        self.first_entry: int | None = first_id if entries == first_id else None
        self.first_reservation: int | None = first_id if reservations == first_id else None


def next_ids(conn: Connection) -> NextIds:
    """Return the next ids, remembered on the writer's connection and read from the book on any other."""
    # Three times a reservation, almost always with success: this takes half as long as asking first.
    try:
        found: NextIds = conn.remembered["ids"]  # type: ignore[attr-defined]
    except (AttributeError, KeyError, TypeError):
        found = NextIds(conn)
        if (remembered := getattr(conn, "remembered", None)) is not None:
            remembered["ids"] = found
    return found
