"""Idempotency keys: a write is executed once, however often the client retries."""

import asyncio
import json
from collections.abc import Callable

import pytest

from minibill.api.idempotency import fingerprint
from minibill.core.clock import monotonic_s
from tests.api.write_table import REFUSALS, WRITES
from tests.api_client import Api, ok, problem_of

DAY_SECONDS = 86_400


@pytest.mark.parametrize("name", WRITES)
def test_the_same_request_with_its_key_is_replayed(api: Api, name: str) -> None:
    method, path, body = WRITES[name](api)
    first = api.call(method, path, body, key="k-1")
    assert ok(first) is not None
    assert "idempotency-replayed" not in first.headers
    with api.unchanged():
        for _ in range(3):
            again = api.call(method, path, body, key="k-1")
            assert (again.status_code, again.content) == (first.status_code, first.content)
            assert again.headers["idempotency-replayed"] == "true"
            assert again.headers["content-type"] == first.headers["content-type"]


def test_a_key_survives_a_restart(start: Callable[..., Api]) -> None:
    api = start()
    sent = {name: prepare(api) for name, prepare in WRITES.items()}
    first = {name: api.call(*write, key=name.replace(" ", "-")) for name, write in sent.items()}
    assert all(response.is_success for response in first.values())
    api = start()
    with api.unchanged():
        for name, write in sent.items():
            again = api.call(*write, key=name.replace(" ", "-"))
            assert (again.status_code, again.content) == (first[name].status_code, first[name].content)
            assert again.headers["idempotency-replayed"] == "true"


@pytest.mark.parametrize("name", WRITES)
def test_a_key_with_another_body_is_rejected(api: Api, name: str) -> None:
    method, path, body = WRITES[name](api)
    sent = b"" if body is None else json.dumps(body).encode()
    ok(api.call(method, path, raw=sent, key="k-1"))
    with api.unchanged():
        # Bodies are compared by their bytes, not by their meaning.
        for other in (sent + b" " if sent else b"{}", b" " + (sent or b"{}")):
            problem_of(api.call(method, path, raw=other, key="k-1"), 422, "idempotency_key_reused")


@pytest.mark.parametrize("name", [name for name in WRITES if name != "open"])
def test_a_key_with_another_path_is_rejected(api: Api, name: str) -> None:
    ok(api.post("/accounts", {"entityType": "mod", "entityId": "first"}, key="k-1"))
    write = WRITES[name](api)
    with api.unchanged():
        problem_of(api.call(*write, key="k-1"), 422, "idempotency_key_reused")


def test_a_key_with_another_path_and_the_same_body_is_rejected(api: Api) -> None:
    one, other = api.account(), api.account()
    ok(api.post(f"/accounts/{one}/mint", {"amountMicro": "5"}, key="k-1"))
    with api.unchanged():
        response = api.post(f"/accounts/{other}/mint", {"amountMicro": "5"}, key="k-1")
        problem_of(response, 422, "idempotency_key_reused")


def test_each_caller_has_its_own_keys(api: Api) -> None:
    account = api.account()
    path, body = f"/accounts/{account}/mint", {"amountMicro": "5"}
    ok(api.post(path, body, key="k-1"), 201)
    other = api.post(path, body, key="k-1", token=api.sign(sub="another operator"))
    ok(other, 201)
    assert "idempotency-replayed" not in other.headers
    assert api.available(account) == 10


def test_another_token_of_the_same_caller_has_the_same_keys(api: Api) -> None:
    account = api.account()
    path, body = f"/accounts/{account}/mint", {"amountMicro": "5"}
    first = api.post(path, body, key="k-1")
    again = api.post(path, body, key="k-1", token=api.sign())
    assert again.content == first.content
    assert api.available(account) == 5


@pytest.mark.parametrize("name", REFUSALS)
def test_a_problem_is_not_stored(api: Api, name: str) -> None:
    write = REFUSALS[name](api)
    with api.unchanged():
        for _ in range(2):
            response = api.call(*write, key="k-1")
            assert 400 <= response.status_code < 500
            assert "idempotency-replayed" not in response.headers
    ok(api.post("/accounts", {"entityType": "mod", "entityId": "free"}, key="k-1"), 201)


