"""An event loop on its own thread, so that tests can be plain functions."""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

import httpx

from minibill.server.event_loop import new_loop

T = TypeVar("T")

# A test that hangs fails with a traceback after this time.
SECONDS_MAX = 60


class LoopThread:
    """An event loop that runs coroutines for the test's thread."""

    def __init__(self) -> None:
        self.loop = new_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="minibill-testing", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine and return its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(SECONDS_MAX)

    def close(self) -> None:
        """Stop the loop and end the thread."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


class LoopTransport(httpx.BaseTransport):
    """A transport that calls an ASGI application on the loop, without a socket."""

    def __init__(self, loop: LoopThread, app: Any) -> None:
        self._loop = loop
        self._inner = httpx.ASGITransport(app, raise_app_exceptions=False)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Run one request and return its complete response."""
        return self._loop.run(self._ask(request))

    async def _ask(self, request: httpx.Request) -> httpx.Response:
        whole = httpx.Request(request.method, request.url, headers=request.headers, content=request.read())
        answer = await self._inner.handle_async_request(whole)
        content = await answer.aread()
        return httpx.Response(answer.status_code, headers=answer.headers, content=content, request=request)
