"""Reads of charges: one by its id, the pages of an account, and explanations."""

from collections.abc import Callable
from contextlib import closing

import httpx
import pytest

from minibill.charges import reads
from minibill.charges.rows import SQL
from minibill.db.connection import open_reader
from tests.api_client import Api, Json, ok, problem_of
from tests.charges.helpers import ask_to_charge, batch, charge, consumed, item
from tests.discounts.helpers import CAPPED, GOLD, member
from tests.reservations.conftest import Moment
from tests.reservations.helpers import lots


def listed(api: Api, account: str, **query: object) -> list[Json]:
    """Return all charges of an account, page by page."""
    found, page = list[Json](), api.get(f"/accounts/{account}/charges", **query)
    found += page["items"]
    while page["nextCursor"]:
        page = api.get(f"/accounts/{account}/charges", cursor=page["nextCursor"], **query)
        found += page["items"]
    return found


def test_admins_and_services_read_the_same_charge(moment: Moment, api: Api) -> None:
    account = api.account(3, 9)
    made = charge(api, account, 5, sourceId="s", description="a call", metadata={"b": 1, "a": [None]})
    moment.at(5)
    ok(ask_to_charge(api, account, 20, billingMode="soft"), 201)
    del made["duplicate"]
    shown = api.get(f"/charges/{made['chargeId']}")
    kept = {"description": "a call", "metadata": {"b": 1, "a": [None]}, "createdBy": "service:loa"}
    assert shown == made | kept
    assert ok(api.internal("GET", f"/charges/{made['chargeId']}"), 200) == shown
    assert listed(api, account, sourceId="s") == [shown]


def test_a_charge_names_the_admin_that_made_it(api: Api) -> None:
    account = api.account(3)
    made = ok(api.post(f"/accounts/{account}/charges", {"costMicro": "3"}, token=api.sign(sub="eve")), 201)
    assert api.get(f"/charges/{made['chargeId']}")["createdBy"] == "admin:eve"


UNKNOWN = [
    "charge_0000000000002", "charge_0000000000000", "charge_", "charge_x", "res_0000000000001", "CHARGE_0000000000001",
    "charge_000000000000I", "charge_zzzzzzzzzzzzz", "charge_7zzzzzzzzzzzz", "charge_00000000000001", "charge_000000000000é",
    "charge_%00", "x" * 64, "x" * 1_000,
]  # fmt: skip


def test_an_unknown_id_is_no_charge(api: Api) -> None:
    charge(api, api.account(3), 3)
    for unknown in UNKNOWN:
        for answer in (api.call("GET", f"/charges/{unknown}"), api.internal("GET", f"/charges/{unknown}")):
            problem_of(answer, 404, "charge_not_found")


def test_an_account_lists_its_charges_newest_first(api: Api) -> None:
    account, other = api.account(1_000), api.account(1_000)
    made = []
    for number in range(7):
        made.append(charge(api, account, number, sourceId=f"s{number}")["chargeId"])
        charge(api, other, number)
    answer = batch(api, item(account, 3, "a"), item(other, 3, "b"), item(account, 0, "c"))
    made += [answer["charges"][place]["chargeId"] for place in (0, 2)]
    assert [each["chargeId"] for each in listed(api, account, limit=2)] == made[::-1]
    assert [each["chargeId"] for each in listed(api, account, limit=100)] == made[::-1]
    assert listed(api, account, sourceId="none") == []
    assert [each["chargeId"] for each in listed(api, account, sourceId="s3", limit=1)] == [made[3]]
    assert listed(api, api.account()) == []


def test_the_last_page_of_a_list_has_no_cursor(api: Api) -> None:
    account = api.account(10)
    for _ in range(4):
        charge(api, account, 1)
    first = api.get(f"/accounts/{account}/charges", limit=2)
    assert len(first["items"]) == 2 and first["nextCursor"]
    # A new charge does not move the pages behind the cursor.
    charge(api, account, 1)
    last = api.get(f"/accounts/{account}/charges", limit=2, cursor=first["nextCursor"])
    assert len(last["items"]) == 2 and last["nextCursor"] is None


def test_a_page_of_very_many_lots_ends_early(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reads, "PAGE_LOTS_MAX", 4)
    account = api.account(*[1] * 20)
    made = [charge(api, account, cost)["chargeId"] for cost in (1, 3, 0, 2, 6, 1)][::-1]
    sizes, page = [], api.get(f"/accounts/{account}/charges", limit=100)
    found = [each["chargeId"] for each in page["items"]]
    sizes.append(len(page["items"]))
    while page["nextCursor"]:
        page = api.get(f"/accounts/{account}/charges", limit=100, cursor=page["nextCursor"])
        found += [each["chargeId"] for each in page["items"]]
        sizes.append(len(page["items"]))
    assert found == made
    # 1 and 6 lots; 2, none and 3 lots; 1 lot.
    assert sizes == [2, 3, 1]


def test_a_cursor_is_of_its_own_list(api: Api) -> None:
    one, other = api.account(10), api.account(10)
    for account in (one, one, other, other):
        charge(api, account, 1)
    path = f"/accounts/{one}/charges"
    cursor = api.get(path, limit=1)["nextCursor"]
    queries: list[Json] = [{"cursor": cursor[:-1]}, {"cursor": cursor, "sourceId": "s"}, {"cursor": "x"}]
    for query in queries:
        problem_of(api.call("GET", path, **query), 400, "invalid_cursor")
    problem_of(api.call("GET", f"/accounts/{other}/charges", cursor=cursor), 400, "invalid_cursor")
    problem_of(api.call("GET", f"/accounts/{one}/lots", cursor=cursor), 400, "invalid_cursor")


