"""Batches of charges: usage records, each charged once.

The items are evaluated in memory, one after the other, and then written together. Look-ups and inserts are set-based: the
number of statements does not depend on the number of items.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from minibill.api.decoding import object_text
from minibill.api.types import encode
from minibill.charges.batch_lots import BatchLots
from minibill.charges.rows import SQL, ChargeRow, charge_entries
from minibill.charges.schemas import ChargeBatch, ChargeBatchBody, ChargeResult, UsageRecord
from minibill.core import ids
from minibill.core.money import MAX_MICRO
from minibill.core.write_result import WriteResult
from minibill.db.new_ids import next_ids
from minibill.db.sqlite import Connection
from minibill.ledger.account_cache import evict_only
from minibill.ledger.accounts import find_accounts
from minibill.ledger.debts import NewDebt, insert_debts
from minibill.ledger.drawdown import Draw, pools_of
from minibill.ledger.expiry import require_no_expiry_due
from minibill.ledger.limits import POOLS_MAX
from minibill.ledger.posting import DEFAULT_POOL, EntryDraft, LotUpdates, load_balances, post
from minibill.ledger.pricing import NO_DISCOUNT, Discount, best_discount
from minibill.ledger.spending import memberships_of_accounts

# Lots that a batch draws on, so that its transaction stays below a second.
BATCH_LOTS_MAX = 20_000


class _Charged(NamedTuple):
    """The charge of a source, made before (a row of `charges_of_sources`) or by this batch."""

    charge_id: int
    pool_id: str
    list_micro: int
    charged_micro: int
    debt_micro: int


class _Spend(NamedTuple):
    """The credits and the debt of an accepted item. Entries that move no credits are of `entry_pool`."""

    billing_mode: str
    discount: Discount
    discount_micro: int
    charged_micro: int
    debt_micro: int
    draws: list[Draw]
    entry_pool: str


def charge_batch(
    conn: Connection,
    now_us: int,
    *,
    body: ChargeBatchBody,
    default_billing_mode: str,
    ceiling_micro: int,
    created_by: str,
) -> WriteResult:
    """Charge each item, or reject it without an effect on the others. All charges commit together.

    The body has passed its `check`. Raises `ExpiryDue`. See docs/concepts/ledger.md.
    """
    items = body.charges
    account_ids = find_accounts(conn, items)
    touched = {key for key in account_ids if key is not None}
    require_no_expiry_due(conn, touched, now_us=now_us)
    batch = _Batch(
        conn, items, account_ids, default_billing_mode=default_billing_mode, ceiling_micro=ceiling_micro,
        created_by=created_by, now_us=now_us,
    )  # fmt: skip
    results = [batch.evaluate(item, key) for item, key in zip(items, account_ids, strict=True)]
    batch.write(conn)
    evict_only(conn, touched)
    statuses = [result.status for result in results]
    response = ChargeBatch(
        total_charged=len(batch.rows),
        total_duplicates=statuses.count("duplicate"),
        total_rejected=statuses.count("rejected"),
        charged_micro=str(sum(row.charged_micro for row in batch.rows)),
        debt_micro=str(sum(row.debt_micro for row in batch.rows)),
        charges=results,
    )
    # Only services send batches, and only the writes of admins are audited.
    return WriteResult(response, "account.charge", "book", "book", dict)


class _Batch:
    """The accounts of a batch in the state that its items have brought them to, and what is to be written."""

    def __init__(
        self,
        conn: Connection,
        items: Sequence[UsageRecord],
        account_ids: Sequence[int | None],
        *,
        default_billing_mode: str,
        ceiling_micro: int,
        created_by: str,
        now_us: int,
    ) -> None:
        self.rows: list[ChargeRow] = []
        self._default_billing_mode = default_billing_mode
        self._created_by = created_by
        self._now_us = now_us
        self._ceiling_left_micro = ceiling_micro
        self._lots_left = BATCH_LOTS_MAX
        self._lot_updates = LotUpdates()
        self._entries: list[EntryDraft] = []
        self._debts: list[NewDebt] = []
        known = [(key, item) for key, item in zip(account_ids, items, strict=True) if key is not None]
        self._charged = _charges_of_sources(conn, [(key, item.source_id) for key, item in known])
        new = [(key, item) for key, item in known if (key, item.source_id) not in self._charged]
        pools = {(key, pool) for key, item in new for pool in pools_of(item.pool_id or DEFAULT_POOL)}
        self._balances = load_balances(conn, pools)
        self._available_micro = {pool: balance.available_micro for pool, balance in self._balances.items()}
        self._lots = BatchLots(conn, [pool for pool, available_micro in self._available_micro.items() if available_micro])
        self._memberships = memberships_of_accounts(conn, {key for key, _ in new})
        uncovered = {key for key, item in new if self._mode_of(item) != "live"}
        # By account: the number of its pools, and its open debts.
        self._pools, self._debt_micro = _pools_and_debts(conn, uncovered)
        new_ids = next_ids(conn)
        self._next_charge, self._newest_entry = new_ids.charges, new_ids.newest_entry

    def evaluate(self, item: UsageRecord, account_id: int | None) -> ChargeResult:
        """Charge or reject the next item, in memory."""
        if account_id is None:
            return _rejected(item, "account_not_found")
        pool_id, list_micro = item.pool_id or DEFAULT_POOL, int(item.cost_micro)
        before = self._charged.get((account_id, item.source_id))
        if before is not None:
            if (before.pool_id, before.list_micro) != (pool_id, list_micro):
                return _rejected(item, "source_already_charged")
            return _result(item, "duplicate", before)
        spend = self._spend(item, account_id, pool_id, list_micro)
        if isinstance(spend, str):
            return _rejected(item, spend)
        charged = self._accept(item, account_id, pool_id, list_micro, spend)
        self._charged[account_id, item.source_id] = charged
        return _result(item, "charged", charged)

    def write(self, conn: Connection) -> None:
        """Write what was charged."""
        if not self.rows:
            return
        # 3.4 % fewer instructions for a batch than named tuples; docs/internals/decisions/0015-insert-plain-tuples.md.
        SQL.insert_charges.many(conn, [tuple(row) for row in self.rows])
        next_ids(conn).charges = self._next_charge
        self._lot_updates.write(conn)
        insert_debts(conn, self._debts, now_us=self._now_us)
        post(conn, self._entries, balances=self._balances, now_us=self._now_us)

    def _mode_of(self, item: UsageRecord) -> str:
        return item.billing_mode or self._default_billing_mode

    def _spend(self, item: UsageRecord, account_id: int, pool_id: str, list_micro: int) -> _Spend | str:
        """Return what an item takes, or the code that rejects it. Changes nothing."""
        if list_micro > self._ceiling_left_micro:
            return "amount_too_large"
        billing_mode = self._mode_of(item)
        entry_pool = pool_id if self._balances[account_id, pool_id].entry_seq else DEFAULT_POOL
        if billing_mode == "shadow":
            if self._lacks_pool(account_id, entry_pool):
                return "too_many_pools"
            return _Spend(billing_mode, NO_DISCOUNT, 0, list_micro, 0, [], entry_pool)
        discount, discount_micro = NO_DISCOUNT, 0
        if memberships := self._memberships.get(account_id):
            discount = best_discount(memberships, list_micro, now_us=self._now_us)
            discount_micro = discount.on(list_micro)
        payable_micro = list_micro - discount_micro
        pools = pools_of(pool_id)
        available_micro = sum(self._available_micro[account_id, pool] for pool in pools)
        is_live = billing_mode == "live"
        if is_live and available_micro < payable_micro:
            return "insufficient_balance"
        draws = self._lots.choose(account_id, pools, payable_micro)
        charged_micro = sum(d.amount_micro for d in draws)
        debt_micro = payable_micro - charged_micro
        if debt_micro and not is_live:
            if self._debt_micro[account_id] + debt_micro > MAX_MICRO:
                return "amount_too_large"
            if self._lacks_pool(account_id, entry_pool):
                return "too_many_pools"
        if (debt_micro and is_live) or len(draws) > self._lots_left:
            return "too_many_lots"
        return _Spend(billing_mode, discount, discount_micro, charged_micro, debt_micro, draws, entry_pool)

    def _lacks_pool(self, account_id: int, entry_pool: str) -> bool:
        """Return true if the account has the maximum of pools, and an entry of this pool would need one more."""
        return self._pools[account_id] >= POOLS_MAX and not self._balances[account_id, entry_pool].entry_seq

    def _accept(self, item: UsageRecord, account_id: int, pool_id: str, list_micro: int, spend: _Spend) -> _Charged:
        charge_id, discount, draws, debt_micro = self._next_charge, spend.discount, spend.draws, spend.debt_micro
        entry_count = 1 if spend.billing_mode == "shadow" else len(draws) + (debt_micro > 0)
        row = ChargeRow(
            charge_id, account_id, pool_id, item.source_id, spend.billing_mode, list_micro, discount.rate_bps,
            discount.max_discount_micro, spend.discount_micro, discount.community_id, discount.tier, spend.charged_micro,
            debt_micro, self._newest_entry, entry_count, item.description, object_text(item.metadata), self._created_by,
            self._now_us,
        )  # fmt: skip
        self.rows.append(row)
        self._next_charge += 1
        self._newest_entry += entry_count
        self._ceiling_left_micro -= list_micro
        self._lots_left -= len(draws)
        self._lots.take(account_id, draws)
        for d in draws:
            self._lot_updates.add(d.lot_id, available=-d.amount_micro, consumed=d.amount_micro)
            self._available_micro[account_id, d.pool_id] -= d.amount_micro
        if debt_micro:
            self._debt_micro[account_id] += debt_micro
            self._debts.append(NewDebt(account_id, debt_micro, charge_id=charge_id))
        self._entries += charge_entries(row, draws, entry_pool=spend.entry_pool)
        return _Charged(charge_id, pool_id, list_micro, spend.charged_micro, debt_micro)


def _charges_of_sources(conn: Connection, sources: Collection[tuple[int, str]]) -> dict[tuple[int, str], _Charged]:
    rows = SQL.charges_of_sources.all(conn, sources=encode(sources).decode()) if sources else ()
    return {(account_id, source_id): _Charged(*charge) for account_id, source_id, *charge in rows}


def _pools_and_debts(conn: Connection, account_ids: Collection[int]) -> tuple[dict[int, int], dict[int, int]]:
    rows = SQL.pools_and_debts_of_accounts.all(conn, account_ids=encode(account_ids).decode()) if account_ids else []
    return {key: pools for key, pools, _ in rows}, {key: debt_micro for key, _, debt_micro in rows}


def _result(item: UsageRecord, status: str, charged: _Charged) -> ChargeResult:
    return ChargeResult(
        source_id=item.source_id,
        status=status,
        charge_id=ids.encode(ids.CHARGE, charged.charge_id),
        charged_micro=str(charged.charged_micro),
        debt_micro=str(charged.debt_micro),
    )


def _rejected(item: UsageRecord, code: str) -> ChargeResult:
    return ChargeResult(item.source_id, "rejected", None, None, None, code)
