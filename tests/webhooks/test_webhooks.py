"""Webhook endpoints: creation, edits, secrets, and the URL policy."""

import socket
import threading
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

import pytest

from minibill.webhooks import url_policy
from minibill.webhooks.sender import Sender, new_tls
from minibill.webhooks.url_policy import BadUrl, is_public, networks, resolve, target_of
from tests.api_client import Api, Json, ok, problem_of
from tests.webhooks.receiver import Receiver

URL = "https://192.88.98.1/hook"


def make(api: Api, **body: Json) -> Json:
    return ok(api.post("/webhooks", {"url": URL, **body}), 201)


def test_only_the_creation_response_has_the_secret(api: Api) -> None:
    made = make(api, types=["ledger.*"], description="the bookkeeping")
    assert made.pop("secret").startswith("whsec_")
    assert made == api.get(f"/webhooks/{made['id']}") == api.get("/webhooks")["items"][0]
    assert {**made, "createdAt": "", "updatedAt": "", "id": ""} == {
        "id": "", "url": URL, "types": ["ledger.*"], "description": "the bookkeeping", "enabled": True,
        "delivered": api.get("/events", after="latest")["nextCursor"], "failingSince": None,
        "createdAt": "", "updatedAt": "",
    }  # fmt: skip


def test_no_secret_is_in_the_database_or_the_audit_log(api: Api) -> None:
    made = make(api)
    rotated = ok(api.post(f"/webhooks/{made['id']}/rotate-secret"))
    everything = str(api.everything())
    for secret in (made["secret"], rotated["secret"]):
        assert secret not in everything and secret.removeprefix("whsec_") not in everything
    assert made["secret"] != rotated["secret"] != make(api)["secret"]


def test_ids_and_secrets_are_never_reused(api: Api) -> None:
    first = make(api)
    assert api.call("DELETE", f"/webhooks/{first['id']}").status_code == 204
    problem_of(api.call("GET", f"/webhooks/{first['id']}"), 404, "webhook_not_found")
    second = make(api)
    assert first["id"] != second["id"] and first["secret"] != second["secret"]


def test_webhooks_are_disabled_without_a_master_key(start: Callable[..., Api]) -> None:
    api = start(MINIBILL_WEBHOOK_SECRET="")
    with api.unchanged():
        problem_of(api.post("/webhooks", {"url": URL}), 409, "webhooks_disabled")


def test_an_edit_changes_only_the_named_members(api: Api) -> None:
    made = make(api, types=["ledger.*"])
    path = f"/webhooks/{made['id']}"
    edited = ok(api.call("PATCH", path, {"description": "x", "enabled": False}))
    assert (edited["description"], edited["enabled"], edited["types"], edited["url"]) == ("x", False, ["ledger.*"], URL)
    edited = ok(api.call("PATCH", path, {"types": ["grant.revoked"]}))
    assert (edited["types"], edited["enabled"]) == (["grant.revoked"], False)
    assert [row["action"] for row in api.get("/audit", targetId=made["id"])["items"]] == [
        "webhook.edit", "webhook.edit", "webhook.create",
    ]  # fmt: skip


INVALID_WEBHOOKS = [
    ({}, "url"),
    ({"url": URL, "types": []}, "types"),
    ({"url": URL, "types": ["ledger.*", "nothing"]}, "types[1]"),
    ({"url": URL, "types": ["*"]}, "types[0]"),
    ({"url": URL, "description": "d" * 501}, "description"),
    ({"url": URL, "secret": "mine"}, "secret"),
]


def test_an_invalid_webhook_is_rejected_with_the_path(api: Api, subtests: pytest.Subtests) -> None:
    for body, path in INVALID_WEBHOOKS:
        with subtests.test(body=body, path=path), api.unchanged():
            problem_of(api.post("/webhooks", body), 400, "validation_error", path)


def test_there_are_at_most_20_webhooks(api: Api) -> None:
    for _ in range(20):
        make(api)
    with api.unchanged():
        problem_of(api.post("/webhooks", {"url": URL}), 400, "validation_error", "")


INVALID_REPLAYS = [
    ({}, ""),
    ({"after": "evt_" + "0" * 26, "eventIds": ["evt_" + "0" * 26]}, ""),
    ({"eventIds": []}, "eventIds"),
    ({"eventIds": ["evt_00000000000010000000000000", "evt_" + "0" * 26]}, "eventIds[1]"),
    ({"eventIds": ["evt_00000000000030000000000000"]}, "eventIds[0]"),
    ({"eventIds": ["acct_0000000000001"]}, "eventIds[0]"),
    ({"after": "evt_"}, "after"),
    ({"after": "evt_zzzzzzzzzzzzz0000000000000"}, "after"),
    ({"after": "evt_00000000000020000000000000"}, "after"),
]


