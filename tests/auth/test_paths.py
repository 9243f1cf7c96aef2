"""Paths are matched as a proxy matches them: fixed segments byte for byte, variable ones decoded."""

from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from tests.api.test_raw_requests import ask
from tests.api_client import Api, ok, problem_of
from tests.service_process import serving

ENCODED = [
    "/%6detrics", "/metric%73", "/%6D%65%74%72%69%63%73", "/%61dmin/billing/campaigns", "/admin%2fbilling/campaigns",
    "/admin%2Fbilling%2Fcampaigns", "/admin/%62illing/campaigns", "/admin/billing/%63ampaigns", "/admin/billing%2Fcampaigns",
    "//metrics", "//admin/billing/campaigns", "/admin//billing/campaigns", "/x/%2e%2e/metrics",
    "/%2e/metrics", "/metrics%2f", "/metrics%00", "/metrics%3Fx", "/metrics;x", "/%2Fmetrics",
    "/health/live/..%2f..%2fmetrics", "/%256detrics", "/METRICS", "/Admin/billing/campaigns", "/metrics//",
    "/schema/..%2Fmetrics", "/%ADmin/billing/campaigns",
]  # fmt: skip
# Clients such as httpx resolve these themselves.
DOTS = ["/x/../metrics", "/./metrics", "/admin/../metrics", "/health/../admin/billing/campaigns"]


def send(api: Api, method: str, raw_path: str, *, token: str | None = None) -> httpx.Response:
    """Return the response to a path exactly as written here; an empty token sends none."""
    bearer = api.token if token is None else token
    request = api.http.build_request(method, "/", headers={"Authorization": f"Bearer {bearer}"} if bearer else {})
    request.url = request.url.copy_with(raw_path=raw_path.encode())
    return api.loop.run(api.http.send(request))


@pytest.mark.parametrize("path", ENCODED)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS"])
def test_another_spelling_of_a_path_is_not_found(api: Api, path: str, method: str) -> None:
    response = send(api, method, path)
    assert response.status_code == 404, response.text
    # Without a token as well; only the literal prefix asks for one.
    status = send(api, method, path, token="").status_code
    assert status == 404 or (status == 401 and path.startswith("/admin/billing"))


def test_another_spelling_is_not_found_over_a_socket(tmp_path: Path) -> None:
    with serving(tmp_path / "book.db") as server:
        for path in ENCODED + DOTS:
            assert ask(server, f"GET {path} HTTP/1.1\r\nHost: x\r\n{{token}}\r\n\r\n".encode()).status_code == 404, path
        for path in ("/metrics", "/admin/billing/campaigns", "http://x/admin/billing/campaigns"):
            assert server.http.get(f"http://127.0.0.1:{server.port}/metrics").status_code == 200
            if path != "/metrics":
                assert ask(server, f"GET {path} HTTP/1.1\r\nHost: x\r\n{{token}}\r\n\r\n".encode()).status_code == 200


def test_a_variable_segment_may_be_encoded(api: Api) -> None:
    account = api.account(100)
    encoded = "".join(f"%{ord(character):02x}" for character in account)
    for method in ("GET", "HEAD"):
        assert send(api, method, f"/admin/billing/accounts/{encoded}").status_code == 200
        assert send(api, method, f"/admin/billing/accounts/{encoded}/balance").status_code == 200
        assert send(api, method, f"/admin/billing/accounts/{encoded}/").status_code == 200
    assert send(api, "POST", f"/admin/billing/accounts/{encoded}").status_code == 405
    assert send(api, "POST", f"/admin/billing/accounts/{encoded}").headers["Allow"] == "GET, HEAD"
    community = "Ω/ %/x"
    path = f"/accounts/{account}/memberships/{quote(community, safe='')}"
    problem_of(api.call("PUT", path, {"tier": "gold"}), 404, "tier_not_found")
    ok(api.call("PUT", f"/discounts/{quote(community, safe='')}/tiers", {"tiers": [{"tier": "gold", "rateBps": 5}]}))
    assert ok(api.call("PUT", path, {"tier": "gold"}))["communityId"] == community


def test_an_encoded_slash_does_not_end_a_segment(api: Api) -> None:
    account = api.account(100)
    problem_of(send(api, "GET", f"/admin/billing/accounts/{account}%2Fbalance"), 404, "account_not_found")
    problem_of(send(api, "GET", f"/admin/billing/accounts/{account}%2Flots"), 404, "account_not_found")
    problem_of(send(api, "GET", f"/admin/billing/accounts%2F{account}"), 404, "not_found")
    assert send(api, "GET", f"/admin/billing/accounts/x%2F{account}/balance").json()["code"] == "account_not_found"
    token = api.sign_service()
    assert send(api, "GET", "/api/internal/billing/reservations/res_1%2F", token=token).status_code == 404


@pytest.mark.parametrize("segment", ["%ff", "%C3%28", "%zz", "%4", "%", "%ED%A0%80"])
def test_a_segment_that_is_not_url_encoded_utf_8_is_rejected(api: Api, segment: str) -> None:
    with api.unchanged():
        response = api.ask("GET", f"/admin/billing/accounts/{segment}")
        assert (response.status_code, response.json()["code"]) == (400, "validation_error")
        assert api.ask("PUT", f"/admin/billing/accounts/x/memberships/{segment}").status_code == 400


# --- HEAD ---


def test_head_gets_the_response_of_get_without_a_body(api: Api) -> None:
    account, campaign = api.account(100), api.campaign()
    paths = ["/accounts?limit=1", f"/accounts/{account}", f"/accounts/{account}/balance", f"/campaigns/{campaign}",
             "/accounts?x=1", "/accounts/acct_0", "/nothing", f"/accounts/{account}/mint",
             "/audit", "/reconciliation", "/clock"]  # fmt: skip
    for path in paths:
        head, get = api.call("HEAD", path), api.call("GET", path)
        assert (head.status_code, head.content) == (get.status_code, b""), path
        own = {"x-request-id", "x-correlation-id", "content-length"}
        assert {n: v for n, v in head.headers.items() if n not in own} == {
            n: v for n, v in get.headers.items() if n not in own
        }
        assert abs(int(head.headers["content-length"]) - int(get.headers["content-length"])) < 5
    for path in ("/health/live", "/health/ready", "/metrics", "/schema", "/schema/docs"):
        head, get = api.call("HEAD", path, root=""), api.call("GET", path, root="")
        assert (head.status_code, head.content, head.headers["content-type"]) == (200, b"", get.headers["content-type"])
    assert api.ask("HEAD", "/admin/billing/accounts", headers=[]).status_code == 401
    assert api.call("HEAD", "/accounts", token=api.sign(scopes=())).status_code == 403


def test_head_over_a_socket_has_no_body(tmp_path: Path) -> None:
    with serving(tmp_path / "book.db") as server:
        for path in ("/accounts", "/accounts?x=1", "/nothing"):
            # Twice on one connection: a body would be read as the next response.
            assert [server.http.head(path).status_code for _ in range(2)] == [server.http.get(path).status_code] * 2
