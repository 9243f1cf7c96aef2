"""Lists: pages, cursors, order and filters."""

import string
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import quote

import pytest

from minibill.core.clock import format_time, parse_time
from minibill.db.queries import queries
from minibill.db.sqlite import Connection
from tests.api_client import SECRETS, Api, Json, ok, problem_of
from tests.fake_clocks import set_time


class List(NamedTuple):
    """A list with items: its path, their ids in order, and filters that match all or some of them."""

    path: str
    ids: list[str]
    id_member: str
    # Each matches all items, or more than one and not all.
    filters: dict[str, str]
    # The same parameters with other values.
    others: dict[str, str]

    def ids_of(self, page: Json) -> list[str]:
        return [item[self.id_member] for item in page["items"]]


def _accounts(api: Api) -> List:
    people = [ok(api.post("/accounts", {"entityType": "person", "entityId": f"p{n}"}))["id"] for n in range(7)]
    ok(api.post("/accounts", {"entityType": "mod", "entityId": "m"}))
    return List("/accounts?entityType=person", people, "id", {"entityType": "person"}, {"entityType": "mod"})


def _lots(api: Api) -> List:
    account = api.account()
    lots = [api.mint(account, n + 1)["lotId"] for n in range(7)]
    api.mint(account, 50, expiresAt=api.after(1))
    api.pass_time(5)
    return List(f"/accounts/{account}/lots?state=live", lots, "id", {"state": "live"}, {"state": "expired"})


def _history(api: Api) -> List:
    account = api.account(1, 2, 3, 4, 5, 6, 7)
    api.mint(account, 9, poolId="gpu")
    newest = [entry["id"] for entry in api.get(f"/accounts/{account}/history")["items"][1:]]
    filters = {"poolId": "general", "entryType": "grant", "from": "2020-01-01T00:00:00Z", "to": "2120-01-01T01:00:00+01:00"}
    others = {"poolId": "gpu", "entryType": "expire", "from": "2020-01-01T00:00:01Z", "to": "2121-01-01T00:00:00Z"}
    return List(f"/accounts/{account}/history?poolId=general", newest, "id", filters, others)


def _campaigns(api: Api) -> List:
    api.draft(campaignType="loyalty")
    drafts = [api.draft() for _ in range(7)]
    api.campaign()
    filters = {"status": "draft", "campaignType": "reverse_airdrop"}
    others = {"status": "active", "campaignType": "loyalty"}
    return List("/campaigns?status=draft&campaignType=reverse_airdrop", drafts[::-1], "id", filters, others)


def _grants(api: Api) -> List:
    campaign = api.campaign()
    items = [{"entity": {"entityType": "person", "entityId": f"p{n}"}, "amountMicro": "5"} for n in range(7)]
    paid = ok(api.batch(campaign, *items))["grants"]
    path = f"/campaigns/{campaign}/grants?status=granted"
    return List(path, [grant["grantId"] for grant in paid], "grantId", {"status": "granted"}, {"status": "revoked"})


def _audit(api: Api) -> List:
    account = api.account(1, 2, 3, 4, 5, 6, 7)
    newest = [row["id"] for row in api.get("/audit")["items"][:-1]]
    api.draft()
    filters = {
        "actorId": "operator", "action": "account.mint", "targetType": "account", "targetId": account,
        "from": "2020-01-01T00:00:00Z", "to": "2120-01-01T01:00:00+01:00",
    }  # fmt: skip
    others = {
        "actorId": "nobody", "action": "account.open", "targetType": "campaign", "targetId": "camp_0",
        "from": "2020-01-01T00:00:01Z", "to": "2121-01-01T00:00:00Z",
    }  # fmt: skip
    return List("/audit?action=account.mint", newest, "id", filters, others)


def _memberships(api: Api) -> List:
    account = api.account()
    # The order is not that of their names.
    communities = [f"guild-{(n * 3) % 7}" for n in range(7)]
    for community in communities:
        ok(api.call("PUT", f"/discounts/{community}/tiers", {"tiers": [{"tier": "gold", "rateBps": 5}]}))
        ok(api.call("PUT", f"/accounts/{account}/memberships/{community}", {"tier": "gold"}))
    return List(f"/accounts/{account}/memberships", communities, "communityId", {}, {})


def _webhooks(api: Api) -> List:
    made = [ok(api.post("/webhooks", {"url": "https://192.88.98.1/hook"}))["id"] for _ in range(7)]
    return List("/webhooks", made, "id", {}, {})


