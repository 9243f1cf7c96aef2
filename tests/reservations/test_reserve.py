"""Reserving over HTTP: the amount, the order of the lots, and errors."""

from collections.abc import Callable

import pytest

from tests.api_client import Api, Json, ok, problem_of
from tests.reservations.conftest import Moment
from tests.reservations.helpers import Entry, all_reads, allocations, balance, entries, history, lots

MAX = 2**63 - 1

# Lots in the order of their mints (pool, priority, seconds to live or None, amount), the pool to spend from, and the indexes
# of the lots in drawdown order.
ORDERS: dict[str, tuple[list[tuple[str, int, int | None, int]], str, list[int]]] = {
    "the pool before general": ([("general", 50, None, 1), ("gpu", 50, None, 1)], "gpu", [1, 0]),
    "the pool before general, whatever the priority": ([("general", 0, 5, 1), ("gpu", 100, None, 1)], "gpu", [1, 0]),
    "general never touches another pool": ([("gpu", 0, None, 1), ("general", 50, None, 1)], "general", [1]),
    "no pool touches a third": ([("cpu", 0, None, 1), ("general", 50, None, 1), ("gpu", 50, None, 1)], "gpu", [2, 1]),
    "the lower priority first": (
        [("gpu", 100, None, 1), ("gpu", 0, None, 1), ("gpu", 50, None, 1), ("gpu", 7, None, 1)], "gpu", [1, 3, 2, 0],
    ),
    "priority before expiry": ([("gpu", 50, 5, 1), ("gpu", 49, None, 1)], "gpu", [1, 0]),
    "the soonest to expire first": ([("gpu", 50, 30, 1), ("gpu", 50, 10, 1), ("gpu", 50, 20, 1)], "gpu", [1, 2, 0]),
    "what never expires last": ([("gpu", 50, None, 1), ("gpu", 50, 10**8, 1)], "gpu", [1, 0]),
    "the oldest first": ([("gpu", 50, 9, 1), ("gpu", 50, 9, 1), ("gpu", 50, 9, 1)], "gpu", [0, 1, 2]),
    "the oldest first of those that never expire": ([("gpu", 50, None, 1), ("gpu", 50, None, 1)], "gpu", [0, 1]),
    "all of it at once": (
        [("general", 50, None, 1), ("general", 50, 20, 1), ("general", 1, None, 1), ("gpu", 50, None, 1), ("gpu", 50, 30, 1),
         ("gpu", 60, 1, 1), ("gpu", 50, 30, 1), ("general", 50, 10, 1)],
        "gpu", [4, 6, 3, 5, 2, 7, 1, 0],
    ),
}  # fmt: skip


def minted(api: Api, account: str, given: list[tuple[str, int, int | None, int]]) -> list[str]:
    return [
        api.mint(account, amount, poolId=pool, priority=priority, expiresAt=None if lives is None else api.after(lives))[
            "lotId"
        ]
        for pool, priority, lives, amount in given
    ]


@pytest.mark.parametrize("name", ORDERS)
def test_credits_are_drawn_in_the_documented_order(moment: Moment, api: Api, name: str) -> None:
    given, pool, order = ORDERS[name]
    account = api.account()
    ids = minted(api, account, given)
    held = ok(api.ask_to_reserve(account, len(order), poolId=pool), 201)
    assert allocations(held) == [(ids[place], 1) for place in order]
    # Single reservations draw in the same order.
    ok(api.release(held["reservationId"]))
    singly = [allocations(ok(api.ask_to_reserve(account, 1, poolId=pool)))[0][0] for _ in order]
    assert singly == [ids[place] for place in order]
    # No further lot is available.
    with api.unchanged():
        problem_of(api.ask_to_reserve(account, 1, poolId=pool), 402, "insufficient_balance")


def test_a_reservation_takes_a_part_of_the_last_lot_only(api: Api) -> None:
    account = api.account(5, 7, 9)
    first, second, third = lots(api, account)
    held = ok(api.ask_to_reserve(account, 8))
    assert allocations(held) == [(first, 5), (second, 3)]
    assert lots(api, account) == {first: {"reserved": 5}, second: {"available": 4, "reserved": 3}, third: {"available": 9}}
    assert allocations(ok(api.ask_to_reserve(account, 5))) == [(second, 4), (third, 1)]


