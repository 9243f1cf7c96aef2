"""What runs by itself: settling what is due, the chain, forgetting what need not be kept, reconciling, delivering.

Ended with the service.
"""

import asyncio
import logging
from functools import partial

from minibill.api.context import AppState
from minibill.api.tokens import forget_expired
from minibill.core.clock import monotonic_s
from minibill.core.problems import Problem
from minibill.db.slices import in_steps
from minibill.webhooks.dispatcher import WebhookDispatcher

log = logging.getLogger("minibill.jobs")

# What is due counts from its very moment; writing it down only keeps the indexes small and the history current.
SWEEP_SECONDS = 5
PRUNE_SECONDS = 600

# What is written becomes part of the chain within this time.
LINK_SECONDS = 1

# How often the schedule of reconciliations is looked at, and how long one that failed to run is put off.
RECONCILE_LOOK_SECONDS = 5
RECONCILE_AGAIN_SECONDS = 60
DELIVER_AGAIN_SECONDS = 5


async def run_jobs(state: AppState) -> None:
    """Runs until it is cancelled; a job that fails is logged and tried again at its next time."""
    async with asyncio.TaskGroup() as jobs:
        jobs.create_task(_settle_and_prune(state))
        jobs.create_task(_link(state))
        jobs.create_task(_deliver(state))
        if state.settings.reconcile_seconds:
            jobs.create_task(_reconcile(state))


async def _settle_and_prune(state: AppState) -> None:
    pruned_s = monotonic_s()
    while True:
        await asyncio.sleep(SWEEP_SECONDS)
        try:
            await state.book.probe_if_failing()
            await state.book.sweep()
            if monotonic_s() - pruned_s >= PRUNE_SECONDS:
                pruned_s = monotonic_s()
                await state.book.prune()
                uptime_us = state.book.uptime.now_us()
                forget = in_steps(partial(forget_expired, settings=state.settings, uptime_us=uptime_us))
                while await state.book.in_background(forget):
                    pass
                state.verifier.replace_denied(state.book.denied_tokens())
        except Problem as problem:
            log.warning("a background job was put off", extra={"reason": problem.detail})
        except Exception:
            log.exception("a background job failed")


async def _link(state: AppState) -> None:
    while True:
        await asyncio.sleep(LINK_SECONDS)
        try:
            await state.book.extend_chain()
        except Problem as problem:
            log.warning("the chain was put off", extra={"reason": problem.detail})
        except Exception:
            log.exception("the chain can't be continued")


async def _deliver(state: AppState) -> None:
    while True:
        try:
            await WebhookDispatcher(state.book, state.settings, state.metrics.deliveries).run()
        except Exception:
            log.exception("webhooks were not served")
            await asyncio.sleep(DELIVER_AGAIN_SECONDS)


async def _reconcile(state: AppState) -> None:
    """Reconciles once the last one, of this process or the one before, is older than the setting says.

    Where there is none, that time counts from when the book was made. It waits by a clock that does not jump.
    """
    book, period_s = state.book, state.settings.reconcile_seconds
    while True:
        try:
            if (wait_s := period_s - book.reconciler.age_s()) > 0:
                # Somebody may ask for one meanwhile.
                await asyncio.sleep(min(wait_s, RECONCILE_LOOK_SECONDS))
                continue
            await book.reconcile()
        except Exception:
            log.exception("a reconciliation failed to run")
            await asyncio.sleep(RECONCILE_AGAIN_SECONDS)
