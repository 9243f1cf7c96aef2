"""The service manager (systemd): told when the service is ready, that it stops, and again and again that it works.

Its protocol is a datagram of `NAME=value` lines to the socket that `NOTIFY_SOCKET` names; see sd_notify(3).
"""

import asyncio
import logging
import socket
from collections.abc import Mapping

from minibill.book import Book
from minibill.core.clock import US_PER_SECOND
from minibill.core.problems import Problem, StorageFull

log = logging.getLogger("minibill.manager")

# Signs of life in each of the manager's periods: one that comes late, or is lost, is not the end.
SIGNS_A_PERIOD = 3


class ServiceNotifier:
    """Whoever started the process and wants to hear of it; without one, what is told goes nowhere."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        # A name in the abstract namespace is written with @ for the NUL that it begins with.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        period_us = environment.get("WATCHDOG_USEC", "")
        # None: nobody waits for signs of life.
        self.watchdog_s = int(period_us) / US_PER_SECOND if address and period_us.isdigit() and int(period_us) else None

    def tell(self, *lines: str) -> None:
        """Sends these lines as one message. One that can't be sent is logged: the service matters more."""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                # A manager that does not read must not hold up the service.
                sender.setblocking(False)
                sender.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            log.warning("the service manager could not be told", extra={"reason": str(error)})


async def keep_alive(manager: ServiceNotifier, book: Book) -> None:
    """Gives a sign of life after each write that the writer answers, until it is cancelled.

    A writer that hangs or has broken gives none, and the manager starts the service anew. A full disk is no reason for that:
    the writer says so itself, reads are answered, and it goes on once there is room.
    """
    if manager.watchdog_s is None:
        return
    while True:
        try:
            await book.probe_write()
        except StorageFull as full:
            manager.tell("WATCHDOG=1", f"STATUS=takes no writes: {full.detail}")
        except Problem as problem:
            manager.tell(f"STATUS=takes no writes: {problem.detail}")
        else:
            manager.tell("WATCHDOG=1", "STATUS=takes writes")
        await asyncio.sleep(manager.watchdog_s / SIGNS_A_PERIOD)
