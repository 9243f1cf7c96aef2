"""Requests of the client: their URL and headers, and the rules for retries."""

import re
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx
import msgspec

from minibill.auth.callers import PREFIX_OF
from minibill.client.errors import Unreachable, WrongAccess, problem_of
from minibill.client.operation import Operation
from minibill.core.problems import Unauthorized

# The sum is 47.5 seconds: longer than a restart of the service takes.
BACKOFF_S = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 16.0)
# A service that never responded probably has another URL, so fewer attempts are made.
FIRST_CONTACT_ATTEMPTS_MAX = 3
# The rate limit counts by the minute. A longer Retry-After is raised to the caller.
RETRY_AFTER_MAX_S = 120
TIMEOUT = httpx.Timeout(60.0, connect=10.0)

_TEMPORARY_STATUSES = frozenset({429, 502, 503, 504})
_URL = re.compile(r"https?://[^/?#\s@]+(/[^?#\s]*)?", re.IGNORECASE)


class RetryDelay(NamedTuple):
    """The delay before a retry, and its reason in a few words."""

    seconds: float
    reason: str


class RetryState:
    """The attempts of one request. `has_connected` is true if the service has responded to an earlier request."""

    def __init__(self, url: str, *, has_connected: bool) -> None:
        self._url = url
        self._has_connected = has_connected
        self._attempts = 0
        self._may_have_arrived = False
        self._has_renewed = False

    def after_error(self, error: httpx.RequestError) -> RetryDelay:
        """Return the delay after a connection error. Raises `Unreachable` after the last attempt."""
        self._attempts += 1
        self._may_have_arrived |= not isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout))
        if self._attempts >= (len(BACKOFF_S) + 1 if self._has_connected else FIRST_CONTACT_ATTEMPTS_MAX):
            message = f"can't reach {self._url}: {_reason(error)}; check that the service runs there"
            raise Unreachable(message, may_have_arrived=self._may_have_arrived) from None
        return RetryDelay(BACKOFF_S[self._attempts - 1], "the service can't be reached")

    def after_response(self, response: httpx.Response) -> RetryDelay | None:
        """Return the delay after a temporary error response; None if the response is final."""
        self._attempts += 1
        self._has_connected = True
        # A proxy got no response: the service may have received the request.
        self._may_have_arrived |= response.status_code in (502, 504)
        retry_after_s = _retry_after_s(response)
        if (
            response.status_code not in _TEMPORARY_STATUSES
            or self._attempts > len(BACKOFF_S)
            or retry_after_s > RETRY_AFTER_MAX_S
        ):
            return None
        reason = "rate limit" if response.status_code == 429 else "the service is busy"
        return RetryDelay(max(BACKOFF_S[self._attempts - 1], retry_after_s), reason)

    def should_renew_token(self, response: httpx.Response) -> bool:
        """Return True for the first response that rejects the token. A rejected request changed nothing."""
        if self._has_renewed or response.status_code != Unauthorized.status:
            return False
        members = _members(response)
        self._has_renewed = members is not None and members.get("code") == Unauthorized.code
        return self._has_renewed

    def success(self, response: httpx.Response) -> bytes:
        """Return the body of a success. Raises the `Problem` of an error response, or `Unreachable` for another response."""
        if response.status_code == 204:
            return b""
        members = _members(response)
        if response.is_success and members is not None:
            return response.content
        if members is not None and isinstance(members.get("code"), str):
            problem = problem_of(members, response.status_code)
            problem.may_have_arrived = self._may_have_arrived
            raise problem
        raise Unreachable(
            f"{self._url} does not respond like minibill (status {response.status_code}); check the URL",
            may_have_arrived=True,
        )


def path_of(operation: Operation) -> str:
    """Return the URL path of an operation, percent-encoded."""
    segments = {name: quote(text, safe="") for name, text in operation.segments.items()}
    return PREFIX_OF[operation.kind] + operation.route.format(**segments)


def checked_url(url: str) -> str:
    """Return the URL of a service without a trailing slash. Raises `WrongAccess`."""
    if not _URL.fullmatch(url):
        raise WrongAccess(f"{url!r} is not the URL of a service; use one like http://127.0.0.1:8080")
    try:
        httpx.URL(url)
    except httpx.InvalidURL as error:
        raise WrongAccess(f"{url!r} is not the URL of a service: {error}") from None
    return url.rstrip("/")


def _members(response: httpx.Response) -> dict[str, Any] | None:
    """Return the members of a JSON object; None for another body."""
    try:
        members = msgspec.json.decode(response.content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return members if isinstance(members, dict) else None


def _retry_after_s(response: httpx.Response) -> int:
    text = response.headers.get("Retry-After", "")
    return int(text) if re.fullmatch("[0-9]{1,9}", text) else 0


def _reason(error: httpx.RequestError) -> str:
    return " ".join(str(error).split()) or type(error).__name__
