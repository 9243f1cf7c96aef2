"""The two doors: whom each path is for."""

from typing import Literal

CallerKind = Literal["admin", "service"]

PREFIXES: dict[str, CallerKind] = {"/admin/billing": "admin", "/api/internal/billing": "service"}
PREFIX_OF: dict[CallerKind, str] = {kind: prefix for prefix, kind in PREFIXES.items()}
