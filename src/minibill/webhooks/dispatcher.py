"""Dispatcher of webhooks: one worker for each enabled endpoint, replaced when the endpoint is edited."""

import asyncio
import logging
import ssl
from typing import TYPE_CHECKING

from minibill.config import Settings
from minibill.core.counters import Deliveries
from minibill.db.queries import Row
from minibill.webhooks.endpoint_worker import POLL_SECONDS, EndpointWorker
from minibill.webhooks.endpoints import SQL, WebhookEndpoint
from minibill.webhooks.url_policy import networks

if TYPE_CHECKING:
    from minibill.book import Book
    from minibill.webhooks.sender import Sender

log = logging.getLogger("minibill.webhooks")


class WebhookDispatcher:
    """Run the workers of all endpoints of a book."""

    def __init__(self, book: "Book", settings: Settings, deliveries: Deliveries) -> None:
        self._book = book
        self._settings = settings
        self._deliveries = deliveries
        self._tls: ssl.SSLContext | None = None
        self._has_warned = False
        # By the key and the revision of the endpoint.
        self._workers: dict[tuple[int, int], tuple[EndpointWorker, asyncio.Task[None]]] = {}

    async def run(self) -> None:
        """Deliver until the task is cancelled, then stop the workers, which save their progress."""
        feed = self._book.feed
        try:
            while True:
                commits = feed.commits
                await self._update_workers(set(self._book.readers.query_now(SQL.enabled_webhooks)))
                await feed.wait(commits, POLL_SECONDS)
                if feed.is_stopped:
                    # No new events are delivered; messages in flight may finish before the cancellation.
                    await asyncio.Event().wait()
        finally:
            for worker, task in self._workers.values():
                worker.stop(task)
            await asyncio.gather(*(task for _, task in self._workers.values()), return_exceptions=True)

    async def _update_workers(self, enabled: set[Row]) -> None:
        """Wake the workers of enabled endpoints, stop the others, and start missing ones."""
        for served, (worker, task) in list(self._workers.items()):
            if task.done():
                del self._workers[served]
            elif served in enabled:
                worker.wake()
            else:
                worker.stop(task)
        if not enabled:
            return
        if self._settings.webhook_secret is None:
            if not self._has_warned:
                self._has_warned = True
                log.warning("webhooks are not delivered: MINIBILL_WEBHOOK_SECRET is not set")
            return
        if self._tls is None:
            self._tls = await asyncio.to_thread(_new_tls)
        busy = {key for key, _ in self._workers}
        for key, revision in enabled:
            # An edited endpoint gets its new worker once the old one has stopped.
            if key in busy:
                continue
            # There is no row if the endpoint was deleted meanwhile.
            for row in self._book.readers.query_now(SQL.find_webhook, webhook_id=key):
                endpoint = WebhookEndpoint(*row)
                worker = EndpointWorker(self._book, self._settings, self._new_sender(), self._deliveries, endpoint)
                self._workers[key, revision] = (worker, asyncio.create_task(worker.run()))

    def _new_sender(self) -> "Sender":
        from minibill.webhooks.sender import Sender

        assert self._tls is not None
        return Sender(allowed=networks(self._settings.webhook_allow_networks), tls=self._tls)


def _new_tls() -> ssl.SSLContext:
    # Runs on a thread, once there is an endpoint: the import and the certificates take tens of milliseconds.
    from minibill.webhooks.sender import new_tls

    return new_tls()
