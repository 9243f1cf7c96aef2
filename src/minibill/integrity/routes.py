"""Reconciliation over HTTP: the last report, and one now."""

from minibill.api.decoding import Decoder
from minibill.api.openapi.operation import describe
from minibill.api.request import Call
from minibill.api.response import Reply
from minibill.api.types import NoBody, Query, WriteQuery
from minibill.db.queries import queries
from minibill.integrity.reconciler import record
from minibill.integrity.report import NEVER_RUN, Report

SQL = queries("reconcile")

_NOTHING = Decoder(NoBody)


@describe(Report)
async def show_last(call: Call) -> Reply:
    """The report of the last reconciliation, byte for byte as it was answered then."""
    call.parameters(Query)
    rows = call.reading.at_once(SQL.last_reconciliation)
    return Reply(200, rows[0][1].encode()) if rows else call.answer(NEVER_RUN)


@describe(Report, body=NoBody)
async def run_now(call: Call) -> Reply:
    """Recomputes the whole book and answers what that came to."""
    await call.read(_NOTHING)
    call.parameters(WriteQuery)
    # A replay must not cost a run: its answer is there already.
    is_replay = await call.was_answered_before()
    reconciler = call.service.book.reconciler
    reconciled = None if is_replay else await reconciler.run()
    reply = await call.write(record, reconciled=reconciled)
    if reconciled is not None and not call.is_dry_run:
        reconciler.keep(reconciled)
    return reply
