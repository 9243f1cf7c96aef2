"""Expiry: of lots past their `expiresAt`, and of reservations that were neither finalized nor released in time.

An operation expires nothing itself. Before it writes, it checks the accounts that it touches, and raises `ExpiryDue` if
any lot has expired or any reservation is overdue. expiry_slices.py then commits slices until none is left, and runs the
operation again. The sweep expires slices of all accounts. Both go in the order of the expiry times, so the entries are the
same whenever they are written.
"""

import heapq
from collections.abc import Collection, Iterable
from typing import NamedTuple

import msgspec

from minibill.api.types import encode
from minibill.core import ids
from minibill.core.problems import AccountNotFound
from minibill.db.queries import queries
from minibill.db.sqlite import Connection
from minibill.ledger.account_cache import CachedAccount, account_cache_of
from minibill.ledger.limits import PENDING_MAX
from minibill.ledger.posting import EntryDraft, LotUpdates, load_balances, load_balances_of_spend, post
from minibill.ledger.rows import AccountState, ExpiredLot, OverdueReservation

SQL = queries("ledger")
ACCOUNTS = queries("accounts")
RESERVATIONS = queries("reservations")

# The work of one slice: the number of lots that expire, of reservations, and of lots that these hold. A slice takes a few
# milliseconds, and other writes wait no longer. A reservation is never split: a large one has its own slice.
SWEEP_MAX = 200

# At the same time, lots expire before reservations: credits that a reservation returns at that time expire.
_LOT, _RESERVATION = 0, 1

# The time, the kind, and the key of the lot or reservation.
_Event = tuple[int, int, int]


class ExpiryDue(Exception):
    """These accounts have expired lots or overdue reservations; the operation has written nothing and must wait for them."""

    def __init__(self, account_ids: Collection[int]) -> None:
        super().__init__()
        self.account_ids = account_ids


class Slice(NamedTuple):
    """The number of lots and reservations that a slice expired. `is_last` is true if no expiry is due after it."""

    expired: int
    is_last: bool


class _Lot(msgspec.Struct):
    """A lot while its credits expire or return to it."""

    account_id: int
    pool_id: str
    available_micro: int
    expires_at_us: int | None
    revoked_at_us: int | None


def account_for_update(conn: Connection, account_id: str, *, now_us: int) -> int:
    """Return the key of an account that has no expiry due. Raises `AccountNotFound`, `ExpiryDue`."""
    key = ids.decode(ids.ACCOUNT, account_id)
    if key is None or _account_state(conn, key, now_us=now_us) is None:
        raise AccountNotFound(account_id)
    return key


def spending_account_for_update(conn: Connection, account_id: int, *, pool_id: str, now_us: int) -> CachedAccount | None:
    """Return the account for a spend from this pool, or None if there is none. Raises `ExpiryDue`.

    The caller keeps the cached account up to date with the credits that it moves.
    """
    cache = account_cache_of(conn)
    account = cache.account(account_id)
    if account is None or now_us >= account.next_expiry_us:
        state = _account_state(conn, account_id, pending_max=PENDING_MAX, now_us=now_us)
        if state is None:
            return None
        assert state.pending is not None
        balances = load_balances_of_spend(conn, account_id, pool_id)
        account = CachedAccount(account_id, bool(state.has_memberships), state.next_expiry_us, state.pending, balances)
        cache.add_account(account)
    elif (account_id, pool_id) not in account.balances:
        account.balances |= load_balances_of_spend(conn, account_id, pool_id)
    return account


def require_no_expiry_due(conn: Connection, account_ids: Collection[int], *, now_us: int) -> None:
    """Raise `ExpiryDue` if any of these accounts has expired lots or overdue reservations."""
    due = accounts_with_expiry_due(conn, account_ids, now_us=now_us, count=len(account_ids))
    if due:
        raise ExpiryDue(due)


def accounts_with_expiry_due(conn: Connection, account_ids: Collection[int], *, now_us: int, count: int) -> list[int]:
    """Return up to `count` of these accounts that have expired lots or overdue reservations."""
    keys = encode(account_ids).decode()
    return [key for (key,) in ACCOUNTS.accounts_with_expiry_due.all(conn, account_ids=keys, now_us=now_us, count=count)]


def expire_slice(conn: Connection, account_ids: Collection[int], *, now_us: int, at_most: int | None = None) -> Slice:
    """Expire one slice of these accounts, the oldest of each account first.

    `at_most` limits the work as `SWEEP_MAX` does, which is the default.
    """
    at_most = SWEEP_MAX if at_most is None else at_most
    lots: list[ExpiredLot] = []
    reservations: list[OverdueReservation] = []
    # One more of each than fits: the first one left for the next slice limits what this slice may expire.
    count = at_most + 1
    for account_id in accounts_with_expiry_due(conn, account_ids, now_us=now_us, count=count):
        if len(lots) + len(reservations) > at_most:
            break
        own_lots = SQL.expired_lots_of_account.all(conn, account_id=account_id, now_us=now_us, count=count)
        lots += map(ExpiredLot._make, own_lots)
        own_reservations = RESERVATIONS.overdue_reservations_of_account.all(
            conn, account_id=account_id, now_us=now_us, count=count
        )
        reservations += map(OverdueReservation._make, own_reservations)
    return _expire(conn, lots, reservations, now_us=now_us, at_most=at_most)


def sweep(conn: Connection, *, now_us: int, at_most: int | None = None) -> int:
    """Expire one slice of all accounts; return the number of lots and reservations, 0 if no expiry is due.

    `at_most` limits the work as `SWEEP_MAX` does, which is the default.
    """
    at_most = SWEEP_MAX if at_most is None else at_most
    lots = [ExpiredLot(*row) for row in SQL.expired_lots.all(conn, now_us=now_us, count=at_most + 1)]
    overdue = RESERVATIONS.overdue_reservations.all(conn, now_us=now_us, count=at_most + 1)
    reservations = [OverdueReservation(*row) for row in overdue]
    return _expire(conn, lots, reservations, now_us=now_us, at_most=at_most).expired


def _account_state(conn: Connection, account_id: int, *, pending_max: int | None = None, now_us: int) -> AccountState | None:
    """Return the state of an account, or None if there is none. Raises `ExpiryDue`."""
    row = ACCOUNTS.account_state.one(conn, account_id=account_id, pending_max=pending_max)
    if row is None:
        return None
    state = AccountState(*row)
    if state.next_expiry_us <= now_us:
        raise ExpiryDue([account_id])
    return state


def _expire(
    conn: Connection, expired: list[ExpiredLot], overdue: list[OverdueReservation], *, now_us: int, at_most: int
) -> Slice:
    if not expired and not overdue:
        return Slice(0, True)
    events, end = _choose(expired, overdue, at_most)
    reserved = _reserved_by_reservation(conn, [key for _, kind, key in events if kind == _RESERVATION])
    reserved_lots = {lot_id for lots in reserved.values() for lot_id, _ in lots}
    lots = _load_lots(conn, {key for _, kind, key in events if kind == _LOT} | reserved_lots)

    lot_updates, entries, ended = LotUpdates(), list[EntryDraft](), list[int]()
    count, is_last = 0, end is None
    while events:
        expired_at_us, kind, key = heapq.heappop(events)
        count += 1
        if kind == _LOT:
            _expire_lot(key, lots[key], lot_updates, entries)
            continue
        ended.append(key)
        for lot_id, reserved_micro in reserved.get(key, ()):
            lot = lots[lot_id]
            entry = return_credits(
                lot.account_id, lot.pool_id, lot_id, key, reserved_micro, expires_at_us=lot.expires_at_us,
                revoked=lot.revoked_at_us is not None, at_us=expired_at_us, lot_updates=lot_updates,
            )  # fmt: skip
            entries.append(entry)
            lot.available_micro += entry.available_delta_micro
            if lot.available_micro and lot.expires_at_us is not None and expired_at_us < lot.expires_at_us <= now_us:
                # The returned credits expire later. The next slice finds the lot if that is after this slice's end.
                follows = (lot.expires_at_us, _LOT, lot_id)
                if end is None or follows < end:
                    heapq.heappush(events, follows)
    lot_updates.write(conn)
    RESERVATIONS.end_reservations.many(conn, [("expired", now_us, key) for key in ended])
    post(conn, entries, balances=load_balances(conn, {(e.account_id, e.pool_id) for e in entries}), now_us=now_us)
    return Slice(count, is_last)


def _choose(
    expired: Iterable[ExpiredLot], overdue: Iterable[OverdueReservation], at_most: int
) -> tuple[list[_Event], _Event | None]:
    """Choose the oldest events whose work fits a slice, at least one; return them, and the first that did not fit."""
    events: list[tuple[_Event, int]] = [((lot.expires_at_us, _LOT, lot.id), 1) for lot in expired]
    events += [((each.expires_at_us, _RESERVATION, each.id), 1 + each.lots) for each in overdue]
    events.sort()
    chosen: list[_Event] = []
    work = 0
    for event, cost in events:
        if chosen and work + cost > at_most:
            return chosen, event
        chosen.append(event)
        work += cost
    return chosen, None


def _expire_lot(lot_id: int, lot: _Lot, lot_updates: LotUpdates, entries: list[EntryDraft]) -> None:
    amount_micro = lot.available_micro
    if amount_micro == 0:
        return
    lot.available_micro = 0
    lot_updates.add(lot_id, available=-amount_micro, expired=amount_micro)
    entries.append(EntryDraft(lot.account_id, lot.pool_id, "expire", -amount_micro, -amount_micro, 0, lot_id))


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
    lot_updates: LotUpdates,
    metadata: str | None = None,
) -> EntryDraft:
    """Return reserved credits to their lot at `at_us`, and return the entry.

    They become available again, or are revoked or expire if the lot was revoked or has expired.
    """
    kind, amount, available = "release", amount_micro, amount_micro
    if revoked:
        lot_updates.revoke_reserved(lot_id, amount_micro)
        kind, amount, available = "revoke", -amount_micro, 0
    elif expires_at_us is not None and expires_at_us <= at_us:
        lot_updates.add(lot_id, reserved=-amount_micro, expired=amount_micro)
        kind, amount, available = "expire", -amount_micro, 0
    else:
        lot_updates.add(lot_id, available=amount_micro, reserved=-amount_micro)
    return EntryDraft(
        account_id, pool_id, kind, amount, available, -amount_micro, lot_id, reservation_id, metadata=metadata
    )  # fmt: skip


def _reserved_by_reservation(conn: Connection, reservation_ids: list[int]) -> dict[int, list[tuple[int, int]]]:
    """Return (lot, reserved micro-units) of each reservation, in the order in which it drew on the lots."""
    reserved: dict[int, list[tuple[int, int]]] = {}
    if reservation_ids:
        keys = encode(reservation_ids).decode()
        for reservation_id, lot_id, reserved_micro in RESERVATIONS.lots_of_reservations.all(conn, reservation_ids=keys):
            reserved.setdefault(reservation_id, []).append((lot_id, reserved_micro))
    return reserved


def _load_lots(conn: Connection, lot_ids: set[int]) -> dict[int, _Lot]:
    rows = SQL.lots_by_id.all(conn, lot_ids=encode(list(lot_ids)).decode())
    return {lot_id: _Lot(*lot) for lot_id, *lot in rows}
