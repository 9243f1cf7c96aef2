"""The courier: a worker for each webhook that is enabled, as long as its configuration stays the same."""

import asyncio
import logging
import ssl
from typing import TYPE_CHECKING

from minibill.config import Settings
from minibill.core.counters import Deliveries
from minibill.db.queries import Row
from minibill.webhooks.endpoint_worker import LOOK_SECONDS, EndpointWorker
from minibill.webhooks.endpoints import SQL, WebhookEndpoint
from minibill.webhooks.url_policy import networks

if TYPE_CHECKING:
    from minibill.book import Book
    from minibill.webhooks.sender import Sender

log = logging.getLogger("minibill.webhooks")


class WebhookDispatcher:
    """Serves all webhooks of a book."""

    def __init__(self, book: "Book", settings: Settings, deliveries: Deliveries) -> None:
        self._book = book
        self._settings = settings
        self._deliveries = deliveries
        self._tls: ssl.SSLContext | None = None
        self._is_warned = False
        self._workers: dict[tuple[int, int], tuple[EndpointWorker, asyncio.Task[None]]] = {}

    async def run(self) -> None:
        """Runs until it is cancelled; then it writes down how far it came."""
        feed = self._book.feed
        try:
            while True:
                groups = feed.groups
                await self._serve(set(self._book.readers.query_now(SQL.webhooks_to_serve)))
                await feed.wait(groups, LOOK_SECONDS)
                if feed.is_stopped:
                    # Nothing new is told of; what is on its way may come to its end.
                    await asyncio.Event().wait()
        finally:
            for each, task in self._workers.values():
                each.stop(task)
            await asyncio.gather(*(task for _, task in self._workers.values()), return_exceptions=True)

    async def _serve(self, wanted: set[Row]) -> None:
        """Begins with what is not yet served, by key and revision, and leaves what is no longer wanted."""
        for served, (each, task) in list(self._workers.items()):
            if task.done():
                del self._workers[served]
            elif served in wanted:
                each.wake()
            else:
                each.stop(task)
        if not wanted:
            return
        if self._settings.webhook_secret is None:
            if not self._is_warned:
                self._is_warned = True
                log.warning("webhooks are not served: MINIBILL_WEBHOOK_SECRET is not set")
            return
        if self._tls is None:
            self._tls = await asyncio.to_thread(_new_tls)
        busy = {key for key, _ in self._workers}
        for key, revision in wanted:
            rows = self._book.readers.query_now(SQL.find_webhook, webhook_id=key)
            # One that was changed begins anew once the one before has let go; one that was deleted meanwhile has no row.
            if key not in busy and rows:
                each = EndpointWorker(
                    self._book, self._settings, self._new_sender(), self._deliveries, WebhookEndpoint(*rows[0])
                )
                self._workers[key, revision] = (each, asyncio.create_task(each.run()))

    def _new_sender(self) -> "Sender":
        from minibill.webhooks.sender import Sender

        assert self._tls is not None
        return Sender(allowed=networks(self._settings.webhook_allow_networks), tls=self._tls)


def _new_tls() -> ssl.SSLContext:
    # On a thread, once there is a webhook: the import and the certificates take some tens of milliseconds.
    from minibill.webhooks.sender import new_tls

    return new_tls()
