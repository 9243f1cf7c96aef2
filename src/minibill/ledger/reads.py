"""What an account has and what happened to it: balance, lots, history."""

from functools import partial

from minibill.api.types import encode, optional_raw, optional_time
from minibill.core import ids
from minibill.core.clock import format_time
from minibill.core.problems import AccountNotFound, ReservationNotFound
from minibill.db.queries import Row, queries
from minibill.db.readers import RequestReader
from minibill.db.sqlite import Connection
from minibill.ledger.account_cache import ReservationRow
from minibill.ledger.explanations import LOTS_MAX, LotRow
from minibill.ledger.schemas import Balance, Entry, Lot, PoolBalance
from minibill.ledger.time_lookup import entries_before, position_at

ACCOUNTS = queries("accounts")
SQL = queries("ledger")
RESERVATIONS = queries("reservations")


def require_account(reader: RequestReader, account_id: str) -> Row:
    """`id, entity_type, entity_id, created_at_us` of an account that must exist; raises `AccountNotFound`."""
    key = ids.decode(ids.ACCOUNT, account_id)
    rows = [] if key is None else reader.query_now(ACCOUNTS.find_account, account_id=key)
    if not rows:
        raise AccountNotFound(account_id)
    return rows[0]


async def balance(reader: RequestReader, *, account_id: str, pool_id: str | None, at_us: int | None, now_us: int) -> Balance:
    """What an account has, pool by pool, now or at a past moment; of one pool when one is named.

    Source: contract, section 3.
    """
    # An id that none has finds no row; no key is negative.
    key = ids.decode(ids.ACCOUNT, account_id)
    key = -1 if key is None else key
    if at_us is None:
        rows = reader.at_once_with_sequence(SQL.balance_where_nothing_is_due, account_id=key, now_us=now_us)
        if not rows or rows[0][0] is not None:
            rows = reader.at_once_with_sequence(SQL.balance_now, account_id=key, now_us=now_us)
    else:
        rows = await reader.run(partial(_balance_at, account_id=key, at_us=at_us))
    if not rows:
        raise AccountNotFound(account_id)
    (_, debt_micro, _), *rows = rows
    if pool_id is not None:
        rows = [row for row in rows if row[0] == pool_id] or [(pool_id, 0, 0)]
    return Balance(
        account_id=account_id,
        at=format_time(now_us if at_us is None else at_us),
        pools=[PoolBalance(pool, str(available), str(reserved)) for pool, available, reserved in rows],
        total_available_micro=str(sum(available for _, available, _ in rows)),
        total_reserved_micro=str(sum(reserved for _, _, reserved in rows)),
        debt_micro=str(debt_micro),
    )


def _balance_at(conn: Connection, *, account_id: int, at_us: int) -> list[Row]:
    # What happened at that very moment counts.
    pools = entries_before(conn, position_at(at_us + 1), account_id=account_id)
    return SQL.balance_at.all(conn, account_id=account_id, at_us=at_us, pools=encode(pools).decode())


async def reservation(reader: RequestReader, reservation_id: str) -> tuple[ReservationRow, list[Row]]:
    """A reservation that must exist, with the rows of its lots; raises `ReservationNotFound`."""
    # An id that none has finds no row; no key is negative.
    key = ids.decode(ids.RESERVATION, reservation_id)
    row, lots = await reader.run(partial(_reservation, key=-1 if key is None else key))
    if row is None:
        raise ReservationNotFound(reservation_id)
    return ReservationRow(*row), lots


def _reservation(conn: Connection, *, key: int) -> tuple[Row | None, list[Row]]:
    row = RESERVATIONS.find_reservation.one(conn, reservation_id=key)
    return row, RESERVATIONS.lots_of_reservation.all(conn, reservation_id=key)


async def lots_to_explain(reader: RequestReader, lots: list[Row]) -> list[LotRow]:
    """The first of the lots of a reservation, from rows of `lots_of_reservation`, as they are explained."""
    keys = encode([lot_id for lot_id, *_ in lots[:LOTS_MAX]]).decode()
    return [LotRow(*row) for row in await reader.all(SQL.lots_to_explain, lot_ids=keys)]


def lot_response(row: Row) -> Lot:
    """A lot as it is answered, from a row of `lots_page`."""
    (
        key, account_id, pool_id, source_type, source_id, priority, original, available, reserved, consumed, expired,
        revoked, state, expires_at_us, metadata, created_at_us,
    ) = row  # fmt: skip
    return Lot(
        id=ids.encode(ids.LOT, key),
        account_id=ids.encode(ids.ACCOUNT, account_id),
        pool_id=pool_id,
        source_type=source_type,
        source_id=source_id,
        priority=priority,
        original_micro=str(original),
        available_micro=str(available),
        reserved_micro=str(reserved),
        consumed_micro=str(consumed),
        expired_micro=str(expired),
        revoked_micro=str(revoked),
        state=state,
        expires_at=optional_time(expires_at_us),
        metadata=optional_raw(metadata),
        created_at=format_time(created_at_us),
    )


def entry_response(row: Row) -> Entry:
    """An entry as it is answered, from a row of `entries_of_pool`."""
    (
        key, entry_seq, entry_type, pool_id, lot_id, reservation_id, amount, available_delta, reserved_delta,
        available_after, reserved_after, description, metadata, created_at_us,
    ) = row  # fmt: skip
    return Entry(
        id=ids.encode(ids.ENTRY, key),
        entry_seq=entry_seq,
        entry_type=entry_type,
        pool_id=pool_id,
        lot_id=None if lot_id is None else ids.encode(ids.LOT, lot_id),
        reservation_id=None if reservation_id is None else ids.encode(ids.RESERVATION, reservation_id),
        amount_micro=str(amount),
        available_delta_micro=str(available_delta),
        reserved_delta_micro=str(reserved_delta),
        available_after_micro=str(available_after),
        reserved_after_micro=str(reserved_after),
        description=description,
        metadata=optional_raw(metadata),
        created_at=format_time(created_at_us),
    )