def test_a_retry_after_a_problem_is_executed(api: Api) -> None:
    campaign, account = api.draft(), api.account()
    with api.unchanged():
        problem_of(api.batch(campaign, (account, 5), key="k-1"), 409, "campaign_not_active")
    ok(api.post(f"/campaigns/{campaign}/activate"))
    ok(api.batch(campaign, (account, 5), key="k-1"), 201)
    assert api.available(account) == 5


def test_concurrent_requests_with_one_key_execute_once(api: Api) -> None:
    account = api.account()

    async def send() -> list[tuple[int, bytes, bool]]:
        headers = {"Authorization": f"Bearer {api.token}", "Idempotency-Key": "k-1"}
        responses = await asyncio.gather(
            *[
                api.http.post(f"/admin/billing/accounts/{account}/mint", json={"amountMicro": "5"}, headers=headers)
                for _ in range(20)
            ]
        )
        return [(r.status_code, r.content, "idempotency-replayed" in r.headers) for r in responses]

    answers = api.loop.run(send())
    assert len({answer[:2] for answer in answers}) == 1
    assert sorted(replayed for *_, replayed in answers) == [False] + [True] * 19
    assert api.available(account) == 5


def test_a_mint_is_replayed_after_its_expiry(api: Api) -> None:
    account = api.account()
    path, body = f"/accounts/{account}/mint", {"amountMicro": "5", "expiresAt": api.after(60)}
    first = api.post(path, body, key="k-1")
    ok(first, 201)
    api.pass_time(120)
    # The lot expires before the request is rejected.
    problem_of(api.post(path, body), 400, "validation_error", "expiresAt")
    with api.unchanged():
        problem_of(api.post(path, body), 400, "validation_error", "expiresAt")
        assert api.post(path, body, key="k-1").content == first.content


def test_a_batch_is_replayed_after_the_campaign_has_ended(api: Api) -> None:
    campaign, account = api.campaign(), api.account()
    first = api.batch(campaign, (account, 5), key="k-1")
    ok(api.post(f"/campaigns/{campaign}/complete"))
    with api.unchanged():
        problem_of(api.batch(campaign, (account, 5)), 409, "campaign_not_active")
        assert api.batch(campaign, (account, 5), key="k-1").content == first.content


def test_an_invalid_request_with_a_known_key_is_rejected(api: Api) -> None:
    account = api.account()
    ok(api.post(f"/accounts/{account}/mint", {"amountMicro": "5"}, key="k-1"))
    with api.unchanged():
        response = api.post(f"/accounts/{account}/mint", {"amountMicro": 5}, key="k-1")
        assert response.status_code in (400, 422)


