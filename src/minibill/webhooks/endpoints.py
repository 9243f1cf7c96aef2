"""Webhook endpoints: create, edit, delete, rotate the secret, and replay events. The dispatcher delivers."""

from typing import Any, NamedTuple

import msgspec

from minibill.api.types import NoResponseBody, encode, optional_time
from minibill.config import Settings
from minibill.core import ids
from minibill.core.clock import US_PER_SECOND, format_time, real_now_us
from minibill.core.problems import FieldError, InvalidRequest, WebhookNotFound, WebhooksDisabled
from minibill.core.write_result import Action, WriteResult
from minibill.db.queries import queries
from minibill.db.sqlite import Connection
from minibill.events.feed import end_of_feed
from minibill.events.position import Position, event_id
from minibill.webhooks.schemas import CreateWebhookBody, Delivery, EditWebhookBody, Replayed, Webhook, WebhookSecret
from minibill.webhooks.signing import derive_secret, encode_secret

SQL = queries("webhooks")

WEBHOOKS_MAX = 20

# The previous secret also signs for this long after a rotation.
ROTATION_SECONDS = 24 * 3600

ATTEMPT = "attempt_"


class WebhookEndpoint(NamedTuple):
    """A row of `webhooks`."""

    id: int
    url: str
    types: str | None
    description: str | None
    is_enabled: int
    secret_version: int
    rotated_until_us: int | None
    entry_id: int
    event_id: int
    failing_since_us: int | None
    revision: int
    created_at_us: int
    updated_at_us: int

    @property
    def public_id(self) -> str:
        """The id in the API."""
        return ids.encode(ids.WEBHOOK, self.id)

    @property
    def position(self) -> Position:
        """The position up to which every event was accepted, abandoned, or set aside behind a rejected one."""
        return Position(self.entry_id, self.event_id)

    def secrets(self, settings: Settings) -> list[bytes]:
        """Return the secrets that sign now, the newest first. Raises `WebhooksDisabled`."""
        versions = [self.secret_version]
        if self.rotated_until_us is not None and real_now_us() < self.rotated_until_us:
            versions.append(self.secret_version - 1)
        master_keys = [_require_secret(settings), settings.webhook_secret_previous]
        return [
            derive_secret(key, webhook_id=self.id, version=version)
            for key in master_keys
            if key is not None
            for version in versions
        ]


class AttemptRow(NamedTuple):
    """A row of `attempts_page`."""

    id: int
    entry_id: int
    event_id: int
    attempt: int
    outcome: str
    status: int | None
    error: str | None
    duration_us: int
    attempted_at_us: int


def create_webhook(conn: Connection, now_us: int, *, body: CreateWebhookBody, settings: Settings) -> WriteResult:
    """Create an endpoint, which receives events from now on; the result has its secret.

    Raises `WebhooksDisabled`, and `InvalidRequest` above the limit of endpoints. See docs/guides/webhooks.md.
    """
    _require_secret(settings)
    count = SQL.count_webhooks.one(conn)
    assert count is not None
    if count[0] >= WEBHOOKS_MAX:
        raise InvalidRequest(FieldError("", f"there are {WEBHOOKS_MAX} webhooks, the maximum; delete one first"))
    position = end_of_feed(conn)
    created = SQL.create_webhook.one(
        conn,
        url=body.url,
        types=_types_text(body.types),
        description=body.description,
        now_us=now_us,
        **position._asdict(),
    )
    assert created is not None
    return _with_secret(_load(conn, created[0]), settings, "webhook.create", before=None, created=True)


def edit_webhook(conn: Connection, now_us: int, *, webhook_id: str, body: EditWebhookBody) -> WriteResult:
    """Change the members that the body names. Any edit lets a failing endpoint be tried again at once.

    Raises `WebhookNotFound`.
    """
    endpoint = require_webhook(conn, webhook_id)
    before = webhook_response(endpoint)
    SQL.edit_webhook.run(
        conn,
        webhook_id=endpoint.id,
        url=endpoint.url if body.url is None else body.url,
        types=endpoint.types if body.types is None else _types_text(body.types),
        description=endpoint.description if body.description is None else body.description,
        is_enabled=endpoint.is_enabled if body.enabled is None else int(body.enabled),
        now_us=now_us,
    )
    answer = webhook_response(_load(conn, endpoint.id))
    return WriteResult(answer, "webhook.edit", "webhook", webhook_id, lambda: {"before": before, "after": answer})


def delete_webhook(conn: Connection, now_us: int, *, webhook_id: str) -> WriteResult:
    """Delete an endpoint with its delivery log. Raises `WebhookNotFound`."""
    endpoint = require_webhook(conn, webhook_id)
    SQL.delete_webhook.run(conn, webhook_id=endpoint.id)
    before = webhook_response(endpoint)
    details = lambda: {"before": before, "at": format_time(now_us)}
    return WriteResult(NoResponseBody(), "webhook.delete", "webhook", webhook_id, details)


