"""What is due: lots whose time is over, and reservations that were neither finalized nor released in theirs.

Settled by any write that touches the account, and by the sweep for the others. Both go through what is due in the order in
which it fell due, so that the entries are the same whenever they are written.
"""

import heapq
from collections.abc import Sequence

import msgspec

from minibill import ids
from minibill.db.queries import Row, queries
from minibill.db.sqlite import sqlite3
from minibill.ledger.memory import Spender, memory_of
from minibill.ledger.posting import LotMoves, Movement, load_balances, post
from minibill.problems import AccountNotFound
from minibill.wire import encode

SQL = queries("ledger")
ACCOUNTS = queries("accounts")
RESERVATIONS = queries("reservations")

# What one slice of the sweep settles: a few milliseconds, so that it never holds up other writes for long.
SWEEP_MAX = 200

# Of what falls due at the same moment, lots come first: what returns to them at that moment is expired.
_LOT, _RESERVATION = 0, 1


class _Lot(msgspec.Struct):
    """A lot while it is being settled."""

    account_id: int
    pool_id: str
    available_micro: int
    expires_at_us: int | None
    revoked_at_us: int | None


def settled_account(conn: sqlite3.Connection, account_id: str, *, now_us: int) -> int:
    """The key of an account that must exist, with all that is due on it written down; raises `AccountNotFound`.

    For whoever goes on to change something of it other than by a reservation: it is forgotten.
    """
    key = ids.decode(ids.ACCOUNT, account_id)
    if key is None or _find(conn, key, now_us=now_us) is None:
        raise AccountNotFound(account_id)
    memory_of(conn).forget([key])
    return key


def settled_spender(conn: sqlite3.Connection, account_id: int, *, now_us: int) -> Spender | None:
    """What reservations need to know of an account, with all that is due on it written down; None: there is no such account.

    Whoever moves its credits keeps that right.
    """
    memory = memory_of(conn)
    spender = memory.spender(account_id)
    if spender is None or now_us >= spender.due_us:
        found = _find(conn, account_id, now_us=now_us)
        if found is None:
            return None
        due_us, has_memberships = found
        spender = Spender(account_id, bool(has_memberships), due_us, load_balances(conn, [account_id]))
        memory.add_spender(spender)
    return spender


def settle(conn: sqlite3.Connection, account_ids: Sequence[int], *, now_us: int) -> None:
    """Writes down what is due on these accounts at `now_us`. They are forgotten."""
    keys = encode(account_ids).decode()
    lots = SQL.lots_due_of_accounts.all(conn, account_ids=keys, now_us=now_us)
    reservations = RESERVATIONS.reservations_due_of_accounts.all(conn, account_ids=keys, now_us=now_us)
    _settle(conn, lots, reservations, now_us=now_us, at_most=None)
    memory_of(conn).forget(account_ids)


def sweep(conn: sqlite3.Connection, *, now_us: int) -> int:
    """Writes down what is due anywhere, a slice of it; answers how much it settled, 0 when nothing is left."""
    lots = SQL.lots_due.all(conn, now_us=now_us, count=SWEEP_MAX)
    reservations = RESERVATIONS.reservations_due.all(conn, now_us=now_us, count=SWEEP_MAX)
    return _settle(conn, lots, reservations, now_us=now_us, at_most=SWEEP_MAX)


def _find(conn: sqlite3.Connection, account_id: int, *, now_us: int) -> Row | None:
    """An account, settled: before when nothing more of it falls due, and whether it has memberships."""
    row = ACCOUNTS.find_account_and_when_it_falls_due.one(conn, account_id=account_id)
    if row is not None and row[0] <= now_us:
        settle(conn, [account_id], now_us=now_us)
        row = ACCOUNTS.find_account_and_when_it_falls_due.one(conn, account_id=account_id)
    return row