def test_the_response_of_a_reserve(moment: Moment, api: Api) -> None:
    account = api.account(10)
    [lot] = lots(api, account)
    held = ok(api.ask_to_reserve(account, 4), 201)
    assert held.pop("reservationId").startswith("res_")
    assert held == {
        "accountId": account, "poolId": "general", "listMicro": "4", "discountBps": 0, "discountMicro": "0",
        "totalReservedMicro": "4", "status": "pending", "billingMode": "live", "expiresAt": moment.text(300),
        "lotAllocations": [{"lotId": lot, "reservedMicro": "4"}],
    }  # fmt: skip
    assert balance(api, account) == (6, 4, 0)


def test_admins_and_services_read_the_same_reservation(moment: Moment, api: Api) -> None:
    account = api.account(10)
    held = ok(api.ask_to_reserve(account, 4))
    path = f"/reservations/{held['reservationId']}"
    not_yet = dict.fromkeys(["finalizedMicro", "releasedMicro", "overrunMicro", "absorbedMicro", "finalizedAt"])
    made = {"createdAt": moment.text(0), "createdBy": "service:loa"}
    assert api.get(path) == held | not_yet | made | {"closedBy": None}
    assert ok(api.internal("GET", path)) == api.get(path)
    moment.at(5)
    ended = ok(api.finalize(held["reservationId"], 3))
    assert api.get(path) == held | ended | made | {"status": "finalized", "closedBy": "service:loa"}
    for kind in (api.call, api.internal):
        for unknown in ("res_none", account, "0", "res_" + "z" * 90):
            problem_of(kind("GET", f"/reservations/{unknown}"), 404, "reservation_not_found")


def test_entries_name_the_lot_and_the_reservation(api: Api) -> None:
    account = api.account(5, 7)
    first, second = lots(api, account)
    held = api.reserve(account, 8, description="a chat", metadata={"model": "x", "n": [1]})
    assert entries(api, account, 2) == [Entry("reserve", -5, -5, 5, first, held), Entry("reserve", -3, -3, 3, second, held)]
    assert [(e["description"], e["metadata"]) for e in history(api, account)[2:]] == [
        ("a chat", {"model": "x", "n": [1]})
    ] * 2


def test_a_service_names_the_account_by_id_or_entity(api: Api) -> None:
    entity = {"entityType": "agent", "entityId": "bot 7"}
    account = ok(api.post("/accounts", entity))["id"]
    api.mint(account, 10)
    held = ok(api.internal("POST", "/reservations", {"entity": entity, "amountMicro": "4"}), 201)
    assert (held["accountId"], balance(api, account)) == (account, (6, 4, 0))
    with api.unchanged():
        for body in ({"entity": entity, "accountId": account}, {}, {"entity": None, "accountId": None}):
            problem_of(
                api.internal("POST", "/reservations", {**body, "amountMicro": "4"}), 400, "validation_error", "accountId"
            )


def test_a_reservation_opens_no_account(api: Api) -> None:
    entity = {"entityType": "agent", "entityId": "nobody"}
    with api.unchanged():
        for mode in ("live", "soft", "shadow"):
            for body in ({"entity": entity}, {"accountId": "acct_none"}, {"accountId": "res_none"}):
                sent = {**body, "amountMicro": "0", "billingMode": mode}
                problem_of(api.internal("POST", "/reservations", sent), 404, "account_not_found")
        problem_of(api.post("/accounts/acct_none/reservations", {"amountMicro": "0"}), 404, "account_not_found")


@pytest.mark.parametrize("mode", ["live", "soft"])
def test_a_reservation_of_zero_holds_nothing(api: Api, mode: str) -> None:
    account = api.account(5)
    before = entries(api, account)
    for owner in (account, api.account()):
        held = ok(api.ask_to_reserve(owner, 0, billingMode=mode), 201)
        assert (held["totalReservedMicro"], held["lotAllocations"], held["status"]) == ("0", [], "pending")
        ended = ok(api.finalize(held["reservationId"], 0))
        assert (ended["finalizedMicro"], ended["releasedMicro"]) == ("0", "0")
    assert entries(api, account) == before
    other = api.reserve(account, 0)
    assert ok(api.release(other))["releasedMicro"] == "0"


# --- errors ---


