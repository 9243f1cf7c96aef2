"""The HTTP client of a running service: one URL, one caller, and retries."""

import asyncio
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self, TypeVar, overload

import httpx
import msgspec

import minibill
from minibill.auth.callers import CallerKind
from minibill.client._async.methods import AsyncMethods
from minibill.client.errors import WrongAccess, not_like_minibill
from minibill.client.operation import Operation, decode
from minibill.client.retries import TIMEOUT, RetryState, checked_url, path_of
from minibill.client.tokens import AsyncTokens, AsyncTokenSource, token_source

T = TypeVar("T")


class AsyncClient(AsyncMethods):
    """A client of a running service, with one caller. Use it as a context manager, or close it with `aclose`.

        async with AsyncClient("http://127.0.0.1:8080", token) as book:
            account = await book.open_account("person", "ada")

    `token` is a token, or a function that returns one. With `secret` instead, the client signs its own tokens for `sub`; the
    other claims and `ttl`, in seconds, have the defaults of the service. The client renews tokens well before they expire,
    and once more for a request whose token is rejected. All tokens of a client have one `sub`.

    If the service is overloaded, rate limits the caller or can't be reached, a request is sent again with the same
    idempotency key, for about 47 seconds. Then the error response is raised, or `Unreachable`. A malformed URL, token or
    secret raises `WrongAccess`.

    With `service=True`, token or secret are those of a service, and all requests use the service API: `open_account`,
    `accounts`, `balance`, `quote`, `events`, `reserve`, `reservation`, `finalize`, `release`, `charge`, `charge_batch` and
    `charge_by_id`. Other methods and dry runs raise `TypeError`. `on_wait` is called before each retry with the delay in
    seconds and its reason. `transport` is that of httpx, for tests.
    """

    @overload
    def __init__(
        self,
        url: str,
        token: str | AsyncTokenSource,
        *,
        service: bool = False,
        on_wait: Callable[[float, str], None] | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        user_agent: str = ...,
    ) -> None: ...

    @overload
    def __init__(
        self,
        url: str,
        *,
        secret: str,
        sub: str,
        service: bool = False,
        issuer: str | None = None,
        audience: str | None = None,
        scopes: Sequence[str] | None = None,
        ttl: int | None = None,
        on_wait: Callable[[float, str], None] | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        user_agent: str = ...,
    ) -> None: ...

    def __init__(
        self,
        url: str,
        token: str | AsyncTokenSource | None = None,
        *,
        secret: str | None = None,
        sub: str | None = None,
        service: bool = False,
        issuer: str | None = None,
        audience: str | None = None,
        scopes: Sequence[str] | None = None,
        ttl: int | None = None,
        on_wait: Callable[[float, str], None] | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        user_agent: str = f"minibill-python/{minibill.__version__}",
    ) -> None:
        self._url = checked_url(url)
        self._kind: CallerKind = "service" if service else "admin"
        self._spending = self._kind
        source: str | AsyncTokenSource = token_source(
            token, self._kind, secret=secret, sub=sub, issuer=issuer, audience=audience, scopes=scopes, ttl=ttl
        )
        self._tokens = AsyncTokens(source)
        self._on_wait = on_wait
        self._has_connected = False
        # No proxies or .netrc from the environment: the token is sent to the host of the URL only.
        self._http = httpx.AsyncClient(
            headers={"User-Agent": user_agent}, timeout=TIMEOUT, transport=transport, trust_env=False
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
        rejected = None
        url, query = self._url + path_of(operation), operation.query or None
        retries = RetryState(self._url, has_connected=self._has_connected)
        while True:
            token = await self._tokens.current(rejected=rejected)
            headers["Authorization"] = f"Bearer {token}"
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
                if self._tokens.is_renewable and retries.should_renew_token(response):
                    rejected = token
                    continue
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
