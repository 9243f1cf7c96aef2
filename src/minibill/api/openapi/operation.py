"""What a handler takes, answers and refuses, said beside the handler: `GET /schema` tells it, and tests hold the code to it.

What all handlers have in common (tokens, bodies, keys, pages) is not repeated: `problems.py` knows it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from minibill.api.types import Body, PageQuery, Query
from minibill.core.problems import Problem

H = TypeVar("H", bound=Callable[..., Any])

JSON = "application/json"


class OperationSpec(NamedTuple):
    """`answer` is a struct, `str` for text, or None for no content; with a `PageQuery` it is what a page lists."""

    answer: type | None
    statuses: tuple[int, ...]
    body: type[Body] | None
    query: type[Query] | None
    problems: tuple[type[Problem], ...]
    media_type: str
    examples: tuple[Problem, ...]

    @property
    def is_page(self) -> bool:
        """Whether it answers a page of a list."""
        return self.query is not None and issubclass(self.query, PageQuery)


OPERATIONS: dict[Callable[..., Any], OperationSpec] = {}


def operation(
    answer: type | None,
    *statuses: int,
    body: type[Body] | None = None,
    query: type[Query] | None = None,
    problems: tuple[type[Problem], ...] = (),
    media_type: str = JSON,
    examples: tuple[Problem, ...] = (),
) -> Callable[[H], H]:
    """Describes the handler that follows: `@describe(Minted, 201, 200, body=MintBody, refusals=(AccountNotFound,))`.

    Without a status it is 200. `problems` are those of its own, `examples` problems with extensions that only it sends.
    """

    def described(handler: H) -> H:
        OPERATIONS[handler] = OperationSpec(answer, statuses or (200,), body, query, problems, media_type, examples)
        return handler

    return described