def test_without_enough_credits_the_error_shows_the_available_ones(api: Api) -> None:
    account = api.account(5)
    api.mint(account, 3, poolId="gpu")
    api.mint(account, 100, poolId="cpu")
    with api.unchanged():
        problem = problem_of(api.ask_to_reserve(account, 9, poolId="gpu"), 402, "insufficient_balance")
    facts = {name: problem[name] for name in ("availableMicro", "requestedMicro", "listMicro", "poolId")}
    assert facts == {"availableMicro": "8", "requestedMicro": "9", "listMicro": "9", "poolId": "gpu"}
    with api.unchanged():
        problem = problem_of(api.ask_to_reserve(account, 6), 402, "insufficient_balance")
    assert (problem["availableMicro"], problem["poolId"]) == ("5", "general")
    ok(api.ask_to_reserve(account, 8, poolId="gpu"), 201)
    with api.unchanged():
        problem = problem_of(api.ask_to_reserve(account, 1, poolId="gpu"), 402, "insufficient_balance")
    assert problem["availableMicro"] == "0"


def test_expired_credits_are_not_reserved_before_a_sweep(moment: Moment, api: Api) -> None:
    account = api.account(5)
    api.mint(account, 7, expiresAt=moment.text(10))
    moment.at(10, -1)
    ok(api.release(api.reserve(account, 12)))
    moment.at(10)
    problem = problem_of(api.ask_to_reserve(account, 6), 402, "insufficient_balance")
    assert problem["availableMicro"] == "5"
    with api.unchanged():
        assert problem_of(api.ask_to_reserve(account, 6), 402, "insufficient_balance")["availableMicro"] == "5"
    ok(api.ask_to_reserve(account, 5), 201)


def test_credits_of_an_overdue_reservation_can_be_reserved_again(moment: Moment, api: Api) -> None:
    account = api.account(5)
    api.reserve(account, 5, ttlSeconds=10)
    moment.at(10, -1)
    with api.unchanged():
        problem_of(api.ask_to_reserve(account, 1), 402, "insufficient_balance")
    moment.at(10)
    ok(api.ask_to_reserve(account, 5), 201)


def test_a_reservation_over_the_ceiling_is_rejected(start: Callable[..., Api]) -> None:
    api = start(MINIBILL_CEILING_MICRO="100")
    account = api.account(100, 100)
    with api.unchanged():
        for mode in ("live", "soft", "shadow"):
            problem_of(api.ask_to_reserve(account, 101, billingMode=mode), 422, "amount_too_large")
            problem_of(api.ask_to_reserve(account, MAX, billingMode=mode), 422, "amount_too_large")
    ok(api.ask_to_reserve(account, 100), 201)
    ok(api.ask_to_reserve(account, 100), 201)


@pytest.mark.parametrize("ttl", [1, 300, 86_400])
def test_a_reservation_expires_after_its_ttl(moment: Moment, api: Api, ttl: int) -> None:
    held = ok(api.ask_to_reserve(api.account(5), 5, ttlSeconds=ttl))
    assert held["expiresAt"] == moment.text(ttl)


WRONG: list[tuple[Json, str]] = [
    ({"ttlSeconds": 0}, "ttlSeconds"), ({"ttlSeconds": 86_401}, "ttlSeconds"), ({"ttlSeconds": -1}, "ttlSeconds"),
    ({"ttlSeconds": 1.5}, "ttlSeconds"), ({"ttlSeconds": "300"}, "ttlSeconds"), ({"ttlSeconds": True}, "ttlSeconds"),
    ({"amountMicro": 5}, "amountMicro"), ({"amountMicro": "-1"}, "amountMicro"), ({"amountMicro": "05"}, "amountMicro"),
    ({"amountMicro": str(MAX + 1)}, "amountMicro"), ({"billingMode": "free"}, "billingMode"), ({"poolId": "GPU"}, "poolId"),
    ({"description": "x" * 501}, "description"), ({"metadata": [1]}, "metadata"),
    ({"metadata": {"x": "y" * 4096}}, "metadata"), ({"ttl": 5}, "ttl"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "path"), WRONG)
def test_a_malformed_reservation_is_rejected_by_the_members_name(api: Api, body: Json, path: str) -> None:
    account = api.account(5)
    with api.unchanged():
        sent = {"amountMicro": "5", **body}
        problem_of(api.internal("POST", "/reservations", {"accountId": account, **sent}), 400, "validation_error", path)
        problem_of(api.post(f"/accounts/{account}/reservations", sent), 400, "validation_error", path)


# --- a thousand lots ---


