"""Writing a debt off: a lot of just what is left of it, which pays that debt and no other."""

from minibill.api.types import encode
from minibill.core import ids
from minibill.core.problems import DebtNotFound
from minibill.core.write_result import WriteResult
from minibill.db.queries import Row, queries
from minibill.db.sqlite import Connection
from minibill.ledger.expiry import account_for_update
from minibill.ledger.limits import require_within_ceiling
from minibill.ledger.mint import DEFAULT_PRIORITY, NewLot, insert_lots, load_holdings
from minibill.ledger.posting import DEFAULT_POOL, amounts
from minibill.ledger.schemas import ForgiveBody, ForgivenDebt

SQL = queries("reservations")


def forgive_debt(
    conn: Connection, now_us: int, *, account_id: str, debt_id: str, body: ForgiveBody, ceiling_micro: int
) -> WriteResult:
    """Writes off what is left of a debt, with a lot that is consumed at once; again writes nothing.

    Raises `AccountNotFound`, `DebtNotFound`, also for a debt of another account, and `AmountTooLarge`.
    """
    account = account_for_update(conn, account_id, now_us=now_us)
    key, _, pool_id, left_micro = _require_debt(conn, account, debt_id)
    holdings = load_holdings(conn, [account], pool_id)
    if holdings[account].is_at_limit:
        # Then the entry of the debt is in `general` too.
        pool_id = DEFAULT_POOL
        holdings = load_holdings(conn, [account], pool_id)
    before = after = holdings[account].balance
    lot = None
    if left_micro:
        require_within_ceiling(left_micro, ceiling_micro)
        metadata = encode({"debtId": debt_id}).decode()
        paying = NewLot(
            account, pool_id, "grant", None, DEFAULT_PRIORITY, left_micro, None, description=body.reason, metadata=metadata
        )
        lot, balances = insert_lots(conn, [paying], holdings=holdings, only_debt=key, now_us=now_us)
        after = balances[account, pool_id]
        SQL.forgive_debt.run(conn, debt_id=key, lot_id=lot)
    answer = ForgivenDebt(debt_id, str(left_micro), None if lot is None else ids.encode(ids.LOT, lot))
    details = lambda: {
        "accountId": account_id,
        "poolId": pool_id,
        "forgivenMicro": answer.forgiven_micro,
        "lotId": answer.lot_id,
        "reason": body.reason,
        "before": amounts(before),
        "after": amounts(after),
    }
    return WriteResult(answer, "debt.forgive", "debt", debt_id, details)


def _require_debt(conn: Connection, account: int, debt_id: str) -> Row:
    key = ids.decode(ids.DEBT, debt_id)
    row = None if key is None else SQL.find_debt.one(conn, debt_id=key)
    if row is None or row[1] != account:
        raise DebtNotFound(debt_id)
    return row
