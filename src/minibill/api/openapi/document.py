"""The OpenAPI 3.1 document, from the routes, the specs of their handlers, the structs and the problems."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from msgspec import NODEFAULT

import minibill
from minibill.api.idempotency import KEY_CHARACTERS_MAX
from minibill.api.openapi.errors import OF_UNKNOWN_ROUTES, every_example, problems_of
from minibill.api.openapi.operation import JSON, OPERATIONS, OperationSpec
from minibill.api.problem_response import problem_body
from minibill.api.response import NO_CONTENT
from minibill.api.routing import Route
from minibill.api.types import (
    FEED_ITEMS_MAX,
    PAGE_ITEMS_MAX,
    WAIT_SECONDS_MAX,
    EntityId,
    FeedLimit,
    Flag,
    Limit,
    Micro,
    Query,
    TimeUs,
    Wait,
    WriteQuery,
)
from minibill.core.entity_ids import ENTITY_ID_CHARACTERS_MAX
from minibill.core.money import MAX_MICRO
from minibill.core.problems import Problem

Json = dict[str, Any]

MICRO: Json = {
    "type": "string",
    "pattern": "^(0|[1-9][0-9]{0,18})$",
    "description": f"Micro-units, at most {MAX_MICRO}.",
    "examples": ["5000000"],
}
SIGNED_MICRO: Json = {"type": "string", "pattern": "^(0|-?[1-9][0-9]{0,18})$", "examples": ["-5000000"]}
ENTITY_ID: Json = {
    "type": "string",
    "minLength": 1,
    "maxLength": ENTITY_ID_CHARACTERS_MAX,
    "description": "Stored in Unicode NFC, an EVM address in lower case. Visible characters and single inner spaces only.",
    "examples": ["ada"],
}
TIME: Json = {"type": "string", "format": "date-time", "examples": ["2027-01-31T12:00:00.000000Z"]}

_CUSTOM: dict[type, Json] = {
    Micro: MICRO,
    EntityId: ENTITY_ID,
    TimeUs: TIME,
    Limit: {"type": "integer", "minimum": 1, "maximum": PAGE_ITEMS_MAX},
    FeedLimit: {"type": "integer", "minimum": 1, "maximum": FEED_ITEMS_MAX},
    Wait: {"type": "integer", "minimum": 0, "maximum": WAIT_SECONDS_MAX},
    Flag: {"type": "boolean"},
}

# Responses hold strings; the end of a member's name tells the format of its string.
_BY_NAME: tuple[tuple[str, Json], ...] = (
    (r"[dD]eltaMicro$", SIGNED_MICRO),
    (r"Micro$", MICRO),
    (r"(^at|^now|At)$", TIME),
    (r"^date$", {"type": "string", "format": "date"}),
)

_ABOUT = """Prepaid credits and promotional campaigns.

