"""CORS: listed origins may call from a browser, and with `--dev` those of this machine."""

from collections.abc import Callable

import httpx
import msgspec
import pytest

from minibill.api.cors import Cors
from minibill.app import create_app
from minibill.config import ConfigurationError, read_settings
from tests.api_client import SECRETS, Api, problem_of

LISTED = "https://console.example"
LISTED_TOO = "http://other.example:8443"


@pytest.fixture
def api(start: Callable[..., Api]) -> Api:
    return start(MINIBILL_CORS_ORIGINS=f"{LISTED}, {LISTED_TOO}")


def cors_headers(response: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in response.headers.items() if name.startswith("access-control-")}


def preflight(origin: str, method: str = "POST") -> list[tuple[bytes, bytes]]:
    return [(b"origin", origin.encode()), (b"access-control-request-method", method.encode())]


@pytest.mark.parametrize("origin", [LISTED, LISTED_TOO])
def test_a_listed_origin_may_read_responses_and_errors(api: Api, origin: str) -> None:
    for headers, status in ((api.admin_headers(), 200), ([], 401)):
        response = api.ask("GET", "/admin/billing/campaigns", headers=[*headers, (b"origin", origin.encode())])
        assert response.status_code == status
        exposed = cors_headers(response).pop("access-control-expose-headers").split(", ")
        wanted = (
            "Idempotency-Replayed Ledger-Sequence Location RateLimit-Limit RateLimit-Remaining RateLimit-Reset Retry-After"
        )
        assert {*wanted.split(), "X-Correlation-Id"} <= set(exposed)
        assert cors_headers(response).keys() == {"access-control-allow-origin", "access-control-expose-headers"}
        assert (response.headers["access-control-allow-origin"], response.headers["vary"]) == (origin, "Origin")
    # Responses to unknown paths as well.
    for method, path in (("GET", "/nothing"), ("DELETE", "/campaigns"), ("HEAD", "/campaigns")):
        assert api.call(method, path, headers={"Origin": origin}).headers["access-control-allow-origin"] == origin


@pytest.mark.parametrize(
    "origin",
    ["https://console.example:443", "http://console.example", "https://console.example.evil.example", "https://x.console.example",
     "null", "*", "", "https://console.example/", "https://CONSOLE.example", "http://localhost:3000", "http://127.0.0.1",
     "https://console.example https://console.example"],
)  # fmt: skip
def test_an_unlisted_origin_gets_no_cors_headers(api: Api, origin: str) -> None:
    response = api.call("GET", "/campaigns", headers={"Origin": origin})
    assert (response.status_code, cors_headers(response), response.headers["vary"]) == (200, {}, "Origin")
    response = api.ask("OPTIONS", "/admin/billing/campaigns", headers=preflight(origin))
    assert (response.status_code, cors_headers(response)) == (204, {})


def test_a_repeated_origin_header_is_not_allowed(api: Api) -> None:
    headers = [*api.admin_headers(), (b"origin", LISTED.encode()), (b"origin", LISTED.encode())]
    assert cors_headers(api.ask("GET", "/admin/billing/campaigns", headers=headers)) == {}


def test_a_request_without_origin_gets_no_cors_headers(api: Api) -> None:
    response = api.call("GET", "/campaigns")
    assert cors_headers(response) == {}
    assert "vary" not in response.headers


@pytest.mark.parametrize("path", ["/admin/billing/campaigns", "/api/internal/billing/reservations", "/metrics", "/not/yet"])
def test_a_preflight_needs_no_token_and_counts_in_no_limit(start: Callable[..., Api], path: str) -> None:
    api = start(MINIBILL_CORS_ORIGINS=LISTED, MINIBILL_ADMIN_RATE_PER_MINUTE="2")
    response = api.ask("OPTIONS", path, headers=preflight(LISTED))
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE") * 14:
        response = api.ask("OPTIONS", path, headers=preflight(LISTED, method))
        assert (response.status_code, response.content) == (204, b"")
    assert cors_headers(response) == {
        "access-control-allow-origin": LISTED,
        "access-control-allow-methods": "DELETE, GET, HEAD, PATCH, POST, PUT",
        "access-control-allow-headers": "Authorization, Content-Type, Idempotency-Key, X-Correlation-Id",
        "access-control-max-age": "600",
    }
    assert response.headers["vary"] == "Origin"
    assert api.call("GET", "/campaigns").headers["ratelimit-remaining"] == "1"
    assert api.ask("GET", "/admin/billing/campaigns", headers=[]).status_code == 401


