"""Notifications to the service manager, over a socket as systemd's protocol has it."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from minibill.core.problems import InternalError, NotReady, Overloaded, Problem, StorageFull
from minibill.server.systemd import ServiceNotifier, send_heartbeats
from tests.api_client import SECRETS, Api
from tests.service_process import SERVE, environment

PATIENCE_S = 30


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(PATIENCE_S)
        yield listener


def hear(listener: socket.socket) -> dict[str, str]:
    return dict(line.split("=", 1) for line in listener.recv(4096).decode().splitlines())


def hear_until(listener: socket.socket, name: str) -> list[str]:
    """Return the names of the notifications up to the first message with this one."""
    heard: list[str] = []
    while name not in heard:
        heard += hear(listener)
    return heard


class Book:
    """A book whose writer gives each of these outcomes once, and then hangs."""

    def __init__(self, *outcomes: Problem | None) -> None:
        self._outcomes = list(outcomes)

    async def probe_write(self) -> None:
        if not self._outcomes:
            await asyncio.Event().wait()
        if (problem := self._outcomes.pop(0)) is not None:
            raise problem


def notifications(listener: socket.socket, *outcomes: Problem | None) -> list[dict[str, str]]:
    """Return the notifications of a service whose writer has these outcomes, with a watchdog period of 3 ms."""
    notifier = ServiceNotifier({"NOTIFY_SOCKET": listener.getsockname(), "WATCHDOG_USEC": "3000"})
    book: Any = Book(*outcomes)

    async def run() -> list[dict[str, str]]:
        task = asyncio.create_task(send_heartbeats(notifier, book))
        heard = [await asyncio.to_thread(hear, listener) for _ in outcomes]
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return heard

    return asyncio.run(run())


# --- the watchdog ---


def test_each_committed_probe_sends_a_heartbeat(listener: socket.socket) -> None:
    assert notifications(listener, None, None, None) == [{"WATCHDOG": "1", "STATUS": "accepts writes"}] * 3


@pytest.mark.parametrize("problem", [NotReady("broken"), Overloaded(), InternalError("a bug")], ids=lambda p: str(p.code))
def test_a_failing_writer_sends_no_heartbeat(listener: socket.socket, problem: Problem) -> None:
    [heard] = notifications(listener, problem)
    assert "WATCHDOG" not in heard and heard["STATUS"].startswith("rejects writes: ")


def test_a_hanging_writer_sends_no_heartbeat(listener: socket.socket) -> None:
    notifier = ServiceNotifier({"NOTIFY_SOCKET": listener.getsockname(), "WATCHDOG_USEC": "3000"})
    book: Any = Book()

    async def run() -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(send_heartbeats(notifier, book), 0.1)

    asyncio.run(run())
    listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        hear(listener)


def test_a_full_disk_still_sends_heartbeats(listener: socket.socket) -> None:
    [heard] = notifications(listener, StorageFull())
    assert heard["WATCHDOG"] == "1" and heard["STATUS"].startswith("rejects writes: ")


@pytest.mark.parametrize(
    "named", [{}, {"NOTIFY_SOCKET": "/x"}, {"WATCHDOG_USEC": "5"}, {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "0"}]
)
def test_no_heartbeats_are_sent_unless_a_manager_expects_them(named: dict[str, str]) -> None:
    book: Any = Book()
    asyncio.run(asyncio.wait_for(send_heartbeats(ServiceNotifier(named), book), PATIENCE_S))


def test_a_heartbeat_needs_a_commit_on_disk(start: Callable[..., Api], listener: socket.socket) -> None:
    api = start()
    groups = sum(api.book.writer.commit_seconds.counts)
    before = api.everything()
    api.loop.run(api.book.probe_write())
    # Only the counted commits differ.
    assert sum(after != was for after, was in zip(api.everything(), before, strict=True)) == 1
    assert sum(api.book.writer.commit_seconds.counts) == groups + 1


# --- messages ---


def test_an_abstract_socket_gets_notifications() -> None:
    name = f"minibill-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0{name}")
        listener.settimeout(PATIENCE_S)
        ServiceNotifier({"NOTIFY_SOCKET": f"@{name}"}).notify("READY=1")
        assert hear(listener) == {"READY": "1"}


def test_a_missing_manager_does_not_stop_the_service(tmp_path: Path) -> None:
    ServiceNotifier({"NOTIFY_SOCKET": str(tmp_path / "nobody")}).notify("READY=1")


# --- the process ---


def test_the_service_notifies_ready_heartbeats_and_stopping(tmp_path: Path, listener: socket.socket) -> None:
    notify = {"NOTIFY_SOCKET": listener.getsockname(), "WATCHDOG_USEC": "300000"}
    command = [*SERVE, "--db", str(tmp_path / "book.db"), "--port", "0"]
    with subprocess.Popen(command, env=environment(**SECRETS, **notify), stdout=subprocess.DEVNULL) as process:
        try:
            assert "STOPPING" not in hear_until(listener, "READY")
            assert "STOPPING" not in hear_until(listener, "WATCHDOG")
            process.send_signal(signal.SIGTERM)
            hear_until(listener, "STOPPING")
            assert process.wait(PATIENCE_S) == 0
        finally:
            process.kill()


def test_a_hanging_service_sends_no_heartbeats(tmp_path: Path, listener: socket.socket) -> None:
    notify = {"NOTIFY_SOCKET": listener.getsockname(), "WATCHDOG_USEC": "300000"}
    command = [*SERVE, "--db", str(tmp_path / "book.db"), "--port", "0"]
    with subprocess.Popen(command, env=environment(**SECRETS, **notify), stdout=subprocess.PIPE) as process:
        try:
            hear_until(listener, "WATCHDOG")
            # Another program locks the file, so the writer hangs.
            hold = (
                "import sys; from pathlib import Path; from minibill.db.connection import open_writer\n"
                "conn = open_writer(Path(sys.argv[1])); conn.execute('BEGIN IMMEDIATE'); print('held', flush=True)\n"
                "sys.stdin.read()"
            )
            holding = [sys.executable, "-c", hold, str(tmp_path / "book.db")]
            with subprocess.Popen(holding, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
                assert holder.stdout is not None and holder.stdin is not None
                assert holder.stdout.readline() == b"held\n"
                assert "WATCHDOG" not in heard_for(listener, 2)
                holder.stdin.close()
            hear_until(listener, "WATCHDOG")
        finally:
            process.kill()


def heard_for(listener: socket.socket, seconds: float) -> list[str]:
    """Return the notifications of some seconds, after those that were already on their way."""
    listener.settimeout(0.5)
    with contextlib.suppress(TimeoutError):
        for _ in range(3):
            hear(listener)
    listener.settimeout(seconds)
    heard: list[str] = []
    with contextlib.suppress(TimeoutError):
        heard += hear(listener)
    listener.settimeout(PATIENCE_S)
    return heard
