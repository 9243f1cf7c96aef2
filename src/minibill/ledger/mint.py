"""Minting: new lots of credits, and the entries that add them to the balance."""

from collections.abc import Collection
from typing import NamedTuple

from minibill.api.decoding import object_text
from minibill.api.types import encode, optional_time
from minibill.core import ids
from minibill.core.clock import US_PER_SECOND
from minibill.core.money import MAX_MICRO
from minibill.core.problems import AmountTooLarge, FieldError, InvalidRequest, SourceAlreadyCredited, TooManyPools
from minibill.core.write_result import WriteResult
from minibill.db.new_ids import next_ids
from minibill.db.queries import queries
from minibill.db.sqlite import Connection
from minibill.ledger.account_cache import evict_only
from minibill.ledger.debts import pay_debts
from minibill.ledger.expiry import account_for_update
from minibill.ledger.limits import POOLS_MAX, require_within_ceiling
from minibill.ledger.posting import DEFAULT_POOL, EMPTY, Balances, EntryDraft, PoolBalance, amounts, load_balances, post
from minibill.ledger.rows import CreditedLot
from minibill.ledger.schemas import MintBody, Minted

SQL = queries("ledger")

DEFAULT_PRIORITY = 50


class NewLot(NamedTuple):
    """A lot to insert. `amount_micro` is positive; `expires_at_us` is None for a lot that never expires."""

    account_id: int
    pool_id: str
    source_type: str
    source_id: str | None
    priority: int
    amount_micro: int
    expires_at_us: int | None
    description: str | None = None
    metadata: str | None = None
    # The key of the campaign whose grant creates the lot.
    campaign_id: int | None = None


class Holdings(NamedTuple):
    """An account before it receives credits: its number of pools, their sum, and the balance of the receiving pool."""

    pools: int
    held_micro: int
    balance: PoolBalance

    @property
    def is_at_limit(self) -> bool:
        """Return true if the receiving pool would be one pool too many."""
        return self.pools >= POOLS_MAX and not self.balance.entry_seq


NO_HOLDINGS = Holdings(0, 0, EMPTY)


def mint(conn: Connection, now_us: int, *, account_id: str, body: MintBody, ceiling_micro: int) -> WriteResult:
    """Mint a lot. If its source was credited before with the same account and amount, return the first lot.

    The body has passed its `check`. Raises `AccountNotFound`, `SourceAlreadyCredited`, `AmountTooLarge`,
    `TooManyPools`, `InvalidRequest` for an expiry that is not in the future, and `ExpiryDue`. See docs/concepts/ledger.md.
    """
    account = account_for_update(conn, account_id, now_us=now_us)
    amount_micro, source_type = int(body.amount_micro), body.source_type or "grant"
    if body.source_id is not None:
        row = SQL.find_lot_of_source.one(conn, source_type=source_type, source_id=body.source_id)
        if row is not None:
            lot = CreditedLot(*row)
            if (lot.account_id, lot.original_micro) != (account, amount_micro):
                raise SourceAlreadyCredited(
                    "this source credited another account or amount before",
                    source_type=source_type,
                    source_id=body.source_id,
                    lot_id=ids.encode(ids.LOT, lot.id),
                )
            return _duplicate(conn, lot, account_id, source_type, body.source_id)
    pool_id = body.pool_id or DEFAULT_POOL
    priority = DEFAULT_PRIORITY if body.priority is None else body.priority
    expires_at_us = None if body.expires_at is None else int(body.expires_at)
    if expires_at_us is not None and expires_at_us <= now_us:
        raise InvalidRequest(FieldError("expiresAt", "expected a time in the future"))
    require_within_ceiling(amount_micro, ceiling_micro)
    holdings = load_holdings(conn, [account], pool_id)
    before = holdings.get(account, NO_HOLDINGS)
    if before.is_at_limit:
        raise TooManyPools(
            f"{pool_id} would be a new pool, and the account has the maximum of {POOLS_MAX}; mint into an existing pool",
            limit=POOLS_MAX,
        )
    new_lot = NewLot(
        account,
        pool_id,
        source_type,
        body.source_id,
        priority,
        amount_micro,
        expires_at_us,
        description=body.description,
        metadata=object_text(body.metadata),
    )
    lot_id, balances = insert_lots(conn, [new_lot], holdings=holdings, now_us=now_us)
    after = balances[account, pool_id]
    lot = CreditedLot(lot_id, account, pool_id, priority, amount_micro, expires_at_us)
    response = _minted(account_id, lot, balance=after, duplicate=False)
    details = lambda: {
        "lotId": response.lot_id,
        "amountMicro": response.amount_micro,
        "poolId": pool_id,
        "sourceType": source_type,
        "sourceId": body.source_id,
        "before": amounts(before.balance),
        "after": amounts(after),
    }
    return WriteResult(response, "account.mint", "account", account_id, details, created=True)


