"""Metrics over HTTP: `GET /metrics`."""

import asyncio

from minibill.api.context import AppState
from minibill.api.openapi.operation import operation
from minibill.api.request import Request
from minibill.api.response import Response
from minibill.metrics.totals import LedgerTotals

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@operation(str, media_type=METRICS_TYPE)
async def show_metrics(request: Request) -> Response:
    """Return all metrics as Prometheus text."""
    totals = await request.state.book.totals.current()
    text = await asyncio.to_thread(_exposition, request.state, totals)
    return Response(200, text, media_type=METRICS_TYPE.encode())


def _exposition(state: AppState, totals: LedgerTotals) -> bytes:
    # Imported on the thread at the first request, so that the service starts faster.
    from minibill.metrics.prometheus import exposition

    return exposition(state, totals)
