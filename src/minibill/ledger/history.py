"""The history of an account: the entries of its pools, newest first."""

import msgspec

from minibill.api.types import encode
from minibill.db.queries import queries
from minibill.db.sqlite import Connection
from minibill.ledger.rows import EntryRow
from minibill.ledger.time_lookup import EntryPosition, entries_before, position_at

SQL = queries("ledger")
ACCOUNTS = queries("accounts")

_ROWS = msgspec.json.Decoder(list[EntryRow])


def history_page(
    conn: Connection,
    *,
    account_id: int,
    pool_id: str | None,
    entry_type: str | None,
    from_us: int | None,
    before: EntryPosition | None,
    count: int,
) -> list[EntryRow] | None:
    """Return up to `count` entries before a position, newest first, from the time `from_us` on; None without the account.

    The caller opens a read transaction, so that all statements see the same entries.
    """
    oldest_seqs: dict[str, int] = {}
    if from_us is not None:
        earlier = entries_before(conn, position_at(from_us), account_id=account_id, pool_id=pool_id)
        oldest_seqs = {pool: number + 1 for pool, number in earlier}
    if before is None:
        newest_seqs = SQL.newest_entries.all(conn, account_id=account_id, pool_id=pool_id)
    else:
        newest_seqs = entries_before(conn, before, account_id=account_id, pool_id=pool_id)
    pools = [
        (pool, oldest_seq, newest_seq)
        for pool, newest_seq in newest_seqs
        if (oldest_seq := oldest_seqs.get(pool, 1)) <= newest_seq
    ]
    if len(pools) == 1:
        # Most accounts have one pool. Without a merge, the page costs half.
        [(pool, oldest_seq, newest_seq)] = pools
        row = SQL.entries_of_pool.one(
            conn,
            account_id=account_id,
            pool_id=pool,
            entry_type=entry_type,
            oldest_seq=oldest_seq,
            newest_seq=newest_seq,
            count=count,
        )
    else:
        row = SQL.entries_of_pools.one(
            conn, account_id=account_id, pools=encode(pools).decode(), entry_type=entry_type, count=count
        )
    assert row is not None
    entries = _ROWS.decode(row[0])
    return entries if entries or ACCOUNTS.find_account.one(conn, account_id=account_id) is not None else None
