"""Tiers, memberships and quotes. See docs/concepts/discounts.md."""

import pytest

from minibill.audit import log
from minibill.core.write_result import NOWHERE
from minibill.db.sqlite import Connection
from minibill.discounts.memberships import put_membership
from minibill.discounts.schemas import MembershipBody, TierBody, TiersBody
from minibill.discounts.tiers import replace_tiers
from tests.api_client import Api, Json, ok, problem_of
from tests.discounts.helpers import CAPPED, FREE, GOLD, join, member, path_of, put_tiers, quote, reasons
from tests.reservations.conftest import Moment

MAX = 2**63 - 1
ODD = [
    "ünï-cödé 😀",
    " ",
    "a b",
    "a?b=c&d",
    "#",
    "%2F",
    "%",
    "+",
    "a;b",
    "x" * 200,
    "é" * 200,
    '"quoted"\\',
    "\n",
    "'; --",
]


# --- tiers ---


def test_tiers_keep_the_request_order_and_are_replaced_together(api: Api) -> None:
    path = "/discounts/guild/tiers"
    shown = {"communityId": "guild", "tiers": [{**GOLD, "maxDiscountMicro": None}, CAPPED]}
    assert put_tiers(api, "guild", GOLD, CAPPED) == shown
    put_tiers(api, "other", FREE)
    assert api.get(path) == shown
    free = {"communityId": "guild", "tiers": [{**FREE, "maxDiscountMicro": None}]}
    assert put_tiers(api, "guild", FREE) == free
    assert api.get(path) == free
    assert put_tiers(api, "guild") == {"communityId": "guild", "tiers": []} == api.get(path)
    assert api.get("/discounts/nobody/tiers") == {"communityId": "nobody", "tiers": []}


def test_a_community_has_at_most_100_tiers(api: Api) -> None:
    tiers = [{"tier": f"t{n}", "rateBps": n, "maxDiscountMicro": str(MAX)} for n in range(101)]
    assert put_tiers(api, "guild", *tiers[:100])["tiers"] == tiers[:100] == api.get("/discounts/guild/tiers")["tiers"]
    with api.unchanged():
        problem_of(api.call("PUT", "/discounts/guild/tiers", {"tiers": tiers}), 400, "validation_error", "tiers")


def test_a_duplicate_tier_is_rejected_at_the_second(api: Api) -> None:
    put_tiers(api, "guild", GOLD)
    with api.unchanged():
        twice = {"tiers": [CAPPED, GOLD, {**CAPPED, "rateBps": 1}]}
        problem_of(api.call("PUT", "/discounts/guild/tiers", twice), 400, "validation_error", "tiers[2].tier")
    put_tiers(api, "guild", GOLD, {**GOLD, "tier": "Gold"}, {**GOLD, "tier": "gold "})


def test_unusual_names_are_returned_unchanged(api: Api, subtests: pytest.Subtests) -> None:
    for name in ODD:
        with subtests.test(name=name):
            tier = {"tier": name[:64], "rateBps": 10_000, "maxDiscountMicro": "3"}
            account = member(api, tier, 10, community=name)
            [found] = api.get(f"/accounts/{account}/memberships")["items"]
            assert found == {"accountId": account, "communityId": name, "tier": name[:64], "expiresAt": None}
            assert put_tiers(api, name, tier) == {"communityId": name, "tiers": [tier]}
            assert (quote(api, account, 5)["communityId"], quote(api, account, 5)["tier"]) == (name, name[:64])
            ok(api.finalize(api.reserve(account, 5), 5))
            for entry in api.get(f"/accounts/{account}/history")["items"][:2]:
                assert (entry["metadata"]["communityId"], entry["metadata"]["tier"]) == (name, name[:64])
            assert api.call("DELETE", path_of(account, name)).status_code == 204


INVALID_COMMUNITY_IDS = [b"x" * 201, b"a%00b", b"%ff", b"%ed%a0%80", b"%ef%bf%bd"]


