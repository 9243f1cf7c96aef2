"""Accounts: one per entity, opened once."""

from minibill.api.types import Entity, encode
from minibill.core import ids
from minibill.core.clock import format_time
from minibill.core.problems import AccountNotFound
from minibill.core.write_result import WriteResult
from minibill.db.new_ids import next_ids
from minibill.db.queries import Row, queries
from minibill.db.sqlite import Connection
from minibill.ledger.schemas import Account

SQL = queries("accounts")


def open_account(conn: Connection, now_us: int, *, body: Entity) -> WriteResult:
    """Open the account of an entity; return the existing one if it has one."""
    entity_type, entity_id = body.entity_type, str(body.entity_id)
    row = SQL.find_account_of_entity.one(conn, entity_type=entity_type, entity_id=entity_id)
    created = row is None
    if row is None:
        [key] = open_accounts(conn, [(entity_type, entity_id)], now_us=now_us)
        row = (key, entity_type, entity_id, now_us)
    answer = account_response(row)
    details = lambda: {"entityType": entity_type, "entityId": entity_id, "existed": not created}
    return WriteResult(answer, "account.open", "account", answer.id, details, created=created)


def account_of_entity(conn: Connection, entity: Entity) -> str:
    """Return the id of the account of an entity. Raises `AccountNotFound`."""
    entity_type, entity_id = entity.entity_type, str(entity.entity_id)
    row = SQL.find_account_of_entity.one(conn, entity_type=entity_type, entity_id=entity_id)
    if row is None:
        raise AccountNotFound(f"{entity_type}:{entity_id}")
    return ids.encode(ids.ACCOUNT, row[0])


def account_response(row: Row) -> Account:
    """An account as it is answered, from `id, entity_type, entity_id, created_at_us`."""
    key, entity_type, entity_id, created_at_us = row
    return Account(ids.encode(ids.ACCOUNT, key), entity_type, entity_id, format_time(created_at_us))


def existing_accounts(conn: Connection, keys: list[int]) -> set[int]:
    """Which of these keys are accounts."""
    return {key for (key,) in SQL.which_accounts_exist.all(conn, account_ids=encode(keys).decode())}


def accounts_of_entities(conn: Connection, entities: list[tuple[str, str]]) -> dict[int, int]:
    """The keys of the accounts of (type, id) pairs, by the place of the pair; entities without account are left out."""
    return dict(SQL.accounts_of_entities.all(conn, entities=encode(entities).decode()))


def open_accounts(conn: Connection, entities: list[tuple[str, str]], *, now_us: int) -> list[int]:
    """Opens accounts for entities that have none; answers their keys in the same order."""
    new = next_ids(conn)
    first = new.accounts
    new.accounts += len(entities)
    SQL.open_accounts.many(conn, [(key, kind, name, now_us) for key, (kind, name) in enumerate(entities, first)])
    return list(range(first, first + len(entities)))