def test_a_reservation_draws_on_and_returns_to_a_thousand_lots(api: Api) -> None:
    account = api.account()
    ids = [api.mint(account, 2)["lotId"] for _ in range(1_000)]
    held = ok(api.ask_to_reserve(account, 1_999), 201)
    assert allocations(held) == [(lot, 2) for lot in ids[:-1]] + [(ids[-1], 1)]
    assert api.get(f"/reservations/{held['reservationId']}")["lotAllocations"] == held["lotAllocations"]
    assert balance(api, account) == (1, 1_999, 0)
    ended = ok(api.finalize(held["reservationId"], 1_001))
    assert (ended["finalizedMicro"], ended["releasedMicro"]) == ("1001", "998")
    written = entries(api, account, 2_000)
    spent = [Entry("finalize", -2, 0, -2, lot, held["reservationId"]) for lot in ids[:500]]
    spent.append(Entry("finalize", -1, 0, -1, ids[500], held["reservationId"]))
    back = [Entry("release", 1, 1, -1, ids[500], held["reservationId"])]
    back += [Entry("release", 2, 2, -2, lot, held["reservationId"]) for lot in ids[501:-1]]
    back.append(Entry("release", 1, 1, -1, ids[-1], held["reservationId"]))
    assert written == spent + back
    assert balance(api, account) == (999, 0, 0)
    rest = ok(api.ask_to_reserve(account, 999))
    assert allocations(rest) == [(ids[500], 1)] + [(lot, 2) for lot in ids[501:]]
    assert ok(api.release(rest["reservationId"]))["releasedMicro"] == "999"
    assert balance(api, account) == (999, 0, 0)


# --- by an admin ---


def test_a_reserve_by_an_admin_is_audited_with_both_balances(api: Api) -> None:
    account = api.account(10)
    held = ok(api.post(f"/accounts/{account}/reservations", {"amountMicro": "4"}), 201)
    [row] = api.audited("reservation.reserve")
    assert (row["actor_id"], row["target_id"]) == ("operator", account)
    details = row["details"]
    assert details["reservationId"] == held["reservationId"]
    assert (details["availableBeforeMicro"], details["availableAfterMicro"]) == ("10", "6")
    ended = ok(api.post(f"/reservations/{held['reservationId']}/finalize", {"actualCostMicro": "3"}))
    [row] = api.audited("reservation.finalize")
    assert (row["target_type"], row["target_id"]) == ("reservation", held["reservationId"])
    assert row["details"]["answer"] == ended
    assert row["details"]["before"] == {"general": {"availableMicro": "6", "reservedMicro": "4"}}
    assert row["details"]["after"] == {"general": {"availableMicro": "7", "reservedMicro": "0"}}
    other = ok(api.post(f"/accounts/{account}/reservations", {"amountMicro": "2"}))["reservationId"]
    ok(api.post(f"/reservations/{other}/release"))
    [row] = api.audited("reservation.release")
    assert (row["details"]["before"], row["details"]["after"]) == (
        {"general": {"availableMicro": "5", "reservedMicro": "2"}},
        {"general": {"availableMicro": "7", "reservedMicro": "0"}},
    )


def test_writes_of_a_service_are_not_audited(api: Api) -> None:
    account = api.account(10)
    ok(api.finalize(api.reserve(account, 4), 3))
    ok(api.release(api.reserve(account, 4)))
    assert [api.audited(f"reservation.{verb}") for verb in ("reserve", "finalize", "release")] == [[], [], []]


@pytest.mark.parametrize("mode", ["live", "soft", "shadow"])
def test_a_dry_run_returns_the_real_response_and_changes_nothing(moment: Moment, api: Api, mode: str) -> None:
    account = api.account(10)
    api.reserve(account, 1, ttlSeconds=1)
    moment.at(2)
    body = {"amountMicro": "4", "billingMode": mode}
    path = f"/accounts/{account}/reservations"
    tried = ok(api.post(path, body, dryRun="true"), 201)
    # The expiry before the dry run stays, and nothing else has changed.
    with api.unchanged():
        assert ok(api.post(path, body, dryRun="true"), 201) == tried
    assert tried == {**ok(api.post(path, body), 201), "dryRun": True}
    path = f"/reservations/{tried['reservationId']}"
    with api.unchanged():
        released = ok(api.post(f"{path}/release", dryRun="true"))
        finalized = ok(api.post(f"{path}/finalize", {"actualCostMicro": "40"}, dryRun="true"))
        assert released.pop("dryRun") is True
    assert finalized == {**ok(api.post(f"{path}/finalize", {"actualCostMicro": "40"})), "dryRun": True}
    assert released == {"reservationId": tried["reservationId"], "accountId": account, "releasedMicro": "4"}