def rotate_secret(conn: Connection, now_us: int, *, webhook_id: str, settings: Settings) -> WriteResult:
    """Give an endpoint a new secret; the previous one also signs for a day.

    Raises `WebhookNotFound`, `WebhooksDisabled`.
    """
    _require_secret(settings)
    endpoint = require_webhook(conn, webhook_id)
    until_us = real_now_us() + ROTATION_SECONDS * US_PER_SECOND
    SQL.rotate_secret.run(conn, webhook_id=endpoint.id, until_us=until_us, now_us=now_us)
    return _with_secret(_load(conn, endpoint.id), settings, "webhook.rotate_secret", before=webhook_response(endpoint))


def replay(
    conn: Connection, now_us: int, *, webhook_id: str, after: Position | None, positions: list[Position]
) -> WriteResult:
    """Send again every event after a position, or else the events at `positions`.

    Raises `WebhookNotFound`, and `InvalidRequest` if the endpoint has not been sent the events up to `after`.
    """
    endpoint = require_webhook(conn, webhook_id)
    if after is not None:
        if after > endpoint.position:
            raise InvalidRequest(FieldError("after", "expected an event that the webhook has been sent"))
        SQL.delete_accepted.run(conn, webhook_id=endpoint.id)
        SQL.delete_set_aside_after.run(conn, webhook_id=endpoint.id, **after._asdict())
    else:
        SQL.insert_replays.many(conn, [(endpoint.id, *position) for position in positions])
    position = endpoint.position if after is None else after
    # A new revision, also where the position stays: it makes the dispatcher start another worker.
    SQL.rewind_webhook.run(conn, webhook_id=endpoint.id, now_us=now_us, **position._asdict())
    answer = Replayed(webhook_id, None if after is None else event_id(after), len(set(positions)))
    details = lambda: {"after": answer.after, "eventIds": [event_id(each) for each in positions]}
    return WriteResult(answer, "webhook.replay", "webhook", webhook_id, details)


def require_webhook(conn: Connection, webhook_id: str) -> WebhookEndpoint:
    """Return an endpoint. Raises `WebhookNotFound`."""
    key = ids.decode(ids.WEBHOOK, webhook_id)
    row = None if key is None else SQL.find_webhook.one(conn, webhook_id=key)
    if row is None:
        raise WebhookNotFound(webhook_id)
    return WebhookEndpoint(*row)


def webhook_response(endpoint: WebhookEndpoint) -> Webhook:
    """Return the response body of an endpoint, without its secret."""
    return Webhook(**_members(endpoint))


def delivery_response(row: AttemptRow) -> Delivery:
    """Return the response body of an attempt."""
    return Delivery(
        id=ids.encode(ATTEMPT, row.id),
        event_id=event_id(Position(row.entry_id, row.event_id)),
        attempt=row.attempt,
        outcome=row.outcome,
        status=row.status,
        error=row.error,
        duration_ms=row.duration_us // 1000,
        attempted_at=format_time(row.attempted_at_us),
    )


def _members(endpoint: WebhookEndpoint) -> dict[str, Any]:
    return {
        "id": endpoint.public_id,
        "url": endpoint.url,
        "types": None if endpoint.types is None else msgspec.json.decode(endpoint.types),
        "description": endpoint.description,
        "enabled": bool(endpoint.is_enabled),
        "delivered": event_id(endpoint.position),
        "failing_since": optional_time(endpoint.failing_since_us),
        "created_at": format_time(endpoint.created_at_us),
        "updated_at": format_time(endpoint.updated_at_us),
    }


def _with_secret(
    endpoint: WebhookEndpoint, settings: Settings, action: Action, *, before: Webhook | None, created: bool = False
) -> WriteResult:
    answer = WebhookSecret(**_members(endpoint), secret=encode_secret(endpoint.secrets(settings)[0]))
    details = lambda: {
        "before": before,
        "after": webhook_response(endpoint),
        "secretVersion": endpoint.secret_version,
        "previousSecretUntil": optional_time(endpoint.rotated_until_us),
    }
    return WriteResult(answer, action, "webhook", answer.id, details, created=created)


def _require_secret(settings: Settings) -> str:
    if settings.webhook_secret is None:
        raise WebhooksDisabled("webhooks are disabled: MINIBILL_WEBHOOK_SECRET, which signs them, is not set")
    return settings.webhook_secret


def _load(conn: Connection, key: int) -> WebhookEndpoint:
    row = SQL.find_webhook.one(conn, webhook_id=key)
    assert row is not None
    return WebhookEndpoint(*row)


def _types_text(types: list[str] | None) -> str | None:
    return None if types is None else encode(types).decode()
