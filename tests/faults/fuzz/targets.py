"""Fuzz targets: each passes bytes to a parser that clients reach.

A target raises for an exception that is not an error response, and for invalid input that the parser accepts. `make test`
runs the seeds and hypothesis; `make torture` runs the same targets with atheris.
"""

import asyncio
import base64
import contextlib
import decimal
import hmac
import io
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import Mock, patch

import msgspec

from minibill.api.cursors import Cursors
from minibill.api.decoding import Decoder, json_object
from minibill.api.openapi.operation import OPERATIONS
from minibill.api.problem_response import problem_body
from minibill.app import create_app
from minibill.auth.callers import CallerKind
from minibill.auth.scopes import EVERYTHING
from minibill.auth.tokens import TokenVerifier, sign_token
from minibill.book import Book
from minibill.campaigns import formulas
from minibill.campaigns.batch import BATCH_GRANTS_MAX, LossInput, check_batch
from minibill.campaigns.schemas import BatchBody, CreateBody
from minibill.cli.grants_csv import Layout, UnreadableList, parse_units, read_rows
from minibill.cli.import_batches import body_of
from minibill.cli.import_rows import Rows
from minibill.config import read_settings
from minibill.core.clock import US_PER_SECOND
from minibill.core.problems import InvalidCursor, InvalidRequest, MalformedJson, Problem, Unauthorized
from minibill.db.epochs import FIRST
from tests.api_client import SECRETS

Json = Any

SETTINGS = read_settings({**SECRETS, "MINIBILL_ADMIN_RATE_PER_MINUTE": "0"})

# --- bodies ---

BODIES: tuple[type[msgspec.Struct], ...] = (
    *sorted({d.body for d in OPERATIONS.values() if d.body is not None}, key=lambda body: body.__name__),
    formulas.FixedAmountConfig, formulas.ProportionalLossConfig, formulas.TieredConfig, LossInput,
)  # fmt: skip
_DECODERS = [Decoder(body) for body in BODIES]


def body_seed(body: type[msgspec.Struct], text: bytes) -> bytes:
    """The input that hands `text` to the decoder of `body`."""
    return bytes([BODIES.index(body)]) + text


def decode_body(data: bytes) -> None:
    """The first byte says which body is expected, the rest is what came."""
    decoder, text = _DECODERS[data[0] % len(_DECODERS) if data else 0], data[1:]
    try:
        decoded = decoder.decode(text)
        _look_into(decoded)
    except MalformedJson as refusal:
        problem_body(refusal, "req")
    except InvalidRequest as refusal:
        problem_body(refusal, "req")
        assert _is_json(text)
    except Problem as refusal:
        problem_body(refusal, "req")
    else:
        assert _is_json(text)


def _look_into(decoded: Any) -> None:
    """Decode and check a body as the handlers do before a write."""
    for field in msgspec.structs.fields(decoded):
        value = getattr(decoded, field.name)
        if isinstance(value, msgspec.Raw) and (kept := json_object(value, field.encode_name)) is not None:
            assert _is_json(kept.encode())
    match decoded:
        case BatchBody():
            check_batch(decoded)
            for item in decoded.grants:
                assert not bytes(item.formula_input) or _is_json(bytes(item.formula_input))
        case CreateBody():
            config = json_object(decoded.grant_config, "grantConfig", bytes_max=10_000)
            formula = formulas.build(decoded.grant_formula or "fixed_amount", config, per_wallet_cap_micro=5_000_000)
            if formula.of_loss is not None:
                assert 0 <= formula.of_loss(10**12).amount_micro <= 5_000_000


def _is_json(text: bytes) -> bool:
    """Return true if Python's parser accepts a text, or if the text exceeds its limit on depth."""
    try:
        json.loads(text.decode(), parse_constant=_no_constant, parse_int=str, parse_float=str)
    except RecursionError:
        return True
    except ValueError:
        return False
    return True


def _no_constant(name: str) -> None:
    raise ValueError(name)


# --- cursors ---

_CURSORS = Cursors(SETTINGS)
CURSOR_PATH = "/admin/billing/campaigns"
CURSOR = _CURSORS.make(CURSOR_PATH, {"status": "active"}, [7], epoch=FIRST)
_CURSOR_BYTES = base64.urlsafe_b64decode(CURSOR + "=" * (-len(CURSOR) % 4))


