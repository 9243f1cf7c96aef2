"""Listing and forgiving debts."""

from collections.abc import Callable
from typing import Any

import pytest

from minibill.core.money import MAX_MICRO
from tests.api_client import Api, Json, ok, problem_of
from tests.reservations.conftest import Moment
from tests.reservations.helpers import Entry, balance, entries, lots
from tests.reservations.test_modes_and_debts import owing


def debts(api: Api, account: str, **query: str) -> list[Json]:
    found: list[Json] = api.get(f"/accounts/{account}/debts", **query)["items"]
    return found


def forgive(api: Api, account: str, debt: str, reason: str = "our mistake", **options: Any) -> Any:
    return api.post(f"/accounts/{account}/debts/{debt}/forgive", {"reason": reason}, **options)


def owe_by_charge(api: Api, account: str, cost_micro: int, **body: Json) -> str:
    """Charge an account without credits in soft mode; return the charge."""
    body = {"accountId": account, "costMicro": str(cost_micro), "billingMode": "soft", **body}
    charged: str = ok(api.internal("POST", "/charges", body), 201)["chargeId"]
    return charged


# --- listing ---


def test_debts_are_listed_oldest_first_with_their_reservation_and_pool(moment: Moment, api: Api) -> None:
    account, (first, second) = owing(api, 5, 7, pool="gpu")
    owing(api, 3)
    found = debts(api, account)
    assert [each.pop("debtId").startswith("debt_") for each in found] == [True, True]
    rest = {"accountId": account, "poolId": "gpu", "chargeId": None, "refundId": None, "createdAt": moment.text(0)}
    assert found == [
        rest | {"reservationId": first, "originalMicro": "5", "paidMicro": "0"},
        rest | {"reservationId": second, "originalMicro": "7", "paidMicro": "0"},
    ]
    api.mint(account, 8)
    assert [each["paidMicro"] for each in debts(api, account)] == ["5", "3"]


def test_debts_of_charges_are_listed_with_their_charge_and_pool(moment: Moment, api: Api) -> None:
    account, (reservation,) = owing(api, 5)
    charged = owe_by_charge(api, account, 7, poolId="gpu")
    first, second = debts(api, account)
    assert (first["reservationId"], first["chargeId"]) == (reservation, None)
    assert second == {
        "debtId": second["debtId"], "accountId": account, "poolId": "gpu", "reservationId": None, "chargeId": charged,
        "refundId": None, "originalMicro": "7", "paidMicro": "0", "createdAt": moment.text(0),
    }  # fmt: skip
    api.mint(account, 8)
    assert [each["paidMicro"] for each in debts(api, account)] == ["5", "3"]
    assert [each["chargeId"] for each in debts(api, account, open="true")] == [charged]
    paid = [entry["metadata"] for entry in api.get(f"/accounts/{account}/history", entryType="debt_paid")["items"]]
    assert paid == [{"debtChargeId": charged}, {"debtReservationId": reservation}]


def test_debts_are_filtered_by_open(api: Api) -> None:
    account, (first, second) = owing(api, 5, 7)
    api.mint(account, 6)
    for query, expected in (({"open": "true"}, [second]), ({"open": "false"}, [first]), ({}, [first, second])):
        assert [each["reservationId"] for each in debts(api, account, **query)] == expected
    problem_of(api.call("GET", f"/accounts/{account}/debts", open="yes"), 400, "validation_error", "open")
    problem_of(api.call("GET", "/accounts/acct_none/debts"), 404, "account_not_found")


def test_debts_are_paged_with_their_filter(api: Api) -> None:
    account, _ = owing(api, *range(1, 8))
    api.mint(account, 1)
    seen: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = api.get(f"/accounts/{account}/debts", **({"open": "true", "limit": "2"} | cursor))
        seen += [each["originalMicro"] for each in page["items"]]
        if page["nextCursor"] is None:
            break
        cursor = {"cursor": page["nextCursor"]}
    assert seen == [str(number) for number in range(2, 8)]


# --- forgiving ---


