"""Filters by event type."""

from minibill.api.types import NAME_CHARACTERS_MAX
from minibill.core.problems import FieldError, InvalidRequest
from minibill.events.schemas import TYPES


def parse_types(names: list[str], path: str) -> frozenset[str]:
    """Return the named types; `ledger.*` is every type of a kind. Raises `InvalidRequest` for an unknown type, at `path`."""
    found: set[str] = set()
    for name in names:
        kind = name.removesuffix("*")
        of_kind = {
            known for known in TYPES if known == name or (kind.endswith(".") and known.startswith(kind) and kind != name)
        }
        if not of_kind:
            known_types = ", ".join(TYPES)
            raise InvalidRequest(
                FieldError(
                    path,
                    f"{name[:NAME_CHARACTERS_MAX]!r} is not an event type: expected one of {known_types}, "
                    "or every type of a kind, such as ledger.*",
                )
            )
        found |= of_kind
    return frozenset(found)