Amounts are micro-units (1 unit = 1,000,000) as strings of digits. Times are RFC 3339; intervals are half-open.
Unknown members and parameters are rejected. Every error is `application/problem+json` with a stable `code`, and changes
nothing. An unknown path gets 404 `not_found`, an unknown method of a path 405 `method_not_allowed`."""

_PREFIX = re.compile(r"/(?:admin|api/internal)/billing(?=/)")
_VARIABLE = re.compile(r"{(\w+)}")

_HEADERS: dict[str, Json] = {
    "X-Request-Id": {
        "description": "The id of this request, also in the log.",
        "required": True,
        "schema": {"type": "string"},
    },
    "X-Correlation-Id": {
        "description": "The X-Correlation-Id of the request, or the request id.",
        "required": True,
        "schema": {"type": "string"},
    },
    "RateLimit-Limit": {"description": "Requests allowed per minute, if a limit is set.", "schema": {"type": "integer"}},
    "RateLimit-Remaining": {"description": "Requests left in this minute.", "schema": {"type": "integer"}},
    "RateLimit-Reset": {"description": "Seconds until the minute ends.", "schema": {"type": "integer"}},
    "Idempotency-Replayed": {
        "description": "Present if an earlier request with this key got this response first.",
        "schema": {"const": "true"},
    },
    "Ledger-Sequence": {
        "description": "The newest ledger entry that the response can reflect; absent if the ledger was not read.",
        "schema": {"type": "integer", "minimum": 0},
    },
    "Retry-After": {"description": "Seconds to wait before the request is sent again.", "schema": {"type": "integer"}},
    "WWW-Authenticate": {
        "description": "The kind of token that is required.",
        "required": True,
        "schema": {"type": "string"},
    },
    "Allow": {"description": "The methods that the path accepts.", "required": True, "schema": {"type": "string"}},
}
_EVERYWHERE = ("X-Request-Id", "X-Correlation-Id")
_RATE_LIMIT_HEADERS = ("RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset")
_LEDGER_HEADERS = ("Ledger-Sequence", *_RATE_LIMIT_HEADERS)

_PARAMETERS: dict[str, Json] = {
    "IdempotencyKey": {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "A request with the same key, path and body gets the first successful response again, byte for byte.",
        "schema": {"type": "string", "pattern": f"^[!-~]{{1,{KEY_CHARACTERS_MAX}}}$"},
    },
    "CorrelationId": {
        "name": "X-Correlation-Id",
        "in": "header",
        "description": "1 to 128 visible ASCII characters: echoed, logged and audited. Other values are ignored.",
        "schema": {"type": "string"},
    },
}

_PROBLEM: Json = {
    "title": "Problem",
    "description": "An error (RFC 9457). `detail` is for people; programs use `code` and its extension members.",
    "type": "object",
    "required": ["type", "title", "status", "detail", "code", "requestId"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string"},
        "requestId": {"type": "string"},
    },
}


def document(routes: Sequence[Route]) -> bytes:
    """Return the document as JSON. Takes some tens of milliseconds, so the caller makes it once and on a thread."""
    described = [(route, OPERATIONS[route.handler]) for route in routes]
    schemas = _structs(described)
    schemas["Problem"] = _PROBLEM
    paths: dict[str, Json] = {}
    responses: dict[str, Json] = {}
    for route, description in described:
        paths.setdefault(_VARIABLE.sub(lambda v: f"{{{_camel(v[1])}}}", route.path), {})[route.method.lower()] = _operation(
            route, description, schemas, responses
        )
    for kind in OF_UNKNOWN_ROUTES:
        _refer_to_problems([kind], responses)
    schemas |= {kind.code: _problem_schema(kind) for kind in {type(example) for example in every_example()}}
    whole = {
        "openapi": "3.1.1",
        "info": {"title": "minibill", "version": minibill.__version__, "description": _ABOUT},
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "responses": responses,
            "parameters": _PARAMETERS,
            "headers": _HEADERS,
            "examples": {name: {"summary": e.detail, "value": _as_sent(e)} for name, e in _named_examples(every_example())},
            "securitySchemes": {
                "admin": _security(
                    "An admin token; `minibill token` signs one. Each operation names the scope that it needs."
                ),
                "service": _security("A service token, valid for 5 minutes at most; `minibill token --service` signs one."),
            },
        },
    }
    return msgspec.json.encode(whole)


# --- operations ---


def _operation(route: Route, description: OperationSpec, schemas: dict[str, Json], responses: dict[str, Json]) -> Json:
    is_write = route.method != "GET"
    has_token = route.kind is not None
    query = description.query or (WriteQuery if is_write else Query)
    summary, _, more = (route.handler.__doc__ or "").partition("\n")
    operation: Json = {
        "operationId": f"{route.kind or 'public'}.{_area(route)}.{route.handler.__name__}",
        "summary": summary.rstrip("."),
        "tags": [_tag(route)],
        "security": [{route.kind: [route.scope] if route.scope else []}] if has_token else [],
        "parameters": [
            *_path_parameters(route),
            *(member for member in _query_parameters(query) if member["name"] != "dryRun" or route.kind == "admin"),
        ],
    }
    if more:
        operation["description"] = more.strip()
    operation["parameters"].append({"$ref": "#/components/parameters/CorrelationId"})
    if is_write and has_token:
        operation["parameters"].append({"$ref": "#/components/parameters/IdempotencyKey"})
    if description.body is not None:
        required = any(field.required for field in msgspec.structs.fields(description.body))
        content = {JSON: {"schema": {"$ref": f"#/components/schemas/{description.body.__name__}"}}}
        operation["requestBody"] = {"required": required, "content": content}
    found: Json = {}
    for status in description.statuses:
        found[str(status)] = _success(route, description, status, schemas, is_write=is_write)
    kinds = problems_of(description, has_token=has_token, has_scope=route.scope is not None, is_write=is_write)
    for status in dict.fromkeys(kind.status for kind in kinds):
        found[str(status)] = _refer_to_problems([kind for kind in kinds if kind.status == status], responses)
    operation["responses"] = found
    return operation


def _success(route: Route, description: OperationSpec, status: int, schemas: dict[str, Json], *, is_write: bool) -> Json:
    headers = [*_EVERYWHERE, *(_LEDGER_HEADERS if route.kind else ()), *(["Idempotency-Replayed"] if is_write else ())]
    response: Json = {"description": _STATUS_WORDS[status], "headers": _header_references(headers)}
    body = description.response
    if body is None or status == NO_CONTENT:
        return response
    schema: Json
    if not issubclass(body, msgspec.Struct):
        schema = {"type": "string"} if body is str else {"type": "object"}
    elif description.is_page:
        name = f"{body.__name__}Page"
        schemas[name] = _page_schema(name, body)
        schema = {"$ref": f"#/components/schemas/{name}"}
    else:
        schema = {"$ref": f"#/components/schemas/{body.__name__}"}
        if is_write and route.kind == "admin":
            schema["properties"] = {"dryRun": {"const": True, "description": "With `?dryRun=true` only."}}
    response["content"] = {description.media_type: {"schema": schema}}
    return response


_STATUS_WORDS = {200: "OK", 201: "Created", 204: "Done; no content"}


def _area(route: Route) -> str:
    return _PREFIX.sub("", route.path).split("/")[1] if route.kind else "process"


def _tag(route: Route) -> str:
    return f"services: {_area(route)}" if route.kind == "service" else _area(route)


def _path_parameters(route: Route) -> list[Json]:
    return [
        {"name": _camel(name), "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in _VARIABLE.findall(route.path)
    ]


def _query_parameters(query: type[Query]) -> list[Json]:
    parameters = []
    for field in msgspec.structs.fields(query):
        [schema], _ = msgspec.json.schema_components([field.type], schema_hook=_custom)
        # A query has no null: a parameter is left out instead.
        [schema] = [_plain(choice) for choice in schema.get("anyOf", [schema]) if choice != {"type": "null"}]
        if field.default is not NODEFAULT and field.default is not None:
            schema["default"] = int(field.default)
        parameters.append({"name": field.encode_name, "in": "query", "required": field.required, "schema": schema})
    return parameters


# --- schemas ---


def _structs(described: Iterable[tuple[Route, OperationSpec]]) -> dict[str, Json]:
    """Return the schemas of all bodies and responses, and of the structs inside them."""
    kinds: dict[type, None] = {}
    for _, description in described:
        for kind in (description.body, description.response):
            if kind is not None and issubclass(kind, msgspec.Struct):
                kinds[kind] = None
    _, schemas = msgspec.json.schema_components(kinds, schema_hook=_custom, ref_template="#/components/schemas/{name}")
    for schema in schemas.values():
        for name, member in schema.get("properties", {}).items():
            schema["properties"][name] = _plain(member, name)
    return schemas


def _custom(kind: type) -> Json:
    return dict(_CUSTOM[kind])


def _plain(schema: Json, name: str = "") -> Json:
    """Return a member's schema as JSON Schema: without Python's `\\Z`, and with the format that its name tells."""
    if "anyOf" in schema:
        return {**schema, "anyOf": [_plain(choice, name) for choice in schema["anyOf"]]}
    if "enum" in schema:
        return {"type": "string", **schema}
    if schema.get("type") != "string":
        return schema
    if "pattern" in schema:
        return {**schema, "pattern": schema["pattern"].replace(r"\Z", "$")}
    known = next((known for ending, known in _BY_NAME if re.search(ending, name)), {}) if len(schema) == 1 else {}
    return {**schema, **known}


def _page_schema(name: str, item: type) -> Json:
    items = {"type": "array", "items": {"$ref": f"#/components/schemas/{item.__name__}"}, "maxItems": PAGE_ITEMS_MAX}
    cursor = {"type": ["string", "null"], "description": "Pass it as `cursor` to get the next page; null on the last page."}
    members = {"items": items, "nextCursor": cursor}
    return {"title": name, "type": "object", "required": list(members), "properties": members}


# --- problems ---


def _refer_to_problems(kinds: list[type[Problem]], responses: dict[str, Json]) -> Json:
    """Return a reference to the response that these problems of one status share."""
    codes = [kind.code for kind in kinds]
    name = "-".join(codes)
    if name not in responses:
        references = [{"$ref": f"#/components/schemas/{code}"} for code in codes]
        examples = [n for n, example in _named_examples(every_example()) if example.code in codes]
        names = [*_EVERYWHERE, *dict.fromkeys(header for kind in kinds for header in _HEADERS_OF.get(kind.status, ()))]
        responses[name] = {
            "description": "; ".join(kind.title for kind in kinds),
            "headers": _header_references(names),
            "content": {
                "application/problem+json": {
                    "schema": references[0] if len(references) == 1 else {"oneOf": references},
                    "examples": {n: {"$ref": f"#/components/examples/{n}"} for n in examples},
                }
            },
        }
    return {"$ref": f"#/components/responses/{name}"}


_HEADERS_OF = {
    401: ("WWW-Authenticate",),
    402: ("Ledger-Sequence",),
    404: ("Ledger-Sequence",),
    405: ("Allow",),
    409: ("Ledger-Sequence",),
    422: ("Ledger-Sequence",),
    429: ("Retry-After", *_RATE_LIMIT_HEADERS),
    503: ("Retry-After",),
}


def _problem_schema(kind: type[Problem]) -> Json:
    extensions: Json = {}
    for example in every_example():
        if type(example) is kind:
            extensions |= {name: _of_value(name, value) for name, value in _as_sent(example).items()}
            extensions |= {
                name: {"$ref": f"#/components/schemas/{type(value).__name__}"}
                for name, value in example.extensions.items()
                if isinstance(value, msgspec.Struct)
            }
    own = {name: schema for name, schema in extensions.items() if name not in _PROBLEM["properties"]}
    fixed = {"code": {"const": kind.code}, "status": {"const": kind.status}}
    schema: Json = {"allOf": [{"$ref": "#/components/schemas/Problem"}], "properties": {**fixed, **own}}
    if kind.__doc__:
        schema["description"] = kind.__doc__
    return schema


def _of_value(name: str, value: Any) -> Json:
    match value:
        case int():
            return {"type": "integer"}
        case list():
            return {"type": "array", "items": _of_value("", value[0])}
        case dict():
            members = {inner: _of_value(inner, v) for inner, v in value.items()}
            return {"type": "object", "required": list(members), "properties": members}
        case _:
            return _plain({"type": "string"}, name)


def _named_examples(examples: Iterable[Problem]) -> list[tuple[str, Problem]]:
    names: list[tuple[str, Problem]] = []
    for example in examples:
        number = sum(other.code == example.code for _, other in names)
        names.append((f"{example.code}_{number + 1}" if number else example.code, example))
    return names


def _as_sent(example: Problem) -> Json:
    members: Json = msgspec.json.decode(problem_body(example, "req_1f0c9a5b2e774d01000001"))
    return members


# --- words ---


def _header_references(names: Iterable[str]) -> Json:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _security(description: str) -> Json:
    return {"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": description}


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)
