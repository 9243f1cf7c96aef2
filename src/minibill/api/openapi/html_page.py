"""The OpenAPI document as one page of HTML: no script, no font, no image, nothing from another host."""

import base64
import hashlib
from collections.abc import Iterable, Iterator
from html import escape
from typing import Any

import msgspec

Json = dict[str, Any]

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --link: #2563eb }
@media (prefers-color-scheme: dark) { :root { --link: #8ab4ff } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem }
a { color: var(--link); text-decoration: none } a:hover { text-decoration: underline }
code, pre { font: 13px/1.45 ui-monospace, monospace } pre { background: var(--soft); padding: .7rem; overflow-x: auto }
h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line) } h3 { margin: 1.2rem 0 .3rem }
details { border: 1px solid var(--line); border-radius: 6px; margin: .5rem 0; padding: .4rem .8rem }
summary { cursor: pointer } summary b { display: inline-block; min-width: 4.2rem } summary span { opacity: .75 }
table { border-collapse: collapse; width: 100% }
td, th { text-align: left; vertical-align: top; padding: .2rem .6rem .2rem 0 }
tr { border-bottom: 1px solid var(--line) } nav a { margin-right: 1rem }
"""

_DIGEST = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

# The page may use its own style, and nothing else.
POLICY = f"default-src 'none'; style-src 'sha256-{_DIGEST}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

_PROBLEMS = "application/problem+json"


def page(document: bytes) -> bytes:
    """Return the HTML page of an OpenAPI document in JSON."""
    return "".join(_page(msgspec.json.decode(document))).encode()


def _page(api: Json) -> Iterator[str]:
    parts, operations = api["components"], list(_operations(api))
    title = f"{api['info']['title']} {api['info']['version']}"
    tags = list(dict.fromkeys(operation["tags"][0] for _, _, operation in operations))
    yield f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
    yield f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>'
    yield from (f"<p>{escape(text)}</p>" for text in api["info"]["description"].split("\n\n"))
    yield '<p>For programs: <a href="/schema">OpenAPI 3.1</a>.</p><nav>'
    yield from (f'<a href="#{_anchor(tag)}">{escape(tag)}</a>' for tag in tags)
    yield '<a href="#structures">structures</a><a href="#problems">problems</a></nav>'
    for tag in tags:
        yield f'<h2 id="{_anchor(tag)}">{escape(tag)}</h2>'
        for method, path, operation in operations:
            if operation["tags"][0] == tag:
                yield from _operation(method, path, operation, parts)
    yield '<h2 id="structures">structures</h2>'
    codes = {example["value"]["code"] for example in parts["examples"].values()}
    for name, schema in parts["schemas"].items():
        if name not in codes:
            yield f'<h3 id="schema-{name}">{name}</h3>{_paragraph(schema)}{_members(schema)}'
    yield '<h2 id="problems">problems</h2>'
    for name in sorted(codes):
        schema = parts["schemas"][name]
        yield f'<h3 id="schema-{name}">{schema["properties"]["status"]["const"]} {name}</h3>{_paragraph(schema)}'
        for example in parts["examples"].values():
            if example["value"]["code"] == name:
                yield f"<pre>{escape(msgspec.json.format(msgspec.json.encode(example['value'])).decode())}</pre>"
    yield "</body></html>"


def _operations(api: Json) -> Iterator[tuple[str, str, Json]]:
    for path, methods in api["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def _operation(method: str, path: str, operation: Json, parts: Json) -> Iterator[str]:
    yield f'<details id="{operation["operationId"]}"><summary><b>{method}</b> <code>{escape(path)}</code>'
    yield f" <span>{escape(operation['summary'])}</span></summary>{_paragraph(operation)}"
    for requirement in operation["security"]:
        for kind, scopes in requirement.items():
            yield f"<p>Token: {escape(' '.join([kind, *scopes]))}</p>"
    parameters = [_resolve(parameter, parts) for parameter in operation["parameters"]]
    yield "<h3>Parameters</h3>" + _table(
        (
            f"{p['name']}",
            f"{p['in']}{', required' if p.get('required') else ''}",
            _kind(p["schema"]),
            p.get("description", ""),
        )
        for p in parameters
    )
    if body := operation.get("requestBody"):
        [content] = body["content"].values()
        yield f"<h3>Body</h3><p>{_kind(content['schema'])}{'' if body['required'] else ', or none'}</p>"
    yield "<h3>Responses</h3><table>"
    for status, reference in operation["responses"].items():
        response = _resolve(reference, parts)
        kinds = [_kind(content["schema"]) for content in response.get("content", {}).values()]
        meaning = "" if _PROBLEMS in response.get("content", {}) else escape(response["description"])
        yield f"<tr><td>{status}</td><td>{', '.join(kinds)}</td><td>{meaning}</td></tr>"
    yield "</table></details>"


def _members(schema: Json) -> str:
    required = schema.get("required", [])
    return _table(
        (name, "required" if name in required else "", _kind(member), member.get("description", ""))
        for name, member in schema.get("properties", {}).items()
    )


def _table(rows: Iterable[tuple[str, str, str, str]]) -> str:
    """Return a table. Each row has a name, its place or `required`, its type as HTML, and its meaning."""
    lines = [
        f"<tr><td><code>{escape(name)}</code></td><td>{escape(place)}</td><td>{kind}</td><td>{escape(meaning)}</td></tr>"
        for name, place, kind, meaning in rows
    ]
    return f"<table>{''.join(lines)}</table>" if lines else "<p>none</p>"


def _kind(schema: Json) -> str:
    """Return the type of a value as HTML."""
    if reference := schema.get("$ref"):
        name = reference.rpartition("/")[2]
        return f'<a href="#schema-{name}">{name}</a>'
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return " or ".join(map(_kind, schema[several]))
    if "enum" in schema:
        return " ".join(f"<code>{escape(str(choice))}</code>" for choice in schema["enum"])
    kind = schema.get("type", "anything")
    words = [escape(" or ".join(kind) if isinstance(kind, list) else kind)]
    if kind == "array":
        words.append(f"of {_kind(schema.get('items', {}))}")
    words += [f"{name} {escape(str(schema[name]))}" for name in _LIMITS if name in schema]
    return " ".join(words)


_LIMITS = ("format", "pattern", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "default", "const")


def _paragraph(described: Json) -> str:
    return f"<p>{escape(described['description'])}</p>" if "description" in described else ""


def _resolve(part: Json, parts: Json) -> Json:
    reference = part.get("$ref")
    if reference is None:
        return part
    *_, kind, name = reference.split("/")
    found: Json = parts[kind][name]
    return found


def _anchor(tag: str) -> str:
    return "part-" + "".join(character if character.isalnum() else "-" for character in tag)
