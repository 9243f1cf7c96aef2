"""Fixtures: a receiver, and a dispatcher that the test starts and stops."""

import asyncio
from collections.abc import Callable, Iterator

import pytest

from minibill.core.counters import Deliveries
from minibill.webhooks import endpoint_health
from minibill.webhooks.dispatcher import WebhookDispatcher
from tests.api_client import Api
from tests.webhooks.receiver import Receiver


class Running:
    """A dispatcher on the event loop of a book."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self.deliveries = Deliveries()
        self._task = api.loop.run(self._start())

    async def _start(self) -> "asyncio.Task[None]":
        return asyncio.create_task(WebhookDispatcher(self._api.book, self._api.settings, self.deliveries).run())

    def stop(self) -> None:
        async def stop() -> None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

        self._api.loop.run(stop())


@pytest.fixture
def api(start: Callable[..., Api]) -> Api:
    """An application that allows webhooks to this machine."""
    return start(MINIBILL_WEBHOOK_ALLOW_NETWORKS="127.0.0.0/8")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture
def deliver(api: Api) -> Iterator[Callable[[], Running]]:
    """Start a dispatcher."""
    running: list[Running] = []

    def deliver() -> Running:
        running.append(Running(api))
        return running[-1]

    yield deliver
    for each in running:
        each.stop()


@pytest.fixture
def short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry failed deliveries soon."""
    monkeypatch.setattr(endpoint_health, "DELAYS_S", (0.02, 0.05))