def _deliveries(api: Api) -> List:
    webhook = ok(api.post("/webhooks", {"url": "https://192.88.98.1/hook"}))["id"]

    def write(conn: Connection) -> None:
        rows = [(1, n, 0, 1, "failed", 500, "answered 500", 5, n) for n in range(7)]
        queries("webhooks").insert_attempts.many(conn, rows)

    api.loop.run(api.book.writer.run(write))
    newest = [f"attempt_000000000000{n}" for n in range(7, 0, -1)]
    return List(f"/webhooks/{webhook}/deliveries", newest, "id", {}, {})


LISTS: dict[str, Callable[[Api], List]] = {
    "accounts": _accounts,
    "lots": _lots,
    "history": _history,
    "campaigns": _campaigns,
    "grants": _grants,
    "audit": _audit,
    "memberships": _memberships,
    "webhooks": _webhooks,
    "deliveries": _deliveries,
}
# Filters for which every value is valid; some match nothing.
ANY_TEXT = {"actorId", "action", "targetType", "targetId"}
every_list = pytest.mark.parametrize("name", LISTS)


def bare(path: str) -> str:
    return path.partition("?")[0]


def more(path: str, **query: object) -> str:
    """Return the path with further parameters."""
    sign = "&" if "?" in path else "?"
    return path + "".join(f"{sign if n == 0 else '&'}{k}={quote(str(v))}" for n, (k, v) in enumerate(query.items()))


# --- pages ---