def test_a_community_id_has_1_to_200_characters_of_utf_8_without_nul(api: Api, subtests: pytest.Subtests) -> None:
    for name in INVALID_COMMUNITY_IDS:
        with subtests.test(name=name):
            account = api.account()
            text = name.decode()
            # Bytes that are not UTF-8 are rejected before routing.
            where = "" if name in (b"%ff", b"%ed%a0%80") else "communityId"
            with api.unchanged():
                for method, path, body in (
                    ("PUT", f"/discounts/{text}/tiers", {"tiers": []}),
                    ("GET", f"/discounts/{text}/tiers", None),
                    ("PUT", f"/accounts/{account}/memberships/{text}", {"tier": "gold"}),
                    ("DELETE", f"/accounts/{account}/memberships/{text}", None),
                ):
                    problem_of(api.call(method, path, body), 400, "validation_error", where)


# --- memberships ---


def test_a_membership_is_created_changed_listed_and_deleted(moment: Moment, api: Api) -> None:
    account, other = api.account(), api.account()
    put_tiers(api, "guild", GOLD, CAPPED)
    put_tiers(api, "a club", FREE)
    path = f"/accounts/{account}/memberships"
    assert api.get(path) == {"items": [], "nextCursor": None}
    gold = {"accountId": account, "communityId": "guild", "tier": "gold", "expiresAt": None}
    assert join(api, account, "guild", "gold") == gold
    free = join(api, account, "a club", "free", expiresAt="2041-01-01T01:00:00+01:00")
    assert free["expiresAt"] == "2041-01-01T00:00:00.000000Z"
    join(api, other, "guild", "capped")
    assert api.get(path)["items"] == [gold, free]
    # A changed membership keeps its position in the list.
    capped = join(api, account, "guild", "capped", expiresAt=moment.text(10))
    assert capped == {**gold, "tier": "capped", "expiresAt": moment.text(10)}
    assert api.get(path)["items"] == [capped, free]
    assert join(api, account, "guild", "gold") == gold
    gone = api.call("DELETE", path_of(account, "guild"))
    assert (gone.status_code, gone.content) == (204, b"")
    assert not {"content-type", "content-length"} & gone.headers.keys()
    assert api.get(path)["items"] == [free]
    assert [m["tier"] for m in api.get(f"/accounts/{other}/memberships")["items"]] == ["capped"]


def test_a_404_names_the_missing_resource(api: Api) -> None:
    account = api.account()
    put_tiers(api, "guild", GOLD)
    join(api, account, "guild", "gold")
    with api.unchanged():
        for community, tier in (("guild", "Gold"), ("guild", "gold "), ("Guild", "gold"), ("nobody", "gold")):
            problem = problem_of(api.call("PUT", path_of(account, community), {"tier": tier}), 404, "tier_not_found")
            assert (problem["communityId"], problem["tier"]) == (community, tier)
        problem_of(api.call("PUT", path_of("acct_none", "guild"), {"tier": "gold"}), 404, "account_not_found")
        problem_of(api.call("PUT", path_of("acct_none", "nobody"), {"tier": "gold"}), 404, "account_not_found")
        problem_of(api.call("DELETE", path_of("acct_none", "guild")), 404, "account_not_found")
        problem_of(api.call("DELETE", path_of(account, "nobody")), 404, "not_found")
        for path in ("/accounts/acct_none/memberships", "/accounts/acct_none/quote?amountMicro=1"):
            problem_of(api.call("GET", path), 404, "account_not_found")