def test_a_replay_of_unknown_events_is_rejected(api: Api, subtests: pytest.Subtests) -> None:
    account = api.account(5)
    webhook = make(api)
    api.mint(account, 5)
    for body, path in INVALID_REPLAYS:
        with subtests.test(body=body, path=path), api.unchanged():
            problem_of(api.post(f"/webhooks/{webhook['id']}/replay", body), 400, "validation_error", path)


def test_changes_require_the_ops_scope(api: Api) -> None:
    webhook = make(api)["id"]
    token = api.sign(scopes=("admin:billing:read", "admin:accounts:write"))
    for method, path in (
        ("POST", ""), ("PATCH", f"/{webhook}"), ("DELETE", f"/{webhook}"), ("POST", f"/{webhook}/rotate-secret"),
        ("POST", f"/{webhook}/replay"),
    ):  # fmt: skip
        problem_of(api.call(method, f"/webhooks{path}", {}, token=token), 403, "insufficient_scope")
    ok(api.call("GET", f"/webhooks/{webhook}", token=token))


# --- the URL policy ---


INVALID_URLS = [
    "",
    "x",
    "example.com",
    "//example.com/",
    "ftp://example.com/",
    "file:///etc/passwd",
    "https://",
    "https:///x",
    "https://user@example.com/",
    "https://user:word@example.com/",
    "https://example.com/#part",
    "https://example.com:0/",
    "https://example.com:65536/",
    "https://example.com:x/",
    "https://exa mple.com/",
    "https://example.com\\@10.0.0.1/",
    "https://ex\u00e4mple.com/",
    "https://example.com/\r\nX: y",
    "https://[::1",
    "https://" + "e" * 2000,
]


def test_an_invalid_url_is_rejected(api: Api, subtests: pytest.Subtests) -> None:
    for url in INVALID_URLS:
        with subtests.test(url=url):
            with api.unchanged():
                problem_of(api.post("/webhooks", {"url": url}), 400, "validation_error", "url")
            with pytest.raises(BadUrl):
                target_of(url)


URLS = [
    ("https://Example.com", "https", "example.com", 443, "/", "example.com"),
    ("https://example.com:443/a?b=c", "https", "example.com", 443, "/a?b=c", "example.com"),
    ("http://example.com:8080?q", "http", "example.com", 8080, "/?q", "example.com:8080"),
    ("https://[2606:4700::1]:8443/x", "https", "2606:4700::1", 8443, "/x", "[2606:4700::1]:8443"),
]


def test_a_url_is_split_into_its_parts(subtests: pytest.Subtests) -> None:
    for url, scheme, host, port, path, authority in URLS:
        with subtests.test(url=url, scheme=scheme, host=host, port=port, path=path, authority=authority):
            target = target_of(url)
            assert (*target, target.authority) == (scheme, host, port, path, authority)


PRIVATE = [
    "0.0.0.0", "10.1.2.3", "100.64.0.1", "127.0.0.1", "127.9.9.9", "169.254.169.254", "172.16.0.1", "192.0.0.1",
    "192.168.1.1", "198.18.0.1", "203.0.113.5", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::1", "100::1",
    "2001:db8::1", "2001::7f00:1", "2002:7f00:1::1", "fe80::2",
    "fc00::1", "fd12::1", "fe80::1", "fec0::1", "ff02::1",
]  # fmt: skip


def test_a_webhook_to_a_private_address_is_rejected(start: Callable[..., Api], subtests: pytest.Subtests) -> None:
    api = start()
    for address in PRIVATE:
        with subtests.test(address=address):
            assert not is_public(ip_address(address))
            host = f"[{address}]" if ":" in address else address
            with api.unchanged():
                problem = problem_of(api.post("/webhooks", {"url": f"https://{host}/"}), 400, "validation_error", "url")
            assert "private address" in problem["detail"] or "resolved" in problem["detail"]


PUBLIC = ["1.1.1.1", "8.8.8.8", "192.88.98.1", "2606:4700:4700::1111", "::ffff:8.8.8.8"]


def test_an_address_on_the_internet_is_public(subtests: pytest.Subtests) -> None:
    for address in PUBLIC:
        with subtests.test(address=address):
            assert is_public(ip_address(address))


PRIVATE_NOTATIONS = ["127.1", "2130706433", "0x7f000001", "0177.0.0.1", "localhost"]


