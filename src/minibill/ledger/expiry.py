"""What is due: lots whose time is over, and reservations that were neither finalized nor released in theirs.

An operation expires nothing itself. Before it writes, it looks up whether anything is due on the accounts that it touches,
and raises `ExpiryDue` if so. slices.py then commits slices until nothing is due, and runs the operation again. The sweep
expires slices of all accounts. Both go through what is due in the order in which it fell due, so that the entries are the
same whenever they are written.
"""

import heapq
from collections.abc import Collection, Iterable
from typing import NamedTuple

import msgspec

from minibill.api.types import encode
from minibill.core import ids
from minibill.core.problems import AccountNotFound
from minibill.db.queries import Row, queries
from minibill.db.sqlite import Connection
from minibill.ledger.account_cache import CachedAccount, account_cache_of
from minibill.ledger.limits import PENDING_MAX
from minibill.ledger.posting import EntryDraft, LotUpdates, load_balances, load_balances_of_spend, post

SQL = queries("ledger")
ACCOUNTS = queries("accounts")
RESERVATIONS = queries("reservations")

# The work of one slice, counted in lots that expire, reservations, and lots that reservations hold: a few milliseconds, so
# that it never holds up other writes for long. A reservation is never split: one that holds more has a slice of its own.
SWEEP_MAX = 200

# Of what falls due at the same moment, lots come first: what returns to them at that moment is expired.
_LOT, _RESERVATION = 0, 1

# When, which kind, and the key of the lot or reservation.
_Event = tuple[int, int, int]


class ExpiryDue(Exception):
    """An operation can't be evaluated yet: these accounts have something due. The operation has written nothing."""

    def __init__(self, account_ids: Collection[int]) -> None:
        super().__init__()
        self.account_ids = account_ids


class Slice(NamedTuple):
    """The number of lots and reservations that a slice expired; `is_last` when nothing more is due."""

    expired: int
    is_last: bool


class _Lot(msgspec.Struct):
    """A lot while it is being settled."""

    account_id: int
    pool_id: str
    available_micro: int
    expires_at_us: int | None
    revoked_at_us: int | None


def account_for_update(conn: Connection, account_id: str, *, now_us: int) -> int:
    """Return the key of an account on which nothing is due. Raises `AccountNotFound`, `ExpiryDue`.

    For whoever goes on to change something of it other than by a reservation: it is forgotten.
    """
    key = ids.decode(ids.ACCOUNT, account_id)
    if key is None or _find(conn, key, now_us=now_us) is None:
        raise AccountNotFound(account_id)
    account_cache_of(conn).evict([key])
    return key


def spending_account_for_update(conn: Connection, account_id: int, *, pool_id: str, now_us: int) -> CachedAccount | None:
    """Return what a spend from this pool needs to know of an account; None: there is no such account. Raises `ExpiryDue`.

    Whoever moves its credits keeps that right.
    """
    memory = account_cache_of(conn)
    spender = memory.spender(account_id)
    if spender is None or now_us >= spender.due_us:
        found = _find(conn, account_id, pending_max=PENDING_MAX, now_us=now_us)
        if found is None:
            return None
        due_us, has_memberships, pending = found
        balances = load_balances_of_spend(conn, account_id, pool_id)
        spender = CachedAccount(account_id, bool(has_memberships), due_us, pending, balances)
        memory.add_spender(spender)
    elif (account_id, pool_id) not in spender.balances:
        # `general` is loaded with each of them.
        spender.balances |= load_balances_of_spend(conn, account_id, pool_id)
    return spender


def require_settled(conn: Connection, account_ids: Collection[int], *, now_us: int) -> None:
    """Raise `ExpiryDue` when anything is due on any of these accounts. They are forgotten."""
    due = accounts_due(conn, account_ids, now_us=now_us, count=len(account_ids))
    if due:
        raise ExpiryDue(due)
    account_cache_of(conn).evict(account_ids)


def accounts_due(conn: Connection, account_ids: Collection[int], *, now_us: int, count: int) -> list[int]:
    """Return which of these accounts have something due, up to that many."""
    keys = encode(account_ids).decode()
    return [key for (key,) in ACCOUNTS.accounts_with_anything_due.all(conn, account_ids=keys, now_us=now_us, count=count)]


def expire_slice(conn: Connection, account_ids: Collection[int], *, now_us: int, at_most: int | None = None) -> Slice:
    """Expire what is due on these accounts, the oldest of an account first: a slice of it, or all if that is less.

    `at_most` counts as `SWEEP_MAX` does, which is the default.
    """
    at_most = SWEEP_MAX if at_most is None else at_most
    lots: list[Row] = []
    reservations: list[Row] = []
    # One more of each than fits: the first that is left for the next slice bounds what this one may do.
    due = accounts_due(conn, account_ids, now_us=now_us, count=at_most + 1)
    for account_id in due:
        if len(lots) + len(reservations) > at_most:
            break
        lots += SQL.lots_due_of_account.all(conn, account_id=account_id, now_us=now_us, count=at_most + 1)
        reservations += RESERVATIONS.reservations_due_of_account.all(
            conn, account_id=account_id, now_us=now_us, count=at_most + 1
        )
    return _settle(conn, lots, reservations, now_us=now_us, at_most=at_most)


