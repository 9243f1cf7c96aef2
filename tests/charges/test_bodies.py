"""Bodies of charges and batches that are rejected, and the path that each error names."""

import pytest

from tests.api_client import Api, Json, problem_of
from tests.charges.helpers import ask_for_batch, ask_to_charge, batch, charge, item, results

ENTITY: Json = {"entityType": "agent", "entityId": "ada"}

# Members that are not valid, and the path of the error.
WRONG: list[tuple[Json, str]] = [
    ({"costMicro": 5}, "costMicro"),
    ({"costMicro": None}, "costMicro"),
    ({"costMicro": "-5"}, "costMicro"),
    ({"costMicro": "05"}, "costMicro"),
    ({"costMicro": "5.0"}, "costMicro"),
    ({"costMicro": ""}, "costMicro"),
    ({"costMicro": str(2**63)}, "costMicro"),
    ({"sourceId": ""}, "sourceId"),
    ({"sourceId": "x" * 201}, "sourceId"),
    ({"sourceId": "a\0b"}, "sourceId"),
    ({"sourceId": 5}, "sourceId"),
    ({"poolId": ""}, "poolId"),
    ({"poolId": "No"}, "poolId"),
    ({"poolId": "x" * 65}, "poolId"),
    ({"billingMode": "free"}, "billingMode"),
    ({"description": "x" * 501}, "description"),
    ({"description": "\0"}, "description"),
    ({"metadata": []}, "metadata"),
    ({"metadata": "x"}, "metadata"),
    ({"metadata": {"x": "y" * 4_100}}, "metadata"),
    ({"amountMicro": "5"}, "amountMicro"),
    ({"actualCostMicro": "5"}, "actualCostMicro"),
    ({"ttlSeconds": 5}, "ttlSeconds"),
    ({"chargeId": "charge_0000000000001"}, "chargeId"),
]
OF_ACCOUNTS: list[tuple[Json, str]] = [
    ({"accountId": None}, "accountId"),
    ({"entity": ENTITY}, "accountId"),
    ({"accountId": ""}, "accountId"),
    ({"accountId": 5}, "accountId"),
    ({"accountId": "x" * 65}, "accountId"),
    ({"accountId": None, "entity": {**ENTITY, "entityType": "person "}}, "entity.entityType"),
    ({"accountId": None, "entity": {**ENTITY, "entityId": " ada"}}, "entity.entityId"),
    ({"accountId": None, "entity": {"entityType": "agent"}}, "entity.entityId"),
]

# Every optional member as null.
NULLS: Json = dict.fromkeys(["poolId", "billingMode", "description", "metadata"])


@pytest.mark.parametrize(("members", "path"), WRONG + OF_ACCOUNTS)
def test_a_malformed_charge_names_the_member(api: Api, members: Json, path: str) -> None:
    account = api.account(100)
    body = {"accountId": account, "costMicro": "5", **members}
    with api.unchanged():
        problem_of(api.internal("POST", "/charges", body), 400, "validation_error", path)


@pytest.mark.parametrize(("members", "path"), [*WRONG, ({"accountId": "x"}, "accountId"), ({"entity": ENTITY}, "entity")])
def test_a_malformed_charge_of_an_admin_names_the_member(api: Api, members: Json, path: str) -> None:
    account = api.account(100)
    with api.unchanged():
        problem_of(api.post(f"/accounts/{account}/charges", {"costMicro": "5", **members}), 400, "validation_error", path)


