"""Reads: accounts, balances, lots, entries and reservations, and their responses."""

from functools import partial

from minibill.api.types import encode, optional_raw, optional_time
from minibill.core import ids
from minibill.core.clock import format_time
from minibill.core.problems import AccountNotFound, ReservationNotFound
from minibill.db.queries import Row, queries
from minibill.db.readers import RequestReader
from minibill.db.sqlite import Connection
from minibill.ledger.rows import (
    AccountRow,
    BalanceHead,
    EntryRow,
    LotRow,
    PoolRow,
    ReservationRow,
    ReservedLot,
)
from minibill.ledger.schemas import Balance, Entry, Lot, PoolBalance
from minibill.ledger.time_lookup import entries_before, position_at

ACCOUNTS = queries("accounts")
SQL = queries("ledger")
RESERVATIONS = queries("reservations")

# Entries with a cause, and the cause by the final status of the reservation.
_CAUSED = frozenset({"release", "expire", "revoke"})
_CAUSES = {"released": "requested", "finalized": "finalized", "expired": "expired"}


def require_account(reader: RequestReader, account_id: str) -> AccountRow:
    """Return an account. Raises `AccountNotFound`."""
    key = ids.decode(ids.ACCOUNT, account_id)
    rows = [] if key is None else reader.query_now(ACCOUNTS.find_account, account_id=key)
    if not rows:
        raise AccountNotFound(account_id)
    return AccountRow(*rows[0])


async def balance(reader: RequestReader, *, account_id: str, pool_id: str | None, at_us: int | None, now_us: int) -> Balance:
    """Return an account's balance by pool, now or at a past time, for all pools or one. Raises `AccountNotFound`."""
    key = ids.key_of(ids.ACCOUNT, account_id)
    if at_us is None:
        rows = reader.query_now_with_sequence(SQL.balance_without_expiry_due, account_id=key, now_us=now_us)
        if not rows or BalanceHead(*rows[0]).pool_id is not None:
            rows = reader.query_now_with_sequence(SQL.balance_now, account_id=key, now_us=now_us)
    else:
        rows = await reader.run(partial(_balance_at, account_id=key, at_us=at_us))
    if not rows:
        raise AccountNotFound(account_id)
    head = BalanceHead(*rows[0])
    pools = [PoolRow(*row) for row in rows[1:]]
    if pool_id is not None:
        pools = [pool for pool in pools if pool.pool_id == pool_id] or [PoolRow(pool_id, 0, 0)]
    return Balance(
        account_id=account_id,
        at=format_time(now_us if at_us is None else at_us),
        pools=[PoolBalance(pool.pool_id, str(pool.available_micro), str(pool.reserved_micro)) for pool in pools],
        total_available_micro=str(sum(pool.available_micro for pool in pools)),
        total_reserved_micro=str(sum(pool.reserved_micro for pool in pools)),
        debt_micro=str(head.debt_micro),
    )


def _balance_at(conn: Connection, *, account_id: int, at_us: int) -> list[Row]:
    # Entries of exactly this time count.
    pools = entries_before(conn, position_at(at_us + 1), account_id=account_id)
    return SQL.balance_at.all(conn, account_id=account_id, at_us=at_us, pools=encode(pools).decode())


async def reservation(reader: RequestReader, reservation_id: str) -> tuple[ReservationRow, list[ReservedLot]]:
    """Return a reservation and its lots. Raises `ReservationNotFound`."""
    row, lots = await reader.run(partial(_reservation, key=ids.key_of(ids.RESERVATION, reservation_id)))
    if row is None:
        raise ReservationNotFound(reservation_id)
    return ReservationRow(*row), [ReservedLot(*lot) for lot in lots]


def _reservation(conn: Connection, *, key: int) -> tuple[Row | None, list[Row]]:
    row = RESERVATIONS.find_reservation.one(conn, reservation_id=key)
    return row, RESERVATIONS.lots_of_reservation.all(conn, reservation_id=key)


def lot_response(row: LotRow) -> Lot:
    """Return a lot as the API shows it."""
    return Lot(
        id=ids.encode(ids.LOT, row.id),
        account_id=ids.encode(ids.ACCOUNT, row.account_id),
        pool_id=row.pool_id,
        source_type=row.source_type,
        source_id=row.source_id,
        priority=row.priority,
        original_micro=str(row.original_micro),
        available_micro=str(row.available_micro),
        reserved_micro=str(row.reserved_micro),
        consumed_micro=str(row.consumed_micro),
        expired_micro=str(row.expired_micro),
        revoked_micro=str(row.revoked_micro),
        state=row.state,
        expires_at=optional_time(row.expires_at_us),
        metadata=optional_raw(row.metadata),
        campaign_id=None if row.campaign_id is None else ids.encode(ids.CAMPAIGN, row.campaign_id),
        grant_id=None if row.grant_id is None else ids.encode(ids.GRANT, row.grant_id),
        created_at=format_time(row.created_at_us),
    )


def entry_response(row: EntryRow) -> Entry:
    """Return an entry as the API shows it."""
    # Positional arguments take half the time: docs/internals/decisions/0044-history-as-one-text.md.
    (
        key, entry_seq, entry_type, pool_id, lot, reservation, charge, campaign, grant, _, amount, available_delta,
        reserved_delta, available_after, reserved_after, description, metadata, created_at_us,
    ) = row  # fmt: skip
    return Entry(
        ids.encode(ids.ENTRY, key),
        entry_seq,
        entry_type,
        pool_id,
        None if lot is None else ids.encode(ids.LOT, lot),
        None if reservation is None else ids.encode(ids.RESERVATION, reservation),
        None if charge is None else ids.encode(ids.CHARGE, charge),
        None if campaign is None else ids.encode(ids.CAMPAIGN, campaign),
        None if grant is None else ids.encode(ids.GRANT, grant),
        _cause(row) if entry_type in _CAUSED else None,
        amount,
        available_delta,
        reserved_delta,
        available_after,
        reserved_after,
        description,
        optional_raw(metadata),
        format_time(created_at_us),
    )


def _cause(row: EntryRow) -> str | None:
    """Return why credits were released, expired or revoked: the end of the reservation that held them, if one did."""
    if row.reservation_status is not None:
        return _CAUSES.get(row.reservation_status)
    return "revoked" if row.entry_type == "revoke" else "expired"