def test_an_account_has_at_most_1000_memberships(api: Api) -> None:
    account = api.account()
    put_tiers(api, "guild", GOLD)
    put_tiers(api, "last", GOLD)

    def fill(conn: Connection) -> None:
        now_us = api.book.clock.now_us()
        for number in range(1, 1_000):
            community = f"c{number}"
            body = TiersBody([TierBody("gold", number)])
            for outcome in (
                replace_tiers(conn, community_id=community, body=body, now_us=now_us),
                put_membership(conn, account_id=account, community_id=community, body=MembershipBody("gold"), now_us=now_us),
            ):
                log.append(conn, outcome, actor_id="operator", origin=NOWHERE, now_us=now_us)

    api.loop.run(api.book.writer.run(fill))
    join(api, account, "guild", "gold")
    with api.unchanged():
        problem_of(api.call("PUT", path_of(account, "last"), {"tier": "gold"}), 400, "validation_error", "communityId")
    # Existing memberships can still be changed; deleting one makes room.
    join(api, account, "guild", "gold", expiresAt=api.after(5))
    assert quote(api, account, 1_000)["discountMicro"] == "200"
    assert len(quote(api, account, 1_000)["considered"]) == 1_000
    assert api.call("DELETE", path_of(account, "guild")).status_code == 204
    join(api, account, "last", "gold")


def test_a_membership_can_be_created_with_an_end_in_the_past(api: Api) -> None:
    account = api.account()
    put_tiers(api, "guild", GOLD)
    join(api, account, "guild", "gold", expiresAt="2001-01-01T00:00:00Z")
    assert quote(api, account, 1_000)["discountBps"] == 0


def test_a_delete_supports_dry_runs_and_idempotency_keys(api: Api) -> None:
    account = member(api, GOLD)
    path = path_of(account, "guild")
    with api.unchanged():
        dry = api.call("DELETE", path, dryRun="true")
        assert (dry.status_code, dry.json()) == (200, {"dryRun": True})
        problem_of(api.call("DELETE", path, dryRun="1"), 400, "validation_error", "dryRun")
        problem_of(api.call("DELETE", path, {"x": 1}), 400, "validation_error", "x")
    assert api.call("DELETE", path, key="k-1").status_code == 204
    with api.unchanged():
        again = api.call("DELETE", path, key="k-1")
        assert (again.status_code, again.content, again.headers["idempotency-replayed"]) == (204, b"", "true")
        problem_of(api.call("DELETE", path), 404, "not_found")
        problem_of(api.call("DELETE", path, dryRun="true"), 404, "not_found")


