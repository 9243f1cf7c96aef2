"""The two kinds of callers, and the path prefix of each."""

from typing import Literal

CallerKind = Literal["admin", "service"]

PREFIXES: dict[str, CallerKind] = {"/admin/billing": "admin", "/api/internal/billing": "service"}
PREFIX_OF: dict[CallerKind, str] = {kind: prefix for prefix, kind in PREFIXES.items()}