def load_holdings(conn: Connection, account_ids: Collection[int], pool_id: str) -> dict[int, Holdings]:
    """Load the holdings of accounts before this pool receives credits. Accounts without pools are left out."""
    rows = SQL.holdings_of_accounts.all(conn, account_ids=encode(account_ids).decode(), pool_id=pool_id)
    return {
        account_id: Holdings(pools, held_micro, EMPTY if entry_seq is None else PoolBalance(available, reserved, entry_seq))
        for account_id, pools, held_micro, available, reserved, entry_seq in rows
    }


def insert_lots(
    conn: Connection,
    lots: list[NewLot],
    *,
    holdings: dict[int, Holdings],
    only_debt: int | None = None,
    now_us: int,
) -> tuple[int, Balances]:
    """Insert lots with their entries, and pay open debts. Return the key of the first lot, and the balances.

    The keys of the lots are consecutive. Each account receives one lot; `holdings` are those of its pool. `only_debt` is
    the key of the only debt to pay. No expiry may be due on the accounts. Raises `AmountTooLarge` if an account would hold
    more than 2^63-1.
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
    entries = [
        EntryDraft(
            lot.account_id, lot.pool_id, "deposit" if lot.source_type == "deposit" else "grant", lot.amount_micro,
            lot.amount_micro, 0, lot_id, None, lot.description, lot.metadata,
        )
        for lot_id, lot in enumerate(lots, first_id)
    ]  # fmt: skip
    entries += pay_debts(conn, entries, only_debt=only_debt)
    post(conn, entries, balances=balances, now_us=now_us)
    evict_only(conn, [lot.account_id for lot in lots])
    return first_id, balances


def lot_expiry_us(now_us: int, ttl_seconds: int | None) -> int | None:
    """Return the expiry of a lot with this lifetime. None never expires."""
    return None if ttl_seconds is None else now_us + ttl_seconds * US_PER_SECOND


def _require_room(lots: list[NewLot], holdings: dict[int, Holdings]) -> None:
    for lot in lots:
        if holdings.get(lot.account_id, NO_HOLDINGS).held_micro + lot.amount_micro > MAX_MICRO:
            raise AmountTooLarge(
                f"an account holds at most {MAX_MICRO} micro-units",
                account_id=ids.encode(ids.ACCOUNT, lot.account_id),
                requested_micro=str(lot.amount_micro),
            )


def _duplicate(conn: Connection, lot: CreditedLot, account_id: str, source_type: str, source_id: str) -> WriteResult:
    pool = (lot.account_id, lot.pool_id)
    response = _minted(account_id, lot, balance=load_balances(conn, [pool])[pool], duplicate=True)
    details = lambda: {"lotId": response.lot_id, "sourceType": source_type, "sourceId": source_id, "duplicate": True}
    return WriteResult(response, "account.mint", "account", account_id, details)


def _minted(account_id: str, lot: CreditedLot, *, balance: PoolBalance, duplicate: bool) -> Minted:
    return Minted(
        lot_id=ids.encode(ids.LOT, lot.id),
        account_id=account_id,
        amount_micro=str(lot.original_micro),
        pool_id=lot.pool_id,
        priority=lot.priority,
        expires_at=optional_time(lot.expires_at_us),
        duplicate=duplicate,
        balance=amounts(balance),
    )