def test_forgiving_a_debt_pays_no_other_debt(api: Api) -> None:
    account, _ = owing(api, 5, 7, 9, pool="gpu")
    api.mint(account, 7)
    [_, debt, other] = debts(api, account)
    answer = ok(forgive(api, account, debt["debtId"]))
    assert answer == {"debtId": debt["debtId"], "forgivenMicro": "5", "lotId": answer["lotId"]}
    assert entries(api, account, 6)[-2:] == [
        Entry("grant", 5, 5, 0, answer["lotId"]), Entry("debt_paid", -5, -5, 0, answer["lotId"]),
    ]  # fmt: skip
    assert [(each["originalMicro"], each["paidMicro"]) for each in debts(api, account)] == [
        ("5", "5"), ("7", "7"), ("9", "0"),
    ]  # fmt: skip
    assert (balance(api, account), lots(api, account)[answer["lotId"]]) == ((0, 0, 9), {"consumed": 5})
    lot = api.get(f"/accounts/{account}/lots")["items"][-1]
    assert (lot["sourceType"], lot["poolId"], lot["metadata"]) == ("grant", "gpu", {"debtId": debt["debtId"]})
    # The order of debts applies to minted credits only.
    ok(forgive(api, account, other["debtId"]))
    assert balance(api, account) == (0, 0, 0)


def test_a_debt_is_forgiven_while_an_older_one_is_open(api: Api) -> None:
    account, _ = owing(api, 5, 7)
    [_, second] = debts(api, account)
    ok(forgive(api, account, second["debtId"]))
    assert [each["paidMicro"] for each in debts(api, account)] == ["0", "7"]


def test_forgiving_again_writes_nothing(api: Api) -> None:
    account, _ = owing(api, 5, 7)
    [first, second] = debts(api, account)
    ok(forgive(api, account, first["debtId"]))
    before = entries(api, account)
    assert ok(forgive(api, account, first["debtId"])) == {
        "debtId": first["debtId"], "forgivenMicro": "0", "lotId": None,
    }  # fmt: skip
    # The same for a debt that was paid.
    api.mint(account, 7)
    assert ok(forgive(api, account, second["debtId"]))["lotId"] is None
    assert entries(api, account)[: len(before)] == before
    assert len(entries(api, account)) == len(before) + 2


def test_forgiving_leaves_the_available_credits_alone(api: Api) -> None:
    account = api.account(20)
    kept = api.reserve(account, 20)
    ok(api.finalize(api.reserve(account, 5, billingMode="soft"), 5))
    ok(api.release(kept))
    [debt] = debts(api, account)
    assert balance(api, account) == (20, 0, 5)
    ok(forgive(api, account, debt["debtId"]))
    assert balance(api, account) == (20, 0, 0)


def test_a_dry_run_forgives_nothing(api: Api) -> None:
    account, _ = owing(api, 5)
    [debt] = debts(api, account)
    with api.unchanged():
        answer = ok(forgive(api, account, debt["debtId"], dryRun="true"))
    assert (answer["forgivenMicro"], answer["dryRun"]) == ("5", True)
    assert ok(forgive(api, account, debt["debtId"]))["lotId"] == answer["lotId"]


def test_forgiving_is_audited_with_reason_and_balances(api: Api) -> None:
    account, _ = owing(api, 5)
    [debt] = debts(api, account)
    answer = ok(forgive(api, account, debt["debtId"], "a bug in our gateway"))
    row = api.get("/audit", action="debt.forgive")["items"][0]
    assert (row["targetType"], row["targetId"]) == ("debt", debt["debtId"])
    nothing = {"availableMicro": "0", "reservedMicro": "0"}
    assert row["details"] == {
        "accountId": account, "poolId": "general", "forgivenMicro": "5", "lotId": answer["lotId"],
        "reason": "a bug in our gateway", "before": nothing, "after": nothing,
    }  # fmt: skip
    assert [e["description"] for e in api.get(f"/accounts/{account}/history", entryType="grant")["items"]] == [
        "a bug in our gateway"
    ]


