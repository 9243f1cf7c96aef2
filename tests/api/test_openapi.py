"""The OpenAPI document and its HTML page: complete, and true of the code.

tests/openapi_checks.py compares the response to every request of any test with the document.
"""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema_rs
import pytest

from minibill.api.decoding import Decoder
from minibill.api.openapi.html_page import page
from minibill.api.openapi.operation import OPERATIONS
from minibill.api.request import Request
from minibill.api.routing import Route
from minibill.api.types import PageQuery, Query, WriteQuery
from minibill.app import ADMIN, INTERNAL, PUBLIC, ROUTES
from tests.api_client import Api, Json, problem_of
from tests.openapi_checks import faults, openapi_document, resolve, undocumented
from tests.test_style import every_problem

METHODS = {"get", "post", "put", "patch", "delete"}


def operations() -> Iterator[tuple[str, str, Json]]:
    for path, methods in openapi_document()["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


def references(part: Json) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(reference := part.get("$ref"), str):
            yield reference
        for inner in part.values():
            yield from references(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from references(inner)


# --- completeness ---


def test_openapi_document_is_openapi_3_1_and_needs_no_token(api: Api) -> None:
    response = api.ask("GET", "/schema", headers=[])
    assert response.headers["content-type"] == "application/json"
    assert response.json() == openapi_document()
    assert re.fullmatch(r"3\.1\.[0-9]+", response.json()["openapi"])


def test_every_handler_is_described_once() -> None:
    handlers = {entry[2] for entry in ADMIN} | {entry[2] for entry in INTERNAL} | {entry[1] for entry in PUBLIC}
    assert {h.__qualname__ for h in handlers - OPERATIONS.keys()} == set()
    assert {h.__qualname__ for h in OPERATIONS.keys() - handlers} == set()


def test_every_route_is_in_openapi_document_once() -> None:
    expected = {(route.method.lower(), re.sub(r"{\w+}", "{}", route.path)) for route in ROUTES}
    found = [(method, re.sub(r"{\w+}", "{}", path)) for method, path, _ in operations()]
    assert set(found) == expected and len(found) == len(ROUTES)
    assert {method for method, _ in found} <= METHODS
    ids = [operation["operationId"] for *_, operation in operations()]
    assert len(ids) == len(set(ids))


def test_every_reference_resolves() -> None:
    for reference in set(references(openapi_document())):
        assert resolve({"$ref": reference})


def test_every_schema_is_a_valid_json_schema() -> None:
    for schema in openapi_document()["components"]["schemas"].values():
        jsonschema_rs.meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})


def test_every_problem_has_an_example_that_fits_its_schema() -> None:
    examples = openapi_document()["components"]["examples"].values()
    assert {example["value"]["code"] for example in examples} == {problem.code for problem in every_problem()}
    for example in examples:
        problem = example["value"]
        assert faults({"$ref": f"#/components/schemas/{problem['code']}"}, problem) == []
        assert faults({"$ref": "#/components/schemas/Problem"}, {**problem, "status": "409"}) != []


def test_no_pattern_uses_python_syntax() -> None:
    assert "\\Z" not in str(openapi_document())


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_every_operation_lists_its_token_and_its_problems(route: Route) -> None:
    path = re.sub(r"{(\w+)}", lambda v: f"{{{re.sub('_(.)', lambda c: c[1].upper(), v[1])}}}", route.path)
    operation = openapi_document()["paths"][path][route.method.lower()]
    assert operation["summary"]
    statuses = set(operation["responses"])
    parameters = {parameter["name"] for parameter in map(resolve, operation["parameters"])}
    assert set(re.findall(r"{(\w+)}", path)) <= parameters
    assert "500" in statuses
    if route.kind is None:
        assert operation["security"] == []
        return
    assert operation["security"] == [{route.kind: [route.scope] if route.scope else []}]
    assert {"400", "401", "429", "503"} <= statuses
    # Services have no scopes; one of their requests may name a billing mode that is not allowed.
    names_mode = route.path.removeprefix("/api/internal/billing") in ("/reservations", "/charges", "/charges/batch")
    assert ("403" in statuses) == (route.scope is not None or (names_mode and route.kind == "service"))
    is_write = route.method != "GET"
    assert ("Idempotency-Key" in parameters) == ({"413", "415", "422"} <= statuses) == is_write
    has_dry_run = is_write and route.kind == "admin"
    assert ("dryRun" in parameters) == has_dry_run
    if is_write and "200" in statuses:
        [content] = operation["responses"]["200"]["content"].values()
        assert ("dryRun" in content["schema"].get("properties", {})) == has_dry_run


