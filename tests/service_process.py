"""The service as a process of its own, for tests of signals, locks, disks and sockets."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx

from tests.api_client import NO_LIMITS

SERVE = [sys.executable, "-m", "minibill", "serve"]


def environment(**settings: str) -> dict[str, str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MINIBILL_", "BILLING_"))}
    return {**clean, **NO_LIMITS, **settings}


class Server:
    """A running service; its log goes to the stderr of the test, or to a file."""

    def __init__(
        self,
        db: Path,
        *options: str,
        serve: Sequence[str] = SERVE,
        log: Path | None = None,
        files_max: int | None = None,
        **settings: str,
    ) -> None:
        command = [*serve, "--dev", "--port", "0", "--db", str(db), *options]
        if files_max is not None:
            command = ["sh", "-c", f'ulimit -n {files_max}; exec "$@"', "sh", *command]
        with contextlib.ExitStack() as stack:
            stderr = None if log is None else stack.enter_context(log.open("ab"))
            self.process = subprocess.Popen(
                command, env=environment(**settings), stdout=subprocess.PIPE, stderr=stderr, text=True
            )
        assert self.process.stdout is not None
        said = ""
        while not (found := re.search(r"MINIBILL_URL=(\S+)\n.*MINIBILL_TOKEN=(\S+)\n", said)):
            line = self.process.stdout.readline()
            assert line, "the service ended before it was ready"
            said += line
        self.first_line = said.splitlines()[0]
        self.port = int(found[1].rpartition(":")[2])
        self.http = httpx.Client(
            base_url=f"{found[1]}/admin/billing", headers={"Authorization": f"Bearer {found[2]}"}, trust_env=False
        )

    def end(self, signum: int = signal.SIGTERM) -> int:
        self.process.send_signal(signum)
        code = self.process.wait(15)
        self.http.close()
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


@contextlib.contextmanager
def serving(
    db: Path,
    *options: str,
    serve: Sequence[str] = SERVE,
    log: Path | None = None,
    files_max: int | None = None,
    **settings: str,
) -> Iterator[Server]:
    server = Server(db, *options, serve=serve, log=log, files_max=files_max, **settings)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.end()


def mint(server: Server, account: str, number: int) -> int:
    body = {"amountMicro": "1", "sourceId": f"order-{number}"}
    return server.http.post(f"/accounts/{account}/mint", json=body).status_code


def open_account(server: Server) -> str:
    account: str = server.http.post("/accounts", json={"entityType": "person", "entityId": "ada"}).json()["id"]
    return account