@every_list
def test_pages_of_any_size_add_up_to_the_list(api: Api, name: str) -> None:
    made = LISTS[name](api)
    for limit in range(1, 9):
        pages = [api.get(more(made.path, limit=limit))]
        while (cursor := pages[-1]["nextCursor"]) is not None:
            assert len(pages[-1]["items"]) == limit
            pages.append(api.get(more(bare(made.path), limit=limit, cursor=cursor)))
        assert [each for page in pages for each in made.ids_of(page)] == made.ids
        assert len(pages) == -(-len(made.ids) // limit)


@every_list
def test_the_limit_may_change_between_pages(api: Api, name: str) -> None:
    made = LISTS[name](api)
    cursor = api.get(more(made.path, limit=2))["nextCursor"]
    middle = api.get(more(bare(made.path), cursor=cursor, limit=3))
    assert made.ids_of(middle) == made.ids[2:5]
    assert made.ids_of(api.get(more(bare(made.path), cursor=middle["nextCursor"]))) == made.ids[5:]


def test_a_page_has_50_items_by_default_and_at_most_100(api: Api) -> None:
    campaign = api.campaign()
    items = [{"entity": {"entityType": "person", "entityId": str(n)}, "amountMicro": "1"} for n in range(101)]
    ok(api.batch(campaign, *items))
    for path in ("/accounts", f"/campaigns/{campaign}/grants"):
        assert len(api.get(path)["items"]) == 50
        first = api.get(path, limit=100)
        assert len(first["items"]) == 100
        rest = api.get(path, limit=100, cursor=first["nextCursor"])
        assert (len(rest["items"]), rest["nextCursor"]) == (1, None)


def test_an_empty_list_is_one_page(api: Api) -> None:
    account, campaign = api.account(), api.draft()
    of_account = [f"/accounts/{account}/{what}" for what in ("lots", "history", "memberships")]
    for path in ("/accounts?entityType=mod", *of_account, "/campaigns?status=completed", f"/campaigns/{campaign}/grants"):
        assert api.get(path) == {"items": [], "nextCursor": None}


@every_list
def test_a_write_between_pages_repeats_and_hides_no_item(api: Api, name: str) -> None:
    made = LISTS[name](api)
    page = api.get(more(made.path, limit=3))
    match name:
        case "accounts":
            ok(api.post("/accounts", {"entityType": "person", "entityId": "late"}))
        case "lots" | "history":
            api.mint(made.path.split("/")[2], 5)
        case "audit":
            api.mint(api.account(), 5)
        case "campaigns":
            api.draft()
        case "webhooks" | "deliveries":
            ok(api.post("/webhooks", {"url": "https://192.88.98.1/hook"}))
        case "memberships":
            ok(api.call("PUT", "/discounts/late/tiers", {"tiers": [{"tier": "gold", "rateBps": 5}]}))
            ok(api.call("PUT", made.path + "/late", {"tier": "gold"}))
        case _:
            ok(api.batch(made.path.split("/")[2], (api.account(), 5)))
    rest = made.ids_of(api.get(more(bare(made.path), cursor=page["nextCursor"])))
    seen = made.ids_of(page) + rest
    assert [each for each in seen if each in made.ids] == made.ids
    assert len(set(seen)) == len(seen)


# --- parameters ---


@every_list
def test_a_limit_is_an_integer_from_1_to_100(api: Api, name: str) -> None:
    path = LISTS[name](api).path
    wrong = [
        "0",
        "101",
        "-1",
        "+5",
        "",
        " 5",
        "5 ",
        "05",
        "5.0",
        "1e1",
        "abc",
        "0x5",
        "\u0665",
        "²",
        "null",
        str(2**63),
        "9" * 5_000,
    ]
    for limit in wrong:
        problem_of(api.call("GET", more(path, limit=limit)), 400, "validation_error", "limit")
    for limit in ("1", "9", "10", "99", "100"):
        ok(api.call("GET", more(path, limit=limit)))


@every_list
def test_an_unknown_or_repeated_parameter_is_rejected_by_name(api: Api, name: str) -> None:
    path = LISTS[name](api).path
    for unknown in ("offset", "Limit", "dryRun", "page", "x", "entity_type", "ä"):
        problem_of(api.call("GET", more(path, **{unknown: "1"})), 400, "validation_error", unknown)
    problem_of(api.call("GET", more(path, limit=5) + "&limit=5"), 400, "validation_error", "limit")
    # An empty name is unknown on every list.
    problem_of(api.call("GET", more(path, limit=5) + "&=5"), 400, "validation_error", "")


@pytest.mark.parametrize(
    ("path", "parameter", "values"),
    [
        ("/accounts", "entityType", ["", "Person", "nobody", "person ", "person,mod"]),
        ("/accounts/{account}/lots", "state", ["", "Live", "dead", "pending"]),
        ("/accounts/{account}/history", "entryType", ["", "Grant", "mint", "grant,expire"]),
        ("/accounts/{account}/history", "poolId", ["", "General", "a b", "a" * 65, "a\0"]),
        ("/accounts/{account}/history", "from", ["", "now", "2030-01-01", "2030-01-01T00:00:00", "1893456000"]),
        ("/accounts/{account}/history", "to", ["", "now", "2030-01-01", "2030-01-01T00:00:00", "2030-02-30T00:00:00Z"]),
        ("/accounts/{account}/balance", "poolId", ["", "General", "a" * 65]),
        ("/accounts/{account}/balance", "at", ["", "now", "2020-01-01", "2020-01-01T00:00:00"]),
        ("/campaigns", "status", ["", "Draft", "ended", "draft,active"]),
        ("/campaigns", "campaignType", ["", "Loyalty", "gift"]),
        ("/campaigns/{campaign}/grants", "status", ["", "paid", "failed", "skipped"]),
        ("/campaigns/{campaign}/grants", "accountId", ["", "x" * 65]),
        ("/audit", "from", ["", "now", "2030-01-01"]),
        ("/audit", "to", ["", "now", "2030-01-01T00:00:00"]),
    ],
)
def test_an_unknown_value_of_a_filter_is_rejected(api: Api, path: str, parameter: str, values: list[str]) -> None:
    path = path.format(account=api.account(), campaign=api.draft())
    for value in values:
        problem_of(api.call("GET", more(path, **{parameter: value})), 400, "validation_error", parameter)


@pytest.mark.parametrize("path", ["/accounts/{account}", "/campaigns/{campaign}", "/campaigns/{campaign}/stats", "/clock"])
def test_a_read_without_parameters_rejects_any(api: Api, path: str) -> None:
    path = path.format(account=api.account(), campaign=api.draft())
    problem_of(api.call("GET", path, limit=5), 400, "validation_error", "limit")
    problem_of(api.call("GET", path, dryRun="true"), 400, "validation_error", "dryRun")


@pytest.mark.parametrize("query", [b"limit=%ff", b"limit=\xff", b"entityType=%ED%A0%80", b"%c3%28=1", "é=1".encode()])
def test_a_query_that_is_not_url_encoded_utf_8_is_rejected(api: Api, query: bytes) -> None:
    response = api.ask("GET", "/admin/billing/accounts", query=query)
    assert problem_of(response, 400, "validation_error")["errors"]


def test_a_query_of_very_many_parameters_is_rejected(api: Api) -> None:
    response = api.ask("GET", "/admin/billing/accounts", query=b"&".join(b"p%d=1" % n for n in range(5_000)))
    problem_of(response, 400, "validation_error")


def test_a_filter_without_matches_returns_an_empty_page(api: Api) -> None:
    api.account()
    campaign = api.campaign()
    assert api.get("/accounts", entityId="nobody")["items"] == []
    for parameter in ("actorId", "targetId"):
        for value in ("", "nobody", "x" * 500, "a\0b"):
            assert api.get(more("/audit", **{parameter: value}))["items"] == []
    for account in ("acct_0", "camp_0000000000001", "x", "a\0b"):
        assert api.get(more(f"/campaigns/{campaign}/grants", accountId=account))["items"] == []


# --- cursors ---


@every_list
def test_a_cursor_carries_its_filters(api: Api, name: str) -> None:
    made = LISTS[name](api)
    page = api.get(more(bare(made.path), limit=2, **made.filters))
    rest = api.get(more(bare(made.path), cursor=page["nextCursor"]))
    assert made.ids_of(page) + made.ids_of(rest) == made.ids


@every_list
def test_a_filter_may_be_repeated_unchanged_with_a_cursor(api: Api, name: str) -> None:
    made = LISTS[name](api)
    cursor = api.get(more(bare(made.path), limit=2, **made.filters))["nextCursor"]
    for parameter, value in made.filters.items():
        assert made.ids_of(api.get(more(bare(made.path), cursor=cursor, **{parameter: value}))) == made.ids[2:]
    assert made.ids_of(api.get(more(bare(made.path), cursor=cursor, **made.filters))) == made.ids[2:]


@every_list
def test_another_filter_with_a_cursor_is_rejected(api: Api, name: str) -> None:
    made = LISTS[name](api)
    cursor = api.get(more(bare(made.path), limit=2, **made.filters))["nextCursor"]
    without = api.get(more(bare(made.path), limit=2))["nextCursor"]
    for parameter, other in made.others.items():
        for each in (cursor, without):
            problem_of(api.call("GET", more(bare(made.path), cursor=each, **{parameter: other})), 400, "invalid_cursor")
        # An additional filter makes it another list.
        again = more(bare(made.path), cursor=without, **{parameter: made.filters[parameter]})
        problem_of(api.call("GET", again), 400, "invalid_cursor")
        if parameter not in ANY_TEXT:
            wrong = more(bare(made.path), cursor=cursor, **{parameter: "!"})
            problem_of(api.call("GET", wrong), 400, "validation_error", parameter)


@every_list
def test_a_forged_or_truncated_cursor_is_rejected(api: Api, name: str) -> None:
    made = LISTS[name](api)
    good = api.get(more(made.path, limit=2))["nextCursor"]
    forged = [
        "", "x", "null", "=", "\0", "é", good + "=", good + "==", good + "A", good + " ", " " + good, good + "\n",
        "A" + good, good * 2, good.swapcase(), good[::-1], "A" * len(good), "A" * 60_000, good[:22], good[22:],
    ]  # fmt: skip
    for cursor in forged:
        problem_of(api.call("GET", more(bare(made.path), cursor=cursor)), 400, "invalid_cursor")


def test_a_cursor_with_any_changed_character_is_rejected(api: Api) -> None:
    made = _history(api)
    good = api.get(more(made.path, limit=2))["nextCursor"]
    for place in range(len(good)):
        other = "B" if good[place] == "A" else "A"
        changed = good[:place] + other + good[place + 1 :]
        problem_of(api.call("GET", more(bare(made.path), cursor=changed)), 400, "invalid_cursor")


def test_a_cursor_truncated_anywhere_is_rejected(api: Api) -> None:
    made = _history(api)
    good = api.get(more(made.path, limit=2))["nextCursor"]
    for end in range(len(good)):
        problem_of(api.call("GET", more(bare(made.path), cursor=good[:end])), 400, "invalid_cursor")


@pytest.mark.parametrize("pool", ["p", "pp", "ppp"])
def test_the_last_character_of_a_cursor_has_one_form(api: Api, pool: str) -> None:
    # Base64 may leave bits of its last character unused.
    account = api.account(1, 2, 3, poolId=pool)
    path = f"/accounts/{account}/history"
    good = api.get(path, limit=1, poolId=pool)["nextCursor"]
    ok(api.call("GET", path, cursor=good))
    for other in set(string.ascii_letters + string.digits + "-_") - {good[-1]}:
        problem_of(api.call("GET", path, cursor=good[:-1] + other), 400, "invalid_cursor")


@every_list
def test_a_cursor_of_another_list_is_rejected(api: Api, name: str) -> None:
    made = LISTS[name](api)
    cursor = api.get(more(bare(made.path), limit=1))["nextCursor"]
    assert cursor is not None
    account, campaign = api.account(1, 2, 3), api.draft()
    of_account = {f"/accounts/{account}/lots", f"/accounts/{account}/history"}
    others = {"/accounts", "/campaigns", "/audit", f"/campaigns/{campaign}/grants"} | of_account
    for other in others - {bare(made.path)}:
        problem_of(api.call("GET", more(other, cursor=cursor)), 400, "invalid_cursor")


def test_a_cursor_survives_a_restart_and_a_secret_rotation(start: Callable[..., Api]) -> None:
    api = start()
    made = _accounts(api)
    cursor = api.get(more(made.path, limit=2))["nextCursor"]
    api = start()
    assert made.ids_of(api.get(more(bare(made.path), cursor=cursor))) == made.ids[2:]
    rotated = {"BILLING_ADMIN_JWT_SECRET": "new " * 8, "BILLING_ADMIN_JWT_SECRET_PREV": SECRETS["BILLING_ADMIN_JWT_SECRET"]}
    api = start(**rotated)
    assert made.ids_of(api.get(more(bare(made.path), cursor=cursor))) == made.ids[2:]
    api = start(BILLING_ADMIN_JWT_SECRET="new " * 8)
    problem_of(api.call("GET", more(bare(made.path), cursor=cursor)), 400, "invalid_cursor")


@every_list
def test_a_repeated_cursor_is_rejected(api: Api, name: str) -> None:
    made = LISTS[name](api)
    cursor = api.get(more(made.path, limit=2))["nextCursor"]
    twice = more(bare(made.path), cursor=cursor) + f"&cursor={cursor}"
    problem_of(api.call("GET", twice), 400, "validation_error", "cursor")


# --- order, filters, time ---


def test_accounts_are_found_by_their_entity(api: Api) -> None:
    person = ok(api.post("/accounts", {"entityType": "person", "entityId": "ada"}))
    agent = ok(api.post("/accounts", {"entityType": "agent", "entityId": "ada"}))
    api.account()
    assert api.get("/accounts", entityId="ada")["items"] == [person, agent]
    assert api.get("/accounts", entityId="ada", entityType="agent")["items"] == [agent]
    assert api.get("/accounts", entityId="ADA")["items"] == []
    first = api.get("/accounts", entityId="ada", limit=1)
    assert first["items"] + api.get("/accounts", cursor=first["nextCursor"])["items"] == [person, agent]


def test_history_is_newest_first_and_lots_oldest_first(api: Api) -> None:
    account = api.account()
    for amount in (1, 2, 3):
        api.mint(account, amount)
        api.pass_time(1)
    assert [lot["originalMicro"] for lot in api.get(f"/accounts/{account}/lots")["items"]] == ["1", "2", "3"]
    history = api.get(f"/accounts/{account}/history")["items"]
    assert [entry["entrySeq"] for entry in history] == [3, 2, 1]
    assert history == sorted(history, key=lambda entry: entry["createdAt"], reverse=True)


def test_history_from_is_inclusive_and_to_exclusive(api: Api) -> None:
    account = api.account()
    for amount in (1, 2, 3):
        api.mint(account, amount)
        api.pass_time(1)
    path = f"/accounts/{account}/history"
    three, two, one = (entry["createdAt"] for entry in api.get(path)["items"])

    def amounts(**query: str) -> list[int]:
        return [int(entry["amountMicro"]) for entry in api.get(path, **query)["items"]]

    def later(time: str) -> str:
        return format_time(parse_time(time) + 1)

    assert amounts(**{"from": two}) == [3, 2]
    assert amounts(**{"from": later(two)}) == [3]
    assert amounts(to=two) == [1]
    assert amounts(to=later(two)) == [2, 1]
    assert amounts(**{"from": one, "to": three}) == [2, 1]
    assert amounts(**{"from": two, "to": two}) == []
    assert amounts(**{"from": three, "to": one}) == []
    assert amounts(**{"from": two.replace("Z", "+00:00"), "to": later(three)}) == [3, 2]
    page = api.get(path, **{"from": one, "to": three, "limit": "1"})
    assert [e["amountMicro"] for e in page["items"] + api.get(path, cursor=page["nextCursor"])["items"]] == ["2", "1"]


def test_history_can_be_paged_within_one_time(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    set_time(monkeypatch, lambda: 0)
    account = api.account(1, 2, 3, 4, 5)
    path = f"/accounts/{account}/history"
    entries = api.get(path)["items"]
    assert len({entry["createdAt"] for entry in entries}) == 1
    seen, cursor = [], None
    while True:
        page = api.get(path, limit=2, **({} if cursor is None else {"cursor": cursor}))
        seen += page["items"]
        if (cursor := page["nextCursor"]) is None:
            break
    assert seen == entries
    assert [entry["entrySeq"] for entry in seen] == [5, 4, 3, 2, 1]


def test_history_is_filtered_by_pool_and_type(api: Api) -> None:
    account = api.account()
    api.mint(account, 1, sourceType="deposit")
    api.mint(account, 2, poolId="gpu")
    api.mint(account, 3, poolId="gpu", expiresAt=api.after(1))
    api.pass_time(2)
    api.mint(account, 4)
    path = f"/accounts/{account}/history"

    def seen(**query: str) -> list[tuple[str, str]]:
        return [(entry["entryType"], entry["amountMicro"]) for entry in api.get(path, **query)["items"]]

    assert seen(poolId="gpu") == [("expire", "-3"), ("grant", "3"), ("grant", "2")]
    assert seen(entryType="grant") == [("grant", "4"), ("grant", "3"), ("grant", "2")]
    assert seen(entryType="deposit") == [("deposit", "1")]
    assert seen(entryType="expire", poolId="general") == []
    assert seen(poolId="none-such") == []


STATUSES = ("draft", "active", "paused", "completed", "expired")


def test_a_campaign_is_listed_as_expired_before_any_sweep(api: Api) -> None:
    soon: Json = {"expiresAt": api.after(60)}
    draft, active, paused, completed = api.draft(**soon), api.campaign(**soon), api.campaign(**soon), api.campaign(**soon)
    ok(api.post(f"/campaigns/{paused}/pause"))
    ok(api.post(f"/campaigns/{completed}/complete"))
    lasting = api.campaign()

    def listed() -> dict[str, list[str]]:
        return {status: [c["id"] for c in api.get("/campaigns", status=status)["items"]] for status in STATUSES}

    before = {"draft": [draft], "active": [lasting, active], "paused": [paused], "completed": [completed], "expired": []}
    assert listed() == before
    with api.unchanged():
        api.pass_time(60)
        over = {"draft": [], "active": [lasting], "paused": [], "completed": [completed], "expired": [paused, active, draft]}
        assert listed() == over
        assert {c["id"]: c["status"] for c in api.get("/campaigns")["items"]} == {
            lasting: "active", completed: "completed", paused: "expired", active: "expired", draft: "expired",
        }  # fmt: skip
        # The same page by page.
        page = api.get("/campaigns", status="expired", limit=1)
        rest = api.get("/campaigns", cursor=page["nextCursor"])
        assert [c["id"] for c in page["items"] + rest["items"]] == over["expired"]
    api.advance(0)
    assert listed() == over


def test_campaigns_are_filtered_by_type_and_status_together(api: Api) -> None:
    for kind in ("loyalty", "referral"):
        api.draft(campaignType=kind)
        api.campaign(campaignType=kind)
    [found] = api.get("/campaigns", campaignType="referral", status="active")["items"]
    assert (found["campaignType"], found["status"]) == ("referral", "active")
    assert len(api.get("/campaigns", campaignType="loyalty")["items"]) == 2


def test_grants_are_listed_in_order_of_payment_and_by_account(api: Api) -> None:
    campaign, other = api.campaign(), api.campaign()
    accounts = [api.account() for _ in range(3)]
    ok(api.batch(campaign, (accounts[2], 1), (accounts[0], 2)))
    ok(api.batch(other, (accounts[1], 9)))
    ok(api.batch(campaign, (accounts[1], 3)))
    path = f"/campaigns/{campaign}/grants"
    assert [(g["accountId"], g["amountMicro"]) for g in api.get(path)["items"]] == [
        (accounts[2], "1"), (accounts[0], "2"), (accounts[1], "3"),
    ]  # fmt: skip
    assert [g["amountMicro"] for g in api.get(path, accountId=accounts[1])["items"]] == ["3"]
    assert [g["amountMicro"] for g in api.get(path, accountId=accounts[1], status="granted")["items"]] == ["3"]
    assert api.get(path, accountId=accounts[1], status="revoked")["items"] == []
    assert api.get(path, status="revoked")["items"] == []
