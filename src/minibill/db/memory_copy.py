"""The content of a database, kept in memory to be put back: for tests."""

from minibill.db.sqlite import sqlite3


class MemoryCopy:
    """A copy of everything in a database; `restore` brings it back, into the same or another database."""

    def __init__(self, conn: sqlite3.Connection) -> None:
        self._content = sqlite3.connect(":memory:", check_same_thread=False)
        conn.backup(self._content)

    def restore(self, conn: sqlite3.Connection) -> None:
        """Replace the content of a database that is outside of a transaction."""
        self._content.backup(conn)
