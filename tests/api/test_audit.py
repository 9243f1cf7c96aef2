"""The audit log: its rows and their list."""

import hashlib
import json
from typing import get_args

import msgspec
import pytest

from minibill.audit.log import HASHED, NO_HASH
from minibill.core.clock import format_time, parse_time
from minibill.core.write_result import Action, TargetType
from minibill.db.connection import open_reader
from tests.api.write_table import REFUSALS, WRITES
from tests.api_client import Api, Json, ok, problem_of
from tests.fake_clocks import set_time

# Writes that move credits, whose rows have the balances before and after.
BEFORE_AND_AFTER = {
    "mint": ("before", "after"),
    "batch": ("spentBeforeMicro", "spentAfterMicro", "balances"),
    "reserve": ("availableBeforeMicro", "availableAfterMicro"),
    "finalize": ("before", "after"),
    "release": ("before", "after"),
    "revoke a grant": ("spentBeforeMicro", "spentAfterMicro", "beforeMicro", "afterMicro"),
    "revoke a campaign": ("spentBeforeMicro", "spentAfterMicro", "balances"),
    **dict.fromkeys(
        (
            "create", "edit", "activate", "pause", "complete", "put tiers", "replace tiers", "join", "change a membership",
            "put thresholds", "make a webhook", "edit a webhook", "rotate a secret",
        ),
        ("before", "after"),
    ),
}  # fmt: skip


def newest(api: Api, **query: str) -> list[Json]:
    rows: list[Json] = api.get("/audit", limit=100, **query)["items"]
    return rows


@pytest.mark.parametrize("name", WRITES)
def test_a_write_adds_one_row_a_dry_run_and_a_replay_none(api: Api, name: str) -> None:
    write = WRITES[name](api)
    before = newest(api)
    ok(api.call(*write, dryRun="true"))
    assert newest(api) == before
    ok(api.call(*write, key="k", headers={"X-Correlation-Id": "trace-1", "User-Agent": "tests/1"}))
    row, *others = newest(api)
    assert others == before[: 100 - 1]
    assert (row["actorId"], row["correlationId"], row["userAgent"], row["ip"]) == (
        "operator", "trace-1", "tests/1", "192.0.2.7",
    )  # fmt: skip
    assert set(BEFORE_AND_AFTER.get(name, ())) <= row["details"].keys()
    ok(api.call(*write, key="k"))
    assert newest(api) == [row, *others]


@pytest.mark.parametrize("name", REFUSALS)
def test_a_rejected_write_adds_no_row(api: Api, name: str) -> None:
    write = REFUSALS[name](api)
    before = newest(api)
    assert not api.call(*write).is_success
    assert newest(api) == before


def test_writes_of_services_are_not_audited(api: Api) -> None:
    account = api.account(9)
    before = newest(api)
    ok(api.finalize(api.reserve(account, 5), 3))
    assert newest(api) == before


def test_before_and_after_are_the_balances_of_reads(api: Api) -> None:
    campaign, account = api.campaign(), api.account(7)
    grant = ok(api.batch(campaign, (account, 20)))["grants"][0]["grantId"]
    before = api.available(account)
    ok(api.post(f"/campaigns/{campaign}/grants/{grant}/revoke", {"reason": "a mistake"}))
    [row] = newest(api, action="grant.revoke")
    assert (row["targetType"], row["targetId"]) == ("grant", grant)
    assert row["details"] == {
        "campaignId": campaign, "reason": "a mistake", "revokedMicro": "20", "consumedMicro": "0", "reservedMicro": "0",
        "spentBeforeMicro": "20", "spentAfterMicro": "0", "accountId": account, "beforeMicro": str(before),
        "afterMicro": str(api.available(account)),
    }  # fmt: skip
    [paid] = newest(api, action="campaign.grant")
    assert paid["details"]["balances"] == [{"accountId": account, "beforeMicro": "7", "afterMicro": "27"}]
    [minted] = newest(api, action="account.mint")
    assert [minted["details"][when]["availableMicro"] for when in ("before", "after")] == ["0", "7"]


