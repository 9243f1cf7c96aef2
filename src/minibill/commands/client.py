"""The HTTP client of the commands: one service, one token, JSON both ways. What is asked is the commands' business.

Every POST carries an idempotency key, so that whatever goes wrong on the way, the same request can be sent again.
"""

import re
import time
import uuid
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Annotated, Any, Self, TypeVar

import httpx
import msgspec

# Sums to 47 seconds: longer than a restart takes, short enough to sit through.
BACKOFF_S = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 16.0)
# Whoever never answered is more likely a wrong URL than a service that is just starting.
UNMET_TRIES_MAX = 3
# The rate limit counts by the minute. Who is told to wait much longer should hear of it.
RETRY_AFTER_MAX_S = 120
TIMEOUT = httpx.Timeout(60.0, connect=10.0)

_BUSY_STATUSES = frozenset({429, 502, 503, 504})
_STANDARD_MEMBERS = frozenset({"type", "title", "status", "detail", "instance", "code", "requestId", "errors"})
_URL = re.compile(r"https?://[^/?#\s@]+(/[^?#\s]*)?", re.IGNORECASE)
_TOKEN = re.compile(r"[!-~]+")

# An amount in an answer.
Micro = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,19}\Z")]

T = TypeVar("T")


class ServiceError(Exception):
    """A request came to nothing; the message is one line for the user.

    If `may_have_arrived`, an answer was lost on the way, so that what became of the request is not known.
    """

    def __init__(self, message: str, *, may_have_arrived: bool = False) -> None:
        super().__init__(message)
        self.may_have_arrived = may_have_arrived


class Unreachable(ServiceError):
    """No answer, or none that minibill gives."""


class WrongAccess(ServiceError):
    """The URL or the token can't be used as it is written. Nothing was sent."""


class ServiceRefusal(ServiceError):
    """The service said no: its problem+json. Unless an earlier try `may_have_arrived`, nothing changed.

    `facts` are the members that explain this refusal, beyond those that every problem has.
    """

    def __init__(self, status: int, problem: dict[str, Any], *, may_have_arrived: bool) -> None:
        self.code: str = problem["code"]
        self.status = status
        self.detail = str(problem.get("detail") or problem.get("title") or "no reason given")
        super().__init__(f"{self.code} ({status}): {self.detail}", may_have_arrived=may_have_arrived)
        errors = problem.get("errors")
        self.errors = [
            (str(error.get("path", "")), str(error.get("message", "")))
            for error in (errors if isinstance(errors, list) else [])
            if isinstance(error, dict)
        ]
        self.facts = {name: value for name, value in problem.items() if name not in _STANDARD_MEMBERS}

    @property
    def is_of_access(self) -> bool:
        """The token is the trouble, not what was asked for."""
        return self.status in (401, 403)


