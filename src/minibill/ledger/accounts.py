"""Accounts: one per entity, opened once and never changed."""

from collections.abc import Sequence
from typing import Protocol

from minibill.api.types import Entity, encode
from minibill.core import ids
from minibill.core.clock import format_time
from minibill.core.problems import AccountNotFound
from minibill.core.write_result import WriteResult
from minibill.db.new_ids import next_ids
from minibill.db.queries import queries
from minibill.db.sqlite import Connection
from minibill.ledger.rows import AccountRow
from minibill.ledger.schemas import Account

SQL = queries("accounts")


def open_account(conn: Connection, now_us: int, *, body: Entity) -> WriteResult:
    """Open the account of an entity, or return the existing one."""
    entity_type, entity_id = body.entity_type, str(body.entity_id)
    row = find_account_of_entity(conn, body)
    created = row is None
    if row is None:
        [key] = open_accounts(conn, [(entity_type, entity_id)], now_us=now_us)
        row = AccountRow(key, entity_type, entity_id, now_us)
    response = account_response(row)
    details = lambda: {"entityType": entity_type, "entityId": entity_id, "existed": not created}
    return WriteResult(response, "account.open", "account", response.id, details, created=created)


def find_account_of_entity(conn: Connection, entity: Entity) -> AccountRow | None:
    """Return the account of an entity, or None."""
    row = SQL.find_account_of_entity.one(conn, entity_type=entity.entity_type, entity_id=str(entity.entity_id))
    return None if row is None else AccountRow(*row)


def account_id_of_entity(conn: Connection, entity: Entity) -> str:
    """Return the id of an entity's account. Raises `AccountNotFound`."""
    row = find_account_of_entity(conn, entity)
    if row is None:
        raise AccountNotFound(f"{entity.entity_type}:{entity.entity_id}")
    return ids.encode(ids.ACCOUNT, row.id)


def account_response(row: AccountRow) -> Account:
    """Return an account as the API shows it."""
    return Account(ids.encode(ids.ACCOUNT, row.id), row.entity_type, row.entity_id, format_time(row.created_at_us))


def existing_accounts(conn: Connection, keys: list[int]) -> set[int]:
    """Return the subset of these keys that belong to an account."""
    return {key for (key,) in SQL.existing_accounts.all(conn, account_ids=encode(keys).decode())}


def accounts_of_entities(conn: Connection, entities: list[tuple[str, str]]) -> dict[int, int]:
    """Return account keys by the index of their (type, id) pair. Entities without an account are left out."""
    return dict(SQL.accounts_of_entities.all(conn, entities=encode(entities).decode()))


class NamesAccount(Protocol):
    """An item of a batch, which names an account by its id or by its entity."""

    @property
    def account_id(self) -> str | None: ...

    @property
    def entity(self) -> Entity | None: ...


def find_accounts(conn: Connection, items: Sequence[NamesAccount]) -> list[int | None]:
    """Return the key of each item's account, None if it does not exist."""
    keys = [None if item.account_id is None else ids.decode(ids.ACCOUNT, item.account_id) for item in items]
    named = [key for key in keys if key is not None]
    existing = existing_accounts(conn, named) if named else set()
    positions = [position for position, item in enumerate(items) if item.entity is not None]
    entities = [entity_pair(item.entity) for item in items if item.entity is not None]
    found = accounts_of_entities(conn, entities) if entities else {}
    by_position = {positions[index]: key for index, key in found.items()}
    return [by_position.get(position, key if key in existing else None) for position, key in enumerate(keys)]


def entity_pair(entity: Entity) -> tuple[str, str]:
    """Return the type and the id of an entity."""
    return entity.entity_type, str(entity.entity_id)


def open_accounts(conn: Connection, entities: list[tuple[str, str]], *, now_us: int) -> list[int]:
    """Open accounts for (type, id) pairs that have none, and return their keys in the same order."""
    new = next_ids(conn)
    first = new.accounts
    new.accounts += len(entities)
    SQL.open_accounts.many_as_json(conn, [(key, kind, name, now_us) for key, (kind, name) in enumerate(entities, first)])
    return list(range(first, first + len(entities)))
