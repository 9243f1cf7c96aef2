"""Webhooks: made, changed, deleted, given other secrets, and set back to be sent events again. courier.py delivers."""

from typing import Any, NamedTuple

import msgspec

from minibill.api.types import NoResponseBody, encode, optional_time
from minibill.config import Settings
from minibill.core import ids
from minibill.core.clock import US_PER_SECOND, format_time, real_now_us
from minibill.core.problems import FieldError, InvalidRequest, WebhookNotFound, WebhooksDisabled
from minibill.core.write_result import Action, WriteResult
from minibill.db.queries import Row, queries
from minibill.db.sqlite import Connection
from minibill.events.feed import end_of_feed
from minibill.events.position import Position, event_id
from minibill.webhooks.schemas import Delivery, Replayed, Webhook, WebhookSecret
from minibill.webhooks.signing import encode_secret, secret_of

SQL = queries("webhooks")

WEBHOOKS_MAX = 20

# How long the secret before a rotation signs too.
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
    def place(self) -> Position:
        """The place in the feed up to which every event was accepted, abandoned, or set aside behind a rejected one."""
        return Position(self.entry_id, self.event_id)

    def secrets(self, settings: Settings) -> list[bytes]:
        """What signs now, the newest first; raises `WebhooksDisabled`."""
        versions = [self.secret_version]
        if self.rotated_until_us is not None and real_now_us() < self.rotated_until_us:
            versions.append(self.secret_version - 1)
        masters = [_require_secret(settings), settings.webhook_secret_previous]
        return [secret_of(m, webhook_id=self.id, version=v) for m in masters if m is not None for v in versions]


def create_webhook(
    conn: Connection,
    now_us: int,
    *,
    url: str,
    types: list[str] | None,
    description: str | None,
    settings: Settings,
) -> WriteResult:
    """Create an endpoint, which receives events from now on.

    Raises `WebhooksDisabled`, and `InvalidRequest` for one too many.
    """
    _require_secret(settings)
    count = SQL.count_webhooks.one(conn)
    assert count is not None
    if count[0] >= WEBHOOKS_MAX:
        raise InvalidRequest(FieldError("", f"there are {WEBHOOKS_MAX} webhooks, which is the most; delete one first"))
    place = end_of_feed(conn)
    made = SQL.create_webhook.one(
        conn,
        url=url,
        types=_types_text(types),
        description=description,
        entry_id=place.entry_id,
        event_id=place.event_id,
        now_us=now_us,
    )
    assert made is not None
    return _with_secret(_load(conn, made[0]), settings, "webhook.create", before=None, created=True)


def edit_webhook(conn: Connection, now_us: int, *, webhook_id: str, changes: dict[str, Any]) -> WriteResult:
    """Changes what `changes` names; a webhook that was failing is tried again at once. Raises `WebhookNotFound`."""
    hook = require_webhook(conn, webhook_id)
    before = webhook_response(hook)
    fields = {name: getattr(hook, name) for name in ("url", "types", "description", "is_enabled")} | changes
    SQL.edit_webhook.run(conn, webhook_id=hook.id, now_us=now_us, **fields)
    answer = webhook_response(_load(conn, hook.id))
    return WriteResult(answer, "webhook.edit", "webhook", webhook_id, lambda: {"before": before, "after": answer})


def delete_webhook(conn: Connection, now_us: int, *, webhook_id: str) -> WriteResult:
    """Ends a webhook, with what is kept of its attempts. Raises `WebhookNotFound`."""
    hook = require_webhook(conn, webhook_id)
    SQL.delete_webhook.run(conn, webhook_id=hook.id)
    before = webhook_response(hook)
    details = lambda: {"before": before, "at": format_time(now_us)}
    return WriteResult(NoResponseBody(), "webhook.delete", "webhook", webhook_id, details)


def rotate_secret(conn: Connection, now_us: int, *, webhook_id: str, settings: Settings) -> WriteResult:
    """Gives a webhook its next secret; the one before signs too for a day. Raises `WebhookNotFound`, `WebhooksDisabled`."""
    _require_secret(settings)
    hook = require_webhook(conn, webhook_id)
    until_us = real_now_us() + ROTATION_SECONDS * US_PER_SECOND
    SQL.rotate_secret.run(conn, webhook_id=hook.id, until_us=until_us, now_us=now_us)
    return _with_secret(_load(conn, hook.id), settings, "webhook.rotate_secret", before=webhook_response(hook))


