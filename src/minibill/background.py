"""Background jobs: expire lots and reservations, extend the hash chain, prune old rows, reconcile, deliver webhooks.

`run_jobs` runs them until the service cancels it.
"""

import asyncio
import logging
from functools import partial

from minibill.api.context import AppState
from minibill.api.tokens import prune_revocations
from minibill.core.clock import monotonic_s
from minibill.core.problems import Problem
from minibill.db.slices import in_steps
from minibill.webhooks.dispatcher import WebhookDispatcher

log = logging.getLogger("minibill.jobs")

# Credits are unavailable from the moment at which they expire. The sweep only records that, to keep the history current and
# the indexes small.
SWEEP_SECONDS = 5
PRUNE_SECONDS = 600

# New rows join the hash chain within this time.
EXTEND_CHAIN_SECONDS = 1

# The schedule of reconciliations is checked this often, because an operator may run one at any time.
RECONCILE_POLL_SECONDS = 5
RECONCILE_RETRY_SECONDS = 60
DELIVER_RETRY_SECONDS = 5


async def run_jobs(state: AppState) -> None:
    """Run all jobs until cancelled. A failed job is logged and runs again after its interval."""
    async with asyncio.TaskGroup() as jobs:
        jobs.create_task(_sweep_and_prune(state))
        jobs.create_task(_extend_chain(state))
        jobs.create_task(_deliver(state))
        if state.settings.reconcile_seconds:
            jobs.create_task(_reconcile(state))


async def _sweep_and_prune(state: AppState) -> None:
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
                prune = in_steps(partial(prune_revocations, settings=state.settings, uptime_us=uptime_us))
                while await state.book.in_background(prune):
                    pass
                state.verifier.replace_denied(state.book.denied_tokens())
        except Problem as problem:
            log.warning("maintenance postponed", extra={"reason": problem.detail})
        except Exception:
            log.exception("maintenance failed")


async def _extend_chain(state: AppState) -> None:
    while True:
        await asyncio.sleep(EXTEND_CHAIN_SECONDS)
        try:
            await state.book.extend_chain()
        except Problem as problem:
            log.warning("hash chain postponed", extra={"reason": problem.detail})
        except Exception:
            log.exception("could not extend the hash chain")


async def _deliver(state: AppState) -> None:
    while True:
        try:
            await WebhookDispatcher(state.book, state.settings, state.metrics.deliveries).run()
        except Exception:
            log.exception("webhook dispatcher failed")
            await asyncio.sleep(DELIVER_RETRY_SECONDS)


async def _reconcile(state: AppState) -> None:
    """Reconcile whenever the last reconciliation, of this process or an earlier one, is older than the setting allows.

    Before the first, the time counts from the creation of the database. Wall clock jumps do not affect the waits.
    """
    book, period_s = state.book, state.settings.reconcile_seconds
    while True:
        try:
            if (wait_s := period_s - book.reconciler.age_s()) > 0:
                await asyncio.sleep(min(wait_s, RECONCILE_POLL_SECONDS))
                continue
            await book.reconcile()
        except Exception:
            log.exception("could not run the reconciliation")
            await asyncio.sleep(RECONCILE_RETRY_SECONDS)
