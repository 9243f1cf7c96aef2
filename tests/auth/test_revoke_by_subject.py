"""Revocation of all tokens of a `sub` that were issued before a time."""

from collections.abc import Callable

import pytest

from minibill.api.tokens import prune_revocations
from minibill.core.clock import US_PER_SECOND, format_time, parse_time, real_now_us
from tests.api_client import Api, Json, ok, problem_of, record_uptime
from tests.auth.forged_tokens import ADMIN, SERVICE, TokenIssuer, now

DAY = 86_400


def time_of(second: float) -> str:
    return format_time(int(second * US_PER_SECOND))


def revoke(api: Api, sub: str, second: float, **query: str) -> Json:
    return ok(api.post("/tokens/revoke", {"sub": sub, "issuedBefore": time_of(second)}, **query))


def status(api: Api, kind: TokenIssuer = ADMIN, **claims: Json) -> int:
    """Return the status of a request with such a token; 404 for a service's valid one."""
    path = "/admin/billing/campaigns" if kind.kind == "admin" else "/api/internal/billing/nothing"
    token = kind.forge(kind.claims(**{"sub": "eve", "jti": ..., "exp": now() + 60} | claims)).encode()
    return api.ask("GET", path, headers=[(b"authorization", b"Bearer " + token)]).status_code


@pytest.mark.parametrize("kind", [ADMIN, SERVICE], ids=lambda kind: kind.kind)
def test_tokens_of_the_sub_issued_before_are_rejected(api: Api, kind: TokenIssuer) -> None:
    begin, good = now(), 200 if kind.kind == "admin" else 404
    assert status(api, kind, iat=begin - 10) == good
    revoke(api, "eve", begin - 5)
    # The first of them was in the cache of verified tokens.
    assert status(api, kind, iat=begin - 10) == 401
    assert status(api, kind, iat=begin - 5.5) == 401
    assert status(api, kind, iat=begin - 5) == good
    assert status(api, kind, iat=begin - 10, sub="ada") == good
    assert status(api, kind, iat=begin - 10, sub="Eve") == good


def test_a_token_revoked_by_its_sub_gets_no_detail(api: Api) -> None:
    revoke(api, "eve", now())
    token = ADMIN.forge(ADMIN.claims(sub="eve", iat=now() - 10)).encode()
    problem = problem_of(
        api.ask("GET", "/admin/billing/accounts", headers=[(b"authorization", b"Bearer " + token)]), 401, "unauthorized"
    )
    like_any_other = problem_of(api.ask("GET", "/admin/billing/accounts", headers=[]), 401, "unauthorized")
    assert {**problem, "requestId": ""} == {**like_any_other, "requestId": ""}


def test_an_earlier_time_does_not_undo_a_revocation(api: Api) -> None:
    begin = now()
    first = revoke(api, "eve", begin - 5)
    assert first["issuedBefore"] == time_of(begin - 5)
    assert revoke(api, "eve", begin - 100)["issuedBefore"] == time_of(begin - 5)
    assert status(api, iat=begin - 10) == 401
    assert revoke(api, "eve", begin - 2)["issuedBefore"] == time_of(begin - 2)
    assert status(api, iat=begin - 3) == 401


def test_a_revocation_by_sub_survives_a_restart(start: Callable[..., Api]) -> None:
    begin = now()
    revoke(start(), "eve", begin - 5)
    api = start()
    assert (status(api, iat=begin - 10), status(api, iat=begin - 5)) == (401, 200)


def test_a_dry_run_revokes_no_tokens_of_a_sub(api: Api) -> None:
    begin = now()
    answer = revoke(api, "eve", begin, dryRun="true")
    assert (answer["sub"], answer["issuedBefore"], answer["dryRun"]) == ("eve", time_of(begin), True)
    assert status(api, iat=begin - 10) == 200
    assert api.get("/audit")["items"] == []


