"""Routes by the path as it was sent, for requests that the router does not see as a proxy does.

The router matches the decoded path: `/%6detrics` would reach what a proxy's rule for `/metrics` covers, and a slash that was
sent as `%2F` would end a segment. Here the fixed segments match byte for byte, and a variable one is decoded afterwards.
"""

import re
from collections.abc import Iterable
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

from minibill.api.routing import Route
from minibill.core.problems import FieldError, InvalidRequest

_VARIABLE = re.compile(r"\{(\w+):str\}")
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")


class Found(NamedTuple):
    """The routes of a path by their methods, and the variable segments of the path."""

    routes: dict[str, Route]
    segments: dict[str, str]


class Paths:
    """All paths of the service."""

    def __init__(self, routes: Iterable[Route]) -> None:
        templates: dict[str, dict[str, Route]] = {}
        for route in routes:
            templates.setdefault(route.path, {})[route.method] = route
        # Like the router, prefer a fixed segment to a variable one.
        self._patterns = [
            (re.compile(_VARIABLE.sub(r"(?P<\1>[^/]+)", path).encode()), templates[path])
            for path in sorted(templates, key=lambda path: path.count("{"))
        ]

    def find(self, raw_path: bytes) -> Found | None:
        """Return what is at a path. Raises `InvalidRequest` for a variable segment that is not URL-encoded UTF-8."""
        # A final slash makes no difference to the router.
        path = raw_path.removesuffix(b"/")
        for pattern, routes in self._patterns:
            if found := pattern.fullmatch(path):
                return Found(routes, {name: _decoded(value) for name, value in found.groupdict().items()})
        return None


def _decoded(segment: Any) -> str:
    try:
        if not _BAD_ESCAPE.search(segment):
            return unquote_to_bytes(segment).decode()
    except UnicodeDecodeError:
        pass
    raise InvalidRequest(FieldError("", "the path is not URL-encoded UTF-8"))
