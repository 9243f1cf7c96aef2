"""Rate limits of admins, services and addresses."""

from collections.abc import Callable

import httpx
import pytest

from minibill.auth import rate_limit
from minibill.auth.rate_limit import RateLimit
from minibill.auth.tokens import sign_token
from tests.api_client import Api, problem_of

LIMITED = {"MINIBILL_ADMIN_RATE_PER_MINUTE": "3"}


class Seconds:
    """The clock of the rate limits."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> Seconds:
    clock = Seconds()
    monkeypatch.setattr(rate_limit, "monotonic_s", clock)
    return clock


def limits(response: httpx.Response) -> tuple[int, int, int]:
    limit, remaining, reset = (int(response.headers[f"ratelimit-{name}"]) for name in ("limit", "remaining", "reset"))
    return limit, remaining, reset


def over(response: httpx.Response, reset: int) -> None:
    problem_of(response, 429, "rate_limited")
    assert response.headers["retry-after"] == str(reset)
    assert limits(response)[1:] == (0, reset)


def test_responses_carry_the_limits_and_more_requests_get_a_429(start: Callable[..., Api], seconds: Seconds) -> None:
    api = start(**LIMITED)
    answers = [api.call("GET", "/accounts") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200] * 3
    assert [limits(answer) for answer in answers] == [(3, 2, 60), (3, 1, 60), (3, 0, 60)]
    seconds.now += 12.5
    with api.unchanged():
        over(api.post("/accounts", {"entityType": "mod", "entityId": "x"}), 48)
        over(api.call("GET", "/nothing"), 48)
    seconds.now += 47.4
    over(api.call("GET", "/accounts"), 1)
    seconds.now += 0.1
    assert limits(api.call("GET", "/accounts")) == (3, 2, 60)


def test_a_rejected_request_counts_and_carries_the_limits(start: Callable[..., Api], seconds: Seconds) -> None:
    api = start(**LIMITED)
    none = api.sign(scopes=())
    answers = [
        api.call("GET", "/accounts", token=none),
        api.call("GET", "/nothing"),
        api.post("/accounts", raw=b"{"),
    ]
    assert [(answer.status_code, limits(answer)[1]) for answer in answers] == [(403, 2), (404, 1), (400, 0)]
    over(api.call("GET", "/accounts"), 60)


def test_each_admin_has_one_limit_over_all_its_tokens(start: Callable[..., Api], seconds: Seconds) -> None:
    api = start(**LIMITED)
    for _ in range(3):
        api.call("GET", "/accounts", token=api.sign(sub="one"))
    over(api.call("GET", "/accounts", token=api.sign(sub="one")), 60)
    assert limits(api.call("GET", "/accounts", token=api.sign(sub="other"))) == (3, 2, 60)


def test_the_default_is_30_requests_a_minute(start: Callable[..., Api], seconds: Seconds) -> None:
    # Tests turn the limits off; None restores the default.
    from minibill.config import read_settings
    from tests.api_client import SECRETS

    assert read_settings(SECRETS).admin_rate_per_minute == 30
    assert read_settings(SECRETS).service_rate_per_minute == 0


def test_0_turns_every_limit_off(start: Callable[..., Api], seconds: Seconds) -> None:
    api = start(MINIBILL_ADMIN_RATE_PER_MINUTE="0")
    for _ in range(70):
        answer = api.call("GET", "/clock")
        assert answer.status_code == 200
        assert not [name for name in answer.headers if name.startswith("ratelimit")]
        assert api.call("GET", "/clock", token="nonsense").status_code == 401


def test_the_61st_bad_token_from_an_address_gets_a_429(start: Callable[..., Api], seconds: Seconds) -> None:
    api = start(**LIMITED)
    path = "/admin/billing/accounts"
    kinds = [[], [(b"authorization", b"Bearer nonsense")], [(b"authorization", b"Basic eDp5")]]
    for number in range(60):
        problem_of(api.ask("GET", path, headers=kinds[number % 3]), 401, "unauthorized")
    seconds.now += 10
    with api.unchanged():
        for headers in kinds:
            over(api.ask("GET", path, headers=headers), 50)
            over(api.ask("GET", "/api/internal/billing/x", headers=headers), 50)
    # Other addresses and valid tokens are not limited.
    problem_of(api.ask("GET", path, headers=[], address="192.0.2.8"), 401, "unauthorized")
    assert api.call("GET", "/accounts").status_code == 200
    seconds.now += 50
    problem_of(api.ask("GET", path, headers=[]), 401, "unauthorized")


def test_public_routes_are_not_counted(start: Callable[..., Api], seconds: Seconds) -> None:
    api = start(**LIMITED)
    for _ in range(65):
        assert api.ask("GET", "/health/live", headers=[]).status_code == 200
    problem_of(api.ask("GET", "/admin/billing/accounts", headers=[]), 401, "unauthorized")


def test_services_have_no_limit_by_default(start: Callable[..., Api], seconds: Seconds) -> None:
    def ask(api: Api) -> httpx.Response:
        token = sign_token(api.settings, "service", sub="operator", scopes=[], ttl=60)
        return api.ask("GET", "/api/internal/billing/x", headers=[(b"authorization", f"Bearer {token}".encode())])

    api = start(**LIMITED)
    for _ in range(10):
        assert "ratelimit-limit" not in ask(api).headers
    api = start(**LIMITED, MINIBILL_SERVICE_RATE_PER_MINUTE="2")
    assert [limits(ask(api))[:2] for _ in range(2)] == [(2, 1), (2, 0)]
    over(ask(api), 60)
    # An admin with the same name has a limit of its own.
    assert limits(api.call("GET", "/accounts")) == (3, 2, 60)


# --- the window itself ---


def test_a_window_begins_with_the_first_request_and_lasts_a_minute(seconds: Seconds) -> None:
    limit = RateLimit(2)
    assert limit.count("ada").allowed
    seconds.now += 59.9
    assert limit.count("ada").allowed
    assert not limit.count("ada").allowed
    seconds.now += 0.2
    assert [limit.count("ada").allowed for _ in range(3)] == [True, True, False]


def test_requests_over_the_limit_do_not_extend_the_window(seconds: Seconds) -> None:
    limit = RateLimit(1)
    limit.count("ada")
    for _ in range(59):
        seconds.now += 1
        assert not limit.count("ada").allowed
    seconds.now += 1
    assert limit.count("ada").allowed


def test_memory_is_bounded_for_any_number_of_names(seconds: Seconds) -> None:
    limit = RateLimit(5)
    for number in range(100_000):
        limit.count(str(number))
    assert len(limit._windows) <= 10_000
    # The latest name is kept in a flood.
    assert limit.count("99999").remaining == 3


def test_names_with_a_finished_window_are_evicted_first(seconds: Seconds) -> None:
    limit = RateLimit(1)
    for number in range(9_999):
        limit.count(str(number))
    seconds.now += 30
    limit.count("ada")
    seconds.now += 31
    limit.count("one more")
    assert not limit.count("ada").allowed