def test_a_key_is_kept_for_24_hours_and_pruned_later(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    path, body = f"/accounts/{api.account()}/mint", {"amountMicro": "5"}
    first = api.post(path, body, key="k-1")

    def in_seconds(seconds: int) -> None:
        now_s = monotonic_s() + seconds
        monkeypatch.setattr("minibill.core.clock.monotonic_s", lambda: now_s)
        api.loop.run(api.book.prune())

    with api.unchanged():
        in_seconds(DAY_SECONDS)
        assert api.post(path, body, key="k-1").content == first.content
    # The newest key stays, since its row id is the base of the next.
    ok(api.post(path, body, key="k-2"))
    in_seconds(30 * DAY_SECONDS)
    anew = api.post(path, body, key="k-1")
    assert "idempotency-replayed" not in anew.headers
    assert ok(anew)["lotId"] != first.json()["lotId"]


def test_all_old_keys_are_pruned_in_any_number(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minibill.api.idempotency.PRUNE_KEYS_MAX", 2)
    for number in range(5):
        ok(api.post("/accounts", {"entityType": "mod", "entityId": "x"}, key=f"k-{number}"))
    later_s = monotonic_s() + 30 * DAY_SECONDS
    monkeypatch.setattr("minibill.core.clock.monotonic_s", lambda: later_s)
    ok(api.post("/accounts", {"entityType": "mod", "entityId": "x"}, key="young"))
    api.loop.run(api.book.prune())
    replayed = [
        "idempotency-replayed" in api.post("/accounts", {"entityType": "mod", "entityId": "x"}, key=key).headers
        for key in ("k-0", "k-4", "young")
    ]
    assert replayed == [False, False, True]


# --- the form of keys ---

BAD_KEYS = [b"", b" ", b"a b", b"a\tb", b"\xc3\xa9", b"a\x7f", b"a\x00", b"\xff", b"x" * 256, b"x" * 5_000]


@pytest.mark.parametrize("key", BAD_KEYS, ids=lambda key: repr(key[:6]) + str(len(key)))
@pytest.mark.parametrize("name", ["open", "activate"])
def test_a_key_outside_visible_ascii_or_255_characters_is_rejected(api: Api, key: bytes, name: str) -> None:
    method, path, body = WRITES[name](api)
    headers = [*api.admin_headers(), (b"idempotency-key", key)]
    message = {"type": "http.request", "body": json.dumps(body or {}).encode()}
    with api.unchanged():
        response = api.ask(method, f"/admin/billing{path}", headers=headers, messages=[message])
        problem_of(response, 400, "invalid_idempotency_key")


@pytest.mark.parametrize("key", ["!", "~", "x" * 255, "a/b:c?d=e&f%20", '"quoted"', "k-1,k-2"])
def test_any_visible_ascii_of_1_to_255_characters_is_a_key(api: Api, key: str) -> None:
    body = {"entityType": "mod", "entityId": "x"}
    assert api.post("/accounts", body, key=key).status_code == 201
    assert api.post("/accounts", body, key=key).headers["idempotency-replayed"] == "true"


def test_a_repeated_key_header_is_rejected(api: Api) -> None:
    headers = [*api.admin_headers(), (b"idempotency-key", b"a"), (b"idempotency-key", b"a")]
    message = {"type": "http.request", "body": b'{"entityType": "mod", "entityId": "x"}'}
    with api.unchanged():
        response = api.ask("POST", "/admin/billing/accounts", headers=headers, messages=[message])
        problem_of(response, 400, "invalid_idempotency_key")


def test_keys_are_case_sensitive(api: Api) -> None:
    account = api.account()
    for key in ("k", "K"):
        ok(api.post(f"/accounts/{account}/mint", {"amountMicro": "5"}, key=key), 201)
    assert api.available(account) == 10


def test_a_read_ignores_a_key(api: Api) -> None:
    account = api.account()
    with api.unchanged():
        assert ok(api.call("GET", f"/accounts/{account}", key="k-1"))["id"] == account
    ok(api.post(f"/accounts/{account}/mint", {"amountMicro": "5"}, key="k-1"), 201)


def test_the_query_is_part_of_the_fingerprint(api: Api) -> None:
    account = api.account(100)
    path, body = f"/accounts/{account}/reservations", {"amountMicro": "10"}
    ok(api.post(path, body, key="k"))
    with api.unchanged():
        problem_of(api.post(path, body, key="k", explain="true"), 422, "idempotency_key_reused")
        problem_of(api.post(path, body, key="k", explain="false"), 422, "idempotency_key_reused")
    first = api.post(path, body, key="k-2", explain="true")
    assert api.post(path, body, key="k-2", explain="true").content == first.content
    assert "reservationId" in ok(first)
    with api.unchanged():
        problem_of(api.post(path, body, key="k-2"), 422, "idempotency_key_reused")


def test_path_and_query_are_compared_byte_for_byte() -> None:
    parts = [
        (b"/a", b""),
        (b"/a", b"x=1"),
        (b"/a", b"x=%31"),
        (b"/a", b"x=1&y=2"),
        (b"/a", b"y=2&x=1"),
        (b"/%61", b""),
        (b"/a?x=1", b""),
    ]
    assert len({fingerprint("POST", path, query, b"{}") for path, query in parts}) == len(parts)


def test_a_dry_run_has_the_same_fingerprint() -> None:
    def of(query: bytes) -> bytes:
        return fingerprint("POST", b"/a", query, b"{}")

    assert of(b"dryRun=true") == of(b"dryRun=false") == of(b"")
    assert of(b"explain=true&dryRun=true") == of(b"dryRun=true&explain=true") == of(b"explain=true")
    assert of(b"xdryRun=true") != of(b"")
