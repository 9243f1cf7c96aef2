"""Health of an endpoint: its failures, the pauses between attempts, and the decision to disable it."""

import secrets
from typing import TYPE_CHECKING

from minibill.core.clock import US_PER_SECOND, monotonic_s, real_now_us

if TYPE_CHECKING:
    from minibill.webhooks.sender import EndpointResponse

# Messages in flight to one endpoint. An endpoint that fails gets one at a time until it accepts one.
IN_FLIGHT_MAX = 8

# The delays after consecutive failures; the last one repeats. Each is randomized by up to a fifth.
DELAYS_S = (1, 5, 15, 60, 300, 900)

# An endpoint that accepts nothing for this long is disabled.
DISABLE_US = 5 * 24 * 3600 * US_PER_SECOND
# An event that an endpoint rejects for this long, while it accepts others, is abandoned.
ABANDON_US = 2 * 24 * 3600 * US_PER_SECOND

GONE = 410


class EndpointHealth:
    """Consecutive failures of one endpoint, and their consequences."""

    def __init__(self, failing_since_us: int | None) -> None:
        # None while the endpoint accepts events.
        self.failing_since_us = failing_since_us
        # The monotonic time of the next attempt, whatever the event.
        self.paused_until_s = 0.0
        self._failures = 0
        self._failed_s = 0.0
        self._last_accepted_us = 0
        self._is_gone = False

    @property
    def in_flight_max(self) -> int:
        """The number of messages that may be in flight."""
        return 1 if self._failures else IN_FLIGHT_MAX

    @property
    def must_be_disabled(self) -> bool:
        """True once the endpoint has responded 410, or failed for too long."""
        since_us = self.failing_since_us
        return self._is_gone or (since_us is not None and real_now_us() - since_us >= DISABLE_US)

    def record_success(self) -> None:
        """Reset the failures after an accepted event."""
        self._failures = 0
        self.paused_until_s = 0.0
        self.failing_since_us = None
        self._last_accepted_us = real_now_us()

    def record_failure(self, response: "EndpointResponse", *, began_s: float, began_us: int) -> None:
        """Count the failure of an attempt that began at these monotonic and wall-clock times."""
        self.failing_since_us = self.failing_since_us or began_us
        self._is_gone = self._is_gone or response.status == GONE
        # Attempts that were in flight together count as one failure.
        if began_s >= self._failed_s:
            self._failures += 1
            self._failed_s = monotonic_s()
            # The first failure may concern its event alone, so the next event is sent without a delay.
            delay_s = retry_delay_s(self._failures - 1) if self._failures > 1 else 0
            self.paused_until_s = self._failed_s + max(delay_s, response.retry_after_s)

    def is_hopeless(self, first_failed_us: int) -> bool:
        """Return true for an event that failed first at that time, if the endpoint has accepted others since, for days."""
        return first_failed_us < self._last_accepted_us and real_now_us() - first_failed_us >= ABANDON_US


def retry_delay_s(failures: int) -> float:
    """Return the delay after that many consecutive failures, randomized so that retries spread out."""
    return DELAYS_S[min(failures, len(DELAYS_S)) - 1] * (0.8 + secrets.randbelow(400) / 1000)