def read_cursor(data: bytes) -> None:
    """The bytes are taken for a cursor, as they are and laid over a good one: nothing but that very one is read."""
    laid_over = bytes(a ^ b for a, b in zip(_CURSOR_BYTES, data.ljust(len(_CURSOR_BYTES), b"\0"), strict=False))
    for text in (data.decode("latin-1"), data.decode(errors="replace"), _base64(data), _base64(laid_over)):
        try:
            assert _CURSORS.read(text, CURSOR_PATH, epoch=FIRST) == ({"status": "active"}, [7])
        except InvalidCursor:
            assert text != CURSOR
        else:
            assert text == CURSOR


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


# --- tokens ---

NOW_S = 1_800_000_000
_KEYS: dict[CallerKind, bytes] = {"admin": SETTINGS.admin_secret.encode(), "service": SETTINGS.internal_secret.encode()}
_LONGEST: dict[CallerKind, int] = {"admin": 3_600, "service": 300}
_KINDS: tuple[CallerKind, CallerKind] = ("admin", "service")
HEADER: Json = {"alg": "HS256", "typ": "JWT"}
CLAIMS: dict[CallerKind, Json] = {
    "admin": {"sub": "operator", "iss": "arrakis-admin", "aud": "arrakis-billing-admin", "scopes": ["admin:*"]},
    "service": {"sub": "finn", "iss": "loa-finn", "aud": "arrakis-internal"},
}
_TIMES = {"iat": NOW_S, "exp": NOW_S + 300}
# What the bytes of an input are: a token, the two parts of one, or what is to change in a good one.
TOKEN, PARTS, CHANGES = range(3)


def token_seed(kind: CallerKind, how: int, text: bytes) -> bytes:
    """The input that brings `text` to a door. `PARTS`: header, line feed, payload. `CHANGES`: lines of `name=JSON`."""
    return bytes([_KINDS.index(kind) | how << 1]) + text


def check_token(data: bytes) -> None:
    """The first byte says which door, and what the rest is: see `token_seed`. Parts and changed tokens are signed well."""
    first = data[0] if data else 0
    kind, how, rest = _KINDS[first & 1], (first >> 1) % 3, data[1:]
    text = rest.decode("latin-1")
    if how == PARTS:
        header, _, payload = rest.partition(b"\n")
        text = _signed(kind, header, payload)
    elif how == CHANGES:
        text = _signed(kind, *_changed(kind, rest.decode(errors="replace")))
    verifier = TokenVerifier(SETTINGS)
    # The second time it may be remembered.
    for _ in range(2):
        try:
            caller = verifier.verify(kind, b"Bearer " + text.encode("latin-1"))
        except Unauthorized:
            continue
        _require_good(kind, text)
        assert caller.kind == kind
        # It is stored, so it must be text that can be.
        assert caller.sub.encode()
        caller.may("admin:billing:read")


def _signed(kind: CallerKind, header: bytes, payload: bytes) -> str:
    signed = f"{_base64(header)}.{_base64(payload)}"
    return f"{signed}.{_base64(hmac.digest(_KEYS[kind], signed.encode(), 'sha256'))}"


def _changed(kind: CallerKind, changes: str) -> tuple[bytes, bytes]:
    """Header and payload of a good token with members changed: `sub="x"`, `header.kid=1`; a name alone takes one out."""
    header, payload = dict(HEADER), {**CLAIMS[kind], **_TIMES}
    for line in changes.split("\n"):
        name, equals, value = line.partition("=")
        part = header if name.startswith("header.") else payload
        name = name.removeprefix("header.")
        try:
            part[name] = json.loads(value)
        except (ValueError, RecursionError):
            part[name] = value
        if not equals:
            del part[name]
    return json.dumps(header).encode(), json.dumps(payload).encode()


