"""Invalid JSON is rejected by every route with a body, and valid JSON comes back unchanged."""

import json
from typing import Any

import httpx
import pytest

from minibill.api.openapi.operation import OPERATIONS
from minibill.app import ROUTES
from tests.api_client import Api, Json, problem_of
from tests.faults.json_samples import IS_JSON, IS_LEFT_OPEN, IS_NO_JSON

# Method, path and caller kind of every route with a body.
WITH_A_BODY = [(route.method, route.path, route.kind) for route in ROUTES if OPERATIONS[route.handler].body is not None]


def send(api: Api, method: str, path: str, kind: str | None, raw: bytes) -> httpx.Response:
    """Send a body to a route; return its response."""
    for name in ("account_id", "campaign_id", "grant_id", "reservation_id", "community_id", "token_id"):
        path = path.replace(f"{{{name}}}", "x")
    token = (api.token if kind == "admin" else api.sign_service()).encode()
    headers = [(b"authorization", b"Bearer " + token), (b"content-type", b"application/json")]
    return api.ask(method, path, headers=headers, messages=[{"type": "http.request", "body": raw}])


def test_every_route_rejects_invalid_json(api: Api) -> None:
    with api.unchanged():
        for route in WITH_A_BODY:
            for name, text in IS_NO_JSON.items():
                response = send(api, *route, text)
                # The parser may report a value that is not an object before it reaches the end.
                assert response.status_code == 400, (route, name, response.text)
                assert response.json()["code"] in ("malformed_json", "validation_error"), (route, name)
                problem_of(send(api, *route, b'{"a": ' + text + b"}"), 400, "malformed_json")


def test_json_of_another_shape_causes_no_internal_error(api: Api) -> None:
    with api.unchanged():
        for route in WITH_A_BODY:
            for name, text in {**IS_JSON, **IS_LEFT_OPEN}.items():
                for body in (text, b'{"a": ' + text + b"}", b'{"metadata": ' + text + b"}"):
                    if body.strip() != b"{}":
                        assert send(api, *route, body).status_code in (400, 404), (route, name, body[:100])


# --- stored JSON ---


def strictly(text: str) -> Json:
    """Return JSON as Python's parser reads it, with numbers as text."""

    def no_constant(name: str) -> Any:
        raise ValueError(name)

    return json.loads(text, parse_int=str, parse_float=str, parse_constant=no_constant)


class Kept:
    """The three places in which the service stores and returns a caller's own JSON."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.account = api.account(1_000)
        self.campaign = api.campaign(10_000_000, grantFormula="proportional_loss")

    def metadata(self, text: bytes) -> tuple[httpx.Response, str]:
        raw = b'{"amountMicro": "5", "metadata": {"a": ' + text + b"}}"
        response = self.api.post(f"/accounts/{self.account}/mint", raw=raw)
        return response, f"/accounts/{self.account}/lots"

    def reservation(self, text: bytes) -> tuple[httpx.Response, str]:
        raw = b'{"amountMicro": "1", "metadata": {"a": ' + text + b"}}"
        return self.api.post(f"/accounts/{self.account}/reservations", raw=raw), f"/accounts/{self.account}/history"

    def formula_input(self, text: bytes) -> tuple[httpx.Response, str]:
        account = self.api.account()
        raw = b'{"grants": [{"accountId": "%s", "formulaInput": {"lossMicro": "5", "a": %s}}]}' % (account.encode(), text)
        path = f"/campaigns/{self.campaign}/grants"
        return self.api.post(f"{path}/batch", raw=raw), f"{path}?accountId={account}"


PLACES = ["metadata", "reservation", "formula_input"]


def shown(api: Api, path: str) -> list[Json]:
    """Return all items of a list. Invalid JSON in one item would make the whole page unreadable."""
    found: list[Json] = []
    cursor: str | None = None
    while True:
        joint = "&" if "?" in path else "?"
        response = api.call("GET", f"{path}{joint}limit=100" + (f"&cursor={cursor}" if cursor else ""))
        assert response.status_code == 200
        page = strictly(response.text)
        found += page["items"]
        if (cursor := page["nextCursor"]) is None:
            return found


@pytest.mark.parametrize("place", PLACES)
def test_stored_json_comes_back_unchanged(api: Api, place: str) -> None:
    kept = Kept(api)
    for name, text in IS_JSON.items():
        response, path = getattr(kept, place)(text)
        assert response.status_code == 201, (name, response.text)
        [value] = [
            item[member]["a"]
            for item in shown(api, path)
            for member in ("metadata", "formulaInput")
            if (item.get(member) or {}).get("a", ...) == strictly(text.decode())
        ][:1]
        assert value == strictly(text.decode()), name


@pytest.mark.parametrize("place", PLACES)
def test_invalid_json_is_not_stored(api: Api, place: str) -> None:
    kept = Kept(api)
    api.batch(kept.campaign, (api.account(), 5))
    accounts = len(api.everything())
    for name, text in IS_NO_JSON.items():
        response, path = getattr(kept, place)(text)
        problem_of(response, 400, "malformed_json")
        assert "a" not in str([item.get("metadata") or item.get("formulaInput") for item in shown(api, path)]), name
    assert len(api.everything()) == accounts


@pytest.mark.parametrize("place", PLACES)
def test_ambiguous_json_is_rejected_or_comes_back_as_json(api: Api, place: str) -> None:
    kept = Kept(api)
    for name, text in IS_LEFT_OPEN.items():
        response, path = getattr(kept, place)(text)
        assert response.status_code in (201, 400), (name, response.text)
        items = shown(api, path)
        values = [item[member] for item in items for member in ("metadata", "formulaInput") if item.get(member)]
        for value in values:
            # Text that any program can encode.
            json.dumps(value, ensure_ascii=False).encode()
        if response.status_code == 201:
            assert any(value.get("a") == strictly(text.decode()) for value in values), name


def is_strictly_json(text: bytes) -> bool:
    try:
        strictly(text.decode())
    except (ValueError, RecursionError):
        return False
    return True


def test_another_parser_agrees_with_the_tables() -> None:
    assert [name for name, text in IS_JSON.items() if not is_strictly_json(text)] == []
    assert [name for name, text in IS_NO_JSON.items() if is_strictly_json(text)] == []
    assert len(IS_NO_JSON) >= 130
