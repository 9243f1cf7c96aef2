"""Metrics over HTTP."""

import asyncio

from minibill.api.context import Service
from minibill.api.openapi.operation import describe
from minibill.api.request import Call
from minibill.api.response import Reply
from minibill.metrics.totals import Sums

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@describe(str, media_type=METRICS_TYPE)
async def show_metrics(call: Call) -> Reply:
    """What the process counted, as Prometheus text."""
    sums = await call.service.book.totals.sums()
    text = await asyncio.to_thread(_exposition, call.service, sums)
    return Reply(200, text, media_type=METRICS_TYPE.encode())


def _exposition(service: Service, sums: Sums) -> bytes:
    # Imported on the thread, when it is first needed: a start does without it.
    from minibill.metrics.prometheus import exposition

    return exposition(service, sums)
