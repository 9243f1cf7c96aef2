"""The address of a client: of its connection, or as a trusted proxy reports it in `X-Forwarded-For`."""

import ipaddress
from collections.abc import Iterable
from functools import lru_cache

from minibill.core.networks import Address, parse_network

# Providers give each customer at least this prefix of IPv6, with 2^64 addresses.
_PREFIX_OF_ONE_CLIENT = 64


def parse_address(text: str) -> Address | None:
    """Return an address, with or without a port; a mapped IPv4 address as IPv4. None for anything else."""
    text = text.strip()
    if text.startswith("["):
        text, bracket, port = text[1:].partition("]")
        if not bracket or (port and not _is_port(port)):
            return None
    elif text.count(":") == 1:
        text, _, port = text.partition(":")
        if not _is_port(f":{port}"):
            return None
    try:
        # The zone of a link-local address names an interface of another machine.
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if address.version == 6 else address


def _is_port(text: str) -> bool:
    return text[0] == ":" and text[1:].isascii() and text[1:].isdigit() and len(text) <= 6


@lru_cache(4_096)
def canonical(host: str) -> str:
    """Return an address in its canonical spelling. Text that is no address stays as it is."""
    address = parse_address(host)
    return host if address is None else str(address)


def rate_key(ip: str) -> str:
    """Return the key under which requests from an address are counted: for IPv6 its /64, which belongs to one client."""
    address = parse_address(ip)
    if address is None or address.version == 4:
        return ip
    return str(ipaddress.ip_network((int(address), _PREFIX_OF_ONE_CLIENT), strict=False))


class ClientAddresses:
    """Finds the client of a request, with the proxies that are trusted to report it."""

    def __init__(self, trusted: str) -> None:
        """`trusted` are addresses and networks, separated by commas."""
        self.trusted = [parse_network(text.strip()) for text in trusted.split(",") if text.strip()]

    def of(self, peer: str, forwarded: Iterable[bytes]) -> str:
        """Return the canonical address of a client, from the address of its connection and the `X-Forwarded-For` headers.

        Each proxy appends the address that it sees to `X-Forwarded-For`. So the list is read from its end, as long as
        proxies are trusted. The address of a proxy that reports none stands for its clients.
        """
        client = parse_address(peer)
        if client is None:
            return peer
        reported = b",".join(forwarded).decode("latin-1")
        while reported and self._is_trusted(client):
            reported, _, last = reported.rpartition(",")
            if not last.strip():
                continue
            before = parse_address(last)
            if before is None:
                break
            client = before
        return str(client)

    def _is_trusted(self, address: Address) -> bool:
        return any(address.version == network.version and address in network for network in self.trusted)