def test_forgiving_emits_an_event(api: Api) -> None:
    account, _ = owing(api, 5)
    [debt] = debts(api, account)
    ok(forgive(api, account, debt["debtId"]))
    told = api.get("/events", types="debt.forgiven,ledger.debt_paid")["items"]
    assert [(each["type"], each["accountId"]) for each in told] == [
        ("ledger.debt_paid", account),
        ("debt.forgiven", account),
    ]
    assert told[1]["data"] == debts(api, account)[0]
    ok(forgive(api, account, debt["debtId"]))
    assert len(api.get("/events", types="debt.forgiven")["items"]) == 1


def test_forgiving_the_debt_of_a_charge_pays_no_other_debt(api: Api) -> None:
    account, _ = owing(api, 5)
    charged = owe_by_charge(api, account, 7, poolId="gpu")
    debt = debts(api, account)[1]
    assert [ok(forgive(api, account, debt["debtId"]))["forgivenMicro"] for _ in range(2)] == ["7", "0"]
    assert [(each["chargeId"], each["paidMicro"]) for each in debts(api, account)] == [(None, "0"), (charged, "7")]
    [event] = api.get("/events", types="debt.forgiven")["items"]
    assert (event["accountId"], event["data"]) == (account, debt | {"paidMicro": "7"})
    [entry] = api.get(f"/accounts/{account}/history", entryType="debt_paid")["items"]
    assert (entry["poolId"], entry["metadata"]) == ("gpu", {"debtChargeId": charged})
    assert ok(api.post("/reconciliation"))["status"] == "healthy"


def test_the_book_reconciles_with_a_forgiven_debt(api: Api) -> None:
    account, _ = owing(api, 5, 7)
    api.mint(account, 3)
    for debt in debts(api, account):
        ok(forgive(api, account, debt["debtId"]))
    assert ok(api.post("/reconciliation"))["status"] == "healthy"
    assert (balance(api, account), debts(api, account, open="true")) == ((0, 0, 0), [])


def test_an_unknown_debt_is_a_404_that_changes_nothing(api: Api) -> None:
    account, _ = owing(api, 5)
    other, _ = owing(api, 7)
    [debt] = debts(api, other)
    with api.unchanged():
        for unknown in (debt["debtId"], "debt_none", "res_0000000000001", "debt_0000000000099", "debt_zzzzzzzzzzzzz"):
            problem_of(forgive(api, account, unknown), 404, "debt_not_found")
        problem_of(forgive(api, "acct_none", debt["debtId"]), 404, "account_not_found")


@pytest.mark.parametrize("body", [{}, {"reason": ""}, {"reason": "x" * 501}, {"reason": None}, {"reason": "a\x00"}])
def test_forgiving_requires_a_reason(api: Api, body: Json) -> None:
    account, _ = owing(api, 5)
    [debt] = debts(api, account)
    with api.unchanged():
        path = f"/accounts/{account}/debts/{debt['debtId']}/forgive"
        problem_of(api.post(path, body), 400, "validation_error", "reason")


def test_forgiving_requires_its_scope(api: Api) -> None:
    account, _ = owing(api, 5)
    [debt] = debts(api, account)
    others = ("admin:accounts:write", "admin:mint:write", "admin:ops:write", "admin:billing:read")
    problem_of(forgive(api, account, debt["debtId"], token=api.sign(scopes=others)), 403, "insufficient_scope")
    ok(forgive(api, account, debt["debtId"], token=api.sign(scopes=("admin:refunds:write",))))


def test_a_debt_over_the_ceiling_is_not_forgiven(start: Callable[..., Api]) -> None:
    api = start()
    account, _ = owing(api, 5)
    [debt] = debts(api, account)
    api = start(MINIBILL_CEILING_MICRO="4")
    with api.unchanged():
        problem_of(forgive(api, account, debt["debtId"]), 422, "amount_too_large")


def test_an_account_at_2_63_minus_1_keeps_its_debt(start: Callable[..., Api]) -> None:
    api = start(MINIBILL_CEILING_MICRO=str(MAX_MICRO))
    account = api.account(MAX_MICRO - 4)
    api.reserve(account, MAX_MICRO - 4)
    ok(api.finalize(api.reserve(account, 5, billingMode="soft"), 5))
    [debt] = debts(api, account)
    with api.unchanged():
        problem_of(forgive(api, account, debt["debtId"]), 422, "amount_too_large")