def test_a_revocation_by_sub_is_audited(api: Api) -> None:
    begin = now()
    answer = revoke(api, "eve", begin)
    assert set(answer) == {"sub", "issuedBefore", "revokedAt"}
    row = api.get("/audit", action="token.revoke", targetType="subject", targetId="eve")["items"][0]
    assert (row["actorId"], row["details"]["issuedBefore"]) == ("operator", time_of(begin))


@pytest.mark.parametrize(("body", "path"), [
    ({"sub": "eve"}, "issuedBefore"), ({"issuedBefore": "2026-01-01T00:00:00Z"}, "sub"),
    ({"sub": "", "issuedBefore": "2026-01-01T00:00:00Z"}, "sub"),
    ({"sub": " \t", "issuedBefore": "2026-01-01T00:00:00Z"}, "sub"),
    ({"sub": "x" * 129, "issuedBefore": "2026-01-01T00:00:00Z"}, "sub"),
    ({"sub": "a\x00", "issuedBefore": "2026-01-01T00:00:00Z"}, "sub"),
    ({"sub": "eve", "issuedBefore": "2026-01-01T00:00:00"}, "issuedBefore"),
    ({"sub": "eve", "issuedBefore": 5}, "issuedBefore"),
    ({"sub": "eve", "issuedBefore": "2026-01-01T00:00:00Z", "kind": "admin"}, "kind"),
])  # fmt: skip
def test_a_wrong_member_of_the_request_is_named(api: Api, body: Json, path: str) -> None:
    with api.unchanged():
        problem_of(api.post("/tokens/revoke", body), 400, "validation_error", path)


def test_a_time_in_the_future_is_rejected(api: Api) -> None:
    with api.unchanged():
        body = {"sub": "eve", "issuedBefore": time_of(now() + 90)}
        problem_of(api.post("/tokens/revoke", body), 400, "validation_error", "issuedBefore")
    # A time within the clock skew is accepted.
    revoke(api, "eve", now() + 20)
    assert status(api, iat=now()) == 401


def test_revoking_by_sub_needs_its_scope(api: Api) -> None:
    body = {"sub": "eve", "issuedBefore": time_of(now())}
    token = api.sign(scopes=("admin:billing:read", "admin:accounts:write"))
    problem_of(api.post("/tokens/revoke", body, token=token), 403, "insufficient_scope")


def test_an_admin_can_revoke_all_own_tokens(api: Api) -> None:
    token = ADMIN.forge(ADMIN.claims(sub="leaving", iat=now() - 10))
    body = {"sub": "leaving", "issuedBefore": time_of(now())}
    ok(api.post("/tokens/revoke", body, token=token))
    problem_of(api.call("GET", "/campaigns", token=token), 401, "unauthorized")


def test_it_is_kept_until_every_such_token_has_expired(api: Api) -> None:
    revoke(api, "eve", now())
    begin_us = api.book.uptime.now_us()

    def kept_after(seconds: int) -> bool:
        uptime_us = begin_us + seconds * US_PER_SECOND
        record_uptime(api, uptime_us)
        api.loop.run(api.book.writer.run(lambda conn: prune_revocations(conn, api.settings, uptime_us=uptime_us)))
        return "eve" in api.book.denied_tokens().issued_before_us

    assert kept_after(3_600 + 59)
    assert kept_after(7 * DAY)
    assert not kept_after(8 * DAY)


def test_a_repeated_revocation_is_kept_from_then_on(api: Api) -> None:
    revoke(api, "eve", now() - 5)
    later_us = api.book.uptime.now_us() + 30 * DAY * US_PER_SECOND
    api.book.uptime._begin_us += 30 * DAY * US_PER_SECOND
    revoke(api, "eve", now())
    api.loop.run(api.book.writer.run(lambda conn: prune_revocations(conn, api.settings, uptime_us=later_us)))
    assert "eve" in api.book.denied_tokens().issued_before_us


def test_times_are_those_of_the_wall_clock(api: Api) -> None:
    api.advance(10 * DAY)
    answer = revoke(api, "eve", now())
    assert abs(parse_time(answer["revokedAt"]) - real_now_us()) < 60 * US_PER_SECOND
    assert status(api, iat=now() - 10) == 401
