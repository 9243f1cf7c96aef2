"""Stored events are decoded by name, so that a later version can add columns."""

from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from minibill.db.connection import open_reader
from minibill.events.schemas import Event
from minibill.events.serialization import event_from_row, stored_row
from tests.sql.book import make_book

COLUMNS = "id, after_entry_id, type, account_id, campaign_id, data, created_at_us"
LATER_DATA = "json_insert(data, '$.added_later', json('[1]'))"


def _event(kind: str, data: object) -> Event:
    return event_from_row((1, 0, kind, 1, None, msgspec.json.encode(data).decode(), 0))


def _data(event: Event) -> object:
    return msgspec.json.decode(msgspec.json.encode(event.data))


ACCOUNT = {"id": 1, "entity_type": "person", "entity_id": "ada", "created_at_us": 0}


def test_an_unknown_member_of_a_stored_event_is_ignored() -> None:
    later = {"nickname": "countess", **ACCOUNT}
    assert _data(_event("account.opened", later)) == _data(_event("account.opened", ACCOUNT))


def test_the_order_of_the_members_does_not_matter() -> None:
    reversed_ = dict(reversed(ACCOUNT.items()))
    assert _data(_event("account.opened", reversed_)) == _data(_event("account.opened", ACCOUNT))


def test_a_member_that_was_added_later_takes_its_default() -> None:
    class LaterAccount(NamedTuple):
        id: int
        entity_id: str
        nickname: str | None = None

    assert stored_row(LaterAccount, msgspec.json.encode(ACCOUNT).decode()) == (1, "ada", None)


def test_a_member_without_a_default_must_be_there() -> None:
    with pytest.raises(TypeError, match="entity_id"):
        _event("account.opened", {name: value for name, value in ACCOUNT.items() if name != "entity_id"})


def test_every_event_of_a_database_decodes_with_members_of_later_versions(migrated_file: Path, tmp_path: Path) -> None:
    with closing(open_reader(make_book(migrated_file, tmp_path))) as conn:
        rows = conn.execute(f"SELECT {COLUMNS} FROM events").fetchall()
        later = conn.execute(f"SELECT {COLUMNS.replace('data', LATER_DATA)} FROM events").fetchall()
    assert len({row[2] for row in rows}) > 5
    assert [event_from_row(row) for row in later] == [event_from_row(row) for row in rows]
