"""Whether a book is whole: the queries of sql/invariants.sql, the chain of the audit log, foreign keys."""

from minibill import audit
from minibill.db.queries import Row, read_queries, sql_folder
from minibill.db.sqlite import sqlite3

INVARIANTS = list(read_queries(sql_folder() / "invariants.sql"))


def violations(conn: sqlite3.Connection) -> dict[str, list[Row]]:
    """What is wrong with the book, by the name of the invariant; empty when it is whole. Reads only."""
    found = {query.name: query.all(conn) for query in INVARIANTS}
    found["foreign_keys"] = conn.execute("PRAGMA foreign_key_check").fetchall()
    found["audit_rows_are_chained"] = _broken_audit_rows(conn)
    return {name: rows for name, rows in found.items() if rows}


def _broken_audit_rows(conn: sqlite3.Connection) -> list[Row]:
    broken: list[Row] = []
    previous_hash = audit.NO_HASH
    columns = ", ".join(audit.HASHED)
    for number, row in enumerate(
        conn.execute(f"SELECT {columns}, previous_hash, hash FROM admin_audit_log ORDER BY seq"), start=1
    ):
        *hashed, previous, own = row
        if hashed[0] != number or previous != previous_hash or own != audit.row_hash(tuple(hashed), previous):
            broken.append((hashed[0],))
        previous_hash = own
    return broken
