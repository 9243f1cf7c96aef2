"""What the writer remembers of accounts that spend, from one reserve, finalize or release to the next.

Looking up again what the operation before has left behind was a third of a pair's time. Only those three use what is here
and keep it right; every other write settles the accounts that it touches first (settle.py), and settling forgets them. The
writer forgets everything when something was taken back or failed, and when another program wrote to the file. The database
checks each entry against the one before it and each lot against itself all the same, so wrong balances are refused there. A
wrong order of lots would not be, nor a due time or a membership that was missed: tests hold all of it against the book.
"""

from collections.abc import Iterable

import msgspec

from minibill.db.queries import Row
from minibill.db.sqlite import Connection
from minibill.ledger.posting import Balances
from minibill.ledger.pricing import Discount

# Accounts and pending reservations that are remembered, at some 1 KiB each, more with many pools or lots. Where one would be
# too many all are forgotten: those that go on spending are found again by their next request.
SPENDERS_MAX = 4_096
HOLDS_MAX = 8_192


class FirstLot(msgspec.Struct, frozen=True, gc=False):
    """The first lot with available credits of an account's pool, in drawdown order."""

    lot_id: int
    available_micro: int
    expires_at_us: int | None


class CachedAccount(msgspec.Struct):
    """An account on which nothing falls due before `due_us`.

    `balances` holds the pools from which it has spent and `general`, never all of them. `pending` is the number of its
    pending reservations. `first_lots` are by pool, and only where they are known. It is no longer `current` once it was
    forgotten.
    """

    account_id: int
    has_memberships: bool
    due_us: int
    pending: int
    balances: Balances
    first_lots: dict[str, FirstLot] = {}
    current: bool = True

    def has_begun_a_reservation(self, expires_at_us: int) -> None:
        """One reservation more is pending."""
        self.pending += 1
        self.falls_due(expires_at_us)

    def has_ended_a_reservation(self) -> None:
        """One reservation less is pending."""
        self.pending -= 1

    def falls_due(self, at_us: int | None) -> None:
        """Something of it does, at that time; None for never."""
        if at_us is not None and at_us < self.due_us:
            self.due_us = at_us

    def record_draw(self, lot_id: int, pool_id: str, left_micro: int, expires_at_us: int | None) -> None:
        """Credits were drawn from a lot before which, in drawdown order, none has any; it has this much left."""
        if left_micro:
            self.first_lots[pool_id] = FirstLot(lot_id, left_micro, expires_at_us)
        else:
            self.first_lots.pop(pool_id, None)

    def record_return(self, lot_id: int, pool_id: str, returned_micro: int, expires_at_us: int | None) -> None:
        """Credits came back to a lot, and are available."""
        front = self.first_lots.get(pool_id)
        if front is not None:
            if front.lot_id == lot_id:
                self.first_lots[pool_id] = FirstLot(lot_id, front.available_micro + returned_micro, expires_at_us)
            else:
                # It may come before the one that was the first without it.
                del self.first_lots[pool_id]
        self.falls_due(expires_at_us)


class ReservationRow(msgspec.Struct, gc=False):
    """A row of `credit_reservations`."""

    id: int
    account_id: int
    pool_id: str
    billing_mode: str
    status: str
    list_micro: int
    discount_bps: int
    max_discount_micro: int | None
    discount_micro: int
    community_id: str | None
    tier: str | None
    held_micro: int
    expires_at_us: int
    created_by: str
    created_at_us: int
    actual_cost_micro: int | None = None
    finalized_micro: int | None = None
    released_micro: int | None = None
    overrun_micro: int | None = None
    absorbed_micro: int | None = None
    # Another caller than `created_by`; None: the same one, or nobody.
    closed_by: str | None = None
    closed_at_us: int | None = None

    @property
    def discount(self) -> Discount:
        """The terms that it keeps, for whatever the work costs in the end."""
        return Discount(self.discount_bps, self.max_discount_micro, self.community_id, self.tier)


class CachedReservation(msgspec.Struct, frozen=True):
    """A pending reservation: its row, and its lots as `lots_of_reservation` answers them."""

    spender: CachedAccount
    row: ReservationRow
    lots: list[Row]


class AccountCache:
    """The accounts and reservations that are remembered."""

    __slots__ = ("_holds", "_spenders")

    def __init__(self) -> None:
        self._spenders: dict[int, CachedAccount] = {}
        self._holds: dict[int, CachedReservation] = {}

    def spender(self, account_id: int) -> CachedAccount | None:
        """The account, where it is remembered."""
        return self._spenders.get(account_id)

    def hold(self, reservation_id: int) -> CachedReservation | None:
        """The reservation, where it and its account are remembered."""
        hold = self._holds.get(reservation_id)
        return hold if hold is not None and hold.spender.current else None

    def add_spender(self, spender: CachedAccount) -> None:
        """Remembers an account anew; reservations that are remembered with what was known of it before are forgotten."""
        self.evict([spender.account_id])
        if len(self._spenders) >= SPENDERS_MAX:
            self.evict(list(self._spenders))
        self._spenders[spender.account_id] = spender

    def add_hold(self, hold: CachedReservation) -> None:
        """Remembers a pending reservation."""
        if len(self._holds) >= HOLDS_MAX:
            self._holds.clear()
        self._holds[hold.row.id] = hold

    def drop_hold(self, reservation_id: int) -> None:
        """The reservation is not pending any more."""
        self._holds.pop(reservation_id, None)

    def evict(self, account_ids: Iterable[int]) -> None:
        """Forgets accounts, and with them their reservations."""
        for account_id in account_ids:
            spender = self._spenders.pop(account_id, None)
            if spender is not None:
                spender.current = False


def account_cache_of(conn: Connection) -> AccountCache:
    """What is remembered on this connection; nothing, and not for long, where nobody forgets it in time."""
    cached = getattr(conn, "remembered", None)
    if cached is None:
        return AccountCache()
    memory: AccountCache | None = cached.get("ledger")
    if memory is None:
        memory = cached["ledger"] = AccountCache()
    return memory