def sweep(conn: Connection, *, now_us: int, at_most: int | None = None) -> int:
    """Expire what is due anywhere, a slice of it; return how much it settled, 0 when nothing is left.

    `at_most` counts as `SWEEP_MAX` does, which is the default.
    """
    at_most = SWEEP_MAX if at_most is None else at_most
    lots = SQL.lots_due.all(conn, now_us=now_us, count=at_most + 1)
    reservations = RESERVATIONS.reservations_due.all(conn, now_us=now_us, count=at_most + 1)
    return _settle(conn, lots, reservations, now_us=now_us, at_most=at_most).expired


def _find(conn: Connection, account_id: int, *, pending_max: int | None = None, now_us: int) -> Row | None:
    """Return the next expiry of an account, if it has memberships, and its pending reservations up to `pending_max`."""
    row = ACCOUNTS.find_account_and_when_it_falls_due.one(conn, account_id=account_id, pending_max=pending_max)
    if row is not None and row[0] <= now_us:
        raise ExpiryDue([account_id])
    return row


def _settle(conn: Connection, lots_due: list[Row], reservations_due: list[Row], *, now_us: int, at_most: int) -> Slice:
    """`lots_due` are (time, lot), `reservations_due` are (time, reservation, account, number of its lots)."""
    if not lots_due and not reservations_due:
        return Slice(0, True)
    events, end = _choose(lots_due, reservations_due, at_most)
    holds = _holds(conn, [key for _, kind, key in events if kind == _RESERVATION])
    held_lots = {lot_id for lots in holds.values() for lot_id, _ in lots}
    lots = _load_lots(conn, {key for _, kind, key in events if kind == _LOT} | held_lots)

    moves, movements, ended = LotUpdates(), list[EntryDraft](), list[int]()
    expired, is_last = 0, end is None
    while events:
        due_us, kind, key = heapq.heappop(events)
        expired += 1
        if kind == _LOT:
            _expire_lot(key, lots[key], moves, movements)
            continue
        ended.append(key)
        for lot_id, reserved_micro in holds.get(key, ()):
            lot = lots[lot_id]
            _return_to_lot(key, lot_id, lot, reserved_micro, due_us, moves, movements)
            if lot.available_micro and lot.expires_at_us is not None and due_us < lot.expires_at_us <= now_us:
                follows = (lot.expires_at_us, _LOT, lot_id)
                # After what is left for the next slice, which finds it due.
                if end is None or follows < end:
                    heapq.heappush(events, follows)
    moves.write(conn)
    RESERVATIONS.end_reservations.many(conn, [("expired", now_us, key) for key in ended])
    post(conn, movements, balances=load_balances(conn, {(m.account_id, m.pool_id) for m in movements}), now_us=now_us)
    # Of reservations that held nothing there is no movement.
    account_cache_of(conn).evict({m.account_id for m in movements} | {row[2] for row in reservations_due})
    return Slice(expired, is_last)


def _choose(lots_due: Iterable[Row], reservations_due: Iterable[Row], at_most: int) -> tuple[list[_Event], _Event | None]:
    """Choose the oldest events whose work fits a slice, at least one; return them, and the first that did not fit."""
    due: list[tuple[_Event, int]] = [((due_us, _LOT, lot_id), 1) for due_us, lot_id in lots_due]
    due += [((due_us, _RESERVATION, key), 1 + lots) for due_us, key, _, lots in reservations_due]
    due.sort()
    chosen: list[_Event] = []
    work = 0
    for event, cost in due:
        if chosen and work + cost > at_most:
            return chosen, event
        chosen.append(event)
        work += cost
    return chosen, None


def _expire_lot(lot_id: int, lot: _Lot, moves: LotUpdates, movements: list[EntryDraft]) -> None:
    amount_micro = lot.available_micro
    if amount_micro == 0:
        return
    lot.available_micro = 0
    moves.add(lot_id, available=-amount_micro, expired=amount_micro)
    movements.append(EntryDraft(lot.account_id, lot.pool_id, "expire", -amount_micro, -amount_micro, 0, lot_id))


def _return_to_lot(
    reservation_id: int,
    lot_id: int,
    lot: _Lot,
    amount_micro: int,
    at_us: int,
    moves: LotUpdates,
    movements: list[EntryDraft],
) -> None:
    movements.append(
        return_credits(
            lot.account_id, lot.pool_id, lot_id, reservation_id, amount_micro, expires_at_us=lot.expires_at_us,
            revoked=lot.revoked_at_us is not None, at_us=at_us, moves=moves,
        )
    )  # fmt: skip
    lot.available_micro += movements[-1].available_delta_micro


def return_credits(
    account_id: int,
    pool_id: str,
    lot_id: int,
    reservation_id: int,
    amount_micro: int,
    *,
    expires_at_us: int | None,
    revoked: bool,
    at_us: int,
    moves: LotUpdates,
    metadata: str | None = None,
) -> EntryDraft:
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
    return EntryDraft(
        account_id, pool_id, kind, amount, available, -amount_micro, lot_id, reservation_id, metadata=metadata
    )  # fmt: skip


def _holds(conn: Connection, reservation_ids: list[int]) -> dict[int, list[tuple[int, int]]]:
    holds: dict[int, list[tuple[int, int]]] = {}
    if reservation_ids:
        keys = encode(reservation_ids).decode()
        for reservation_id, lot_id, reserved_micro in RESERVATIONS.lots_of_reservations.all(conn, reservation_ids=keys):
            holds.setdefault(reservation_id, []).append((lot_id, reserved_micro))
    return holds


def _load_lots(conn: Connection, lot_ids: set[int]) -> dict[int, _Lot]:
    rows = SQL.lots_by_id.all(conn, lot_ids=encode(list(lot_ids)).decode())
    return {lot_id: _Lot(*rest) for lot_id, *rest in rows}
