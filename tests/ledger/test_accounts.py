"""Accounts over HTTP."""

import asyncio

import pytest

from tests.api_client import Api, ok, problem_of

ENTITY = {"entityType": "person", "entityId": "ada"}


def test_an_account_is_opened_once_and_then_found(api: Api) -> None:
    opened = ok(api.post("/accounts", ENTITY), 201)
    assert list(opened) == ["id", "entityType", "entityId", "createdAt"]
    assert (opened["entityType"], opened["entityId"]) == ("person", "ada")
    assert opened["id"].startswith("acct_")
    assert ok(api.post("/accounts", ENTITY), 200) == opened
    assert api.get(f"/accounts/{opened['id']}") == opened
    assert api.get("/accounts")["items"] == [opened]


def test_concurrent_requests_open_one_account_once(api: Api) -> None:
    async def open_all() -> list[tuple[int, bytes]]:
        headers = {"Authorization": f"Bearer {api.token}"}
        answers = [api.http.post("/admin/billing/accounts", json=ENTITY, headers=headers) for _ in range(20)]
        return [(answer.status_code, answer.content) for answer in await asyncio.gather(*answers)]

    answers = api.loop.run(open_all())
    assert sorted(status for status, _ in answers) == [200] * 19 + [201]
    assert len({content for _, content in answers}) == 1
    assert len(api.get("/accounts")["items"]) == 1


@pytest.mark.parametrize("kind", ["agent", "person", "community", "mod", "protocol", "foundation", "commons"])
def test_an_entity_is_its_type_and_its_id_together(api: Api, kind: str) -> None:
    account = ok(api.post("/accounts", {"entityType": kind, "entityId": "ada"}), 201)
    other = ok(api.post("/accounts", {"entityType": "mod" if kind != "mod" else "agent", "entityId": "ada"}), 201)
    assert account["id"] != other["id"]


def test_ids_sort_by_creation(api: Api) -> None:
    opened = [api.account() for _ in range(40)]
    assert opened == sorted(opened)
    assert all(len(account) <= 64 for account in opened)


def test_opening_an_existing_account_does_not_change_it(api: Api) -> None:
    first = ok(api.post("/accounts", ENTITY))
    api.pass_time(60)
    assert ok(api.post("/accounts", ENTITY), 200) == first


def test_an_unknown_account_is_not_found(api: Api) -> None:
    api.account()
    problem = problem_of(api.call("GET", "/accounts/acct_0000000000002"), 404, "account_not_found")
    assert problem["accountId"] == "acct_0000000000002"
