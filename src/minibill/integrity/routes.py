"""Reconciliation over HTTP: show the last report, or run one now."""

from minibill.api.decoding import Decoder
from minibill.api.openapi.operation import operation
from minibill.api.request import Request
from minibill.api.response import Response
from minibill.api.types import NoBody, Query, WriteQuery
from minibill.core.problems import Overloaded
from minibill.core.write_result import WriteResult
from minibill.db.queries import queries
from minibill.db.sqlite import Connection
from minibill.db.write_operation import bind
from minibill.integrity.reconciler import record
from minibill.integrity.report import NEVER_RUN, Report

SQL = queries("reconcile")

_NOTHING = Decoder(NoBody)


@operation(Report)
async def show_last(request: Request) -> Response:
    """Return the report of the last reconciliation, byte for byte as recorded."""
    request.parameters(Query)
    rows = request.reader.query_now(SQL.last_reconciliation)
    return Response(200, rows[0][1].encode()) if rows else request.answer(NEVER_RUN)


@operation(Report, body=NoBody)
async def run_now(request: Request) -> Response:
    """Run a reconciliation and return its report."""
    await request.read(_NOTHING)
    request.parameters(WriteQuery)
    # A replay has its stored response, so it must not cost a run.
    is_replay = await request.was_answered_before()
    reconciler = request.state.book.reconciler
    reconciled = None if is_replay else await reconciler.run()
    write = _only_replay if reconciled is None else bind(record, reconciled=reconciled)
    reply = await request.write(write)
    if reconciled is not None and not request.is_dry_run:
        reconciler.keep(reconciled)
    return reply


def _only_replay(_: Connection, now_us: int) -> WriteResult:
    # The stored response was pruned after the check for it and before this transaction.
    raise Overloaded("the response of this idempotency key has just expired; try again")
