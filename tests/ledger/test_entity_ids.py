"""Entity ids: one spelling per entity, and no invisible characters."""

import sys
import unicodedata
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibill.core.entity_ids import normalized
from minibill.db.connection import open_writer
from tests.api_client import Api, ok, problem_of

ADDRESS = "0x52908400098527886E0F7030069857D2E4169EE7"


def open_account(api: Api, name: str, status: int) -> str:
    account: str = ok(api.post("/accounts", {"entityType": "person", "entityId": name}), status)["id"]
    return account


@pytest.mark.parametrize("spellings", [("\u00e9", "e\u0301"), (ADDRESS, ADDRESS.lower(), "0X" + ADDRESS[2:].upper())])
def test_all_spellings_of_an_entity_id_are_one_account(api: Api, spellings: tuple[str, ...]) -> None:
    first, *others = spellings
    account = open_account(api, first, 201)
    for other in others:
        assert open_account(api, other, 200) == account
        assert [item["id"] for item in api.get("/accounts", entityId=other)["items"]] == [account]


def test_entity_ids_that_only_look_alike_are_distinct(api: Api) -> None:
    names = [
        "ada", "Ada", "\uff41da", "\u0430da", "1", "01", "1.0", "%", "_", "'; DROP TABLE credit_accounts; --", "null",
        "\U0001f600", ADDRESS + "0", ADDRESS[:-1], "1x" + ADDRESS[2:], ADDRESS[:-1] + "G", "a b", "\ufb01",
    ]  # fmt: skip
    assert len({open_account(api, name, 201) for name in names}) == len(names)
    for name in names:
        assert api.get("/accounts", entityId=name)["items"][0]["entityId"] == name


@pytest.mark.parametrize(
    ("name", "character"),
    [
        ("a\u200bb", "U+200B ZERO WIDTH SPACE"), ("a\0b", "U+0000"), ("a\x1bb", "U+001B"), ("a\x85b", "U+0085"),
        ("a\tb", "U+0009"), ("\ufeffa", "U+FEFF"), ("a\ue000b", "U+E000"), ("a\u0378b", "U+0378"), ("a\uffffb", "U+FFFF"),
        ("a\u00a0b", "U+00A0"), ("a\u3000b", "U+3000"), ("a\u2028b", "U+2028"), (" a", "U+0020"), ("a ", "U+0020"),
        ("a  b", "U+0020"), (" ", "U+0020"), ("a\U000e0041b", "U+E0041"), ("a\u202eb", "U+202E RIGHT-TO-LEFT OVERRIDE"),
        ("a\r\nb", "U+000D"),
    ],
)  # fmt: skip
def test_a_rejected_character_is_named_by_its_code_point(api: Api, name: str, character: str) -> None:
    campaign = api.campaign()
    item = {"entity": {"entityType": "person", "entityId": name}, "amountMicro": "1"}
    account = {"entityType": "person", "entityId": name}
    reservation = {"entity": account, "amountMicro": "1"}
    with api.unchanged():
        requests = {
            "entityId": api.post("/accounts", account),
            "grants[0].entity.entityId": api.batch(campaign, item),
            "entity.entityId": api.internal("POST", "/reservations", reservation),
        }
        for path, response in requests.items():
            [error] = problem_of(response, 400, "validation_error", path)["errors"]
            assert error["message"].startswith(character)
            assert error["message"].isascii() and error["message"].isprintable()
        [error] = problem_of(api.call("GET", "/accounts", entityId=name), 400, "validation_error", "entityId")["errors"]
        assert error["message"].startswith(character)


def test_the_length_of_an_entity_id_is_counted_in_nfc(api: Api) -> None:
    assert open_account(api, "e\u0301" * 200, 201) == open_account(api, "\u00e9" * 200, 200)
    assert open_account(api, "\u1f82" * 200, 201) == open_account(api, unicodedata.normalize("NFD", "\u1f82" * 200), 200)
    for name in ("", "e\u0301" * 201, "x" * 201, "x" * 1_000_000):
        problem_of(api.post("/accounts", {"entityType": "person", "entityId": name}), 400, "validation_error", "entityId")


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=12))
def test_normalizing_an_entity_id_twice_changes_nothing_more(text: str) -> None:
    try:
        name = normalized(text)
    except ValueError:
        return
    assert normalized(name) == name == unicodedata.normalize("NFC", name)


def test_every_rejected_character_is_invisible() -> None:
    for number in range(sys.maxunicode + 1):
        category = unicodedata.category(chr(number))
        hidden = category[0] in "CZ" and number != 0x20
        try:
            normalized(f"a{chr(number)}b")
        except ValueError:
            assert hidden, hex(number)
        else:
            assert not hidden, hex(number)


def test_the_database_accepts_every_normalized_entity_id(db: Path) -> None:
    taken = [chr(number) for number in range(sys.maxunicode + 1) if unicodedata.category(chr(number))[0] not in "CZ"]
    names = sorted({normalized("".join(taken[start : start + 100])) for start in range(0, len(taken), 100)})
    rows = [(name,) for name in [*names, ADDRESS.lower(), ADDRESS + "A", "0xAB", "a b"]]
    with closing(open_writer(db)) as conn:
        conn.execute("BEGIN")
        conn.executemany("INSERT INTO credit_accounts (entity_type, entity_id, created_at_us) VALUES ('mod', ?, 1)", rows)
        found = conn.execute("SELECT count(*) FROM credit_accounts WHERE entity_type = 'mod'").fetchone()
        conn.execute("ROLLBACK")
    assert found == (len(rows),)