# --- idempotency keys ---


def test_reservations_keep_idempotency_keys(api: Api) -> None:
    account = api.account(10)
    body = {"accountId": account, "amountMicro": "4"}
    first = api.internal("POST", "/reservations", body, key="k1")
    held = ok(first, 201)["reservationId"]
    with api.unchanged():
        again = api.internal("POST", "/reservations", body, key="k1")
        assert (again.status_code, again.content, again.headers["Idempotency-Replayed"]) == (201, first.content, "true")
        problem_of(
            api.internal("POST", "/reservations", {**body, "amountMicro": "5"}, key="k1"), 422, "idempotency_key_reused"
        )
        problem_of(api.finalize(held, 4, key="k1"), 422, "idempotency_key_reused")
    assert balance(api, account) == (6, 4, 0)
    ended = api.finalize(held, 3, key="k2")
    with api.unchanged():
        assert api.finalize(held, 3, key="k2").content == ended.content
        problem_of(api.finalize(held, 2, key="k2"), 422, "idempotency_key_reused")
    other = api.reserve(account, 1)
    given = api.release(other, key="k3")
    with api.unchanged():
        assert api.release(other, key="k3").content == given.content
    # Keys belong to a caller: another service, or an admin of the same name, has other keys.
    for token in (api.sign_service(sub="another"), None):
        path = "/reservations" if token else f"/accounts/{account}/reservations"
        sent = body if token else {"amountMicro": "4"}
        answer = (api.internal if token else api.call)("POST", path, sent, key="k1", token=token or api.sign(sub="loa"))
        assert ok(answer, 201)["reservationId"] != held
        ok(api.release(answer.json()["reservationId"]))


def test_a_replay_stays_the_same_after_the_reservation_has_ended(moment: Moment, api: Api) -> None:
    account = api.account(10)
    body = {"accountId": account, "amountMicro": "4", "ttlSeconds": 10}
    first = api.internal("POST", "/reservations", body, key="k1")
    moment.at(20)
    with api.unchanged():
        assert api.internal("POST", "/reservations", body, key="k1").content == first.content
    assert api.get(f"/reservations/{first.json()['reservationId']}")["status"] == "expired"


def test_a_rejected_reservation_leaves_its_key_unused(api: Api) -> None:
    account = api.account(3)
    body = {"accountId": account, "amountMicro": "4"}
    with api.unchanged():
        problem_of(api.internal("POST", "/reservations", body, key="k1"), 402, "insufficient_balance")
    api.mint(account, 1)
    ok(api.internal("POST", "/reservations", body, key="k1"), 201)


# --- authority ---


def test_admin_and_service_tokens_are_rejected_by_the_other_api(api: Api) -> None:
    account = api.account(10)
    held = api.reserve(account, 1)
    with api.unchanged():
        for method, path in [
            ("POST", "/reservations"),
            ("POST", "/finalize"),
            ("POST", "/release"),
            ("GET", f"/reservations/{held}"),
        ]:
            body = None if method == "GET" else {"accountId": account, "amountMicro": "1"}
            problem_of(api.internal(method, path, body, token=api.token), 401, "unauthorized")
        service = api.sign_service()
        for path, body in [
            (f"/accounts/{account}/reservations", {"amountMicro": "1"}),
            (f"/reservations/{held}/finalize", {"actualCostMicro": "1"}),
            (f"/reservations/{held}/release", None),
        ]:
            problem_of(api.post(path, body, token=service), 401, "unauthorized")
        problem_of(api.call("GET", f"/reservations/{held}", token=service), 401, "unauthorized")


def test_a_service_token_is_valid_for_five_minutes_at_most(api: Api) -> None:
    account = api.account(10)
    body = {"accountId": account, "amountMicro": "1"}
    ok(api.internal("POST", "/reservations", body, token=api.sign_service(ttl=300)), 201)
    with api.unchanged():
        problem_of(api.internal("POST", "/reservations", body, token=api.sign_service(ttl=301)), 401, "unauthorized")
        problem_of(api.internal("POST", "/reservations", body, token=api.sign_service(ttl=-31)), 401, "unauthorized")


