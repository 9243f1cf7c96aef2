"""IP networks and web origins in the values of settings."""

import ipaddress
import re

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# IPv4 addresses in the form of a dual-stack socket, such as ::ffff:192.0.2.7.
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")


def parse_network(text: str) -> Network:
    """Return a network; a single address is a network of one. Raises `ValueError`."""
    network = ipaddress.ip_network(text)
    if network.version == 6 and network.subnet_of(_MAPPED):
        mapped = network.network_address.ipv4_mapped
        return ipaddress.IPv4Network((int(mapped or 0), network.prefixlen - _MAPPED.prefixlen))
    return network


ORIGIN = re.compile(r"(https?)://([a-z0-9_-]+(?:\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\])(?::([1-9][0-9]{0,4}))?")
_DEFAULT_PORTS = {"http": "80", "https": "443"}
PORT_MAX = 65_535


def parse_origins(text: str) -> frozenset[bytes]:
    """Return the origins of a comma-separated list. Raises `ValueError` with a message for the operator."""
    return frozenset(_parse_origin(origin.strip()).encode() for origin in text.split(","))


def _parse_origin(origin: str) -> str:
    if origin == "*":
        raise ValueError("must not be *: list each origin, such as https://console.example")
    if origin == "null":
        raise ValueError("must not hold null: any sandboxed page has that origin; serve the page from an origin of its own")
    found = ORIGIN.fullmatch(origin)
    if found is None or int(found[3] or 1) > PORT_MAX:
        raise ValueError(
            f"must be origins, separated by commas; {origin!r} is not one: write scheme://host or scheme://host:port "
            "in lower case, with http or https, without a path or a final slash"
        )
    if found[3] == _DEFAULT_PORTS[found[1]]:
        raise ValueError(f"must hold origins as browsers send them: in {origin!r} leave out the port :{found[3]}")
    return origin