def _require_good(kind: CallerKind, text: str) -> None:
    """Assert that a token satisfies the rules of docs/reference/http-api.md, independently of the tested code."""
    signed, _, signature = text.rpartition(".")
    assert signature == _base64(hmac.digest(_KEYS[kind], signed.encode(), "sha256"))
    header, payload = (json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))) for part in signed.split("."))
    assert header["alg"] == "HS256" and set(header) <= {"alg", "typ", "kid"}
    assert {name: payload[name] for name in ("iss", "aud")} == {name: CLAIMS[kind][name] for name in ("iss", "aud")}
    assert type(payload["sub"]) is str and payload["sub"].strip() and len(payload["sub"]) <= 128
    assert "jti" not in payload or type(payload["jti"]) is str
    times = [payload["exp"], payload["iat"], payload.get("nbf", NOW_S)]
    assert all(type(time) in (int, float) and abs(time) < 10**12 for time in times)
    expires, issued, begins = times
    assert round(expires - issued, 6) <= _LONGEST[kind] and expires + 30 > NOW_S and max(issued, begins) <= NOW_S + 30


@contextlib.contextmanager
def _at_a_standing_clock() -> Iterator[Callable[[bytes], None]]:
    """Freeze the clock, so that times in seeds stay valid."""
    now = datetime.fromtimestamp(NOW_S, UTC)
    with (
        patch("minibill.auth.tokens.real_now_us", lambda: NOW_S * US_PER_SECOND),
        patch("jwt.api_jwt.datetime", Mock(now=lambda **_: now)),
    ):
        # Were the good ones refused, say for their times, the fuzzer would never come further than that.
        for kind in _KINDS:
            assert TokenVerifier(SETTINGS).verify(kind, b"Bearer " + _signed(kind, *_changed(kind, "note=1")).encode())
        yield check_token


# --- lists ---

LAYOUTS = (
    Layout(account_column="a", entity_type="person", amount_column="n"),
    Layout(account_column="a", amount_column="n", round_down=True),
    Layout(account_column="a", entity_type="agent", input_columns={"lossMicro": "n", "source": "s"}, delimiter=";"),
    Layout(account_column="a", amount_column="n", input_columns={"lossMicro": "n"}, delimiter="\t"),
)
_BATCH = Decoder(BatchBody)


def csv_seed(layout: int, text: bytes) -> bytes:
    """The input that reads `text` by a layout."""
    return bytes([layout]) + text


def read_list(data: bytes) -> None:
    """The first byte says by which layout the rest is read. What is read of it, a service takes."""
    layout, text = LAYOUTS[data[0] % len(LAYOUTS) if data else 0], data[1:]
    _parse_units(text.decode("latin-1"))
    with Rows() as rows:
        try:
            rows.add(read_rows(io.BytesIO(text), layout=layout), sum_rows=False)
        except UnreadableList:
            return
        outcomes = list(rows.outcomes())
        items = rows.to_send(after_line=0, count=len(outcomes))
    lines = [outcome.line for outcome in outcomes]
    assert lines == sorted(set(lines))
    assert len({item.account for item in items}) == len(items)
    faults = [str(outcome.error) for outcome in outcomes if outcome.error is not None]
    assert all(fault.isprintable() for fault in faults)
    assert len(items) + len(faults) == len(outcomes)
    for start in range(0, len(items), BATCH_GRANTS_MAX):
        batch = items[start : start + BATCH_GRANTS_MAX]
        body = body_of(batch, entity_type=layout.entity_type, force=True)
        decoded = _BATCH.decode(body)
        check_batch(decoded)
        assert len(decoded.grants) == len(batch)


def _parse_units(text: str) -> None:
    try:
        amount_micro = parse_units(text, round_down=False)
    except ValueError:
        return
    with decimal.localcontext(decimal.Context(prec=1_000)):
        assert amount_micro == decimal.Decimal(text) * 1_000_000


# --- whole requests ---


def request_seed(method: str, path: str, *lines: str, body: str = "", who: str = "admin") -> bytes:
    """The input that is this request, with a good token."""
    root = "/admin/billing" if who == "admin" else "/api/internal/billing"
    head = [f"{method} {root}{path}", f"authorization: Bearer {{{who}}}", "content-type: application/json", *lines]
    return "\n".join([*head, "", body]).encode()


