"""The HTTP client of a running service: one URL, one token, and retries."""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self, TypeVar

import httpx
import msgspec

import minibill
from minibill.auth.callers import CallerKind
from minibill.client._async.methods import AsyncMethods
from minibill.client.errors import WrongAccess, not_like_minibill
from minibill.client.operation import Operation, decode
from minibill.client.retries import TIMEOUT, RetryState, checked_headers, checked_url, path_of

T = TypeVar("T")


class AsyncClient(AsyncMethods):
    """A client of a running service, with one token. Use it as a context manager, or close it with `aclose`.

        async with AsyncClient("http://127.0.0.1:8080", token) as book:
            account = await book.open_account("person", "ada")

    If the service is overloaded, rate limits the caller or can't be reached, a request is sent again with the same
    idempotency key, for about 47 seconds. Then the error response is raised, or `Unreachable`. A malformed URL or token
    raises `WrongAccess`.

    With `service=True`, `token` is a service token: reservations then use the service API. `on_wait` is called before each
    retry with the delay in seconds and its reason. `transport` is that of httpx, for tests.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        service: bool = False,
        on_wait: Callable[[float, str], None] | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        user_agent: str = f"minibill-python/{minibill.__version__}",
    ) -> None:
        self._url = checked_url(url)
        self._spending: CallerKind = "service" if service else "admin"
        self._on_wait = on_wait
        self._has_connected = False
        # No proxies or .netrc from the environment: the token is sent to the host of the URL only.
        self._http = httpx.AsyncClient(
            headers=checked_headers(token, user_agent), timeout=TIMEOUT, transport=transport, trust_env=False
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def send(self, operation: Operation) -> bytes:
        headers = {}
        if operation.key is not None:
            headers = {"Content-Type": "application/json", "Idempotency-Key": operation.key}
        url, query = self._url + path_of(operation), operation.query or None
        retries = RetryState(self._url, has_connected=self._has_connected)
        while True:
            try:
                response = await self._http.request(
                    operation.method, url, content=operation.body, headers=headers, params=query
                )
            except (httpx.UnsupportedProtocol, httpx.LocalProtocolError, httpx.InvalidURL, UnicodeError) as error:
                raise WrongAccess(f"can't send a request to {self._url}: {error}") from None
            except httpx.RequestError as error:
                delay = retries.after_error(error)
            else:
                self._has_connected = True
                if (found := retries.after_response(response)) is None:
                    return retries.success(response)
                delay = found
            if self._on_wait is not None:
                self._on_wait(delay.seconds, delay.reason)
            await asyncio.sleep(delay.seconds)

    def _decode(self, body: bytes, expected: type[T]) -> T:
        try:
            return decode(body, expected)
        except msgspec.DecodeError as error:
            raise not_like_minibill(str(error)) from None
