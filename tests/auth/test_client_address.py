"""Addresses of clients, from the connection or from trusted proxies, in their canonical spelling."""

from collections.abc import Callable

import pytest

from minibill.auth.client_address import ClientAddresses, canonical, rate_key
from tests.api_client import Api, ok

TRUSTED = "10.0.0.0/8, 192.0.2.1, ::ffff:172.16.0.1, 2001:db8:1::/48, ::ffff:198.51.100.0/120"


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("192.0.2.7", [], "192.0.2.7"),
        ("::ffff:192.0.2.7", [], "192.0.2.7"),
        ("2001:DB8:0::0001", [], "2001:db8::1"),
        ("fe80::1%eth0", [], "fe80::1"),
        # Untrusted peers report no address.
        ("192.0.2.7", ["1.2.3.4"], "192.0.2.7"),
        ("10.0.0.1", ["1.2.3.4"], "1.2.3.4"),
        ("::ffff:10.0.0.1", ["1.2.3.4"], "1.2.3.4"),
        ("172.16.0.1", ["1.2.3.4"], "1.2.3.4"),
        ("198.51.100.7", ["1.2.3.4"], "1.2.3.4"),
        ("2001:db8:1::5", ["1.2.3.4"], "1.2.3.4"),
        ("10.0.0.1", ["::ffff:1.2.3.4"], "1.2.3.4"),
        ("10.0.0.1", ["1.2.3.4:5678"], "1.2.3.4"),
        ("10.0.0.1", ["[2001:DB8::0:1]:443"], "2001:db8::1"),
        ("10.0.0.1", ["[::1]"], "::1"),
        ("10.0.0.1", ["2001:db8::1"], "2001:db8::1"),
        ("10.0.0.1", ["[::ffff:1.2.3.4]:1"], "1.2.3.4"),
        # Several headers form one list, which is read from its end.
        ("10.0.0.1", ["6.6.6.6, 1.2.3.4"], "1.2.3.4"),
        ("10.0.0.1", ["6.6.6.6, 1.2.3.4, 10.0.0.2, 192.0.2.1:80"], "1.2.3.4"),
        ("10.0.0.1", ["6.6.6.6", "1.2.3.4", "10.0.0.2"], "1.2.3.4"),
        ("10.0.0.1", [" 1.2.3.4 ,, "], "1.2.3.4"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", [""], "10.0.0.1"),
        # A proxy that reports no address stands for its clients.
        ("10.0.0.1", ["1.2.3.4, unknown"], "10.0.0.1"),
        ("10.0.0.1", ["1.2.3.4, _hidden, 10.0.0.2"], "10.0.0.2"),
        *[("10.0.0.1", [junk], "10.0.0.1") for junk in (
            "1.2.3", "1.2.3.4:", "1.2.3.4:x", "1.2.3.4:123456", "[::1", "[::1]x", "[::1]:", "::1]", "01.2.3.4", "\xe9",
            "1.2.3.4/8", "localhost", "a\x00b", "1.2.3.4 5.6.7.8", '"[::1]:5"', "[1.2.3.4", "0x7f.1", "2130706433",
            "[]", ":", "[]:5",
        )],
    ],
)  # fmt: skip
def test_the_client_is_the_last_untrusted_address(peer: str, forwarded: list[str], client: str) -> None:
    assert ClientAddresses(TRUSTED).of(peer, [value.encode("latin-1") for value in forwarded]) == client
    if not forwarded:
        assert canonical(peer) == client


def test_a_peer_without_an_ip_address_keeps_its_name(api: Api) -> None:
    assert (canonical("testclient"), rate_key("testclient"), rate_key("")) == ("testclient", "testclient", "")


@pytest.mark.parametrize(
    ("one", "other", "is_one"),
    [
        ("192.0.2.7", "192.0.2.8", False),
        ("2001:db8::1", "2001:db8::ffff:1:2:3", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
    ],
)
def test_an_ipv6_client_is_counted_by_its_64_prefix(one: str, other: str, is_one: bool) -> None:
    assert (rate_key(one) == rate_key(other)) == is_one


def test_bad_tokens_are_counted_by_the_clients_address(start: Callable[..., Api]) -> None:
    api = start(MINIBILL_ADMIN_RATE_PER_MINUTE="30", MINIBILL_TRUSTED_PROXIES="::ffff:10.0.0.1")

    def status(forwarded: str, *, peer: str = "10.0.0.1") -> int:
        headers = [(b"x-forwarded-for", forwarded.encode())]
        return api.ask("GET", "/admin/billing/accounts", headers=headers, address=peer).status_code

    spellings = ["1.2.3.4", "::ffff:1.2.3.4", "1.2.3.4:5678", "[::ffff:102:304]:9", "6.6.6.6, 1.2.3.4"]
    assert {status(spellings[number % 5], peer=["10.0.0.1", "::ffff:10.0.0.1"][number % 2]) for number in range(60)} == {401}
    assert {status(spelling) for spelling in spellings} == {429}
    assert {status(f"2001:db8::{number:x}") for number in range(60)} == {401}
    assert (status("2001:db8::ffff"), status("2001:db8:0:1::"), status("1.2.3.5")) == (429, 401, 401)
    # An untrusted peer can neither use another's count nor leave its own.
    assert {status(f"7.7.7.{number}", peer="192.0.2.9") for number in range(60)} == {401}
    assert (status("8.8.8.8", peer="192.0.2.9"), status("7.7.7.7", peer="192.0.2.10")) == (429, 401)


def test_the_audit_log_has_the_canonical_address(start: Callable[..., Api]) -> None:
    api = start(MINIBILL_TRUSTED_PROXIES="10.0.0.0/8")
    body = b'{"entityType": "person", "entityId": "ada"}'
    messages = [{"type": "http.request", "body": body, "more_body": False}]
    headers = [*api.admin_headers(), (b"x-forwarded-for", b"[::FFFF:1.2.3.4]:5")]
    ok(api.ask("POST", "/admin/billing/accounts", headers=headers, messages=messages, address="::ffff:10.1.2.3"), 201)
    assert api.get("/audit")["items"][0]["ip"] == "1.2.3.4"
