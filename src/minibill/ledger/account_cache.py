"""The account cache: accounts and pending reservations that the writer keeps between spends.

Reserve, finalize and release read the same rows again and again: their account, its balances, its first lots. The cache
saves these lookups, a third of the time of a reserve and its finalize. It belongs to the writer's connection, so all that
it holds is committed or part of the running transaction.

Reserve, finalize and release use the cache and keep it up to date. Every other write evicts all accounts, unless it names
those that it changes (`evict_only`). The writer drops the whole cache after a rollback and after another program has written
to the file.

If an entry of the cache were wrong, constraints and triggers would reject wrong balances and lots. They do not check the
order of lots, expiry times or memberships, so tests compare the cache with the database after each step.
"""

from collections.abc import Iterable

import msgspec

from minibill.db.cache import OperationCache, keep_cache
from minibill.db.sqlite import Connection
from minibill.ledger.posting import Balances
from minibill.ledger.rows import ReservationRow, ReservedLot

# About 1 KiB each, more with many pools or lots. When the cache is full, all are evicted; the next request of an account
# that is still spending loads it again.
ACCOUNTS_MAX = 4_096
RESERVATIONS_MAX = 8_192


class FirstLot(msgspec.Struct, frozen=True, gc=False):
    """The first lot with available credits of an account's pool, in drawdown order."""

    lot_id: int
    available_micro: int
    expires_at_us: int | None


class CachedAccount(msgspec.Struct):
    """An account whose lots and reservations do not expire before `next_expiry_us`, a lower bound.

    `balances` holds `general` and the pools that were spent from. `pending` counts the pending reservations. `first_lots`
    holds the first lots by pool, as far as they are known. `current` is false once the account was evicted.
    """

    account_id: int
    has_memberships: bool
    next_expiry_us: int
    pending: int
    balances: Balances
    first_lots: dict[str, FirstLot] = {}
    current: bool = True

    def record_reservation(self, expires_at_us: int) -> None:
        """Count a new pending reservation."""
        self.pending += 1
        self.record_expiry(expires_at_us)

    def record_end_of_reservation(self) -> None:
        """Remove a pending reservation from the count."""
        self.pending -= 1

    def record_expiry(self, at_us: int | None) -> None:
        """Note the expiry of a lot or reservation of the account; None never expires."""
        if at_us is not None and at_us < self.next_expiry_us:
            self.next_expiry_us = at_us

    def record_draw(self, lot_id: int, pool_id: str, left_micro: int, expires_at_us: int | None) -> None:
        """Update the first lot of a pool after a draw on it; `left_micro` remain available in the lot."""
        if left_micro:
            self.first_lots[pool_id] = FirstLot(lot_id, left_micro, expires_at_us)
        else:
            self.first_lots.pop(pool_id, None)

    def record_return(self, lot_id: int, pool_id: str, returned_micro: int, expires_at_us: int | None) -> None:
        """Update the first lot of a pool after credits became available again in a lot."""
        first = self.first_lots.get(pool_id)
        if first is not None:
            if first.lot_id == lot_id:
                self.first_lots[pool_id] = FirstLot(lot_id, first.available_micro + returned_micro, expires_at_us)
            else:
                # This lot may precede the cached one in drawdown order.
                del self.first_lots[pool_id]
        self.record_expiry(expires_at_us)


class CachedReservation(msgspec.Struct, frozen=True):
    """A pending reservation with its account and its lots, in the order in which it drew on them."""

    account: CachedAccount
    row: ReservationRow
    lots: list[ReservedLot]


class AccountCache:
    """The accounts and pending reservations that recent spends used."""

    __slots__ = ("_accounts", "_reservations")

    def __init__(self) -> None:
        self._accounts: dict[int, CachedAccount] = {}
        self._reservations: dict[int, CachedReservation] = {}

    @property
    def accounts(self) -> list[CachedAccount]:
        """All cached accounts."""
        return list(self._accounts.values())

    @property
    def reservations(self) -> list[CachedReservation]:
        """All cached reservations whose account is cached."""
        return [each for each in self._reservations.values() if each.account.current]

    def account(self, account_id: int) -> CachedAccount | None:
        """Return a cached account, or None."""
        return self._accounts.get(account_id)

    def reservation(self, reservation_id: int) -> CachedReservation | None:
        """Return a cached reservation, or None. It is invalid once its account was evicted."""
        reservation = self._reservations.get(reservation_id)
        return reservation if reservation is not None and reservation.account.current else None

    def add_account(self, account: CachedAccount) -> None:
        """Cache an account that was loaded anew. An earlier copy and its reservations become invalid."""
        self.evict([account.account_id])
        if len(self._accounts) >= ACCOUNTS_MAX:
            self.evict(list(self._accounts))
        self._accounts[account.account_id] = account

    def add_reservation(self, reservation: CachedReservation) -> None:
        """Cache a pending reservation."""
        if len(self._reservations) >= RESERVATIONS_MAX:
            self._reservations.clear()
        self._reservations[reservation.row.id] = reservation

    def remove_reservation(self, reservation_id: int) -> None:
        """Remove a reservation that is no longer pending."""
        self._reservations.pop(reservation_id, None)

    def evict(self, account_ids: Iterable[int]) -> None:
        """Evict accounts, and with them their reservations."""
        for account_id in account_ids:
            account = self._accounts.pop(account_id, None)
            if account is not None:
                account.current = False


def account_cache_of(conn: Connection) -> AccountCache:
    """Return the cache of the writer's connection; on any other connection, a new empty one."""
    cache: OperationCache | None = getattr(conn, "cache", None)
    if cache is None:
        return AccountCache()
    accounts: AccountCache | None = cache.values.get("ledger")
    if accounts is None:
        accounts = cache.values["ledger"] = AccountCache()
    return accounts


def evict_only(conn: Connection, account_ids: Iterable[int]) -> None:
    """Evict these accounts and keep the others, which this operation does not change."""
    account_cache_of(conn).evict(account_ids)
    keep_cache(conn)
