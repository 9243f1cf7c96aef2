"""Events, thresholds and webhooks."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

from minibill.client._async.base import AsyncAsking
from minibill.client.operation import ThresholdOf, threshold, to_ask
from minibill.events.schemas import Events, Thresholds
from minibill.webhooks.schemas import Delivery, Replayed, Webhook, WebhookSecret


class AsyncFeed(AsyncAsking):
    """Operations that tell of what happens."""

    async def events(
        self, *, after: str | None = None, types: Sequence[str] | None = None, wait: int = 0, limit: int = 100
    ) -> Events:
        """What happened after an event, a cursor or `latest`; waits so many seconds where there is nothing yet.

        The next call goes on from `next_cursor`. There is no iterator: when to keep the cursor is the caller's to know.
        Raises `InvalidCursor` when the book was restored from a backup that lacks this event: continue from the last event
        that the feed still accepts, and undo what you did for later ones.
        """
        chosen = None if types is None else ",".join(types)
        return await self._read(Events, "/events", {}, after=after, types=chosen, wait=wait, limit=limit)

    async def put_thresholds(
        self, account_id: str, thresholds: Sequence[ThresholdOf], *, key: str | None = None, dry_run: bool = False
    ) -> Thresholds:
        """Replaces the thresholds of an account."""
        segments, body = {"account_id": account_id}, {"thresholds": [threshold(of) for of in thresholds]}
        route = "/accounts/{account_id}/thresholds"
        return await self._write(Thresholds, "PUT", route, segments, body, key, dry_run=dry_run)

    async def thresholds(self, account_id: str) -> Thresholds:
        """The thresholds of an account, and on which side of each its credits are."""
        return await self._read(Thresholds, "/accounts/{account_id}/thresholds", {"account_id": account_id})

    # --- webhooks ---

    async def create_webhook(
        self,
        url: str,
        *,
        types: Sequence[str] | None = None,
        description: str | None = None,
        key: str | None = None,
        dry_run: bool = False,
    ) -> WebhookSecret:
        """Sends what happens from now on to a URL; its secret is answered once."""
        body = {"url": url, "types": types, "description": description}
        return await self._write(WebhookSecret, "POST", "/webhooks", {}, body, key, dry_run=dry_run)

    def webhooks(self) -> AsyncIterator[Webhook]:
        """All webhooks, oldest first."""
        return self._pages(Webhook, "/webhooks", {})

    async def webhook(self, webhook_id: str) -> Webhook:
        """One webhook, without its secret."""
        return await self._read(Webhook, "/webhooks/{webhook_id}", {"webhook_id": webhook_id})

    async def edit_webhook(
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
        """Changes what is named; what failed is tried again at once."""
        body: dict[str, Any] = {"url": url, "types": types, "description": description, "enabled": enabled}
        segments = {"webhook_id": webhook_id}
        return await self._write(Webhook, "PATCH", "/webhooks/{webhook_id}", segments, body, key, dry_run=dry_run)

    async def delete_webhook(self, webhook_id: str, *, key: str | None = None, dry_run: bool = False) -> None:
        """Ends a webhook."""
        segments = {"webhook_id": webhook_id}
        route = "/webhooks/{webhook_id}"
        await self.send(to_ask("DELETE", route, segments, key=key or self._new_key(), dry_run=dry_run))

    async def rotate_webhook_secret(
        self, webhook_id: str, *, key: str | None = None, dry_run: bool = False
    ) -> WebhookSecret:
        """Gives a webhook another secret; the one before signs too for a day."""
        route, segments = "/webhooks/{webhook_id}/rotate-secret", {"webhook_id": webhook_id}
        return await self._write(WebhookSecret, "POST", route, segments, {}, key, dry_run=dry_run)

    def deliveries(self, webhook_id: str) -> AsyncIterator[Delivery]:
        """The last attempts to deliver to a webhook, newest first."""
        return self._pages(Delivery, "/webhooks/{webhook_id}/deliveries", {"webhook_id": webhook_id})

    async def replay_events(
        self,
        webhook_id: str,
        *,
        after: str | None = None,
        event_ids: Sequence[str] | None = None,
        key: str | None = None,
        dry_run: bool = False,
    ) -> Replayed:
        """Sends a webhook everything after an event again, or the events that are named."""
        route, segments = "/webhooks/{webhook_id}/replay", {"webhook_id": webhook_id}
        body = {"after": after, "eventIds": event_ids}
        return await self._write(Replayed, "POST", route, segments, body, key, dry_run=dry_run)
