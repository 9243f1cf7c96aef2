"""Valid and invalid requests that schemathesis derives from the OpenAPI document; every response fits the document.

The requests are the same in every run. None gets an internal error, and invalid ones are rejected.
"""

from typing import Any

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode, checks
from schemathesis.core.parameters import ParameterLocation

from tests.api_client import Api, Json
from tests.openapi_checks import openapi_document, undocumented

# Requests per operation, for valid and for invalid ones. All together take about ten seconds.
CASES = 10

SCHEMA = schemathesis.openapi.from_dict(openapi_document())
OPERATIONS = [
    (method, path, operation)
    for path, methods in openapi_document()["paths"].items()
    for method, operation in methods.items()
]

CHECKS: list[Any] = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]


class World:
    """A book with one of each object that a path names, and callers with all scopes."""

    def __init__(self, api: Api, operation: Json) -> None:
        account = api.account(1_000_000)
        ids = {
            "accountId": account,
            "campaignId": api.campaign(),
            "reservationId": api.reserve(account, 5),
        }
        self.api = api
        self.ids = {p["name"]: ids[p["name"]] for p in operation["parameters"] if p.get("in") == "path" and p["name"] in ids}
        tokens = {"admin": api.token, "service": api.sign_service()}
        self.headers: dict[str, str] = {}
        for requirement in operation["security"]:
            self.headers["Authorization"] = f"Bearer {tokens[next(iter(requirement))]}"

    def ask(self, case: Case[Any]) -> httpx.Response:
        """Return the response to a case."""
        made = case.as_transport_kwargs(base_url="http://minibill.test")
        prepared: Any = requests.Request(**made | {"headers": {**made["headers"], **self.headers}}).prepare()
        request = self.api.http.build_request(
            prepared.method, prepared.url, headers=prepared.headers, content=prepared.body or b""
        )
        return self.api.loop.run(self.api.http.send(request))


def is_bad(case: Case[Any], request: httpx.Request) -> bool:
    """Return True if the invalid part of a case is in the request: an empty list in a query leaves no trace.

    Invalid headers are tokens, which other tests cover.
    """
    assert case.meta is not None
    bad = {where for where, info in case.meta.components.items() if info.mode is GenerationMode.NEGATIVE}
    in_query = ParameterLocation.QUERY in bad and set(case.query) <= set(request.url.params)
    return in_query or ParameterLocation.BODY in bad


# Public operations read no part of the request, so none of them has an invalid one.
ASKED = [(*entry, is_good) for entry in OPERATIONS for is_good in (True, False) if is_good or entry[2]["security"]]


@pytest.mark.parametrize(
    ("method", "path", "operation", "is_good"), ASKED, ids=[f"{o['operationId']} {good}" for *_, o, good in ASKED]
)
def test_every_response_fits_the_schema(api: Api, method: str, path: str, operation: Json, is_good: bool) -> None:
    world = World(api, operation)
    described = SCHEMA[path][method]
    mode = GenerationMode.POSITIVE if is_good else GenerationMode.NEGATIVE
    known = described.as_strategy(generation_mode=mode, path_parameters=world.ids) if world.ids else st.nothing()

    @settings(max_examples=CASES, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(known | described.as_strategy(generation_mode=mode))
    def hold(case: Case[Any]) -> None:
        response = world.ask(case)
        case.validate_response(response, checks=CHECKS)
        assert undocumented(method.upper(), response.request.url.path, response) == []
        assert is_good or response.status_code >= 400 or not is_bad(case, response.request)

    hold()