# What there is in the book before the first request, so that seeds find something.
_BEFORE = (
    request_seed("POST", "/accounts", body='{"entityType": "person", "entityId": "ada"}'),
    request_seed("POST", "/accounts/acct_0000000000001/mint", body='{"amountMicro": "1000000000"}'),
    request_seed("POST", "/campaigns", body='{"name": "x", "campaignType": "loyalty", "budgetMicro": "1000"}'),
    request_seed("POST", "/campaigns/camp_0000000000001/activate"),
    request_seed(
        "POST",
        "/campaigns/camp_0000000000001/grants/batch",
        body='{"grants": [{"accountId": "acct_0000000000001", "amountMicro": "5"}]}',
    ),
    request_seed("PUT", "/discounts/guild/tiers", body='{"tiers": [{"tier": "gold", "rateBps": 100}]}'),
    request_seed("PUT", "/accounts/acct_0000000000001/memberships/guild", body='{"tier": "gold"}'),
    request_seed("POST", "/accounts/acct_0000000000001/reservations", body='{"amountMicro": "5", "ttlSeconds": 86400}'),
    request_seed("POST", "/accounts/acct_0000000000001/charges", body='{"costMicro": "5", "sourceId": "old"}'),
)


class _Answered(NamedTuple):
    status: int
    headers: dict[bytes, bytes]
    body: bytes


class App:
    """The whole application on a book of its own, asked in process."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="minibill-fuzz-"))
        self._loop = asyncio.new_event_loop()
        self._book = self._loop.run_until_complete(Book.open(self._folder / "book.db"))
        self._app = create_app(self._book, SETTINGS, has_test_clock=True)
        for request in _BEFORE:
            self.ask(request)

    def close(self) -> None:
        self._loop.run_until_complete(self._book.close())
        self._loop.close()
        shutil.rmtree(self._folder)

    def ask(self, data: bytes) -> None:
        """The bytes are a request as it goes over the wire; `{admin}` and `{service}` in it stand for good tokens."""
        head, _, body = data.partition(b"\n\n")
        line, *lines = head.split(b"\n")
        method, _, target = line.partition(b" ")
        path, _, query = target.partition(b"?")
        headers = [(name.strip().lower(), value.strip()) for name, _, value in (each.partition(b":") for each in lines)]
        tokens = {
            b"{%s}" % kind.encode(): sign_token(SETTINGS, kind, sub="fuzz", scopes=[EVERYTHING], ttl=300).encode()
            for kind in _KINDS
        }
        for name, own in tokens.items():
            headers = [(header, value.replace(name, own)) for header, value in headers]
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http", "root_path": "",
            "method": method.decode("latin-1").upper(), "path": path.decode(errors="replace"), "raw_path": path,
            "query_string": query, "headers": headers, "server": ("minibill.test", 80), "client": ("192.0.2.7", 1),
            "state": {}, "extensions": {},
        }  # fmt: skip
        answered = self._loop.run_until_complete(asyncio.wait_for(self._answer(scope, body), 10))
        assert answered.status < 500, answered
        for name in (b"x-content-type-options", b"cache-control", b"x-request-id", b"x-correlation-id"):
            assert name in answered.headers
        if answered.status >= 400:
            assert answered.headers[b"content-type"] == b"application/problem+json"
        if b"json" in answered.headers.get(b"content-type", b""):
            json.loads(answered.body.decode(), parse_constant=_no_constant)

    async def _answer(self, scope: Json, body: bytes) -> _Answered:
        sent: list[Json] = []

        async def receive() -> Json:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Json) -> None:
            sent.append(message)

        await self._app(scope, receive, send)
        start, *parts = sent
        return _Answered(start["status"], dict(start["headers"]), b"".join(part.get("body", b"") for part in parts))


@contextlib.contextmanager
def _application() -> Iterator[Callable[[bytes], None]]:
    app = App()
    try:
        yield app.ask
    finally:
        app.close()


Target = Callable[[bytes], None]

# By name: gives the target for as long as it is used.
TARGETS: dict[str, Callable[[], contextlib.AbstractContextManager[Target]]] = {
    "body": lambda: contextlib.nullcontext(decode_body),
    "cursor": lambda: contextlib.nullcontext(read_cursor),
    "token": _at_a_standing_clock,
    "csv": lambda: contextlib.nullcontext(read_list),
    "request": _application,
}
