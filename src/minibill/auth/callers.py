"""The two doors: whom each path is for."""

from typing import Literal

Kind = Literal["admin", "service"]

PREFIXES: dict[str, Kind] = {"/admin/billing": "admin", "/api/internal/billing": "service"}
PREFIX_OF: dict[Kind, str] = {kind: prefix for prefix, kind in PREFIXES.items()}