def test_options_without_a_preflight_is_not_allowed(api: Api) -> None:
    for headers in ({}, {"Origin": LISTED}, {"Access-Control-Request-Method": "GET"}):
        response = api.call("OPTIONS", "/campaigns", headers=headers)
        problem_of(response, 405, "method_not_allowed")
        assert response.headers["Allow"] == "GET, HEAD, POST"
    problem_of(api.ask("OPTIONS", "/admin/billing/campaigns", headers=[(b"origin", LISTED.encode())]), 401, "unauthorized")


@pytest.mark.parametrize(
    ("origin", "is_allowed"),
    [
        *[(origin, True) for origin in (
            "http://localhost", "https://localhost", "http://localhost:3000", "http://127.0.0.1", "https://127.255.255.254:65535",
            "http://[::1]", "https://[::1]:5173", LISTED,
        )],
        *[(origin, False) for origin in (
            "http://localhost.evil.example", "http://127.0.0.1.evil.example", "http://128.0.0.1", "http://127.0.0.256",
            "http://127.0.0", "http://[::2]", "ftp://localhost", "http://localhost:", "http://localhost/", "http://evil@localhost",
            "http://localhost:3000.evil.example", "null", "http://xlocalhost", "http://localhost\n", "http://127.0.0.1:123456",
        )],
    ],
)  # fmt: skip
def test_loopback_origins_are_allowed_in_development(origin: str, is_allowed: bool) -> None:
    names = [name for name, _ in Cors([LISTED.encode()], loopback=True).headers(origin.encode(), preflight=False)]
    assert (b"access-control-allow-origin" in names) == is_allowed
    assert b"access-control-allow-credentials" not in names


def test_only_development_allows_loopback_origins(api: Api) -> None:
    settings = msgspec.structs.replace(api.settings, cors_loopback=True)
    app = create_app(api.book, settings)

    async def get() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as http:  # type: ignore[arg-type]
            return await http.get("/health/live", headers={"Origin": "http://localhost:1"})

    assert api.loop.run(get()).headers["access-control-allow-origin"] == "http://localhost:1"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("*", "must not be *"), ("https://a.example, *", "must not be *"), ("null", "must not hold null"),
        ("https://a.example/", "final slash"), ("https://a.example/path", "without a path"), ("a.example", "scheme://host"),
        ("ftp://a.example", "with http or https"), ("https://A.example", "lower case"), ("https://", "is not one"),
        ("https://a.example,", "'' is not one"), ("https://u@a.example", "is not one"), ("https://a:0", "is not one"),
        ("https://a.example:99999", "is not one"), ("https://a.example?x", "is not one"), ("https://é.a", "is not one"),
        ("https://*.example", "is not one"), ("https://a.example:443", "leave out the port :443"),
        ("http://a.example:80", "leave out the port :80"), ("https://a.example https://b.example", "is not one"),
    ],
)  # fmt: skip
def test_an_invalid_origin_in_the_setting_stops_the_start(value: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match="MINIBILL_CORS_ORIGINS") as caught:
        read_settings({**SECRETS, "MINIBILL_CORS_ORIGINS": value})
    assert said in str(caught.value)


def test_the_setting_lists_origins() -> None:
    settings = read_settings(
        {**SECRETS, "MINIBILL_CORS_ORIGINS": " https://a.example ,http://b:8080,https://[2001:db8::1]:1 "}
    )
    assert settings.cors_origins == frozenset([b"https://a.example", b"http://b:8080", b"https://[2001:db8::1]:1"])
    assert read_settings({**SECRETS, "MINIBILL_CORS_ORIGINS": ""}).cors_origins is None
