"""Check each response that a test receives against the OpenAPI document: status, code, headers and content."""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import httpx
import jsonschema_rs
import msgspec

from minibill.api.openapi.document import document
from minibill.app import ROUTES

Json = Any

# Codes of any path: unknown paths and methods, and requests that are rejected before routing.
ANYWHERE = {"not_found", "method_not_allowed", "unauthorized", "rate_limited", "internal_error"}


@cache
def openapi_document() -> Json:
    """Return the document of all routes."""
    return msgspec.json.decode(document(ROUTES))


def resolve(part: Json) -> Json:
    """Return the target of a `$ref`."""
    while "$ref" in part:
        _, *steps = part["$ref"].split("/")
        part = openapi_document()
        for step in steps:
            part = part[step]
    return part


@cache
def _templates() -> list[tuple[re.Pattern[str], Json]]:
    return [
        (re.compile(re.sub(r"{\w+}", "[^/]+", path), re.DOTALL), methods)
        for path, methods in openapi_document()["paths"].items()
    ]


def operations_at(method: str, path: str) -> Iterator[Json]:
    """Yield the operations that a path matches: a variable segment of one may be a fixed one of another."""
    for template, methods in _templates():
        # The router ignores a final slash.
        if template.fullmatch(path.rstrip("/")) and method.lower() in methods:
            yield methods[method.lower()]


@cache
def _validator(schema: str) -> jsonschema_rs.Draft202012Validator:
    components = {"components": openapi_document()["components"]}
    return jsonschema_rs.Draft202012Validator(msgspec.json.decode(schema) | components, validate_formats=True)


def faults(schema: Json, value: Json) -> list[str]:
    """Return the reasons why a value does not match a schema of the document."""
    validator = _validator(msgspec.json.encode(schema).decode())
    return [f"{'.'.join(map(str, error.instance_path))}: {error.message}" for error in validator.iter_errors(value)]


def undocumented(method: str, path: str, response: httpx.Response) -> list[str]:
    """Return the parts of a response that the document does not describe."""
    media_type = response.headers.get("content-type")
    if method == "HEAD":
        # As for GET, without the body.
        known = response.status_code in (404, 405) or any(operations_at("GET", path))
        return [] if known else [f"HEAD {path} is not in the document"]
    if method == "OPTIONS" and response.status_code == 204:
        return []
    problem = response.json() if media_type == "application/problem+json" else None
    operations = list(operations_at(method, path))
    if problem is not None and problem["code"] in ANYWHERE:
        return _unknown_members(problem)
    if not operations:
        return [f"{method} {path} is answered with {response.status_code} and is not in the document"]
    found = [_faults_of(operation, response, media_type, problem) for operation in operations]
    return min(found, key=len)


def _faults_of(operation: Json, response: httpx.Response, media_type: str | None, problem: Json) -> list[str]:
    if (documented := operation["responses"].get(str(response.status_code))) is None:
        return [f"{operation['operationId']} is answered with {response.status_code}: {response.text[:200]}"]
    answer = resolve(documented)
    wrong = [f"{name} is not among the headers" for name in answer["headers"] if _missing(name, answer, response)]
    content = answer.get("content", {})
    if media_type is None and not content:
        return wrong
    if media_type is None or media_type not in content:
        return [*wrong, f"{operation['operationId']} answers {media_type}"]
    if not media_type.endswith("json"):
        return wrong
    wrong += faults(content[media_type]["schema"], response.json())
    return wrong + (_unknown_members(problem) if problem is not None else [])


def _missing(name: str, answer: Json, response: httpx.Response) -> bool:
    return bool(resolve(answer["headers"][name]).get("required")) and name not in response.headers


def _unknown_members(problem: Json) -> list[str]:
    schemas = openapi_document()["components"]["schemas"]
    known = schemas["Problem"]["properties"] | schemas[problem["code"]]["properties"]
    return [f"{problem['code']} has the member {name}, which is not documented" for name in problem if name not in known]
