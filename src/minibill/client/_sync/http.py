"""The client of a running service: one URL, one token, and the patience to send a request again."""

# Made from _async/http.py by `make client`: change that one.

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, TypeVar

import httpx
import msgspec

import minibill
from minibill.auth.callers import CallerKind
from minibill.client._sync.methods import Methods
from minibill.client.errors import WrongAccess, not_like_minibill
from minibill.client.operation import Operation, read
from minibill.client.retries import TIMEOUT, RetryState, checked_headers, checked_url, path_of

T = TypeVar("T")


class Client(Methods):
    """A running minibill, as one token sees it; to be used as a context manager, or closed with `close`.

    What is busy, rate limited or can't be reached is asked again with the same idempotency key, for about 47 seconds in
    all; then the refusal is raised, or `Unreachable`. A URL or token that can't be used raises `WrongAccess`. With
    `service=True` the token is a service's, which may reserve, finalize, release and read reservations. `on_wait` hears of
    each wait before it begins: seconds, and the reason in a few words. `transport` is httpx's, for tests.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        service: bool = False,
        on_wait: Callable[[float, str], None] | None = None,
        transport: httpx.BaseTransport | None = None,
        user_agent: str = f"minibill-python/{minibill.__version__}",
    ) -> None:
        self._url = checked_url(url)
        self._spending: CallerKind = "service" if service else "admin"
        self._on_wait = on_wait
        self._met = False
        # No proxies or .netrc from the environment: a token goes where the URL says and nowhere else.
        self._http = httpx.Client(
            headers=checked_headers(token, user_agent), timeout=TIMEOUT, transport=transport, trust_env=False
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def send(self, ask: Operation) -> bytes:
        headers = {} if ask.key is None else {"Content-Type": "application/json", "Idempotency-Key": ask.key}
        tries = RetryState(self._url, has_connected=self._met)
        while True:
            try:
                response = self._http.request(
                    ask.method, self._url + path_of(ask), content=ask.body, headers=headers, params=ask.query or None
                )
            except (httpx.UnsupportedProtocol, httpx.LocalProtocolError, httpx.InvalidURL, UnicodeError) as error:
                raise WrongAccess(f"{self._url} can't be asked: {error}") from None
            except httpx.RequestError as error:
                wait = tries.after_error(error)
            else:
                self._met = True
                if (asked_to_wait := tries.after_answer(response)) is None:
                    return tries.success(response)
                wait = asked_to_wait
            if self._on_wait is not None:
                self._on_wait(wait.seconds, wait.reason)
            time.sleep(wait.seconds)

    def _understood(self, answer: bytes, expected: type[T]) -> T:
        try:
            return read(answer, expected)
        except msgspec.DecodeError as error:
            raise not_like_minibill(str(error)) from None
