"""Tokens of a client: one that is given, or a source of tokens that the client renews well before they expire."""

import asyncio
import base64
import math
import re
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import msgspec

from minibill.auth.callers import CallerKind
from minibill.auth.scopes import EVERYTHING
from minibill.auth.tokens import SERVICE_TOKEN_MAX_TTL, SUBJECT_CHARACTERS_MAX, signed_token
from minibill.client.errors import WrongAccess
from minibill.config import SECRET_BYTES_MIN, default_of
from minibill.core.clock import US_PER_SECOND, monotonic_s, real_now_us

T = TypeVar("T")

TokenSource = Callable[[], str]
AsyncTokenSource = Callable[[], str | Awaitable[str]]

# Lifetime of the tokens that a client signs. The service may allow admins less than its default, but hardly less than this.
SIGNED_TTL_SECONDS = SERVICE_TOKEN_MAX_TTL
# The part of a token's lifetime after which it is renewed. The rest is for requests in flight and for clocks that differ.
_RENEW_AFTER = 2 / 3

_TOKEN = re.compile(r"[!-~]+")


class _Claims(msgspec.Struct):
    """Claims of a token, unverified; None if it lacks them or can't be read."""

    sub: str | None = None
    iat: float | None = None
    exp: float | None = None


class Signer:
    """A source of short-lived tokens, signed with the secret of the service. Its `repr` does not show the secret."""

    def __init__(
        self,
        kind: CallerKind,
        secret: str,
        *,
        sub: str,
        issuer: str | None,
        audience: str | None,
        scopes: Sequence[str] | None,
        ttl: int | None,
    ) -> None:
        """Without issuer and audience, use the defaults of the service. Raises `WrongAccess`, `TypeError`, `ValueError`."""
        if len(secret.encode()) < SECRET_BYTES_MIN:
            raise WrongAccess(f"the secret has fewer than {SECRET_BYTES_MIN} bytes; use the secret of the service")
        if not sub.strip() or len(sub) > SUBJECT_CHARACTERS_MAX:
            raise ValueError(f"sub is a name of 1 to {SUBJECT_CHARACTERS_MAX} characters, not {sub!r}")
        if kind == "service" and scopes is not None:
            raise TypeError("a service token has no scopes")
        if isinstance(scopes, str):
            raise TypeError("scopes is a list of strings, not a string")
        ttl = SIGNED_TTL_SECONDS if ttl is None else ttl
        if ttl < 1 or (kind == "service" and ttl > SERVICE_TOKEN_MAX_TTL):
            most = f" and at most {SERVICE_TOKEN_MAX_TTL}" if kind == "service" else ""
            raise ValueError(f"ttl is in seconds, at least 1{most}, not {ttl!r}")
        setting = "admin" if kind == "admin" else "internal"
        self._secret = secret
        self._sub = sub
        self._issuer = default_of(f"{setting}_issuer") if issuer is None else issuer
        self._audience = default_of(f"{setting}_audience") if audience is None else audience
        self._scopes = None if kind == "service" else list((EVERYTHING,) if scopes is None else scopes)
        self._ttl = ttl

    def __call__(self) -> str:
        """Return a new token."""
        return signed_token(self._secret, self._issuer, self._audience, sub=self._sub, scopes=self._scopes, ttl=self._ttl)


def token_source(
    token: T | None,
    kind: CallerKind,
    *,
    secret: str | None,
    sub: str | None,
    issuer: str | None,
    audience: str | None,
    scopes: Sequence[str] | None,
    ttl: int | None,
) -> T | Signer:
    """Return a client's token, or the signer for its secret. Raises `TypeError` for both, or claims without a secret."""
    if (token is None) == (secret is None):
        raise TypeError("pass either a token or a secret")
    if secret is not None:
        if sub is None:
            raise TypeError("sub is missing: it names the caller in tokens that the client signs")
        return Signer(kind, secret, sub=sub, issuer=issuer, audience=audience, scopes=scopes, ttl=ttl)
    claims = {"sub": sub, "issuer": issuer, "audience": audience, "scopes": scopes, "ttl": ttl}
    if given := [name for name, value in claims.items() if value is not None]:
        raise TypeError(f"{', '.join(given)}: only with a secret; the token that you pass has its own claims")
    assert token is not None
    return token


