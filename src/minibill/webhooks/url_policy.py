"""URL policy of webhooks: only public addresses, unless a setting allows more networks.

The sender connects to the address that was checked here, so a name that resolves to another address a moment later has no
effect.
"""

import asyncio
import contextlib
import re
import socket
import threading
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, NamedTuple
from urllib.parse import urlsplit

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# One result of `socket.getaddrinfo`.
AddressInfo = tuple[Any, ...]

URL_CHARACTERS_MAX = 2_000
RESOLVE_SECONDS_MAX = 5
# Threads that wait for the resolver, one per name. A thread may outlive the time limit of its look-up.
_LOOK_UPS = threading.BoundedSemaphore(32)

_VISIBLE_ASCII = re.compile(r"[\x21-\x7e]+")
_PORTS = {"https": 443, "http": 80}

# The only range of IPv6 that is routed on the internet.
_GLOBAL_UNICAST = IPv6Network("2000::/3")
# Teredo and 6to4 addresses embed an IPv4 address, which may be private.
_TUNNELS = (IPv6Network("2001::/32"), IPv6Network("2002::/16"))


class BadUrl(Exception):
    """The URL is not allowed for a webhook; the message names the reason."""


class Target(NamedTuple):
    """The parts of a URL; `path` includes the query."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """The value of the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


def networks(setting: str | None) -> tuple[Network, ...]:
    """Return the networks of a comma-separated setting."""
    return tuple(ip_network(part.strip()) for part in setting.split(",")) if setting else ()


def target_of(url: str) -> Target:
    """Return the parts of a URL. Raises `BadUrl` for a URL that the policy forbids whatever its host."""
    if not (_VISIBLE_ASCII.fullmatch(url) and len(url) <= URL_CHARACTERS_MAX):
        raise BadUrl(f"expected a URL of at most {URL_CHARACTERS_MAX} visible ASCII characters")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise BadUrl("expected a URL such as https://example.com/hook") from None
    if parts.scheme not in _PORTS or not parts.hostname or "\\" in url:
        raise BadUrl("expected a URL such as https://example.com/hook")
    if parts.username is not None or parts.password is not None or "#" in url:
        raise BadUrl("expected a URL without a user, a password or a fragment")
    if port == 0:
        raise BadUrl("expected a port from 1 to 65535")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, parts.hostname, port or _PORTS[parts.scheme], path)


async def resolve(target: Target, *, allowed: tuple[Network, ...]) -> Address:
    """Return an address to connect to. Raises `BadUrl` unless every address of the host is public or in `allowed`.

    Without TLS every address must be in `allowed`: on the internet others could read and change the message.
    """
    try:
        async with asyncio.timeout(RESOLVE_SECONDS_MAX):
            found = await _look_up(target)
    except (OSError, UnicodeError, TimeoutError):
        raise BadUrl("the host cannot be resolved; check its name") from None
    addresses = [ip_address(str(sockaddr[0]).partition("%")[0]) for *_, sockaddr in found]
    for address in addresses:
        if any(address in network for network in allowed):
            continue
        if not is_public(address):
            raise BadUrl(
                "the host resolves to a private address; add its network to MINIBILL_WEBHOOK_ALLOW_NETWORKS to allow it"
            )
        if target.scheme != "https":
            raise BadUrl("expected an https URL; http is allowed only to MINIBILL_WEBHOOK_ALLOW_NETWORKS")
    return addresses[0]


async def _look_up(target: Target) -> list[AddressInfo]:
    """Return the results of `getaddrinfo`. Raises OSError, also when too many look-ups are unanswered.

    The look-up runs on a daemon thread: at exit the process waits for all other threads, and a resolver that does not
    respond takes minutes.
    """
    if not _LOOK_UPS.acquire(blocking=False):
        raise OSError("too many look-ups are unanswered")
    loop = asyncio.get_running_loop()
    found: asyncio.Future[list[AddressInfo]] = loop.create_future()

    def finish(infos: list[AddressInfo], error: Exception | None) -> None:
        if found.done():
            return
        if error is None:
            found.set_result(infos)
        else:
            found.set_exception(error)

    def look_up() -> None:
        infos: list[AddressInfo] = []
        error: Exception | None = None
        try:
            infos = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as raised:
            error = raised
        finally:
            _LOOK_UPS.release()
        # The loop may be closed by now.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(finish, infos, error)

    threading.Thread(target=look_up, name="minibill-resolver", daemon=True).start()
    return await found


def is_public(address: Address) -> bool:
    """Return true for a unicast address on the internet: not private, local, shared or reserved."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address not in _GLOBAL_UNICAST or any(address in tunnel for tunnel in _TUNNELS):
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved
