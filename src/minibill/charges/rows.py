"""Rows of charges, and what they write to the ledger."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from minibill.api.types import encode
from minibill.db.queries import queries
from minibill.ledger.drawdown import Draw
from minibill.ledger.posting import EntryDraft
from minibill.ledger.pricing import Discount, metadata_with_discount
from minibill.ledger.spending import shadow_metadata

SQL = queries("charges")


class ChargeRow(NamedTuple):
    """A row of `find_charge`, `find_charge_of_source` and `charges_page`; `insert_charges` takes the same fields."""

    id: int
    account_id: int
    pool_id: str
    source_id: str | None
    billing_mode: str
    list_micro: int
    discount_bps: int
    max_discount_micro: int | None
    discount_micro: int
    community_id: str | None
    tier: str | None
    charged_micro: int
    debt_micro: int
    after_entry_id: int
    entry_count: int
    description: str | None
    metadata: str | None
    created_by: str
    created_at_us: int

    @property
    def discount(self) -> Discount:
        """The discount terms of the time at which it was made."""
        return Discount(self.discount_bps, self.max_discount_micro, self.community_id, self.tier)


def charge_entries(row: ChargeRow, draws: Sequence[Draw], *, entry_pool: str) -> list[EntryDraft]:
    """Return the entries of a charge, in their order. Entries that move no credits are of `entry_pool`."""
    key, account_id = row.id, row.account_id
    if row.billing_mode == "shadow":
        figures = {"listMicro": str(row.list_micro), "wouldChargeMicro": str(row.charged_micro)}
        metadata: str | None = shadow_metadata(figures, row.metadata)
        return [EntryDraft(account_id, entry_pool, "shadow_charge", 0, 0, 0, None, None, row.description, metadata, key)]
    metadata = metadata_with_discount(row.metadata, row.discount, row.list_micro)
    entries = [
        EntryDraft(account_id, d.pool_id, "charge", -d.amount_micro, -d.amount_micro, 0, d.lot_id, None, row.description,
                   metadata, key)
        for d in draws
    ]  # fmt: skip
    if row.debt_micro:
        debt = EntryDraft(
            account_id, entry_pool, "debt_incurred", -row.debt_micro, 0, 0, None, None, row.description, metadata, key
        )
        entries.append(debt)
    return entries


class LotOfCharge(NamedTuple):
    """A row of `lots_of_charges`."""

    charge_id: int
    lot_id: int
    consumed_micro: int


def entries_to_find(rows: Iterable[ChargeRow]) -> str:
    """Return the parameter of `lots_of_charges`."""
    return encode([(row.id, row.after_entry_id, row.entry_count) for row in rows]).decode()
