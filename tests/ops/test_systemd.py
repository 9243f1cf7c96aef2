"""What the service manager hears: by the socket that it names, as systemd's own protocol has it."""

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
from minibill.server.systemd import ServiceNotifier, keep_alive
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
    """The names of what was said, up to the first message with this one."""
    heard: list[str] = []
    while name not in heard:
        heard += hear(listener)
    return heard


class Book:
    """A book whose writer answers as it is told to; each answer is used once, and then nothing comes."""

    def __init__(self, *answers: Problem | None) -> None:
        self._answers = list(answers)

    async def probe_write(self) -> None:
        if not self._answers:
            await asyncio.Event().wait()
        if (problem := self._answers.pop(0)) is not None:
            raise problem


def told(listener: socket.socket, *answers: Problem | None) -> list[dict[str, str]]:
    """What is told while the writer gives these answers, with a period of 3 ms."""
    manager = ServiceNotifier({"NOTIFY_SOCKET": listener.getsockname(), "WATCHDOG_USEC": "3000"})
    book: Any = Book(*answers)

    async def run() -> list[dict[str, str]]:
        task = asyncio.create_task(keep_alive(manager, book))
        heard = [await asyncio.to_thread(hear, listener) for _ in answers]
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return heard

    return asyncio.run(run())


# --- the watchdog ---


def test_each_write_that_the_writer_answers_is_a_sign_of_life(listener: socket.socket) -> None:
    assert told(listener, None, None, None) == [{"WATCHDOG": "1", "STATUS": "takes writes"}] * 3


@pytest.mark.parametrize("problem", [NotReady("broken"), Overloaded(), InternalError("a bug")], ids=lambda p: str(p.code))
def test_a_writer_that_takes_no_writes_gives_none(listener: socket.socket, problem: Problem) -> None:
    [heard] = told(listener, problem)
    assert "WATCHDOG" not in heard and heard["STATUS"].startswith("takes no writes: ")


def test_a_writer_that_never_answers_gives_none(listener: socket.socket) -> None:
    manager = ServiceNotifier({"NOTIFY_SOCKET": listener.getsockname(), "WATCHDOG_USEC": "3000"})
    book: Any = Book()

    async def run() -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(keep_alive(manager, book), 0.1)

    asyncio.run(run())
    listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        hear(listener)


def test_a_full_disk_is_no_reason_to_be_started_anew(listener: socket.socket) -> None:
    [heard] = told(listener, StorageFull())
    assert heard["WATCHDOG"] == "1" and heard["STATUS"].startswith("takes no writes: ")


@pytest.mark.parametrize(
    "named", [{}, {"NOTIFY_SOCKET": "/x"}, {"WATCHDOG_USEC": "5"}, {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "0"}]
)
def test_nobody_who_waits_for_signs_of_life_gets_none(named: dict[str, str]) -> None:
    book: Any = Book()
    asyncio.run(asyncio.wait_for(keep_alive(ServiceNotifier(named), book), PATIENCE_S))


def test_a_sign_of_life_is_a_write_through_to_the_disk(start: Callable[..., Api], listener: socket.socket) -> None:
    api = start()
    groups = sum(api.book.writer.commit_seconds.counts)
    before = api.everything()
    api.loop.run(api.book.probe_write())
    # Nothing but the commits that are counted.
    assert sum(after != was for after, was in zip(api.everything(), before, strict=True)) == 1
    assert sum(api.book.writer.commit_seconds.counts) == groups + 1


# --- messages ---


def test_an_abstract_socket_is_understood() -> None:
    name = f"minibill-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0{name}")
        listener.settimeout(PATIENCE_S)
        ServiceNotifier({"NOTIFY_SOCKET": f"@{name}"}).tell("READY=1")
        assert hear(listener) == {"READY": "1"}


def test_a_manager_that_is_gone_is_no_trouble_for_the_service(tmp_path: Path) -> None:
    ServiceNotifier({"NOTIFY_SOCKET": str(tmp_path / "nobody")}).tell("READY=1")


# --- the process ---


def test_the_service_says_when_it_is_ready_that_it_works_and_that_it_stops(tmp_path: Path, listener: socket.socket) -> None:
    told_of = {"NOTIFY_SOCKET": listener.getsockname(), "WATCHDOG_USEC": "300000"}
    command = [*SERVE, "--db", str(tmp_path / "book.db"), "--port", "0"]
    with subprocess.Popen(command, env=environment(**SECRETS, **told_of), stdout=subprocess.DEVNULL) as process:
        try:
            assert "STOPPING" not in hear_until(listener, "READY")
            assert "STOPPING" not in hear_until(listener, "WATCHDOG")
            process.send_signal(signal.SIGTERM)
            hear_until(listener, "STOPPING")
            assert process.wait(PATIENCE_S) == 0
        finally:
            process.kill()


def test_a_service_that_hangs_gives_no_signs_of_life(tmp_path: Path, listener: socket.socket) -> None:
    told_of = {"NOTIFY_SOCKET": listener.getsockname(), "WATCHDOG_USEC": "300000"}
    command = [*SERVE, "--db", str(tmp_path / "book.db"), "--port", "0"]
    with subprocess.Popen(command, env=environment(**SECRETS, **told_of), stdout=subprocess.PIPE) as process:
        try:
            hear_until(listener, "WATCHDOG")
            # Another program keeps the file to itself: the writer waits, and its writes with it.
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
    """What comes in after a moment in which what was on its way may arrive."""
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
