"""Minting: a new lot of credits, and the entry that brings it into the balance."""

from collections.abc import Collection
from typing import NamedTuple

from minibill.api.decoding import json_object
from minibill.api.types import encode, optional_time
from minibill.core import ids
from minibill.core.clock import US_PER_SECOND
from minibill.core.money import MAX_MICRO
from minibill.core.problems import AmountTooLarge, FieldError, InvalidRequest, SourceAlreadyCredited, TooManyPools
from minibill.core.write_result import WriteResult
from minibill.db.new_ids import next_ids
from minibill.db.queries import Row, queries
from minibill.db.sqlite import Connection
from minibill.ledger.debts import PayableLot, pay_debts
from minibill.ledger.expiry import account_for_update
from minibill.ledger.limits import POOLS_MAX, require_within_ceiling
from minibill.ledger.posting import DEFAULT_POOL, EMPTY, Balances, EntryDraft, PoolBalance, amounts, load_balances, post
from minibill.ledger.schemas import MintBody, Minted

SQL = queries("ledger")

DEFAULT_PRIORITY = 50


class NewLot(NamedTuple):
    """A lot to be made; `amount_micro` is positive, `expires_at_us` None for never."""

    account_id: int
    pool_id: str
    source_type: str
    source_id: str | None
    priority: int
    amount_micro: int
    expires_at_us: int | None
    description: str | None = None
    metadata: str | None = None
    # The key of the campaign that pays it; None for none.
    campaign_id: int | None = None


class Holdings(NamedTuple):
    """An account before it receives credits: its number of pools, their sum, and the balance of the receiving pool."""

    pools: int
    held_micro: int
    balance: PoolBalance

    @property
    def is_at_limit(self) -> bool:
        """Return true if the credits would begin one pool too many."""
        return self.pools >= POOLS_MAX and not self.balance.entry_seq


NO_HOLDINGS = Holdings(0, 0, EMPTY)


def mint(
    conn: Connection,
    now_us: int,
    *,
    account_id: str,
    body: MintBody,
    ceiling_micro: int,
) -> WriteResult:
    """Makes a lot; 200 with the first lot when this source credited the same account and amount before.

    Raises `AccountNotFound`, `SourceAlreadyCredited`, `AmountTooLarge`, `TooManyPools`, `InvalidRequest` for an expiry that
    is not in the future, and `ExpiryDue`. Source: contract, section 3.
    """
    key = account_for_update(conn, account_id, now_us=now_us)
    amount_micro, source_type, source_id = int(body.amount_micro), body.source_type or "grant", body.source_id
    if source_id is not None:
        first = SQL.find_lot_of_source.one(conn, source_type=source_type, source_id=source_id)
        if first is not None:
            return _credited_before(conn, first, key, account_id, amount_micro, source_type, source_id)
    pool_id = body.pool_id or DEFAULT_POOL
    priority = DEFAULT_PRIORITY if body.priority is None else body.priority
    expires_at_us = None if body.expires_at is None else int(body.expires_at)
    if expires_at_us is not None and expires_at_us <= now_us:
        raise InvalidRequest(FieldError("expiresAt", "expected a time in the future"))
    require_within_ceiling(amount_micro, ceiling_micro)
    holdings = load_holdings(conn, [key], pool_id)
    before = holdings.get(key, NO_HOLDINGS)
    if before.is_at_limit:
        raise TooManyPools(
            f"the account has {POOLS_MAX} pools, which is the most, without {pool_id}; mint into one that it has",
            limit=POOLS_MAX,
        )
    lot = NewLot(
        key,
        pool_id,
        source_type,
        source_id,
        priority,
        amount_micro,
        expires_at_us,
        description=body.description,
        metadata=json_object(body.metadata, "metadata"),
    )
    lot_id, balances = insert_lots(conn, [lot], holdings=holdings, now_us=now_us)
    after = balances[key, pool_id]
    answer = _minted(account_id, lot_id, pool_id, priority, amount_micro, expires_at_us, balance=after, duplicate=False)
    details = lambda: {
        "lotId": answer.lot_id,
        "amountMicro": answer.amount_micro,
        "poolId": pool_id,
        "sourceType": source_type,
        "sourceId": source_id,
        "before": amounts(before.balance),
        "after": amounts(after),
    }
    return WriteResult(answer, "account.mint", "account", account_id, details, created=True)


