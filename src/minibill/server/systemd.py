"""Notifications to the service manager (systemd): ready, stopping, and heartbeats.

The protocol is a datagram of `NAME=value` lines to the socket that `NOTIFY_SOCKET` names; see sd_notify(3).
"""

import asyncio
import logging
import socket
from collections.abc import Mapping

from minibill.book import Book
from minibill.core.clock import US_PER_SECOND
from minibill.core.problems import Problem, StorageFull

log = logging.getLogger("minibill.manager")

# Heartbeats in each watchdog period, so that one may be late or lost.
HEARTBEATS_PER_PERIOD = 3


class ServiceNotifier:
    """The service manager that started the process. Without one, notifications have no effect."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        # The name of an abstract socket is written with @ for its first byte, which is NUL.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        period_us = environment.get("WATCHDOG_USEC", "")
        # None: the manager expects no heartbeats.
        self.watchdog_s = int(period_us) / US_PER_SECOND if address and period_us.isdigit() and int(period_us) else None

    def notify(self, *lines: str) -> None:
        """Send these lines as one message. A failure is logged and does not stop the service."""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                # A manager that does not read must not block the service.
                sender.setblocking(False)
                sender.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            log.warning("could not notify the service manager", extra={"reason": str(error)})


async def send_heartbeats(notifier: ServiceNotifier, book: Book) -> None:
    """Send a heartbeat after each probe that the writer commits, until cancelled.

    The manager restarts a service whose writer hangs or has failed. A full disk is no reason to restart: reads still work,
    and writes do once there is room.
    """
    if notifier.watchdog_s is None:
        return
    while True:
        try:
            await book.probe_write()
        except StorageFull as full:
            notifier.notify("WATCHDOG=1", f"STATUS=rejects writes: {full.detail}")
        except Problem as problem:
            notifier.notify(f"STATUS=rejects writes: {problem.detail}")
        else:
            notifier.notify("WATCHDOG=1", "STATUS=accepts writes")
        await asyncio.sleep(notifier.watchdog_s / HEARTBEATS_PER_PERIOD)