def test_other_notations_of_a_private_address_are_rejected(start: Callable[..., Api], subtests: pytest.Subtests) -> None:
    api = start()
    for host in PRIVATE_NOTATIONS:
        with subtests.test(host=host):
            problem_of(api.post("/webhooks", {"url": f"https://{host}/"}), 400, "validation_error", "url")


def resolve_to(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Resolve every host to these addresses, one list per look-up; return the list of hosts looked up."""
    asked: list[str] = []
    left = list(answers)

    def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        found = left.pop(0) if len(left) > 1 else left[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


def test_a_host_with_any_private_address_is_rejected(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, ["8.8.8.8", "10.0.0.1"])
    problem_of(api.post("/webhooks", {"url": "https://example.com/"}), 400, "validation_error", "url")


def test_http_is_allowed_only_to_allowed_networks(api: Api, start: Callable[..., Api]) -> None:
    problem_of(api.post("/webhooks", {"url": "http://8.8.8.8/"}), 400, "validation_error", "url")
    ok(start(MINIBILL_WEBHOOK_ALLOW_NETWORKS="10.0.0.0/8, 192.168.7.7").post("/webhooks", {"url": "http://192.168.7.7/"}))


def test_an_allowed_network_allows_no_other_network(start: Callable[..., Api]) -> None:
    api = start(MINIBILL_WEBHOOK_ALLOW_NETWORKS="10.0.0.0/8")
    ok(api.post("/webhooks", {"url": "https://10.1.1.1/"}))
    problem_of(api.post("/webhooks", {"url": "https://192.168.7.7/"}), 400, "validation_error", "url")


def test_a_host_that_later_resolves_to_a_private_address_gets_nothing(
    start: Callable[..., Api], monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver, api = Receiver(), start()
    resolve_to(monkeypatch, ["8.8.8.8"], ["127.0.0.1"])
    url = f"https://example.com:{receiver.port}/"
    ok(api.post("/webhooks", {"url": url}))
    sender = Sender(allowed=(), tls=new_tls())
    answer = api.loop.run(sender.post(url, {}, b"{}"))
    api.loop.run(sender.close())
    receiver.close()
    assert answer.status is None and "private address" in str(answer.error)


def test_the_sender_connects_to_the_checked_address(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    receiver = Receiver()
    # A second look-up would return another address.
    asked = resolve_to(monkeypatch, ["127.0.0.1"], ["8.8.8.8"])
    sender = Sender(allowed=networks("127.0.0.0/8"), tls=new_tls())
    answer = api.loop.run(sender.post(f"http://example.com:{receiver.port}/x", {}, b"{}"))
    api.loop.run(sender.close())
    receiver.close()
    assert (answer.status, asked) == (204, ["example.com"])
    assert receiver.messages[0].headers["host"] == f"example.com:{receiver.port}"


def test_the_sender_ignores_proxies_of_the_environment(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    receiver, proxy = Receiver(), Receiver()
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
    sender = Sender(allowed=networks("127.0.0.0/8"), tls=new_tls())
    answer = api.loop.run(sender.post(receiver.url, {}, b"{}"))
    api.loop.run(sender.close())
    receiver.close()
    proxy.close()
    assert answer.status == 204 and len(receiver.messages) == 1 and proxy.messages == []


def test_a_host_that_cannot_be_resolved_is_rejected(api: Api) -> None:
    with pytest.raises(BadUrl, match="resolved"):
        api.loop.run(resolve(target_of("https://nobody.invalid/"), allowed=()))


def test_a_slow_look_up_is_abandoned(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answered.wait() and [])
    monkeypatch.setattr(url_policy, "RESOLVE_SECONDS_MAX", 0.01)
    problem_of(api.post("/webhooks", {"url": "https://example.com/"}), 400, "validation_error", "url")
    answered.set()


def test_unanswered_look_ups_are_bounded(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()
    begun: list[str] = []

    def getaddrinfo(host: str, *_: Any, **__: Any) -> list[Any]:
        begun.append(host)
        answered.wait()
        return []

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(url_policy, "RESOLVE_SECONDS_MAX", 0.01)
    lookups = threading.BoundedSemaphore(2)
    monkeypatch.setattr(url_policy, "_LOOK_UPS", lookups)
    for _ in range(5):
        problem_of(api.post("/webhooks", {"url": "https://example.com/"}), 400, "validation_error", "url")
    answered.set()
    assert len(begun) == 2
    # The threads give them back before the module has its own semaphore again.
    assert lookups.acquire(timeout=10) and lookups.acquire(timeout=10)
