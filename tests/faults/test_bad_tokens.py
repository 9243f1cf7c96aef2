"""All defects of a token get the same response, which reveals nothing about the defect."""

import contextlib
import hmac
import logging
import statistics
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jwt
import pytest

from minibill.api.cursors import Cursors
from minibill.auth.tokens import TokenVerifier
from minibill.core.problems import InvalidCursor, Unauthorized
from minibill.db.epochs import FIRST
from tests.api_client import SECRETS, Api, Json
from tests.auth.forged_tokens import ADMIN, SERVICE, TokenIssuer, b64, defects

DOORS = pytest.mark.parametrize("door", [ADMIN, SERVICE], ids=lambda door: door.kind)

# For each caller kind: a path that the middleware answers, one that the framework routes, and an unknown one.
PATHS = {
    "admin": [
        ("GET", "/admin/billing/accounts/acct_0000000000001/balance"),
        ("POST", "/admin/billing/accounts"),
        ("GET", "/admin/billing/nothing"),
    ],
    "service": [
        ("POST", "/api/internal/billing/reservations"),
        ("GET", "/api/internal/billing/reservations/res_0000000000001"),
        ("POST", "/api/internal/billing/charges"),
        ("POST", "/api/internal/billing/charges/batch"),
        ("GET", "/api/internal/billing/nothing"),
    ],
}
BODIES = {
    "/admin/billing/accounts": b'{"entityType": "mod", "entityId": "x"}',
    "/api/internal/billing/charges": b'{"accountId": "acct_0000000000001", "costMicro": "1"}',
    "/api/internal/billing/charges/batch": b'{"charges": [{"accountId": "a", "costMicro": "1", "sourceId": "s"}]}',
    "/api/internal/billing/reservations": b'{"accountId": "acct_0000000000001", "amountMicro": "1"}',
}

# Headers that are no Bearer header, with a valid token in `{}`.
NO_BEARER = [
    b"", b"Bearer", b"Bearer ", b"Basic b3BlcmF0b3I6cGFzcw==", b"Token {}", b"{}", b"Bearer {}, Bearer {}", b"Bearer\t{}",
    b"Bearer  {}", b"Bearer {} {}", b"Bearer: {}", b"DPoP {}", b"Bearer token={}", b" Bearer {}", b"\xff {}", b"Bearer \xff",
    b"Bearer {}\0", b"Bearer {}\xc2\xa0", b"Bearer,{}", b'Bearer "{}"',
]  # fmt: skip


class SequenceTracker(NamedTuple):
    """The parts of a response that a client can observe, without its ids."""

    status: int
    headers: list[tuple[str, str]]
    body: Json


def ask(api: Api, method: str, path: str, *authorization: bytes) -> SequenceTracker:
    headers = [(b"content-type", b"application/json"), *[(b"authorization", value) for value in authorization]]
    messages = [{"type": "http.request", "body": BODIES.get(path, b"")}]
    response = api.ask(method, path, headers=headers, messages=messages)
    assert response.json()["requestId"] == response.headers["x-request-id"] == response.headers["x-correlation-id"]
    shown = [(name, value) for name, value in response.headers.items() if name not in ("x-request-id", "x-correlation-id")]
    # All ids have the same length, so the length of the response reveals nothing.
    return SequenceTracker(response.status_code, shown, {**response.json(), "requestId": ""})


def wrong_authorizations(door: TokenIssuer) -> Iterator[tuple[str, list[bytes]]]:
    """Yield invalid Authorization headers, each with the name of its defect."""
    good = door.forge().encode()
    yield from ((name, [b"Bearer " + token.encode()]) for name, token in defects(door).items())
    yield from ((repr(value), [value.replace(b"{}", good)]) for value in NO_BEARER)
    yield "a token of the other door", [b"Bearer " + door.other.forge().encode()]
    yield (
        "the other door's token that claims to be of this one",
        [b"Bearer " + door.forge(secret=door.other.secret).encode()],
    )
    yield "this door's secret under the other's claims", [b"Bearer " + door.forge(door.other.claims()).encode()]
    yield "two good ones", [b"Bearer " + good] * 2
    yield "a good one and an empty one", [b"Bearer " + good, b""]
    yield "a bad one and a good one", [b"Bearer x", b"Bearer " + good]


@DOORS
def test_all_token_defects_get_the_same_response(api: Api, door: TokenIssuer, caplog: pytest.LogCaptureFixture) -> None:
    api.account(5)
    wrong = list(wrong_authorizations(door))
    assert len(wrong) >= 90
    caplog.set_level(logging.INFO)
    with api.unchanged():
        for method, path in PATHS[door.kind]:
            expected = ask(api, method, path)
            assert (expected.status, expected.body["code"]) == (401, "unauthorized")
            assert ("www-authenticate", 'Bearer error="invalid_token"') in expected.headers
            for name, values in wrong:
                # The second request might use a cached result.
                for _ in range(2):
                    assert ask(api, method, path, *values) == expected, name
    # The log reveals neither the defect nor the header.
    assert {record.getMessage() for record in caplog.records} == {"no valid token"}
    assert not any("Bearer" in str(vars(record)) or "eyJ" in str(vars(record)) for record in caplog.records)


