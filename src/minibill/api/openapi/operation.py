"""The `@operation` decorator: the response, body, query and problems of a handler, for `GET /schema` and the tests.

It leaves out what all handlers share, such as tokens and idempotency keys: `openapi/errors.py` adds the problems of those.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from minibill.api.types import Body, PageQuery, Query
from minibill.core.problems import Problem

H = TypeVar("H", bound=Callable[..., Any])

JSON = "application/json"


class OperationSpec(NamedTuple):
    """The description of one handler.

    `response` is a struct, `dict` for any object, `str` for text, or None for no content. With a `PageQuery` it is the type
    of the items of a page.
    """

    response: type | None
    statuses: tuple[int, ...]
    body: type[Body] | None
    query: type[Query] | None
    problems: tuple[type[Problem], ...]
    media_type: str
    examples: tuple[Problem, ...]

    @property
    def is_page(self) -> bool:
        """True if the response is a page of a list."""
        return self.query is not None and issubclass(self.query, PageQuery)


OPERATIONS: dict[Callable[..., Any], OperationSpec] = {}


def operation(
    response: type | None,
    *statuses: int,
    body: type[Body] | None = None,
    query: type[Query] | None = None,
    problems: tuple[type[Problem], ...] = (),
    media_type: str = JSON,
    examples: tuple[Problem, ...] = (),
) -> Callable[[H], H]:
    """Describe a handler: `@operation(Minted, 201, 200, body=MintBody, problems=(AccountNotFound,))`.

    Without `statuses` it is 200. `problems` are those of this handler alone; `examples` are problems whose extensions no
    other handler sends.
    """

    def described(handler: H) -> H:
        OPERATIONS[handler] = OperationSpec(response, statuses or (200,), body, query, problems, media_type, examples)
        return handler

    return described
