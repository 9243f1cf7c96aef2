"""The reference of the HTTP API and of errors has every route, scope, member and parameter."""

import re
from collections.abc import Iterator
from typing import Any

import msgspec

import minibill.app
from minibill.api.openapi.errors import every_example
from minibill.api.types import Body, Query, ResponseBody
from minibill.core.problems import camel
from tests.documentation import page

PAGE = page("docs/reference/http-api.md")

# Members of bodies that no response or request of a documented operation has by itself.
UNNAMED = {"items"}


def normalized(path: str) -> str:
    return re.sub(r"\{[^}]*\}", "{}", path)


def documented() -> set[tuple[str, str, str]]:
    """Return method, path and the whole line of each path that the page names."""
    return {
        (method, normalized(path).partition("?")[0], line)
        for line in PAGE.splitlines()
        for method, path in re.findall(r"`(GET|POST|PUT|PATCH|DELETE) (/[^`\s]*)`", line)
    }


def test_every_route_of_admins_is_documented_with_its_scope() -> None:
    missing = [
        f"{method} {path} {scope}"
        for method, path, _, scope in minibill.app.ADMIN
        if not any((method, normalized(path)) == (m, p) and f"`{scope}`" in line for m, p, line in documented())
    ]
    assert missing == []


def test_every_other_route_is_documented_and_no_unknown_one() -> None:
    known = {(method, normalized(path)) for method, path, *_ in minibill.app.ADMIN}
    known |= {(method, f"/api/internal/billing{normalized(path)}") for method, path, *_ in minibill.app.INTERNAL}
    known |= {("GET", path) for path, _ in minibill.app.PUBLIC}
    assert {(method, path) for method, path, _ in documented()} == known


def structs(kind: type[msgspec.Struct]) -> Iterator[type[msgspec.Struct]]:
    for below in kind.__subclasses__():
        if below.__module__.startswith("minibill."):
            yield below
            yield from structs(below)


def test_every_member_and_parameter_is_documented() -> None:
    words = set(re.findall(r"\w+", PAGE))
    fields: dict[str, Any] = {
        field.encode_name: struct.__name__
        for kind in (Body, Query, ResponseBody)
        for struct in structs(kind)
        for field in msgspec.structs.fields(struct)
    }
    assert {name: owner for name, owner in fields.items() if name not in words | UNNAMED} == {}


def test_an_error_is_documented_with_its_extension_members() -> None:
    lines = page("docs/reference/errors.md").splitlines()
    missing = []
    for problem in every_example():
        [line] = [line for line in lines if line.startswith(f"| {problem.status} | `{problem.code}` |")]
        missing += [f"{problem.code}: {camel(name)}" for name in problem.extensions if f"`{camel(name)}`" not in line]
    assert missing == []
