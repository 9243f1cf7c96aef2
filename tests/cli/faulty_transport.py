"""A transport between the commands and the real application that can fail, and helpers for lists to import."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field

import click.testing
import httpx

from tests.api_client import Api

# A fixture that runs a command and returns its result.
Run = Callable[..., click.testing.Result]

URL = "http://minibill.test"

Fault = Callable[[], httpx.Response | None]


@dataclass
class FaultyTransport(httpx.BaseTransport):
    """Carries requests to the application, and applies one of `faults` to each request; None is no fault.

    A fault that returns a response replaces the service's. A fault that raises cuts the connection before the request
    arrives, or, as `Afterwards`, after the service has handled it.
    """

    api: Api
    faults: list[Fault | None] = field(default_factory=list)
    requests: list[httpx.Request] = field(default_factory=list)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        fault = self.faults.pop(0) if self.faults else None
        if isinstance(fault, Afterwards):
            self._forward(request)
        if fault is not None and (response := fault()):
            return response
        return self._forward(request)

    def _forward(self, request: httpx.Request) -> httpx.Response:
        path = request.url.raw_path.decode()
        request_sent = self.api.http.request(request.method, path, headers=request.headers, content=request.content)
        response = self.api.loop.run(request_sent)
        return httpx.Response(response.status_code, headers=response.headers, content=response.content)

    @property
    def posts(self) -> list[httpx.Request]:
        return [request for request in self.requests if request.method == "POST"]

    @property
    def keys(self) -> list[str]:
        return [request.headers["Idempotency-Key"] for request in self.posts]


class Afterwards:
    """A fault after the service has handled the request."""

    def __init__(self, fault: Fault) -> None:
        self._fault = fault

    def __call__(self) -> httpx.Response | None:
        return self._fault()


def cut(error: BaseException) -> Fault:
    """Return a fault that raises an error of the connection."""

    def fault() -> httpx.Response | None:
        raise error

    return fault


def problem(status: int, code: str, **headers: str) -> Fault:
    """Return a fault that answers with a problem."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda: httpx.Response(
        status,
        headers={"Content-Type": "application/problem+json", **named},
        content=json.dumps({"status": status, "code": code, "detail": "not now"}),
    )


CONNECTION_REFUSED = cut(httpx.ConnectError("[Errno 111] Connection refused"))
RESPONSE_IS_LOST = Afterwards(cut(httpx.ReadError("")))


# --- lists and results ---


def people(count: int, amount: str = "1") -> list[tuple[str, str]]:
    return [(f"p{n}", amount) for n in range(count)]


PERSON = ("--entity-type", "person")


def figures(report: str) -> str:
    """Return a summary without the line numbers below each figure."""
    return re.sub(r"^ +\S.*\n", "", report, flags=re.MULTILINE)


def one_line(stderr: str) -> str:
    """Return the text of stderr, which must be one line."""
    [line] = stderr.splitlines()
    return line
