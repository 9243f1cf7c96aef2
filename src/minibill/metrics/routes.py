"""Metrics over HTTP."""

import asyncio

from minibill.api.context import AppState
from minibill.api.openapi.operation import operation
from minibill.api.request import Request
from minibill.api.response import Response
from minibill.metrics.totals import LedgerTotals

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@operation(str, media_type=METRICS_TYPE)
async def show_metrics(request: Request) -> Response:
    """What the process counted, as Prometheus text."""
    sums = await request.state.book.totals.sums()
    text = await asyncio.to_thread(_exposition, request.state, sums)
    return Response(200, text, media_type=METRICS_TYPE.encode())


def _exposition(state: AppState, sums: LedgerTotals) -> bytes:
    # Imported on the thread, when it is first needed: a start does without it.
    from minibill.metrics.prometheus import exposition

    return exposition(state, sums)