def load_holdings(conn: Connection, account_ids: Collection[int], pool_id: str) -> dict[int, Holdings]:
    """Load what these accounts have before that pool of theirs receives credits; accounts without pools are left out."""
    rows = SQL.holdings_of_accounts.all(conn, account_ids=encode(account_ids).decode(), pool_id=pool_id)
    return {
        account_id: Holdings(pools, held_micro, EMPTY if balance[2] is None else PoolBalance(*balance))
        for account_id, pools, held_micro, *balance in rows
    }


def insert_lots(
    conn: Connection,
    lots: list[NewLot],
    *,
    holdings: dict[int, Holdings],
    only_debt: int | None = None,
    now_us: int,
) -> tuple[int, Balances]:
    """Make lots and their entries, and pay open debts; return the first key, which the others follow, and the new balances.

    Each account receives one lot; `holdings` are those of its pool. With `only_debt` the lots pay that debt and no other.
    Raises `AmountTooLarge` when an account would hold more
    than 2^63-1. What is due on the accounts must be settled.
    """
    _require_room(lots, holdings)
    balances = {(lot.account_id, lot.pool_id): holdings.get(lot.account_id, NO_HOLDINGS).balance for lot in lots}
    new = next_ids(conn)
    first_id = new.lots
    new.lots += len(lots)
    SQL.insert_lots.many(
        conn,
        [
            (lot_id, lot.account_id, lot.pool_id, lot.source_type, lot.source_id, lot.campaign_id, lot.priority,
             lot.amount_micro, lot.amount_micro, lot.expires_at_us, lot.metadata, now_us)
            for lot_id, lot in enumerate(lots, first_id)
        ],
    )  # fmt: skip
    movements = [
        EntryDraft(
            lot.account_id, lot.pool_id, "deposit" if lot.source_type == "deposit" else "grant", lot.amount_micro,
            lot.amount_micro, 0, lot_id, None, lot.description, lot.metadata,
        )
        for lot_id, lot in enumerate(lots, first_id)
    ]  # fmt: skip
    payable = [
        PayableLot(lot_id, lot.account_id, lot.pool_id, lot.amount_micro) for lot_id, lot in enumerate(lots, first_id)
    ]
    movements += pay_debts(conn, payable, only=only_debt)
    post(conn, movements, balances=balances, now_us=now_us)
    return first_id, balances


def lot_expiry_us(now_us: int, ttl_seconds: int | None) -> int | None:
    """When a lot that lives this long expires; None for never."""
    return None if ttl_seconds is None else now_us + ttl_seconds * US_PER_SECOND


def _require_room(lots: list[NewLot], holdings: dict[int, Holdings]) -> None:
    for lot in lots:
        if holdings.get(lot.account_id, NO_HOLDINGS).held_micro + lot.amount_micro > MAX_MICRO:
            raise AmountTooLarge(
                f"an account holds at most {MAX_MICRO} micro-units",
                account_id=ids.encode(ids.ACCOUNT, lot.account_id),
                requested_micro=str(lot.amount_micro),
            )


def _credited_before(
    conn: Connection,
    first: Row,
    key: int,
    account_id: str,
    amount_micro: int,
    source_type: str,
    source_id: str,
) -> WriteResult:
    lot_id, lot_account, pool_id, priority, original_micro, expires_at_us = first
    if lot_account != key or original_micro != amount_micro:
        raise SourceAlreadyCredited(
            "this source credited another account or amount before",
            source_type=source_type,
            source_id=source_id,
            lot_id=ids.encode(ids.LOT, lot_id),
        )
    balance = load_balances(conn, [(key, pool_id)])[key, pool_id]
    answer = _minted(account_id, lot_id, pool_id, priority, original_micro, expires_at_us, balance=balance, duplicate=True)
    details = lambda: {"lotId": answer.lot_id, "sourceType": source_type, "sourceId": source_id, "duplicate": True}
    return WriteResult(answer, "account.mint", "account", account_id, details)


def _minted(
    account_id: str,
    lot_id: int,
    pool_id: str,
    priority: int,
    amount_micro: int,
    expires_at_us: int | None,
    *,
    balance: PoolBalance,
    duplicate: bool,
) -> Minted:
    return Minted(
        lot_id=ids.encode(ids.LOT, lot_id),
        account_id=account_id,
        amount_micro=str(amount_micro),
        pool_id=pool_id,
        priority=priority,
        expires_at=optional_time(expires_at_us),
        duplicate=duplicate,
        balance=amounts(balance),
    )
