"""Forgiving a debt: a lot of exactly its open amount pays this debt and no other."""

from minibill.api.types import encode
from minibill.core import ids
from minibill.core.problems import DebtNotFound
from minibill.core.write_result import WriteResult
from minibill.db.queries import queries
from minibill.db.sqlite import Connection
from minibill.ledger.expiry import account_for_update
from minibill.ledger.limits import require_within_ceiling
from minibill.ledger.mint import DEFAULT_PRIORITY, NewLot, insert_lots, load_holdings
from minibill.ledger.posting import DEFAULT_POOL, amounts
from minibill.ledger.rows import DebtRow
from minibill.ledger.schemas import ForgiveBody, ForgivenDebt

SQL = queries("reservations")


def forgive_debt(
    conn: Connection, now_us: int, *, account_id: str, debt_id: str, body: ForgiveBody, ceiling_micro: int
) -> WriteResult:
    """Pay the open amount of a debt with a new lot that is consumed at once. Write nothing if the debt is paid.

    Raises `AccountNotFound`, `DebtNotFound` (also for another account's debt), `AmountTooLarge` and `ExpiryDue`.
    """
    account = account_for_update(conn, account_id, now_us=now_us)
    debt = _require_debt(conn, account, debt_id)
    pool_id = debt.pool_id
    holdings = load_holdings(conn, [account], pool_id)
    if holdings[account].is_at_limit:
        # The account never had this pool, so the debt's own entry is in `general` too.
        pool_id = DEFAULT_POOL
        holdings = load_holdings(conn, [account], pool_id)
    before = after = holdings[account].balance
    lot = None
    if owed_micro := debt.original_micro - debt.paid_micro:
        require_within_ceiling(owed_micro, ceiling_micro)
        metadata = encode({"debtId": debt_id}).decode()
        new_lot = NewLot(
            account, pool_id, "grant", None, DEFAULT_PRIORITY, owed_micro, None, description=body.reason, metadata=metadata
        )
        lot, balances = insert_lots(conn, [new_lot], holdings=holdings, only_debt=debt.id, now_us=now_us)
        after = balances[account, pool_id]
        SQL.forgive_debt.run(conn, debt_id=debt.id, lot_id=lot)
    response = ForgivenDebt(debt_id, str(owed_micro), None if lot is None else ids.encode(ids.LOT, lot))
    details = lambda: {
        "accountId": account_id,
        "poolId": pool_id,
        "forgivenMicro": response.forgiven_micro,
        "lotId": response.lot_id,
        "reason": body.reason,
        "before": amounts(before),
        "after": amounts(after),
    }
    return WriteResult(response, "debt.forgive", "debt", debt_id, details)


def _require_debt(conn: Connection, account: int, debt_id: str) -> DebtRow:
    key = ids.decode(ids.DEBT, debt_id)
    row = None if key is None else SQL.find_debt.one(conn, debt_id=key)
    if row is None or (debt := DebtRow(*row)).account_id != account:
        raise DebtNotFound(debt_id)
    return debt