@pytest.mark.parametrize(("members", "path"), [*WRONG, *OF_ACCOUNTS, ({"sourceId": None}, "sourceId")])
def test_a_malformed_item_rejects_the_batch_with_its_path(api: Api, members: Json, path: str) -> None:
    account = api.account(100)
    items = [item(account, 5, "a"), {**item(account, 5, "b"), **members}, item(account, 5, "c")]
    with api.unchanged():
        problem_of(ask_for_batch(api, *items), 400, "validation_error", f"charges[1].{path}")


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({}, "charges"), ({"charges": []}, "charges"), ({"charges": None}, "charges"), ({"charges": {}}, "charges"),
        ({"charges": [None]}, "charges[0]"), ({"charges": [{}]}, "charges[0].costMicro"), ({"force": True}, "force"),
        ({"charges": [{"sourceId": "a", "costMicro": "1"}]}, "charges[0].accountId"),
        ({"charges": [{"sourceId": "a", "costMicro": "1", "entity": ENTITY}], "force": True}, "force"),
    ],
)  # fmt: skip
def test_a_malformed_batch_names_the_member(api: Api, body: Json, path: str) -> None:
    problem = problem_of(api.internal("POST", "/charges/batch", body), 400, "validation_error")
    assert path in {error["path"] for error in problem["errors"]} or path == "charges[0].costMicro"


def test_null_is_the_same_as_no_member(api: Api) -> None:
    account = api.account(100)
    made = charge(api, account, 5, entity=None, sourceId=None, **NULLS)
    assert (made["poolId"], made["billingMode"], made["sourceId"]) == ("general", "live", None)
    assert results(batch(api, item(account, 5, "a", entity=None, **NULLS))) == ["charged"]
    # Without a source, each is a charge of its own.
    assert charge(api, account, 5, sourceId=None)["chargeId"] != made["chargeId"]
    shown = api.get(f"/charges/{made['chargeId']}")
    assert (shown["description"], shown["metadata"]) == (None, None)


def test_a_repeated_member_is_rejected(api: Api) -> None:
    account = api.account(100)
    raw = f'{{"accountId": "{account}", "costMicro": "5", "costMicro": "6"}}'
    with api.unchanged():
        problem_of(api.internal("POST", "/charges", raw=raw.encode()), 400, "validation_error", "costMicro")
        raw = f'{{"charges": [{{"accountId": "{account}", "costMicro": "5", "sourceId": "a", "sourceId": "b"}}]}}'
        answer = api.internal("POST", "/charges/batch", raw=raw.encode())
        problem_of(answer, 400, "validation_error", "charges[0].sourceId")


def test_a_batch_has_1_to_1000_items(api: Api) -> None:
    account = api.account(5_000)
    items = [item(account, 1, f"s{n}") for n in range(1_001)]
    with api.unchanged():
        problem = problem_of(ask_for_batch(api, *items), 400, "batch_too_large")
    assert (problem["limit"], problem["charges"]) == (1_000, 1_001)
    assert results(batch(api, *items[:1_000])) == ["charged"] * 1_000
    assert results(batch(api, items[1_000])) == ["charged"]


def test_unknown_parameters_are_rejected(api: Api) -> None:
    account = api.account(100)
    with api.unchanged():
        body = item(account, 5, "a")
        problem_of(api.internal("POST", "/charges", body, force="true"), 400, "validation_error", "force")
        problem_of(api.internal("POST", "/charges", body, explain="yes"), 400, "validation_error", "explain")
        problem_of(api.internal("POST", "/charges/batch", {"charges": [body]}, explain="true"), 400, "validation_error")
        path = f"/accounts/{account}/charges"
        problem_of(api.post(path, {"costMicro": "1"}, dryRun="yes"), 400, "validation_error", "dryRun")


def test_the_largest_members_are_accepted(api: Api) -> None:
    account = api.account(100)
    source, body = "💸" * 200, {"description": "é" * 500, "poolId": "a" + ":" * 63, "metadata": {"x": "y" * 4_000}}
    made = charge(api, account, 5, sourceId=source, **body)
    shown = api.get(f"/charges/{made['chargeId']}")
    assert {name: shown[name] for name in ("sourceId", *body)} == {"sourceId": source, **body}
    assert results(batch(api, {**item(account, 5, source[1:]), **body})) == ["charged"]
    problem_of(ask_to_charge(api, account, 2**63 - 1), 422, "amount_too_large")
