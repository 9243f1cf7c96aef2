"""What is due: lots whose time is over. Settled by any write that touches the account, and by the sweep for the others."""

from collections.abc import Sequence

import msgspec

from minibill.db.queries import Row, queries
from minibill.db.sqlite import sqlite3
from minibill.ledger.posting import Movement, load_balances, post

SQL = queries("ledger")

# Lots that one slice of the sweep expires: a few milliseconds, so that it never holds up other writes for long.
SWEEP_LOTS_MAX = 500


def settle(conn: sqlite3.Connection, account_ids: Sequence[int], *, now_us: int) -> None:
    """Writes down what is due on these accounts at `now_us`."""
    due = SQL.lots_due_of_accounts.all(conn, account_ids=msgspec.json.encode(account_ids).decode(), now_us=now_us)
    if due:
        _expire(conn, due, now_us=now_us)


def sweep(conn: sqlite3.Connection, *, now_us: int) -> int:
    """Writes down what is due anywhere, a slice of it; answers how many lots it settled, 0 when nothing is left."""
    due = SQL.lots_due.all(conn, now_us=now_us, count=SWEEP_LOTS_MAX)
    if due:
        _expire(conn, due, now_us=now_us)
    return len(due)


def _expire(conn: sqlite3.Connection, due: list[Row], *, now_us: int) -> None:
    balances = load_balances(conn, list({account_id for _, account_id, _, _ in due}))
    SQL.expire_lot.many(conn, [(lot_id,) for lot_id, *_ in due])
    movements = [
        Movement(account_id, pool_id, "expire", -available_micro, -available_micro, 0, lot_id=lot_id)
        for lot_id, account_id, pool_id, available_micro in due
    ]
    post(conn, movements, balances=balances, now_us=now_us)
