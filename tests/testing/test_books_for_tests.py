"""The pytest fixtures `minibill_book` and `minibill_service`, and the example project that uses them."""

import subprocess
import sys
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import httpx
import jwt
import pytest

import minibill
from minibill.client import AsyncClient, Client
from minibill.core.problems import InsufficientScope, InvalidRequest, Unauthorized
from minibill.db.sqlite import sqlite3
from minibill.testing import START, BookForTests
from tests.api_client import Loop

EXAMPLE = Path(__file__).parents[2] / "docs" / "example"


def test_a_book_records_what_a_test_does(minibill_book: BookForTests) -> None:
    book = minibill_book
    book.give("ada", 5_000_000)
    held = book.api.reserve(book.account("ada"), 700)
    assert (book.balance("ada"), book.reserved("ada"), book.debt("ada")) == (4_999_300, 700, 0)
    book.api.finalize(held.reservation_id, 500)
    assert book.balance("ada") == 4_999_500
    assert book.story("ada") == [("grant", 5_000_000), ("reserve", -700), ("finalize", -500), ("release", 200)]
    book.account(("community", "dao"))
    assert book.balance(("community", "dao")) == 0
    book.verify()


@pytest.mark.parametrize("turn", [1, 2])
def test_each_test_has_an_empty_book(minibill_book: BookForTests, turn: int) -> None:
    assert list(minibill_book.api.accounts()) == []
    minibill_book.give("ada", turn)
    assert minibill_book.balance("ada") == turn


def test_a_snapshot_restores_a_prepared_book(minibill_book: BookForTests) -> None:
    book = minibill_book
    book.give("ada", 5)
    book.api.revoke_token("stolen")
    before = (book.snapshot(), book.now)
    book.give("ada", 6)
    book.give("bob", 7)
    book.advance(3600)
    book.restore(before[0])
    assert (book.story("ada"), book.now) == ([("grant", 5)], before[1])
    assert [account.entity_id for account in book.api.accounts()] == ["ada"]
    # Later writes continue from the snapshot.
    book.give("ada", 8)
    assert [entry.entry_seq for entry in book.entries("ada")] == [1, 2]
    book.verify()
    book.reset()
    assert list(book.api.accounts()) == []


def test_a_snapshot_includes_revoked_tokens(minibill_book: BookForTests) -> None:
    book = minibill_book
    clean = book.snapshot()
    token = book.token()
    token_id = jwt.decode(token, options={"verify_signature": False})["jti"]

    def ask() -> httpx.Response:
        return book.http.get("/admin/billing/accounts", headers={"Authorization": f"Bearer {token}"})

    book.api.revoke_token(token_id)
    assert ask().status_code == 401
    book.restore(clean)
    assert ask().status_code == 200


def test_time_stands_still_until_a_test_advances_it(minibill_book: BookForTests) -> None:
    book = minibill_book
    assert book.now == START
    book.give("ada", 5, expires_at=START + timedelta(hours=1))
    book.advance(3599)
    assert (book.balance("ada"), book.now) == (5, START + timedelta(seconds=3599))
    book.advance(1)
    assert book.balance("ada") == 0
    assert book.story("ada") == [("grant", 5), ("expire", -5)]


def test_the_same_book_is_served_on_a_port(minibill_book: BookForTests, loop: Loop) -> None:
    book = minibill_book
    account = book.account("ada")
    with Client(book.url, book.token()) as client:
        client.mint(account, 5)
    with Client(book.url, book.service_token(), service=True) as service:
        service.reserve(account, 2)
    assert book.http.get(f"/admin/billing/accounts/{account}/balance").json()["totalAvailableMicro"] == "3"
    assert httpx.get(f"{book.url}/health/ready").json() == {"status": "ready"}

    async def through_asgi() -> str:
        transport = httpx.ASGITransport(book.app)  # type: ignore[arg-type]
        async with AsyncClient("http://minibill.test", book.token(), transport=transport) as client:
            return (await client.account(account)).entity_id

    assert loop.run(through_asgi()) == "ada"


def test_a_token_has_the_given_scopes(minibill_book: BookForTests) -> None:
    book = minibill_book
    with Client(book.url, book.token("admin:billing:read", sub="reader")) as reader:
        assert list(reader.accounts()) == []
        with pytest.raises(InsufficientScope):
            reader.open_account("person", "ada")
    with Client(book.url, book.service_token()) as service, pytest.raises(Unauthorized):
        service.campaign("camp_1")


def test_verify_fails_for_a_damaged_book(minibill_book: BookForTests) -> None:
    book = minibill_book
    book.give("ada", 5)
    with closing(sqlite3.connect(book.path, isolation_level=None)) as conn:
        for (trigger,) in conn.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
            conn.execute(f"DROP TRIGGER {trigger}")
        conn.execute("UPDATE credit_lots SET original_micro = 6, available_micro = 6")
    with pytest.raises(AssertionError, match="entries_match_lots"):
        book.verify()


def test_the_example_project_passes_its_own_tests() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:schemathesis", str(EXAMPLE)]
    ran = subprocess.run(command, cwd=EXAMPLE, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert " passed" in ran.stdout


def test_reading_an_unknown_account_names_it(minibill_book: BookForTests) -> None:
    book = minibill_book
    book.give("ada", 5)
    for read in (book.balance, book.reserved, book.debt, book.entries, book.story):
        with pytest.raises(LookupError, match="person:typo has no account"):
            read("typo")
    assert [account.entity_id for account in book.api.accounts()] == ["ada"]


def test_the_path_of_a_book_may_be_text(tmp_path: Path) -> None:
    with closing(BookForTests(str(tmp_path / "book.db"))) as book:
        assert book.path == tmp_path / "book.db"
        book.give("ada", 5)


@pytest.mark.parametrize("name", [":memory:", "file:book.db", "file:book.db?mode=memory", ""])
def test_memory_and_uri_names_are_rejected(name: str) -> None:
    with pytest.raises(ValueError, match=r"no file name|is empty"):
        BookForTests(name)
    with pytest.raises(ValueError, match=r"no file name|is empty"):
        minibill.open(name)


def test_an_account_has_one_name_in_every_spelling(minibill_book: BookForTests) -> None:
    book = minibill_book
    book.give("0X" + "AB" * 20, 5)
    book.give("ju\u0308rgen", 7)
    assert (book.balance("0x" + "ab" * 20), book.balance("j\u00fcrgen")) == (5, 7)
    with pytest.raises(InvalidRequest):
        book.account("ada\u200b")
