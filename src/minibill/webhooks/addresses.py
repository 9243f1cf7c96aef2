"""Where a webhook may lead: nowhere inside, unless a setting says so.

The name is resolved here and the address that was found good is the one that is connected to: a name that means another
address a moment later leads nowhere else.
"""

import asyncio
import re
import socket
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NamedTuple
from urllib.parse import urlsplit

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

URL_CHARACTERS_MAX = 2_000
RESOLVE_SECONDS_MAX = 5

_VISIBLE_ASCII = re.compile(r"[\x21-\x7e]+")
_PORTS = {"https": 443, "http": 80}

# Of all that IPv6 has, only this is the internet.
_GLOBAL_UNICAST = IPv6Network("2000::/3")
# Teredo and 6to4 carry an IPv4 address inside, which could be any.
_TUNNELS = (IPv6Network("2001::/32"), IPv6Network("2002::/16"))


class BadUrl(Exception):
    """The URL can't be a webhook's; the message says why."""


class Target(NamedTuple):
    """A URL in its parts; `path` has the query."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """What the Host header says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


def networks(setting: str | None) -> tuple[Network, ...]:
    """The networks of a setting that lists them, separated by commas."""
    return tuple(ip_network(part.strip()) for part in setting.split(",")) if setting else ()


def target_of(url: str) -> Target:
    """The parts of a URL; raises `BadUrl` for one that no webhook can have."""
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
    """An address to connect to. All that the name means must be on the internet, or in `allowed`; raises `BadUrl`.

    Without TLS it must be in `allowed`: on the internet anybody on the way could read and change what is sent.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(RESOLVE_SECONDS_MAX):
            found = await loop.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError, TimeoutError):
        raise BadUrl("the name of the host can't be resolved") from None
    addresses = [ip_address(str(sockaddr[0]).partition("%")[0]) for *_, sockaddr in found]
    for address in addresses:
        if any(address in network for network in allowed):
            continue
        if not is_public(address):
            raise BadUrl("the host is at an address inside; MINIBILL_WEBHOOK_ALLOW_NETWORKS says which of these are allowed")
        if target.scheme != "https":
            raise BadUrl("expected https")
    return addresses[0]


def is_public(address: Address) -> bool:
    """Whether an address is on the internet and one host's: not private, local, shared, reserved, or of many."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address not in _GLOBAL_UNICAST or any(address in tunnel for tunnel in _TUNNELS):
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved
