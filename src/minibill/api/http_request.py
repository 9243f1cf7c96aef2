"""Requests over HTTP, from an ASGI scope."""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote, unquote_to_bytes

from litestar.types import Receive, Scope

from minibill.api import idempotency
from minibill.api.body import checked_body, receive_body
from minibill.api.context import CONTEXT, Context
from minibill.api.direct_io import DIRECT, DirectExchange
from minibill.api.request import Request
from minibill.core.problems import FieldError, InvalidRequest
from minibill.core.write_result import Origin

USER_AGENT_CHARACTERS_MAX = 500

_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


class HttpRequest(Request):
    """A request over HTTP, after the middleware and the router."""

    __slots__ = ("_body", "_receive", "context", "scope")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        """Raises `InvalidRequest` for a variable part of the path that is not URL-encoded UTF-8."""
        request: Any = scope
        context: Context = request[CONTEXT]
        path, segments = request["path"], request.get("path_params", {})
        if "%" in path:
            # The middleware routes a path with escapes as it was sent.
            path, segments = unquote(path), _decoded(segments)
        super().__init__(context.state, request["method"], path, segments, context.caller)
        self.scope = request
        self.context = context
        self._receive = receive
        self._body: bytes | None = None

    def query_members(self) -> dict[str, str]:
        text: bytes = self.scope["query_string"]
        if not text:
            return {}
        try:
            pairs = parse_qsl(text.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=50)
        except ValueError:
            raise InvalidRequest(FieldError("", "the query is not URL-encoded UTF-8")) from None
        members = dict(pairs)
        if len(members) != len(pairs):
            names = [name for name, _ in pairs]
            raise InvalidRequest(*[FieldError(n, "expected once") for n in members if names.count(n) > 1])
        return members

    async def body(self) -> bytes:
        if self._body is None:
            headers, bytes_max = self.context.headers, self.state.settings.max_body_bytes
            exchange: DirectExchange | None = self.scope.get(DIRECT)
            if exchange is None or (body := exchange.received_body()) is None:
                self._body = await receive_body(self._receive, headers, bytes_max)
            else:
                self._body = checked_body(body, headers, bytes_max)
        return self._body

    def idempotency_key(self, body: bytes) -> idempotency.Key | None:
        caller, headers = self.caller, self.context.headers
        if caller is None or headers.get(b"idempotency-key") is None:
            return None
        key = idempotency.checked_key(headers.only(b"idempotency-key"))
        path = self.scope.get("raw_path") or self.path.encode()
        fingerprint = idempotency.fingerprint(self.method, path, self.scope["query_string"], body)
        return idempotency.Key(caller.name, key, fingerprint)

    def origin(self) -> Origin:
        context, caller = self.context, self.caller
        agent = context.headers.get(b"user-agent")
        return Origin(
            context.ip,
            None if agent is None else agent.decode("latin-1").replace("\x00", "")[:USER_AGENT_CHARACTERS_MAX],
            context.correlation_id,
            None if caller is None else caller.token_id,
        )

    async def wait_for_disconnect(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass


def _decoded(segments: Mapping[str, str]) -> dict[str, str]:
    return {name: _decoded_segment(segment) for name, segment in segments.items()}


def _decoded_segment(segment: str) -> str:
    try:
        if not _BAD_ESCAPE.search(segment):
            return unquote_to_bytes(segment.encode("latin-1")).decode()
    except UnicodeDecodeError:
        pass
    raise InvalidRequest(FieldError("", "the path is not URL-encoded UTF-8"))
