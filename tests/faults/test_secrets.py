"""Secrets and tokens never appear in logs, responses, the database or the files next to it."""

import logging
from collections.abc import Callable

import pytest

from tests.api.write_table import REFUSALS, WRITES
from tests.api_client import SECRETS, Api
from tests.auth.forged_tokens import ADMIN, SERVICE, TokenIssuer

PREVIOUS = {
    "BILLING_ADMIN_JWT_SECRET_PREV": "the-secret-for-admins-before " * 2,
    "BILLING_INTERNAL_JWT_SECRET_PREV": "the-secret-for-services-before " * 2,
}


def fail(*_: object, **__: object) -> None:
    raise RuntimeError("a bug of ours")


def test_no_secret_or_token_is_logged_returned_or_stored(
    start: Callable[..., Api], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    api = start(MINIBILL_ACCESS_LOG="on", **PREVIOUS)
    tokens = [api.token, api.sign(scopes=()), api.sign_service()]
    answers = []
    for number, write in enumerate([*WRITES.values(), *REFUSALS.values()]):
        answers.append(api.call(*write(api), key=f"key-{number}", token=tokens[0]))
    answers.append(api.call("GET", "/accounts", token=tokens[1]))
    answers.append(api.internal("POST", "/finalize", {"reservationId": "x", "actualCostMicro": "1"}, token=tokens[2]))

    def refused_at(door: TokenIssuer, path: str) -> None:
        for token in (door.changed(exp=1), door.flipped(1), door.forge(secret="x" * 32), door.headed(kid=door.secret)):
            tokens.append(token)
            answers.append(api.ask("GET", path, headers=[(b"authorization", b"Bearer " + token.encode())]))
            # A token in the wrong place must not be repeated either.
            query, cookie = b"token=" + token.encode(), (b"cookie", token.encode())
            answers.append(api.ask("GET", path, headers=[cookie], query=query))
            answers.append(api.ask("GET", path, headers=[*api.admin_headers(), cookie], query=query))

    refused_at(ADMIN, "/admin/billing/accounts")
    refused_at(SERVICE, "/api/internal/billing/reservations/x")
    with monkeypatch.context() as patched:
        patched.setattr("minibill.ledger.routes.open_account", fail)
        answers.append(api.post("/accounts", {"entityType": "mod", "entityId": "y"}, token=tokens[0]))
    assert {answer.status_code for answer in answers} >= {200, 201, 400, 401, 403, 404, 500}
    folder = api.book.path.parent
    api.stop()

    # The signature is the secret part of a token.
    secrets = [*SECRETS.values(), *PREVIOUS.values(), *[token.rpartition(".")[2] for token in tokens]]
    said = [repr(vars(record)) + caplog.handler.format(record) for record in caplog.records]
    assert len(said) > len(answers)
    shown = [repr(answer.headers) + answer.text for answer in answers]
    stored = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
    assert "book.db" in stored
    for secret in map(str.strip, secrets):
        assert not any(secret in text for text in said), secret
        assert not any(secret in text for text in shown), secret
        assert [name for name, data in stored.items() if secret.encode() in data] == [], secret
    for secret in (*SECRETS.values(), *PREVIOUS.values()):
        assert secret not in repr(api.settings) + str(api.settings)
