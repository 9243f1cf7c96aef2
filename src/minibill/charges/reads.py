"""Reads of charges, in one snapshot each."""

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from minibill.charges.rows import SQL, ChargeRow, LotOfCharge, entries_to_find
from minibill.db.sqlite import Connection
from minibill.ledger.explanations import explain_spend, lots_to_explain
from minibill.ledger.schemas import Explanation

# Lots that the charges of a page may have consumed, about 1 MB of JSON. A page ends early rather than show more.
PAGE_LOTS_MAX = 10_000


class StoredCharge(NamedTuple):
    """A charge, and the lots that it consumed, in drawdown order."""

    row: ChargeRow
    lots: list[LotOfCharge]


def find_charge(conn: Connection, key: int) -> StoredCharge | None:
    """Return a charge, or None."""
    found = SQL.find_charge.one(conn, charge_id=key)
    return None if found is None else _with_lots(conn, [ChargeRow(*found)])[0]


def charges_page(
    conn: Connection, *, account_id: int, source_id: str | None, before_id: int, limit: int
) -> tuple[list[StoredCharge], bool]:
    """Return up to `limit` charges of an account, newest first, and whether the list goes on."""
    if source_id is not None:
        found = SQL.find_charge_of_source.all(conn, account_id=account_id, source_id=source_id)
        return _with_lots(conn, [row for row in map(ChargeRow._make, found) if row.id < before_id]), False
    found = SQL.charges_page.all(conn, account_id=account_id, before_id=before_id, count=limit + 1)
    rows = [ChargeRow(*row) for row in found]
    lots_before = accumulate((row.entry_count for row in rows), initial=0)
    shown = [row for row, lots in zip(rows[:limit], lots_before, strict=False) if lots < PAGE_LOTS_MAX]
    return _with_lots(conn, shown), len(shown) < len(rows)


def explain_charge(conn: Connection, charge: StoredCharge) -> Explanation:
    """Explain a charge as far as the book stores it: its discount, the limits that bound it, and its first lots."""
    row, drawn_micro = charge.row, {lot.lot_id: lot.consumed_micro for lot in charge.lots}
    return explain_spend(
        list_micro=row.list_micro,
        spent_micro=row.charged_micro,
        discount=row.discount,
        drawn_micro=drawn_micro,
        lots=lots_to_explain(conn, list(drawn_micro)),
    )


def _with_lots(conn: Connection, rows: Sequence[ChargeRow]) -> list[StoredCharge]:
    lots: dict[int, list[LotOfCharge]] = {row.id: [] for row in rows}
    for lot in map(LotOfCharge._make, SQL.lots_of_charges.all(conn, charges=entries_to_find(rows))):
        lots[lot.charge_id].append(lot)
    return [StoredCharge(row, lots[row.id]) for row in rows]