@DOORS
def test_a_valid_token_of_each_caller_kind_is_accepted(api: Api, door: TokenIssuer) -> None:
    for method, path in PATHS[door.kind]:
        token = door.forge().encode()
        response = api.ask(
            method, path, headers=[(b"authorization", b"Bearer " + token)], messages=[{"type": "http.request"}]
        )
        assert response.status_code != 401


def test_each_secret_is_valid_for_one_caller_kind(start: Callable[..., Api]) -> None:
    previous = {
        "BILLING_ADMIN_JWT_SECRET_PREV": "the secret for admins before " * 2,
        "BILLING_INTERNAL_JWT_SECRET_PREV": "the secret for services before " * 2,
    }
    api = start(**previous)
    keys = {name: secret for name, secret in {**SECRETS, **previous}.items() if name.startswith("BILLING")}
    for door in (ADMIN, SERVICE):
        method, path = PATHS[door.kind][-1]
        for name, secret in keys.items():
            opens = name.startswith("BILLING_ADMIN") == (door.kind == "admin")
            for claims in (door.claims(), door.other.claims()):
                token = door.forge(claims, secret=secret).encode()
                let_in = opens and claims["iss"] == door.issuer
                assert ask(api, method, path, b"Bearer " + token).status == (404 if let_in else 401), name


def test_during_a_rotation_both_secrets_reject_the_same_tokens(start: Callable[..., Api]) -> None:
    api = start(BILLING_ADMIN_JWT_SECRET="the new secret, of more than 32 bytes", BILLING_ADMIN_JWT_SECRET_PREV=ADMIN.secret)
    method, path = PATHS["admin"][0]
    expected = ask(api, method, path)
    for name, token in defects(ADMIN).items():
        assert ask(api, method, path, b"Bearer " + token.encode()) == expected, name


@pytest.mark.parametrize("failure", [ValueError, TypeError, OverflowError, RecursionError, jwt.DecodeError])
def test_an_exception_of_the_jwt_library_is_a_token_defect(
    api: Api, monkeypatch: pytest.MonkeyPatch, failure: type[Exception]
) -> None:
    def stumble(*_: object, **__: object) -> None:
        raise failure("odd")

    monkeypatch.setattr(jwt, "decode", stumble)
    for door in (ADMIN, SERVICE):
        with pytest.raises(Unauthorized):
            TokenVerifier(api.settings).verify(door.kind, bearer(door.forge()))


# --- time ---


def bearer(token: str) -> bytes:
    """Return a token as a header value."""
    return b"Bearer " + token.encode()


def near_misses(door: TokenIssuer) -> dict[str, str]:
    """Return tokens whose signature differs in its first, a middle or its last byte."""
    signed = ".".join(door.forge().split(".")[:2])
    right = hmac.digest(door.secret.encode(), signed.encode(), "sha256")

    def wrong_at(place: int) -> str:
        return f"{signed}.{b64(bytes(byte ^ (place == i) for i, byte in enumerate(right)))}"

    return {"first": wrong_at(0), "middle": wrong_at(15), "last": wrong_at(31)}


@DOORS
def test_signatures_are_compared_completely(api: Api, door: TokenIssuer, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[int, int]] = []
    real = hmac.compare_digest

    def compare(a: bytes, b: bytes) -> bool:
        compared.append((len(a), len(b)))
        return real(a, b)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    verifier = TokenVerifier(api.settings)
    for token in near_misses(door).values():
        with pytest.raises(Unauthorized):
            verifier.verify(door.kind, bearer(token))
    assert compared == [(32, 32)] * 3
    assert verifier.verify(door.kind, bearer(door.forge()))
    # The same holds for cursors.
    compared.clear()
    cursors = Cursors(api.settings)
    good = cursors.make("/x", {}, [1], epoch=FIRST)
    for text in ("A" + good[1:], good[:10] + "A" + good[11:]):
        with pytest.raises(InvalidCursor):
            cursors.read(text if text != good else "B" + good[1:], "/x", epoch=FIRST)
    assert compared == [(16, 16)] * 2


@pytest.mark.serial
def test_the_response_time_reveals_nothing_about_a_signature(api: Api, long: bool, record: Callable[[str], None]) -> None:
    if not long:
        pytest.skip("a measurement, which says nothing when it is short: make torture T=tokens")
    verifier, headers = TokenVerifier(api.settings), {name: bearer(token) for name, token in near_misses(ADMIN).items()}
    times: dict[str, list[int]] = {name: [] for name in headers}
    for _ in range(100_000):
        for name, header in headers.items():
            began_ns = time.perf_counter_ns()
            with contextlib.suppress(Unauthorized):
                verifier.verify("admin", header)
            times[name].append(time.perf_counter_ns() - began_ns)
    medians = {name: statistics.median(found) for name, found in times.items()}
    record("wrong at the " + ", ".join(f"{name} byte {median / 1000:.2f} µs" for name, median in medians.items()))