def test_a_row_has_all_members_and_extends_the_hash_chain(api: Api) -> None:
    api.account(5)
    second, first = newest(api)
    assert second.keys() == {
        "id", "seq", "actorId", "action", "targetType", "targetId", "details", "ip", "userAgent", "correlationId", "tokenId",
        "createdAt", "hash",
    }  # fmt: skip
    assert (first["seq"], second["seq"], second["id"][:6]) == (1, 2, "audit_")
    conn = open_reader(api.book.path)
    rows = conn.execute(f"SELECT {', '.join(HASHED)} FROM admin_audit_log ORDER BY seq").fetchall()
    conn.close()
    previous = NO_HASH
    for row, shown in zip(rows, (first, second), strict=True):
        previous = hashlib.sha256(previous + msgspec.json.encode(row)).digest()
        assert shown["hash"] == previous.hex()
        assert shown["details"] == json.loads(row[HASHED.index("details")])


def test_rows_are_found_by_each_filter_and_by_several(api: Api) -> None:
    account, other = api.account(5), api.account(6)
    ok(api.post("/accounts", {"entityType": "mod", "entityId": "x"}, token=api.sign(sub="bea")))
    campaign = api.campaign()
    rows = newest(api)
    for query in (
        {"actorId": "bea"}, {"actorId": "operator"}, {"action": "account.mint"}, {"targetType": "campaign"},
        {"targetId": account}, {"targetId": account, "action": "account.mint"},
        {"actorId": "operator", "action": "account.open"},
        {"actorId": "bea", "targetType": "account"}, {"targetType": "campaign", "targetId": campaign, "actorId": "operator"},
        {"targetId": other, "targetType": "campaign"}, {"actorId": "bea", "action": "account.mint"},
    ):  # fmt: skip
        expected = [row for row in rows if all(row[name] == value for name, value in query.items())]
        assert newest(api, **query) == expected
        assert bool(expected) == (query not in ({"targetId": other, "targetType": "campaign"},
                                                {"actorId": "bea", "action": "account.mint"}))  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"), [("action", "account.close"), ("action", ""), ("targetType", "Account"), ("targetType", "lot")]
)
def test_an_unknown_action_or_target_type_is_rejected(api: Api, name: str, value: str) -> None:
    query: Json = {name: value}
    problem_of(api.call("GET", "/audit", **query), 400, "validation_error", name)


def test_a_filter_accepts_every_written_action(api: Api) -> None:
    for write in WRITES.values():
        api.call(*write(api))
    api.advance(1)
    for row in newest(api):
        assert row["action"] in get_args(Action) and row["targetType"] in get_args(TargetType)
        assert row in newest(api, action=row["action"], targetType=row["targetType"])


def test_from_is_inclusive_and_to_exclusive(api: Api) -> None:
    account = api.account()
    for amount in (1, 2, 3):
        api.mint(account, amount)
        api.pass_time(1)
    three, two, one = (row["createdAt"] for row in newest(api, action="account.mint"))

    def seen(**query: str) -> list[str]:
        return [row["details"]["amountMicro"] for row in newest(api, action="account.mint", **query)]

    assert seen(**{"from": two}) == ["3", "2"]
    assert seen(**{"from": format_time(parse_time(two) + 1)}) == ["3"]
    assert seen(to=two) == ["1"]
    assert seen(**{"from": one, "to": three}) == ["2", "1"]
    assert seen(**{"from": two, "to": two}) == []


def test_rows_of_one_time_are_paged_without_a_gap(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    set_time(monkeypatch, lambda: 0)
    api.account(1, 2, 3, 4)
    rows = newest(api)
    assert len({row["createdAt"] for row in rows}) == 1
    page = api.get("/audit", limit=2)
    rest = api.get("/audit", cursor=page["nextCursor"])
    assert page["items"] + rest["items"] == rows
    assert [row["seq"] for row in rows] == [5, 4, 3, 2, 1]