class Service:
    """A running minibill, as one admin sees it.

    `on_wait` hears of each wait before it begins: seconds, and the reason in a few words.
    """

    def __init__(
        self,
        *,
        url: str,
        token: str,
        on_wait: Callable[[float, str], None],
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._url = _checked_url(url)
        self._on_wait = on_wait
        self._sleep = sleep
        self._met = False
        # No proxies or .netrc from the environment: a token goes where --url says and nowhere else.
        self._http = httpx.Client(
            headers={"Authorization": f"Bearer {_checked_token(token)}", "User-Agent": "minibill-cli"},
            timeout=TIMEOUT,
            transport=transport,
            trust_env=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._http.close()

    def get(self, path: str) -> dict[str, Any]:
        """The JSON object at a path under /admin/billing."""
        return self._ask("GET", path, body=None, headers={}, dry_run=False)

    def post(self, path: str, body: bytes = b"{}", *, dry_run: bool = False) -> dict[str, Any]:
        """Sends a JSON body, under one idempotency key however often it has to be sent; answers the JSON object it gets."""
        headers = {"Content-Type": "application/json", "Idempotency-Key": uuid.uuid4().hex}
        return self._ask("POST", path, body=body, headers=headers, dry_run=dry_run)

    def _ask(
        self, method: str, path: str, *, body: bytes | None, headers: Mapping[str, str], dry_run: bool
    ) -> dict[str, Any]:
        tries, may_have_arrived = 0, False
        while True:
            tries += 1
            try:
                response = self._http.request(
                    method,
                    f"{self._url}/admin/billing{path}",
                    content=body,
                    headers=headers,
                    params={"dryRun": "true"} if dry_run else None,
                )
            except (httpx.UnsupportedProtocol, httpx.LocalProtocolError, httpx.InvalidURL, UnicodeError) as error:
                raise WrongAccess(f"{self._url} can't be asked: {error}") from None
            except httpx.RequestError as error:
                may_have_arrived |= not isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout))
                if tries >= (len(BACKOFF_S) + 1 if self._met else UNMET_TRIES_MAX):
                    message = f"{self._url} can't be reached: {_reason(error)}; is it running there?"
                    raise Unreachable(message, may_have_arrived=may_have_arrived) from None
                self._wait(BACKOFF_S[tries - 1], "the service can't be reached")
                continue
            self._met = True
            # A proxy's word that it got no answer: the service may have had the request all the same.
            may_have_arrived |= response.status_code in (502, 504)
            retry_after_s = _retry_after_s(response)
            if response.status_code in _BUSY_STATUSES and tries <= len(BACKOFF_S) and retry_after_s <= RETRY_AFTER_MAX_S:
                reason = "rate limit" if response.status_code == 429 else "the service is busy"
                self._wait(max(BACKOFF_S[tries - 1], retry_after_s), reason)
                continue
            return self._answer(response, may_have_arrived)

    def _wait(self, seconds: float, reason: str) -> None:
        self._on_wait(seconds, reason)
        self._sleep(seconds)

    def _answer(self, response: httpx.Response, may_have_arrived: bool) -> dict[str, Any]:
        try:
            answer = msgspec.json.decode(response.content)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            answer = None
        if isinstance(answer, dict):
            if response.is_success:
                return answer
            if isinstance(answer.get("code"), str):
                raise ServiceRefusal(response.status_code, answer, may_have_arrived=may_have_arrived)
        raise Unreachable(
            f"{self._url} does not answer like minibill (status {response.status_code}); is the URL right?",
            may_have_arrived=True,
        )


def read_answer(answer: dict[str, Any], expected: type[T]) -> T:
    """The members in use of what a path should answer; Unreachable if it is something else."""
    try:
        return msgspec.convert(answer, expected)
    except msgspec.ValidationError as error:
        raise no_such_answer(str(error)) from None


def no_such_answer(why: str) -> Unreachable:
    """For what a request was answered with success, but not as minibill would."""
    return Unreachable(f"the service does not answer like minibill: {why}", may_have_arrived=True)


def _checked_url(url: str) -> str:
    if not _URL.fullmatch(url):
        raise WrongAccess(f"{url!r} is no URL of a service: expected something like http://127.0.0.1:8080")
    try:
        httpx.URL(url)
    except httpx.InvalidURL as error:
        raise WrongAccess(f"{url!r} is no URL of a service: {error}") from None
    return url.rstrip("/")


def _checked_token(token: str) -> str:
    # Never in the message: it would end up in logs.
    if not _TOKEN.fullmatch(token.strip()):
        raise WrongAccess("the token is empty or has characters that no token has; `minibill token` prints a good one")
    return token.strip()


def _retry_after_s(response: httpx.Response) -> int:
    text = response.headers.get("Retry-After", "")
    return int(text) if re.fullmatch("[0-9]{1,9}", text) else 0


def _reason(error: httpx.RequestError) -> str:
    return " ".join(str(error).split()) or type(error).__name__
