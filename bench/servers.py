"""Servers of the benchmarks: minibill and the no-op, each a process on the server's core."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Self

from bench.load import ANSWER_SECONDS_MAX, Connection, request_bytes
from bench.machine import on_server_core
from bench.report import Unfit, require_whole
from minibill.auth.scopes import EVERYTHING
from minibill.auth.tokens import sign_token
from minibill.config import read_settings

STOP_SECONDS_MAX = 15

ENVIRONMENT = {
    "BILLING_ADMIN_JWT_SECRET": "a secret that only benchmarks use, admin",
    "BILLING_INTERNAL_JWT_SECRET": "a secret that only benchmarks use, service",
    "MINIBILL_ADMIN_RATE_PER_MINUTE": "0",
    # The log of the server would mix with the tables.
    "MINIBILL_LOG": "error",
}

ADMIN_PREFIX = "/admin/billing"
SERVICE_PREFIX = "/api/internal/billing"

INSTALLED = (sys.executable, "-m", "minibill")


class Running(NamedTuple):
    """A running server."""

    port: int
    pid: int


def token() -> str:
    """Return an admin token for these servers."""
    return sign_token(read_settings(ENVIRONMENT), "admin", sub="bench", scopes=[EVERYTHING], ttl=3600)


def service_token() -> str:
    """Return a service token for these servers."""
    return sign_token(read_settings(ENVIRONMENT), "service", sub="bench", scopes=[], ttl=300)


@contextlib.contextmanager
def minibill(db: Path, **settings: str) -> Iterator[int]:
    """Run `minibill serve` on a file; yield its port. Afterwards stop it and check the book."""
    with running(db, settings=settings) as server:
        yield server.port
    require_whole(db)


def running(
    db: Path,
    *,
    program: tuple[str, ...] = INSTALLED,
    options: tuple[str, ...] = (),
    settings: dict[str, str] | None = None,
) -> contextlib.AbstractContextManager["Running"]:
    """Run `minibill serve` without a check of the book; yield port and process. `program` is the command."""
    return _process([*program, "serve", "--dev", "--port", "0", "--db", str(db), *options], **(settings or {}))


@contextlib.contextmanager
def noop() -> Iterator[int]:
    """Run the no-op server; yield its port."""
    with _process([sys.executable, "-m", "bench.noop"]) as server:
        yield server.port


class Client:
    """A client, of an admin or of a service, with the headers that `minibill serve` expects."""

    def __init__(self, port: int, *, service: bool = False, answer_seconds_max: float = ANSWER_SECONDS_MAX) -> None:
        self.connection = Connection(port, answer_seconds_max=answer_seconds_max)
        self.headers = {"Authorization": f"Bearer {service_token() if service else token()}"}
        self._prefix = SERVICE_PREFIX if service else ADMIN_PREFIX

    def request(self, method: str, path: str, body: bytes = b"", *, key: str | None = None) -> bytes:
        """Return the bytes of a request, to send now or later."""
        headers = self.headers if key is None else self.headers | {"Idempotency-Key": key}
        return request_bytes(method, self._prefix + path, headers=headers, body=body)

    def post(self, path: str, body: bytes = b"", *, key: str | None = None) -> bytes:
        """Send a request; return the body of its response, which must be a success."""
        return self.sent(self.request("POST", path, body or b"{}", key=key))

    def sent(self, request: bytes) -> bytes:
        """Send a request; return the body of its response, which must be a success."""
        answer = self.connection.ask(request)
        if answer.status not in (200, 201):
            raise Unfit(f"{answer.status} {answer.body[:1000].decode(errors='replace')}")
        return answer.body

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()


@contextlib.contextmanager
def _process(command: list[str], **settings: str) -> Iterator[Running]:
    # A child process and its threads inherit the core of the thread that starts it.
    with on_server_core():
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **ENVIRONMENT, **settings})
    assert process.stdout is not None
    try:
        first_line = process.stdout.readline()
        if "listening on http://" not in first_line:
            raise Unfit(f"{' '.join(command[:3])} did not start: {first_line}")
        yield Running(int(first_line.strip().rpartition(":")[2]), process.pid)
        process.terminate()
        if process.wait(STOP_SECONDS_MAX) not in (0, -15):
            raise Unfit(f"{' '.join(command[:3])} ended with {process.returncode}")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