def _settle(
    conn: sqlite3.Connection, lots_due: list[Row], reservations_due: list[Row], *, now_us: int, at_most: int | None
) -> int:
    """`lots_due` are (time, lot), `reservations_due` are (time, reservation, account)."""
    if not lots_due and not reservations_due:
        return 0
    events = [(due_us, _LOT, lot_id) for due_us, lot_id in lots_due]
    events += [(due_us, _RESERVATION, reservation_id) for due_us, reservation_id, _ in reservations_due]
    heapq.heapify(events)
    holds = _holds(conn, [reservation_id for _, reservation_id, _ in reservations_due])
    held_lots = {lot_id for lots in holds.values() for lot_id, _ in lots}
    lots = _load_lots(conn, {lot_id for _, lot_id in lots_due} | held_lots)

    moves, movements, ended = LotMoves(), list[Movement](), list[int]()
    settled = 0
    while events and (at_most is None or settled < at_most):
        due_us, kind, key = heapq.heappop(events)
        settled += 1
        if kind == _LOT:
            _expire_lot(key, lots[key], moves, movements)
            continue
        ended.append(key)
        for lot_id, reserved_micro in holds.get(key, ()):
            lot = lots[lot_id]
            _return_to_lot(key, lot_id, lot, reserved_micro, due_us, moves, movements)
            if lot.available_micro and lot.expires_at_us is not None and due_us < lot.expires_at_us <= now_us:
                heapq.heappush(events, (lot.expires_at_us, _LOT, lot_id))
    moves.write(conn)
    RESERVATIONS.end_reservations.many(conn, [("expired", now_us, key) for key in ended])
    accounts = list({m.account_id for m in movements})
    post(conn, movements, balances=load_balances(conn, accounts), now_us=now_us)
    # Of reservations that held nothing there is no movement.
    memory_of(conn).forget([*accounts, *(account_id for _, _, account_id in reservations_due)])
    return settled


def _expire_lot(lot_id: int, lot: _Lot, moves: LotMoves, movements: list[Movement]) -> None:
    amount_micro = lot.available_micro
    if amount_micro == 0:
        return
    lot.available_micro = 0
    moves.add(lot_id, available=-amount_micro, expired=amount_micro)
    movements.append(Movement(lot.account_id, lot.pool_id, "expire", -amount_micro, -amount_micro, 0, lot_id))


def _return_to_lot(
    reservation_id: int, lot_id: int, lot: _Lot, amount_micro: int, at_us: int, moves: LotMoves, movements: list[Movement]
) -> None:
    movements.append(
        returned(
            lot.account_id, lot.pool_id, lot_id, reservation_id, amount_micro, expires_at_us=lot.expires_at_us,
            revoked=lot.revoked_at_us is not None, at_us=at_us, moves=moves,
        )
    )  # fmt: skip
    lot.available_micro += movements[-1].available_delta_micro


def returned(
    account_id: int,
    pool_id: str,
    lot_id: int,
    reservation_id: int,
    amount_micro: int,
    *,
    expires_at_us: int | None,
    revoked: bool,
    at_us: int,
    moves: LotMoves,
    metadata: str | None = None,
) -> Movement:
    """Credits that a reservation gives back to a lot at `at_us`: available again, or revoked or expired when the lot is."""
    kind, amount, available = "release", amount_micro, amount_micro
    if revoked:
        moves.revoke_reserved(lot_id, amount_micro)
        kind, amount, available = "revoke", -amount_micro, 0
    elif expires_at_us is not None and expires_at_us <= at_us:
        moves.add(lot_id, reserved=-amount_micro, expired=amount_micro)
        kind, amount, available = "expire", -amount_micro, 0
    else:
        moves.add(lot_id, available=amount_micro, reserved=-amount_micro)
    return Movement(
        account_id, pool_id, kind, amount, available, -amount_micro, lot_id, reservation_id, metadata=metadata
    )  # fmt: skip


def _holds(conn: sqlite3.Connection, reservation_ids: list[int]) -> dict[int, list[tuple[int, int]]]:
    holds: dict[int, list[tuple[int, int]]] = {}
    if reservation_ids:
        keys = encode(reservation_ids).decode()
        for reservation_id, lot_id, reserved_micro in RESERVATIONS.lots_of_reservations.all(conn, reservation_ids=keys):
            holds.setdefault(reservation_id, []).append((lot_id, reserved_micro))
    return holds


def _load_lots(conn: sqlite3.Connection, lot_ids: set[int]) -> dict[int, _Lot]:
    rows = SQL.lots_by_id.all(conn, lot_ids=encode(list(lot_ids)).decode())
    return {lot_id: _Lot(*rest) for lot_id, *rest in rows}