def test_other_methods_are_rejected_with_the_allowed_ones(api: Api) -> None:
    response = api.call("PATCH", "/accounts/acct_1/memberships/guild", {})
    problem_of(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "DELETE, PUT"


def test_every_change_is_audited_with_the_state_before(api: Api) -> None:
    account = member(api, GOLD)
    put_tiers(api, "guild", CAPPED)
    join(api, account, "guild", "capped", expiresAt="2041-01-01T00:00:00Z")
    api.call("DELETE", path_of(account, "guild"))
    gold: Json = {"accountId": account, "communityId": "guild", "tier": "gold", "expiresAt": None}
    capped = {**gold, "tier": "capped", "expiresAt": "2041-01-01T00:00:00.000000Z"}
    shown_gold = {**GOLD, "maxDiscountMicro": None}
    for action, target, details in (
        ("tiers.replace", ("community", "guild"),
         [{"before": [], "after": [shown_gold]}, {"before": [shown_gold], "after": [CAPPED]}]),
        ("membership.put", ("account", account), [{"before": None, "after": gold}, {"before": gold, "after": capped}]),
        ("membership.delete", ("account", account), [{"before": capped}]),
    ):  # fmt: skip
        rows = api.audited(action)
        assert [row["details"] for row in rows] == details
        assert {(row["target_type"], row["target_id"], row["actor_id"]) for row in rows} == {(*target, "operator")}


def test_a_write_to_memberships_expires_overdue_items_first(moment: Moment, api: Api) -> None:
    account = api.account()
    put_tiers(api, "guild", GOLD)
    api.mint(account, 5, expiresAt=moment.text(5))
    moment.at(5)
    join(api, account, "guild", "gold")
    assert [entry["entryType"] for entry in api.get(f"/accounts/{account}/history")["items"]] == ["expire", "grant"]


# --- quotes ---


def test_a_quote_without_memberships_is_the_list_price(api: Api) -> None:
    account = api.account()
    for amount in (0, 1_000, MAX):
        assert quote(api, account, amount) == {
            "listMicro": str(amount), "discountBps": 0, "discountMicro": "0", "payableMicro": str(amount),
            "communityId": None, "tier": None, "considered": [],
        }  # fmt: skip


def test_a_quote_explains_each_membership(moment: Moment, api: Api) -> None:
    account = api.account()
    for community in ("a", "b", "c", "d", "e"):
        put_tiers(api, community, GOLD, CAPPED)
    for community, tier in (("e", "gold"), ("a", "capped"), ("c", "gold"), ("d", "capped")):
        join(api, account, community, tier)
    join(api, account, "b", "gold", expiresAt=moment.text(10))
    put_tiers(api, "d", GOLD)
    with api.unchanged():
        answer = quote(api, account, 1_000)
    assert {name: answer[name] for name in ("discountBps", "discountMicro", "payableMicro", "communityId", "tier")} == {
        "discountBps": 2_000, "discountMicro": "200", "payableMicro": "800", "communityId": "b", "tier": "gold",
    }  # fmt: skip
    assert answer["considered"][0] == {
        "communityId": "a", "tier": "capped", "rateBps": 5_000, "applied": False, "reason": "it gives 100, and b gives 200",
    }  # fmt: skip
    assert reasons(answer) == {
        "a": (False, "it gives 100, and b gives 200"),
        "b": (True, "it gives the most: 200"),
        "c": (False, "it gives 200 as b does, and the smaller community id goes first"),
        "d": (False, "the community no longer has the tier capped"),
        "e": (False, "it gives 200 as b does, and the smaller community id goes first"),
    }
    assert [each["rateBps"] for each in answer["considered"]] == [5_000, 2_000, 2_000, None, 2_000]
    moment.at(10, -1)
    assert quote(api, account, 1_000)["communityId"] == "b"
    moment.at(10)
    later = quote(api, account, 1_000)
    assert later["communityId"] == "c"
    assert reasons(later)["b"] == (False, f"it expired at {moment.text(10)}")
    # For a smaller amount another membership is the best.
    assert quote(api, account, 100)["communityId"] == "a"


def test_a_membership_of_a_removed_tier_has_no_discount_until_it_returns(api: Api) -> None:
    account = member(api, GOLD, 1_000)
    put_tiers(api, "guild", FREE)
    assert [m["tier"] for m in api.get(f"/accounts/{account}/memberships")["items"]] == ["gold"]
    assert quote(api, account, 1_000)["payableMicro"] == "1000"
    assert ok(api.ask_to_reserve(account, 100))["totalReservedMicro"] == "100"
    with api.unchanged():
        problem_of(api.call("PUT", path_of(account, "guild"), {"tier": "gold"}), 404, "tier_not_found")
    put_tiers(api, "guild", {"tier": "gold", "rateBps": 100})
    assert quote(api, account, 1_000)["payableMicro"] == "990"


INVALID_AMOUNTS = ["", "-5", "1.5", "01", "x", " 1", str(MAX + 1)]


def test_a_quote_requires_an_amount(api: Api, subtests: pytest.Subtests) -> None:
    for amount in INVALID_AMOUNTS:
        with subtests.test(amount=amount):
            path = f"/accounts/{api.account()}/quote"
            problem_of(api.call("GET", path, amountMicro=amount), 400, "validation_error", "amountMicro")
            problem_of(api.call("GET", path), 400, "validation_error", "amountMicro")
            problem_of(api.call("GET", path, amountMicro="1", poolId="gpu"), 400, "validation_error", "poolId")
