"""A receiver of webhooks on this machine, which a test can stop, or make reject messages."""

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
    """One request, and the status of its response."""

    headers: dict[str, str]
    body: bytes
    status: int

    @property
    def event(self) -> Json:
        return json.loads(self.body)


class Receiver:
    """An HTTP server on its own port; `answer` returns the status for each event.

    With a `certificate` file, which includes the key, it uses TLS.
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
                # The sender was killed during its request.
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
        """Stop the server: close its connections, and refuse new ones."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def accepted(self) -> list[Json]:
        """Return the accepted events, in the order of arrival."""
        return [message.event for message in list(self.messages) if 200 <= message.status < 300]

    def wait_for_messages(self, count: int) -> None:
        """Return once that many messages have arrived."""
        self.wait_for(lambda: len(self.messages) >= count)

    def wait_for(self, is_enough: Callable[[], bool], seconds: float = 60) -> None:
        """Return once the condition holds; it is checked at each message."""
        with self.came:
            assert self.came.wait_for(is_enough, seconds), f"{len(self.messages)} messages arrived"


def is_in_order_by_account(events: list[Json]) -> bool:
    """Return true if the events of each account arrived in feed order; an event without one counts for its campaign."""
    by_key: dict[str, list[str]] = {}
    for event in events:
        by_key.setdefault(event["accountId"] or event["campaignId"], []).append(event["id"])
    return all(event_ids == sorted(event_ids) for event_ids in by_key.values())