def _members(schema: Json) -> Iterator[tuple[str, Json]]:
    for name, member in schema.get("properties", {}).items():
        yield name, member
        for choice in [member, *member.get("anyOf", [])]:
            yield from _members(choice)
            yield from _members(choice.get("items", {}))


def test_amounts_have_a_pattern_and_times_a_format() -> None:
    seen = set()
    for name, schema in openapi_document()["components"]["schemas"].items():
        for member, what in _members(schema):
            kinds = [choice for choice in what.get("anyOf", [what]) if choice.get("type") != "null"]
            if member.endswith("Micro"):
                seen.add("amount")
                assert all(kind["type"] == "string" and "pattern" in kind for kind in kinds), (name, member)
            elif re.search(r"[a-z]At$", member):
                seen.add("time")
                assert all(kind["format"] == "date-time" for kind in kinds), (name, member)
    assert seen == {"amount", "time"}


# --- truth ---


def _choices(schema: Json, path: str) -> Iterator[tuple[str, list[str]]]:
    """Return the members at and below a path that are enums, with their words."""
    schema = resolve(schema)
    if "enum" in schema:
        yield path, schema["enum"]
    for kind in schema.get("anyOf", []):
        yield from _choices(kind, path)
    for name, member in schema.get("properties", {}).items():
        yield from _choices(member, f"{path}.{name}".lstrip("."))
    if "items" in schema:
        yield from _choices(schema["items"], f"{path}[0]")


def _choices_of_operations() -> Iterator[tuple[str, str, str, str, list[str]]]:
    for method, path, operation in operations():
        for parameter in map(resolve, operation["parameters"]):
            for name, words in _choices(parameter["schema"], parameter["name"]):
                yield method, path, parameter["in"], name, words
        if "requestBody" in operation:
            [content] = operation["requestBody"]["content"].values()
            for name, words in _choices(content["schema"], ""):
                yield method, path, "body", name, words


CHOICES = [choice for choice in _choices_of_operations() if choice[2] != "header"]


@pytest.mark.parametrize(("method", "path", "place", "name", "words"), CHOICES, ids=lambda value: str(value)[:40])
def test_an_unknown_word_is_rejected_with_the_known_ones(
    api: Api, method: str, path: str, place: str, name: str, words: list[str]
) -> None:
    body: Json = "robot"
    query: Json = {name: "robot"}
    for step in reversed(re.split(r"\.|(?=\[)", name)):
        body = [body] if step == "[0]" else {step: body}
    asked = re.sub(r"{\w+}", "x", path)
    token = api.sign_service() if path.startswith("/api/internal") else None
    with api.unchanged():
        response = (
            api.call(method.upper(), asked, root="", token=token, **query)
            if place == "query"
            else api.call(method.upper(), asked, body, root="", token=token)
        )
        [error] = problem_of(response, 400, "validation_error", name)["errors"]
    said = error["message"].removeprefix("expected one of ").split(", ")
    assert sorted(said) == sorted(words)


def test_known_words_are_listed_in_their_order(api: Api) -> None:
    problem = problem_of(api.call("GET", "/accounts", entityType="robot"), 400, "validation_error", "entityType")
    [error] = problem["errors"]
    assert error["message"] == "expected one of agent, person, community, mod, protocol, foundation, commons"
    assert len(CHOICES) > 15
    for problem in (
        problem_of(api.call("GET", "/events", types="ledger.*,robot"), 400, "validation_error", "types"),
        problem_of(
            api.post("/webhooks", {"url": "https://192.88.98.1/", "types": ["x"]}), 400, "validation_error", "types[0]"
        ),
    ):
        assert "expected one of ledger.deposit, " in problem["detail"] and "threshold.recovered" in problem["detail"]