def replay(conn: Connection, now_us: int, *, webhook_id: str, after: Position | None, places: list[Position]) -> WriteResult:
    """Sends again everything after a place, or the events at single places. Raises `WebhookNotFound`, `InvalidRequest`."""
    hook = require_webhook(conn, webhook_id)
    if after is not None:
        if after > hook.place:
            raise InvalidRequest(FieldError("after", "expected an event that the webhook has been sent"))
        SQL.forget_accepted.run(conn, webhook_id=hook.id)
        SQL.remove_set_aside_after.run(conn, webhook_id=hook.id, entry_id=after.entry_id, event_id=after.event_id)
        moved = after
    else:
        moved = hook.place
        SQL.add_replays.many(conn, [(hook.id, place.entry_id, place.event_id) for place in places])
    SQL.move_webhook_back.run(conn, webhook_id=hook.id, entry_id=moved.entry_id, event_id=moved.event_id, now_us=now_us)
    answer = Replayed(webhook_id, None if after is None else event_id(after), len(set(places)))
    details = lambda: {"after": answer.after, "eventIds": [event_id(place) for place in places]}
    return WriteResult(answer, "webhook.replay", "webhook", webhook_id, details)


def require_webhook(conn: Connection, webhook_id: str) -> WebhookEndpoint:
    """A webhook that must exist; raises `WebhookNotFound`."""
    key = ids.decode(ids.WEBHOOK, webhook_id)
    row = None if key is None else SQL.find_webhook.one(conn, webhook_id=key)
    if row is None:
        raise WebhookNotFound(webhook_id)
    return WebhookEndpoint(*row)


def webhook_response(hook: WebhookEndpoint) -> Webhook:
    """A webhook as it is answered."""
    return Webhook(**_members(hook))


def delivery_response(row: Row) -> Delivery:
    """An attempt as it is answered, from a row of `attempts_page`."""
    key, entry_id, number, attempt, outcome, status, error, duration_us, attempted_at_us = row
    return Delivery(
        id=ids.encode(ATTEMPT, key),
        event_id=event_id(Position(entry_id, number)),
        attempt=attempt,
        outcome=outcome,
        status=status,
        error=error,
        duration_ms=duration_us // 1000,
        attempted_at=format_time(attempted_at_us),
    )


def _members(hook: WebhookEndpoint) -> dict[str, Any]:
    return {
        "id": ids.encode(ids.WEBHOOK, hook.id),
        "url": hook.url,
        "types": None if hook.types is None else msgspec.json.decode(hook.types),
        "description": hook.description,
        "enabled": bool(hook.is_enabled),
        "delivered": event_id(hook.place),
        "failing_since": optional_time(hook.failing_since_us),
        "created_at": format_time(hook.created_at_us),
        "updated_at": format_time(hook.updated_at_us),
    }


def _with_secret(
    hook: WebhookEndpoint, settings: Settings, action: Action, *, before: Webhook | None, created: bool = False
) -> WriteResult:
    answer = WebhookSecret(**_members(hook), secret=encode_secret(hook.secrets(settings)[0]))
    details = lambda: {
        "before": before,
        "after": webhook_response(hook),
        "secretVersion": hook.secret_version,
        "previousSecretUntil": optional_time(hook.rotated_until_us),
    }
    return WriteResult(answer, action, "webhook", answer.id, details, created=created)


def _require_secret(settings: Settings) -> str:
    if settings.webhook_secret is None:
        raise WebhooksDisabled("webhooks are signed by MINIBILL_WEBHOOK_SECRET, which is not set")
    return settings.webhook_secret


def _load(conn: Connection, key: int) -> WebhookEndpoint:
    row = SQL.find_webhook.one(conn, webhook_id=key)
    assert row is not None
    return WebhookEndpoint(*row)


def _types_text(types: list[str] | None) -> str | None:
    return None if types is None else encode(types).decode()
