"""Dry runs: the response of the real run, and no change."""

import jwt
import pytest

from minibill.core.clock import real_now_us
from tests.api.write_table import REFUSALS, WRITES
from tests.api_client import Api, ok, problem_of
from tests.fake_clocks import set_time


def stop_the_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop all clocks, so that two runs have the same times."""
    now_us = real_now_us()
    set_time(monkeypatch, lambda: now_us)
    monkeypatch.setattr("minibill.api.tokens.real_now_us", lambda: now_us)
    monkeypatch.setattr("minibill.integrity.reconciler.monotonic_s", lambda: 0)


@pytest.mark.parametrize("name", WRITES)
def test_a_dry_run_returns_the_real_response_and_changes_nothing(
    api: Api, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    stop_the_clocks(monkeypatch)
    write = WRITES[name](api)
    with api.unchanged():
        dry = [api.call(*write, dryRun="true") for _ in range(2)]
    real = api.call(*write)
    ok(real)
    for answer in dry:
        assert answer.status_code == real.status_code
        assert answer.json() == {**real.json(), "dryRun": True}
        assert answer.content == real.content[:-1] + b',"dryRun":true}'
    assert "dryRun" not in real.json()


@pytest.mark.parametrize("name", WRITES)
def test_a_dry_run_stores_no_key(api: Api, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    stop_the_clocks(monkeypatch)
    write = WRITES[name](api)
    with api.unchanged():
        dry = api.call(*write, key="k-1", dryRun="true")
    real = api.call(*write, key="k-1")
    assert "idempotency-replayed" not in dry.headers
    assert "idempotency-replayed" not in real.headers
    assert dry.json() == {**ok(real), "dryRun": True}
    # The only key is that of the real run.
    assert api.call(*write, key="k-1").headers["idempotency-replayed"] == "true"


@pytest.mark.parametrize("name", WRITES)
def test_a_dry_run_with_a_stored_key_gets_the_first_response(api: Api, name: str) -> None:
    write = WRITES[name](api)
    first = api.call(*write, key="k-1")
    ok(first)
    with api.unchanged():
        dry = api.call(*write, key="k-1", dryRun="true")
        assert dry.status_code == first.status_code
        assert dry.json() == {**first.json(), "dryRun": True}
        assert dry.headers["idempotency-replayed"] == "true"
        again = api.call(*write, key="k-1")
        assert again.content == first.content


@pytest.mark.parametrize("name", REFUSALS)
def test_a_dry_run_gets_the_same_problem_as_the_real_run(api: Api, name: str) -> None:
    write = REFUSALS[name](api)
    with api.unchanged():
        dry, real = api.call(*write, dryRun="true"), api.call(*write)
        assert not real.is_success
        assert {**dry.json(), "requestId": ""} == {**real.json(), "requestId": ""}
        assert dry.status_code == real.status_code


def test_a_dry_run_with_a_reused_key_is_rejected(api: Api) -> None:
    ok(api.post("/accounts", {"entityType": "mod", "entityId": "x"}, key="k-1"))
    with api.unchanged():
        response = api.post("/accounts", {"entityType": "mod", "entityId": "y"}, key="k-1", dryRun="true")
        problem_of(response, 422, "idempotency_key_reused")


@pytest.mark.parametrize("name", WRITES)
def test_dry_run_is_true_or_false(api: Api, name: str) -> None:
    write = WRITES[name](api)
    with api.unchanged():
        for value in ("", "1", "0", "yes", "TRUE", "True", "true ", "null"):
            problem_of(api.call(*write, dryRun=value), 400, "validation_error", "dryRun")
        problem_of(api.call(*write, dry_run="true"), 400, "validation_error", "dry_run")
        problem_of(api.call(*write, limit="5"), 400, "validation_error", "limit")
        twice = api.call(write.method, f"{write.path}?dryRun=true&dryRun=true", write.body)
        problem_of(twice, 400, "validation_error", "dryRun")
    assert "dryRun" not in ok(api.call(*write, dryRun="false"))


def test_a_dry_run_leaves_nothing_for_the_next_request(api: Api) -> None:
    dry = ok(api.post("/accounts", {"entityType": "mod", "entityId": "x"}, dryRun="true"))
    problem_of(api.call("GET", f"/accounts/{dry['id']}"), 404, "account_not_found")
    real = api.post("/accounts", {"entityType": "mod", "entityId": "y"})
    assert ok(real, 201)["id"] == dry["id"]


def test_a_dry_run_revokes_no_token(api: Api) -> None:
    token = api.sign(sub="to be revoked")
    token_id = jwt.decode(token, options={"verify_signature": False})["jti"]
    with api.unchanged():
        ok(api.post(f"/tokens/{token_id}/revoke", dryRun="true"))
        ok(api.call("GET", "/campaigns", token=token))
    ok(api.post(f"/tokens/{token_id}/revoke"))
    problem_of(api.call("GET", "/campaigns", token=token), 401, "unauthorized")