def test_tokens_of_the_previous_secret_are_valid_during_a_rotation(start: Callable[..., Api]) -> None:
    api = start()
    account = api.account(10)
    old, body = api.sign_service(), {"accountId": account, "amountMicro": "1"}
    secret, previous = "another-secret-for-services " * 3, "a-secret-for-services " * 3
    api = start(BILLING_INTERNAL_JWT_SECRET=secret, BILLING_INTERNAL_JWT_SECRET_PREV=previous)
    ok(api.internal("POST", "/reservations", body, token=old), 201)
    ok(api.internal("POST", "/reservations", body), 201)
    api = start(BILLING_INTERNAL_JWT_SECRET=secret)
    with api.unchanged():
        problem_of(api.internal("POST", "/reservations", body, token=old), 401, "unauthorized")
    ok(api.internal("POST", "/reservations", body), 201)


def test_an_admin_needs_the_accounts_scope_to_reserve(api: Api) -> None:
    account = api.account(10)
    held = api.reserve(account, 1)
    token = api.sign(scopes=("admin:billing:read", "admin:mint:write", "admin:grants:write"))
    with api.unchanged():
        for path, body in [
            (f"/accounts/{account}/reservations", {"amountMicro": "1"}),
            (f"/reservations/{held}/finalize", {"actualCostMicro": "1"}),
            (f"/reservations/{held}/release", None),
        ]:
            problem = problem_of(api.post(path, body, token=token), 403, "insufficient_scope")
            assert "admin:accounts:write" in problem["detail"]
    token = api.sign(scopes=("admin:accounts:write",))
    ok(api.post(f"/reservations/{held}/release", token=token))
    problem_of(api.call("GET", f"/reservations/{held}", token=token), 403, "insufficient_scope")


def test_services_are_unlimited_unless_a_limit_is_set(start: Callable[..., Api]) -> None:
    api = start(MINIBILL_ADMIN_RATE_PER_MINUTE="30")
    account = api.account(100)
    for _ in range(40):
        answer = api.ask_to_reserve(account, 1)
        assert answer.status_code == 201
    api = start(MINIBILL_ADMIN_RATE_PER_MINUTE="30", MINIBILL_SERVICE_RATE_PER_MINUTE="5")
    codes = [api.ask_to_reserve(account, 1).status_code for _ in range(8)]
    assert codes == [201] * 5 + [429] * 3


def test_reads_of_a_reservation_change_nothing(moment: Moment, api: Api) -> None:
    account = api.account(10)
    held = api.reserve(account, 4, ttlSeconds=5)
    moment.at(10)
    with api.unchanged():
        all_reads(api, account, held)


# --- an admin names the account by the path ---


def test_an_admin_may_repeat_the_account_of_the_path_in_the_body(api: Api) -> None:
    entity = {"entityType": "person", "entityId": "ada"}
    account = ok(api.post("/accounts", entity))["id"]
    api.mint(account, 100)
    for named in ({"accountId": account}, {"entity": entity}, {"accountId": account, "entity": entity}):
        held = ok(api.post(f"/accounts/{account}/reservations", {"amountMicro": "10", **named}), 201)
        body = {"reservationId": held["reservationId"], "actualCostMicro": "4"}
        ok(api.post(f"/reservations/{held['reservationId']}/finalize", body))
    held = ok(api.post(f"/accounts/{account}/reservations", {"amountMicro": "10"}), 201)["reservationId"]
    ok(api.post(f"/reservations/{held}/release", {"reservationId": held}))


def test_a_body_that_contradicts_the_path_is_rejected(api: Api) -> None:
    account, other = api.account(100), api.account(100)
    ok(api.post("/accounts", {"entityType": "person", "entityId": "bob"}))
    held = api.reserve(account, 10)
    reserve, end = f"/accounts/{account}/reservations", f"/reservations/{held}"
    with api.unchanged():
        problem_of(api.post(reserve, {"amountMicro": "1", "accountId": other}), 400, "validation_error", "accountId")
        entity = {"entityType": "person", "entityId": "bob"}
        problem_of(api.post(reserve, {"amountMicro": "1", "entity": entity}), 400, "validation_error", "entity")
        entity = {"entityType": "person", "entityId": "nobody"}
        problem_of(api.post(reserve, {"amountMicro": "1", "entity": entity}), 404, "account_not_found")
        body = {"reservationId": "res_other", "actualCostMicro": "1"}
        problem_of(api.post(f"{end}/finalize", body), 400, "validation_error", "reservationId")
        problem_of(api.post(f"{end}/release", {"reservationId": "res_other"}), 400, "validation_error", "reservationId")
