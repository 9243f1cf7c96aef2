"""Timeouts of connections: idle ones (`MINIBILL_KEEP_ALIVE_SECONDS`), slow headers, and responses that are not read."""

import contextlib
import socket
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from minibill.config import read_settings
from minibill.server.connection_limits import HEADER_TIMEOUT_SECONDS, WRITE_TIMEOUT_SECONDS, StalledConnectionReaper
from tests.api_client import SECRETS
from tests.service_process import Server, serving

GET = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"


class Peer:
    """A connection, as uvicorn keeps it."""

    def __init__(self) -> None:
        self.cycle: Any = None
        self.scope: Any = None
        self.unsent_bytes = 0
        self.is_aborted = False
        self.transport = SimpleNamespace(get_write_buffer_size=lambda: self.unsent_bytes, abort=self.abort)

    def abort(self) -> None:
        self.is_aborted = True

    def begin_header(self) -> None:
        self.scope = {}

    def complete_header(self) -> None:
        self.cycle = SimpleNamespace(scope=self.scope, response_complete=False)


def seconds_until_aborted(reaper: StalledConnectionReaper, peer: Peer, *, from_s: float) -> float | None:
    for second in range(300):
        reaper.sweep([peer], now_s=from_s + second)
        if peer.is_aborted:
            return second
    return None


def test_each_kind_of_stall_has_its_own_timeout() -> None:
    fresh, begun, asked, answered, begun_again, deaf = (Peer() for _ in range(6))
    for peer in (begun, asked, answered, begun_again, deaf):
        peer.begin_header()
    for peer in (asked, answered, begun_again, deaf):
        peer.complete_header()
    for peer in (answered, begun_again, deaf):
        peer.cycle.response_complete = True
    begun_again.begin_header()
    deaf.unsent_bytes = 1
    peers = [fresh, begun, asked, answered, begun_again, deaf]
    assert [seconds_until_aborted(StalledConnectionReaper(75), peer, from_s=0) for peer in peers] == [
        75, HEADER_TIMEOUT_SECONDS, None, 75, HEADER_TIMEOUT_SECONDS, WRITE_TIMEOUT_SECONDS,
    ]  # fmt: skip


def test_the_header_timeout_begins_with_the_header() -> None:
    reaper, peer = StalledConnectionReaper(75), Peer()
    for second in range(74):
        reaper.sweep([peer], now_s=second)
    peer.begin_header()
    assert seconds_until_aborted(reaper, peer, from_s=74) == HEADER_TIMEOUT_SECONDS


def test_the_keep_alive_setting_has_a_default_and_limits() -> None:
    assert read_settings(SECRETS).keep_alive_seconds == 75
    for wrong in ("0", "-1", "86401", "1.5", ""):
        with pytest.raises(Exception, match="MINIBILL_KEEP_ALIVE_SECONDS must be a whole number from 1 to 86400"):
            read_settings({**SECRETS, "MINIBILL_KEEP_ALIVE_SECONDS": wrong})


def seconds_until_closed(server: Server, *sent: bytes) -> float:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        for part in sent:
            connection.sendall(part)
            assert part != GET or connection.recv(65_536).startswith(b"HTTP/1.1 200")
        began_s = time.monotonic()
        # An abort may reset the connection.
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1) == b""
        return time.monotonic() - began_s


@pytest.mark.slow
def test_an_idle_connection_is_closed_after_the_keep_alive_time(tmp_path: Path) -> None:
    with serving(tmp_path / "book.db", MINIBILL_KEEP_ALIVE_SECONDS="2") as server:
        assert 1.5 < seconds_until_closed(server, GET) < 10
        # Line ends before a request stop uvicorn's own timer.
        assert 1.5 < seconds_until_closed(server, GET, b"\r\n") < 10
        assert 0.5 < seconds_until_closed(server) < 10


@pytest.mark.slow
def test_idle_connections_outlive_a_slow_header_and_end_at_a_stop(tmp_path: Path) -> None:
    with (
        serving(tmp_path / "book.db") as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=20) as fresh,
        socket.create_connection(("127.0.0.1", server.port), timeout=20) as used,
    ):
        used.sendall(GET)
        assert used.recv(65_536).startswith(b"HTTP/1.1 200")
        # Longer than the header timeout.
        assert seconds_until_closed(server, b"GET /") > HEADER_TIMEOUT_SECONDS - 2
        time.sleep(1.5)
        for connection in (fresh, used):
            connection.sendall(GET)
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200")
        began_s = time.monotonic()
        assert server.end() == 0
        assert time.monotonic() - began_s < 8
