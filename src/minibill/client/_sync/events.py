"""Events, thresholds and webhooks."""

# Generated from _async/events.py by `make client`; edit that file.

from collections.abc import Iterator, Sequence
from typing import Any

from minibill.client._sync.base import BaseClient
from minibill.client.operation import ThresholdOf, threshold
from minibill.events.schemas import Events, Thresholds
from minibill.webhooks.schemas import Delivery, Replayed, Webhook, WebhookSecret


class Feed(BaseClient):
    """Operations on events, thresholds and webhooks."""

    def events(
        self, *, after: str | None = None, types: Sequence[str] | None = None, wait: int = 0, limit: int = 100
    ) -> Events:
        """Return up to `limit` events after an event id, a cursor or `latest`; wait up to `wait` seconds for the first.

            page = book.events(after=saved_cursor, wait=20)
            handle(page.items)
            save(page.next_cursor)

        Pass `next_cursor` as `after` to continue. Raises `InvalidCursor` if the database was restored from a backup that
        lacks this event: continue from the last event that the feed accepts, and undo the effects of later ones.
        """
        chosen = None if types is None else ",".join(types)
        return self._read(Events, "/events", {}, after=after, types=chosen, wait=wait, limit=limit)

    def put_thresholds(
        self, account_id: str, thresholds: Sequence[ThresholdOf], *, key: str | None = None, dry_run: bool = False
    ) -> Thresholds:
        """Replace the balance thresholds of an account. Raises `AccountNotFound`."""
        segments, body = {"account_id": account_id}, {"thresholds": [threshold(of) for of in thresholds]}
        route = "/accounts/{account_id}/thresholds"
        return self._write(Thresholds, "PUT", route, segments, body, key, dry_run=dry_run)

    def thresholds(self, account_id: str) -> Thresholds:
        """Return the thresholds of an account with their states. Raises `AccountNotFound`."""
        return self._read(Thresholds, "/accounts/{account_id}/thresholds", {"account_id": account_id})

    # --- webhooks ---

    def create_webhook(
        self,
        url: str,
        *,
        types: Sequence[str] | None = None,
        description: str | None = None,
        key: str | None = None,
        dry_run: bool = False,
    ) -> WebhookSecret:
        """Create a webhook that receives all later events. Only this response has its secret. Raises `WebhooksDisabled`."""
        body = {"url": url, "types": types, "description": description}
        return self._write(WebhookSecret, "POST", "/webhooks", {}, body, key, dry_run=dry_run)

    def webhooks(self) -> Iterator[Webhook]:
        """Yield all webhooks, oldest first."""
        return self._pages(Webhook, "/webhooks", {})

    def webhook(self, webhook_id: str) -> Webhook:
        """Return a webhook without its secret. Raises `WebhookNotFound`."""
        return self._read(Webhook, "/webhooks/{webhook_id}", {"webhook_id": webhook_id})

    def edit_webhook(
        self,
        webhook_id: str,
        *,
        url: str | None = None,
        types: Sequence[str] | None = None,
        description: str | None = None,
        enabled: bool | None = None,
        key: str | None = None,
        dry_run: bool = False,
    ) -> Webhook:
        """Change the given members of a webhook, and retry failed deliveries at once. Raises `WebhookNotFound`."""
        body: dict[str, Any] = {"url": url, "types": types, "description": description, "enabled": enabled}
        segments = {"webhook_id": webhook_id}
        return self._write(Webhook, "PATCH", "/webhooks/{webhook_id}", segments, body, key, dry_run=dry_run)

    def delete_webhook(self, webhook_id: str, *, key: str | None = None, dry_run: bool = False) -> None:
        """Delete a webhook. Raises `WebhookNotFound`."""
        segments = {"webhook_id": webhook_id}
        route = "/webhooks/{webhook_id}"
        self.send(self._operation("DELETE", route, segments, key=key or self._new_key(), dry_run=dry_run))

    def rotate_webhook_secret(self, webhook_id: str, *, key: str | None = None, dry_run: bool = False) -> WebhookSecret:
        """Give a webhook a new secret; for one day the previous one also signs. Raises `WebhookNotFound`."""
        route, segments = "/webhooks/{webhook_id}/rotate-secret", {"webhook_id": webhook_id}
        return self._write(WebhookSecret, "POST", route, segments, {}, key, dry_run=dry_run)

    def deliveries(self, webhook_id: str) -> Iterator[Delivery]:
        """Yield the last delivery attempts to a webhook, newest first."""
        return self._pages(Delivery, "/webhooks/{webhook_id}/deliveries", {"webhook_id": webhook_id})

    def replay_events(
        self,
        webhook_id: str,
        *,
        after: str | None = None,
        event_ids: Sequence[str] | None = None,
        key: str | None = None,
        dry_run: bool = False,
    ) -> Replayed:
        """Send the events after `after` again, or those of `event_ids`. Raises `WebhookNotFound`."""
        route, segments = "/webhooks/{webhook_id}/replay", {"webhook_id": webhook_id}
        body = {"after": after, "eventIds": event_ids}
        return self._write(Replayed, "POST", route, segments, body, key, dry_run=dry_run)
