"""Ids of new rows: the next ones of each table, above the base of the current epoch.

The writer remembers them between operations, so that a reservation needs no statement to find them. It forgets them with
everything else whenever a transaction is rolled back or another program has written.
"""

from minibill.db.epochs import SQL, current_epoch
from minibill.db.sqlite import sqlite3


class NextIds:
    """The next id of each table. Whoever inserts rows moves it on, right before the INSERT."""

    __slots__ = ("accounts", "audit_rows", "campaigns", "debts", "entries", "grants", "lots", "reservations")

    def __init__(self, conn: sqlite3.Connection) -> None:
        first_id = current_epoch(conn).base_id + 1
        newest, audit = SQL.newest_ids.one(conn), SQL.newest_audit_id.one(conn)
        assert newest is not None
        assert audit is not None
        accounts, lots, reservations, debts, entries, campaigns, grants, _ = (max(key + 1, first_id) for key in newest)
        self.accounts: int = accounts
        self.lots: int = lots
        self.reservations: int = reservations
        self.debts: int = debts
        self.entries: int = entries
        self.campaigns: int = campaigns
        self.grants: int = grants
        self.audit_rows: int = max(audit[0] + 1, first_id)


def next_ids(conn: sqlite3.Connection) -> NextIds:
    """Return the next ids, remembered on the writer's connection and read from the book on any other."""
    remembered = getattr(conn, "remembered", None)
    if remembered is None:
        return NextIds(conn)
    found: NextIds | None = remembered.get("ids")
    if found is None:
        found = remembered["ids"] = NextIds(conn)
    return found