def test_wrong_queries_of_lists_are_rejected(api: Api) -> None:
    path = f"/accounts/{api.account()}/charges"
    queries: list[Json] = [{"limit": "0"}, {"limit": "101"}, {"sourceId": ""}, {"sourceId": "x" * 201}, {"state": "live"}]
    for query in queries:
        problem_of(api.call("GET", path, **query), 400, "validation_error", *query)
    problem_of(api.call("GET", "/accounts/acct_none/charges"), 404, "account_not_found")
    problem_of(api.internal("GET", path), 404, "not_found")


def test_head_of_charges_has_no_body(api: Api) -> None:
    account = api.account(3)
    made = charge(api, account, 1)
    for path in (f"/charges/{made['chargeId']}", f"/accounts/{account}/charges"):
        head, found = api.call("HEAD", path), api.call("GET", path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == str(len(found.content))
    assert api.internal("HEAD", f"/charges/{made['chargeId']}").status_code == 200
    assert api.call("HEAD", "/charges/charge_none").status_code == 404


# --- explanations ---


def test_a_new_charge_explains_its_lots_and_discount(api: Api) -> None:
    account = member(api, CAPPED, 50, 500)
    api.mint(account, 9, poolId="cpu")
    first, second, other = lots(api, account)
    answer = ok(ask_to_charge_explained(api, account, 1_000, poolId="gpu", billingMode="soft"), 201)
    explanation = answer["explanation"]
    assert explanation["boundBy"] == ["maxDiscountMicro", "availableMicro"]
    assert [(lot["lotId"], lot["drawnMicro"], lot["outcome"]) for lot in explanation["lots"]] == [
        (first, "50", "drawn"), (second, "500", "drawn"), (other, "0", "other_pool"),
    ]  # fmt: skip
    assert (explanation["discount"]["payableMicro"], explanation["considered"][0]["applied"]) == ("900", True)


def test_a_rejected_charge_explains_what_is_missing(api: Api) -> None:
    account = member(api, GOLD, 50)
    with api.unchanged():
        problem = problem_of(ask_to_charge_explained(api, account, 1_000), 402, "insufficient_balance")
    [lot] = problem["explanation"]["lots"]
    assert (lot["outcome"], lot["availableMicro"]) == ("not_enough", "50")


def test_a_stored_charge_explains_what_the_book_stores(api: Api) -> None:
    account = member(api, CAPPED, 50, 500)
    made = charge(api, account, 1_000, billingMode="soft")
    # Later changes of the account do not change it.
    assert api.call("DELETE", f"/accounts/{account}/memberships/guild").status_code == 204
    api.mint(account, 1_000)
    shown = api.get(f"/charges/{made['chargeId']}", explain="true")
    explanation = shown["explanation"]
    assert explanation["boundBy"] == ["maxDiscountMicro", "availableMicro"]
    assert [(lot["lotId"], int(lot["drawnMicro"])) for lot in explanation["lots"]] == consumed(made)
    assert "considered" not in explanation and explanation["lotsNotShown"] == 0
    assert "explanation" not in api.get(f"/charges/{made['chargeId']}", explain="false")


@pytest.mark.parametrize("mode", ["live", "soft", "shadow"])
def test_the_explanation_changes_nothing_else(start: Callable[..., Api], mode: str) -> None:
    api = start()
    one, other = (member(api, GOLD, 50, 500) for _ in range(2))
    plain = charge(api, one, 300, billingMode=mode)
    explained = ok(ask_to_charge_explained(api, other, 300, billingMode=mode), 201)
    del explained["explanation"]
    of_account = ("chargeId", "accountId", "lotAllocations", "createdAt")
    assert {n: plain[n] for n in plain if n not in of_account} == {n: explained[n] for n in explained if n not in of_account}
    assert [amount for _, amount in consumed(plain)] == [amount for _, amount in consumed(explained)]


def test_a_duplicate_is_not_explained(api: Api) -> None:
    account = api.account(10)
    first = charge(api, account, 3, sourceId="s")
    with api.unchanged():
        assert ok(ask_to_charge_explained(api, account, 3, sourceId="s"), 200) == first | {"duplicate": True}


def ask_to_charge_explained(api: Api, account: str, cost_micro: int, **body: Json) -> httpx.Response:
    sent = {"accountId": account, "costMicro": str(cost_micro), **body}
    return api.internal("POST", "/charges", sent, explain="true")


def test_the_lots_of_a_charge_are_found_by_the_ids_of_its_entries(api: Api) -> None:
    account = api.account(3, 9)
    charge(api, account, 5)
    with closing(open_reader(api.book.path)) as conn:
        sql, values = SQL.lots_of_charges.sql, ("[[1, 2, 2]]",)
        plan = " ".join(str(row[3]) for row in conn.execute(f"EXPLAIN QUERY PLAN {sql}", values))
        assert "SEARCH e USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)" in plan
        assert conn.execute(sql, values).fetchall() == [(1, 1, 3), (1, 2, 2)]
