"""The OpenAPI document over HTTP, and an HTML page of it."""

import asyncio
from functools import lru_cache

from minibill.api.openapi.operation import operation
from minibill.api.request import Request
from minibill.api.response import Response
from minibill.api.routing import Route


@operation(dict)
async def show_schema(request: Request) -> Response:
    """This API as an OpenAPI 3.1 document."""
    return Response(200, await asyncio.to_thread(_document, request.state.routes))


@operation(str, media_type="text/html; charset=utf-8")
async def show_page(request: Request) -> Response:
    """This API as an HTML page, without scripts and external resources."""
    from minibill.api.openapi.html_page import POLICY

    headers = {"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer"}
    return Response(200, await asyncio.to_thread(_page, request.state.routes), headers, b"text/html; charset=utf-8")


# The first request makes them, so that a start takes less time. They never change.


@lru_cache(maxsize=1)
def _document(routes: tuple[Route, ...]) -> bytes:
    from minibill.api.openapi.document import document

    return document(routes)


@lru_cache(maxsize=1)
def _page(routes: tuple[Route, ...]) -> bytes:
    from minibill.api.openapi.html_page import page

    return page(_document(routes))