class _Cache:
    """The token in use, and the time to renew it. All tokens of a client have one `sub`. Its `repr` shows no token."""

    def __init__(self, token: object) -> None:
        """Raises `WrongAccess` for a malformed token, `TypeError` for anything else than a token and a source."""
        if not isinstance(token, str) and not callable(token):
            raise TypeError(f"a token is a string or a function that returns one, not {type(token).__name__}")
        self.is_renewable = not isinstance(token, str)
        self._text = checked_token(token) if isinstance(token, str) else None
        self._renew_at_s = math.inf
        self._sub: str | None = None

    def _usable(self, rejected: str | None) -> str | None:
        """Return the token in use; None if it has to be renewed."""
        text = self._text
        return None if text == rejected or monotonic_s() >= self._renew_at_s else text

    def _accept(self, given: object) -> str:
        """Use a token of the source, and return it. Raises `WrongAccess` or `TypeError`."""
        if not isinstance(given, str):
            raise TypeError(f"a function that supplies tokens returns strings, not {type(given).__name__}")
        text = checked_token(given)
        claims = _claims(text)
        if claims.sub is not None and self._sub not in (None, claims.sub):
            # Idempotency keys belong to a sub: a write that is sent again under another one would be applied again.
            raise WrongAccess("the new token has another sub than the one before; make one client for each sub")
        self._sub = claims.sub or self._sub
        lives_s = math.inf
        if claims.exp is not None:
            lives_s = claims.exp - real_now_us() / US_PER_SECOND
            if claims.iat is not None:
                # If this clock is slow, the token does not live as long as it seems.
                lives_s = min(lives_s, claims.exp - claims.iat)
        self._text, self._renew_at_s = text, monotonic_s() + lives_s * _RENEW_AFTER
        return text


class AsyncTokens(_Cache):
    """The tokens of an asynchronous client. Its tasks wait for one renewal."""

    def __init__(self, token: str | AsyncTokenSource) -> None:
        super().__init__(token)
        self._source: AsyncTokenSource = (lambda: token) if isinstance(token, str) else token
        self._lock = asyncio.Lock()

    async def current(self, *, rejected: str | None = None) -> str:
        """Return the token to send: a new one if it is time to renew it, or if the service rejected the one in use."""
        if (text := self._usable(rejected)) is not None:
            return text
        async with self._lock:
            if (text := self._usable(rejected)) is None:
                found = self._source()
                text = self._accept(await found if isinstance(found, Awaitable) else found)
            return text


class Tokens(_Cache):
    """The tokens of a synchronous client. Its threads wait for one renewal."""

    def __init__(self, token: str | TokenSource) -> None:
        super().__init__(token)
        self._source: TokenSource = (lambda: token) if isinstance(token, str) else token
        self._lock = threading.Lock()

    def current(self, *, rejected: str | None = None) -> str:
        """Return the token to send: a new one if it is time to renew it, or if the service rejected the one in use."""
        if (text := self._usable(rejected)) is not None:
            return text
        with self._lock:
            if (text := self._usable(rejected)) is None:
                text = self._accept(self._source())
            return text


def checked_token(token: str) -> str:
    """Return a token without white space around it. Raises `WrongAccess` if it is malformed."""
    # The token is never part of the message, which may be logged.
    if not _TOKEN.fullmatch(token.strip()):
        raise WrongAccess("the token is empty or has invalid characters; `minibill token` prints a valid one")
    return token.strip()


def _claims(token: str) -> _Claims:
    try:
        payload = token.split(".")[1]
        return msgspec.json.decode(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)), type=_Claims)
    except (IndexError, ValueError, msgspec.DecodeError):
        # Only the service has to understand its tokens. One that can't be read is renewed once it is rejected.
        return _Claims()
