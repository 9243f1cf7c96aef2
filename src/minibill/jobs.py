"""What runs by itself: settling what is due, and forgetting what need not be kept. One task, ended with the service."""

import asyncio
import logging

from minibill.auth.revoke import forget_expired
from minibill.clock import monotonic_s
from minibill.problems import Problem
from minibill.web import Service

log = logging.getLogger("minibill.jobs")

# What is due counts from its very moment; writing it down only keeps the indexes small and the history current.
SWEEP_SECONDS = 5
PRUNE_SECONDS = 600


async def run_jobs(service: Service) -> None:
    """Runs until it is cancelled; a job that fails is logged and tried again at its next time."""
    pruned_s = monotonic_s()
    while True:
        await asyncio.sleep(SWEEP_SECONDS)
        try:
            await service.book.try_to_write()
            await service.book.sweep()
            if monotonic_s() - pruned_s >= PRUNE_SECONDS:
                pruned_s = monotonic_s()
                await service.book.prune()
                await service.book.writer.run(lambda conn: forget_expired(conn, service.settings))
                service.verifier.replace_denied(service.book.denied_tokens())
        except Problem as problem:
            log.warning("a background job was put off", extra={"reason": problem.detail})
        except Exception:
            log.exception("a background job failed")
