"""What a request to a service looks like, and when it is sent again."""

import re
from typing import NamedTuple
from urllib.parse import quote

import httpx
import msgspec

from minibill.auth.callers import PREFIX_OF
from minibill.client.errors import Unreachable, WrongAccess, problem_of
from minibill.client.operation import Operation

# Sums to 47 seconds: longer than a restart takes, short enough to sit through.
BACKOFF_S = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 16.0)
# Whoever never answered is more likely a wrong URL than a service that is just starting.
UNMET_TRIES_MAX = 3
# The rate limit counts by the minute. Who is told to wait much longer should hear of it.
RETRY_AFTER_MAX_S = 120
TIMEOUT = httpx.Timeout(60.0, connect=10.0)

_BUSY_STATUSES = frozenset({429, 502, 503, 504})
_URL = re.compile(r"https?://[^/?#\s@]+(/[^?#\s]*)?", re.IGNORECASE)
_TOKEN = re.compile(r"[!-~]+")


class RetryDelay(NamedTuple):
    """How long to wait before the same request is sent again, and why, in a few words."""

    seconds: float
    reason: str


class RetryState:
    """One request, however often it has to be sent. `has_connected` is whether the service has ever answered before."""

    def __init__(self, url: str, *, has_connected: bool) -> None:
        self._url = url
        self._met = has_connected
        self._count = 0
        self._may_have_arrived = False

    def after_error(self, error: httpx.RequestError) -> RetryDelay:
        """How long to wait after no answer; raises `Unreachable` when it was tried often enough."""
        self._count += 1
        self._may_have_arrived |= not isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout))
        if self._count >= (len(BACKOFF_S) + 1 if self._met else UNMET_TRIES_MAX):
            message = f"{self._url} can't be reached: {_reason(error)}; is it running there?"
            raise Unreachable(message, may_have_arrived=self._may_have_arrived) from None
        return RetryDelay(BACKOFF_S[self._count - 1], "the service can't be reached")

    def after_answer(self, response: httpx.Response) -> RetryDelay | None:
        """How long to wait after an answer that says: not now; None when the answer stands."""
        self._count += 1
        self._met = True
        # A proxy's word that it got no answer: the service may have had the request all the same.
        self._may_have_arrived |= response.status_code in (502, 504)
        told_s = _retry_after_s(response)
        if response.status_code not in _BUSY_STATUSES or self._count > len(BACKOFF_S) or told_s > RETRY_AFTER_MAX_S:
            return None
        reason = "rate limit" if response.status_code == 429 else "the service is busy"
        return RetryDelay(max(BACKOFF_S[self._count - 1], told_s), reason)

    def success(self, response: httpx.Response) -> bytes:
        """The JSON of a success; raises the `Problem` of a refusal, `Unreachable` for what is not minibill's."""
        if response.status_code == 204:
            return b""
        try:
            answer = msgspec.json.decode(response.content)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            answer = None
        if isinstance(answer, dict):
            if response.is_success:
                return response.content
            if isinstance(answer.get("code"), str):
                problem = problem_of(answer, response.status_code)
                problem.may_have_arrived = self._may_have_arrived
                raise problem
        raise Unreachable(
            f"{self._url} does not answer like minibill (status {response.status_code}); is the URL right?",
            may_have_arrived=True,
        )


def path_of(ask: Operation) -> str:
    """The path that an operation is asked at."""
    return PREFIX_OF[ask.kind] + ask.route.format(**{name: quote(text, safe="") for name, text in ask.segments.items()})


def checked_url(url: str) -> str:
    """Where the service is, without a slash at the end; raises `WrongAccess`."""
    if not _URL.fullmatch(url):
        raise WrongAccess(f"{url!r} is no URL of a service: expected something like http://127.0.0.1:8080")
    try:
        httpx.URL(url)
    except httpx.InvalidURL as error:
        raise WrongAccess(f"{url!r} is no URL of a service: {error}") from None
    return url.rstrip("/")


def checked_headers(token: str, user_agent: str) -> dict[str, str]:
    """What every request carries; raises `WrongAccess` for what is no token."""
    # Never in the message: it would end up in logs.
    if not _TOKEN.fullmatch(token.strip()):
        raise WrongAccess("the token is empty or has characters that no token has; `minibill token` prints a good one")
    return {"Authorization": f"Bearer {token.strip()}", "User-Agent": user_agent}


def _retry_after_s(response: httpx.Response) -> int:
    text = response.headers.get("Retry-After", "")
    return int(text) if re.fullmatch("[0-9]{1,9}", text) else 0


def _reason(error: httpx.RequestError) -> str:
    return " ".join(str(error).split()) or type(error).__name__
