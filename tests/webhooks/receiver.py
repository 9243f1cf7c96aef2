"""A receiver of webhooks on this machine, which can be down, slow, or refuse what a test says."""

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

from tests.api_client import Json


class Message(NamedTuple):
    """One request as it came, and what it was answered with."""

    headers: dict[str, str]
    body: bytes
    status: int

    @property
    def event(self) -> Json:
        return json.loads(self.body)


class Receiver:
    """Listens on a port of its own; `answer` decides the status of each message.

    With the file of a `certificate` and its key it speaks TLS.
    """

    def __init__(self, port: int = 0, *, certificate: Path | None = None) -> None:
        self.messages: list[Message] = []
        self.answer: Callable[[Json], int] = lambda _: 204
        self.headers: dict[str, str] = {}
        self.came = threading.Condition()
        self._connections: set[socket.socket] = set()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                receiver._connections.add(self.connection)

            def finish(self) -> None:
                receiver._connections.discard(self.connection)
                super().finish()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status = receiver.answer(json.loads(body))
                with receiver.came:
                    receiver.messages.append(Message({k.lower(): v for k, v in self.headers.items()}, body, status))
                    receiver.came.notify_all()
                self.send_response(status)
                for name, value in receiver.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True

            def handle_error(self, *_: Any) -> None:
                # A sender that was killed in the middle of its request.
                pass

        self._server = Server(("127.0.0.1", port), Handler)
        if certificate is not None:
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(certificate)
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port: int = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/hook?from=minibill"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Goes down: whoever is connected is cut off, and whoever connects is refused."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def accepted(self) -> list[Json]:
        """The events that were accepted, in the order in which they came."""
        return [message.event for message in list(self.messages) if 200 <= message.status < 300]

    def wait_for_messages(self, count: int) -> None:
        """Returns once so many messages have come."""
        self.wait_for(lambda: len(self.messages) >= count)

    def wait_for(self, is_enough: Callable[[], bool], seconds: float = 60) -> None:
        """Returns once it is so; looked at whenever a message came."""
        with self.came:
            assert self.came.wait_for(is_enough, seconds), f"{len(self.messages)} messages came"


def is_in_order_by_account(events: list[Json]) -> bool:
    """Whether the events of each account, and of each campaign without one, came in the order of the feed."""
    lines: dict[str, list[str]] = {}
    for event in events:
        lines.setdefault(event["accountId"] or event["campaignId"], []).append(event["id"])
    return all(line == sorted(line) for line in lines.values())