class Found(Exception):
    """Raised in place of the first read of a handler."""


@pytest.fixture
def reads(api: Api, monkeypatch: pytest.MonkeyPatch) -> Callable[[Route], dict[str, Any]]:
    """Return the structs into which a route's handler decodes its body and query, from a request to it."""
    found: dict[str, Any] = {}

    async def read(_: Request, decoder: Decoder[Any]) -> Any:
        found["body"] = decoder.kind
        raise Found

    def parameters(_: Request, expected: type[Query]) -> Any:
        found["query"] = expected
        raise Found

    def ask(route: Route) -> dict[str, Any]:
        found.clear()
        root = {"admin": "/admin/billing", "service": "/api/internal/billing", None: ""}[route.kind]
        path = re.sub(r"{\w+}", "x", route.path).removeprefix(root)
        token = api.sign_service() if route.kind == "service" else api.token
        with monkeypatch.context() as patched:
            patched.setattr(Request, "read", read)
            patched.setattr(Request, "parameters", parameters)
            patched.setattr(Request, "page", parameters)
            api.call(route.method, path, token=token, root=root)
        return dict(found)

    return ask


@pytest.mark.parametrize("route", [r for r in ROUTES if r.kind], ids=lambda route: f"{route.method} {route.path}")
def test_a_handler_reads_the_described_body_and_query(route: Route, reads: Callable[[Route], dict[str, Any]]) -> None:
    description = OPERATIONS[route.handler]
    if description.body is not None:
        assert reads(route) == {"body": description.body}
    else:
        assert reads(route) == {"query": description.query or (Query if route.method == "GET" else WriteQuery)}
    assert description.is_page == (description.query is not None and issubclass(description.query, PageQuery))


def test_an_undocumented_response_would_be_found(api: Api) -> None:
    account = api.account(5)
    path = f"/admin/billing/accounts/{account}"
    response = api.call("GET", f"/accounts/{account}")
    assert undocumented("GET", path, response) == []
    assert undocumented("GET", f"{path}/nothing", response) != []
    assert undocumented("POST", path, response) != []
    lacking = api.call("GET", f"/accounts/{account}/balance")
    assert undocumented("GET", path, lacking) != []
    lacking.status_code = 418
    assert undocumented("GET", f"{path}/balance", lacking) != []
    other = api.call("GET", "/campaigns/camp_none")
    assert undocumented("GET", path, other) != []


# --- the page ---


def test_the_page_has_every_route_and_code_and_no_resources(api: Api) -> None:
    response = api.ask("GET", "/schema/docs", headers=[])
    text = response.text
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    for path in openapi_document()["paths"]:
        assert f"<code>{path}</code>" in text
    for problem in every_problem():
        assert f'id="schema-{problem.code}"' in text
    assert not re.search(r"(?i)<script|<link|<img|@import|url\(|\son\w+=|https?://|style=", text)
    anchors = set(re.findall(r'href="#([^"]+)"', text))
    assert anchors <= set(re.findall(r'id="([^"]+)"', text)) and len(anchors) > 40


def test_the_page_may_use_only_its_own_style(api: Api) -> None:
    headers = api.ask("GET", "/schema/docs", headers=[]).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "style-src 'sha256-" in policy
    assert headers["x-content-type-options"] == "nosniff"


def test_the_page_escapes_all_text() -> None:
    evil = {
        "info": {"title": "<b>", "version": "1", "description": "<script>alert(1)</script>"},
        "paths": {},
        "components": {"schemas": {}, "examples": {}},
    }
    text = page(json.dumps(evil).encode()).decode()
    assert "<script>" not in text and "&lt;script&gt;" in text


def test_the_schema_is_read_only_with_get(api: Api) -> None:
    problem_of(api.ask("POST", "/schema", headers=[]), 405, "method_not_allowed")
