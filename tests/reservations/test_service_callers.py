"""The callers that made and closed a reservation, and the billing modes that a service may name."""

from collections.abc import Callable

import pytest

import minibill
from minibill.config import ConfigurationError, read_settings
from tests.api_client import SECRETS, Api, Loop, ok, problem_of
from tests.reservations.conftest import Moment


def callers(api: Api, reservation: str) -> tuple[str, str | None]:
    shown = api.get(f"/reservations/{reservation}")
    return shown["createdBy"], shown["closedBy"]


# --- callers ---


@pytest.mark.parametrize("end", ["finalize", "release"])
def test_a_reservation_names_the_services_that_made_and_closed_it(api: Api, end: str) -> None:
    account = api.account(10)
    for closer in ("gateway", "closer"):
        body = {"accountId": account, "amountMicro": "5"}
        made = ok(api.internal("POST", "/reservations", body, token=api.sign_service(sub="gateway")))["reservationId"]
        assert callers(api, made) == ("service:gateway", None)
        ends = {"reservationId": made, **({"actualCostMicro": "2"} if end == "finalize" else {})}
        ok(api.internal("POST", f"/{end}", ends, token=api.sign_service(sub=closer)))
        assert callers(api, made) == ("service:gateway", f"service:{closer}")
        # A caller that repeats the request closes nothing.
        ok(api.internal("POST", f"/{end}", ends, token=api.sign_service(sub="late")))
        assert callers(api, made) == ("service:gateway", f"service:{closer}")


@pytest.mark.parametrize("mode", ["live", "soft", "shadow"])
def test_an_admin_and_a_service_of_one_name_are_told_apart(api: Api, mode: str) -> None:
    account, admin, service = api.account(10), api.sign(sub="ada"), api.sign_service(sub="ada")
    body = {"amountMicro": "5", "billingMode": mode}
    made = ok(api.post(f"/accounts/{account}/reservations", body, token=admin))["reservationId"]
    ok(api.release(made, token=service))
    assert callers(api, made) == ("admin:ada", "service:ada")
    made = ok(api.internal("POST", "/reservations", body | {"accountId": account}, token=service))["reservationId"]
    ok(api.post(f"/reservations/{made}/finalize", {"actualCostMicro": "1"}, token=admin))
    assert callers(api, made) == ("service:ada", "admin:ada")


def test_an_expired_reservation_has_no_closed_by(moment: Moment, api: Api) -> None:
    account = api.account(10)
    made = api.reserve(account, 5, ttlSeconds=5)
    moment.at(5)
    assert callers(api, made) == ("service:loa", None)
    api.loop.run(api.book.sweep())
    assert callers(api, made) == ("service:loa", None)


def test_a_reservation_with_a_discount_names_its_caller_too(api: Api) -> None:
    account = api.account(10)
    ok(api.call("PUT", "/discounts/guild/tiers", {"tiers": [{"tier": "gold", "rateBps": 5000}]}))
    ok(api.call("PUT", f"/accounts/{account}/memberships/guild", {"tier": "gold"}))
    assert callers(api, api.reserve(account, 4)) == ("service:loa", None)


@pytest.mark.parametrize("sub", ["x" * 128, "ä" * 128, "a:b*?[", " x ", "service:x"])
def test_every_valid_subject_is_recorded(api: Api, sub: str) -> None:
    account = api.account(10)
    body = {"accountId": account, "amountMicro": "5"}
    made = ok(api.internal("POST", "/reservations", body, token=api.sign_service(sub=sub)))["reservationId"]
    ok(api.post(f"/reservations/{made}/release", token=api.sign(sub=sub)))
    assert callers(api, made) == (f"service:{sub}", f"admin:{sub}")


def test_an_embedded_client_is_recorded_by_its_actor(loop: Loop, db: object) -> None:
    async def story() -> tuple[str, str | None]:
        async with minibill.open(str(db), actor="render farm") as book:
            account = await book.open_account("person", "ada")
            await book.mint(account.id, 10)
            made = await book.reserve(account.id, 5, billing_mode="soft")
            await book.finalize(made.reservation_id, 3)
            shown = await book.reservation(made.reservation_id)
            return shown.created_by, shown.closed_by

    assert loop.run(story()) == ("service:render farm", "service:render farm")


# --- modes of services ---


@pytest.mark.parametrize("configured", ["live", "soft", "shadow"])
def test_by_default_a_service_may_name_the_configured_mode_only(start: Callable[..., Api], configured: str) -> None:
    api = start(MINIBILL_BILLING_MODE=configured, MINIBILL_SERVICE_BILLING_MODES="")
    account = api.account(10)
    for mode in ("live", "soft", "shadow"):
        if mode == configured:
            assert ok(api.ask_to_reserve(account, 1, billingMode=mode))["billingMode"] == mode
            continue
        with api.unchanged():
            problem = problem_of(api.ask_to_reserve(account, 1, billingMode=mode), 403, "billing_mode_not_allowed")
            assert (problem["billingMode"], problem["allowedBillingModes"]) == (mode, [configured])
    assert ok(api.ask_to_reserve(account, 1))["billingMode"] == configured


def test_a_service_may_name_the_modes_of_the_setting(start: Callable[..., Api]) -> None:
    api = start(MINIBILL_SERVICE_BILLING_MODES="live, shadow")
    account = api.account(10)
    for mode in ("live", "shadow"):
        ok(api.ask_to_reserve(account, 1, billingMode=mode))
    problem_of(api.ask_to_reserve(account, 1, billingMode="soft"), 403, "billing_mode_not_allowed")
    # An unknown mode is a validation error.
    problem_of(api.ask_to_reserve(account, 1, billingMode="free"), 400, "validation_error", "billingMode")


def test_an_admin_may_name_any_mode(start: Callable[..., Api]) -> None:
    api = start(MINIBILL_SERVICE_BILLING_MODES="")
    path = f"/accounts/{api.account(10)}/reservations"
    for mode in ("live", "soft", "shadow"):
        assert ok(api.post(path, {"amountMicro": "1", "billingMode": mode}))["billingMode"] == mode


@pytest.mark.parametrize("modes", ["free", "live,free", "live,", ",", " ", "live soft", "LIVE", "live;soft"])
def test_an_unknown_mode_in_the_settings_prevents_the_start(modes: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^MINIBILL_SERVICE_BILLING_MODES must be of live, soft, shadow"):
        read_settings({**SECRETS, "MINIBILL_SERVICE_BILLING_MODES": modes})
