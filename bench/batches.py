"""Batches of 1,000 grants: in process compared with the bare insert, over HTTP compared with in process."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import bare, servers
from bench.load import Connection, request_bytes
from bench.machine import on_server_core
from bench.payers import BATCH_GRANTS, InProcess, OverHttp, Paid, Payments, pay_batches
from bench.report import Table, Unfit, median_ms, number, verdict
from bench.sizes import Sizes

IN_PROCESS_TO_BARE_MAX = 2.0
HTTP_TO_IN_PROCESS_MAX = 1.5

# Kinds of batches.
NEW, EXISTING = "new entities", "existing accounts"

# The seconds of batches, by their kind.
Seconds = dict[str, list[float]]


class Timed:
    """One way to run the batches: the seconds of each batch, by kind, over all passes."""

    def __init__(self, how: str) -> None:
        self.how = how
        self.seconds: Seconds = {}

    def add(self, seconds: Seconds) -> None:
        for kind, of_kind in seconds.items():
            self.seconds.setdefault(kind, []).extend(of_kind)


def in_process(sizes: Sizes) -> Table:
    """Measure `Book.write(pay_batch, …)` and the bare insert of the same rows."""
    ours = Timed("Book.write(pay_batch, …)")
    inserted = Timed("bare insert of the same rows")
    without_triggers = Timed("bare insert, triggers dropped")
    for _ in range(sizes.passes):
        with TemporaryDirectory() as folder, on_server_core():
            db = Path(folder, "book.db")
            ours.add(_seconds(_pay_in_process(db, sizes.batches)))
            inserted.add(_replay(db, sizes.batches, with_triggers=True))
            without_triggers.add(_replay(db, sizes.batches, with_triggers=False))
    return batch_table(
        "Batches in process",
        "grants to",
        f"{sizes.passes} books of {sizes.batches} batches of each kind; each batch has an idempotency key and is audited. "
        "The bare insert writes every row that the batch wrote, the audit row and the kept answer among them, with one "
        "executemany a table and one COMMIT, into the same schema; it comes out as the same book, row for row. Ratios are "
        "to the bare insert.",
        [ours, inserted, without_triggers],
        base=inserted,
        at_most=IN_PROCESS_TO_BARE_MAX,
    )


def over_http(sizes: Sizes) -> Table:
    """Measure the same batches over HTTP, in process, and as a no-op with the same body."""
    ours, inside, noop = Timed("over HTTP"), Timed("in process"), Timed("no-op of the same body")
    sent_bytes = answered_bytes = 0
    with servers.noop() as noop_port:
        for _ in range(sizes.passes):
            with TemporaryDirectory() as folder:
                with on_server_core():
                    inside.add(_seconds(_pay_in_process(Path(folder, "in-process.db"), sizes.batches)))
                payments = _pay_over_http(Path(folder, "http.db"), sizes.batches)
            ours.add(_seconds(payments))
            noop.add(noop_seconds(noop_port, "/batch", {NEW: payments.new, EXISTING: payments.existing}))
            sent_bytes, answered_bytes = len(payments.new[0].request), len(payments.new[0].answer)
    return batch_table(
        "Batches over HTTP",
        "grants to",
        f"{sizes.passes} books of {sizes.batches} batches of each kind, one after the other on one connection. A batch to "
        f"new entities is {sent_bytes:,} bytes and its answer {answered_bytes:,}. In process is as in the table above, "
        "measured anew. The no-op has the same framework and server, decodes the same body and answers a few bytes. Ratios "
        "are to in process.",
        [ours, inside, noop],
        base=inside,
        at_most=HTTP_TO_IN_PROCESS_MAX,
    )


def _pay_in_process(db: Path, batches: int) -> Payments:
    with InProcess(db) as payer:
        return pay_batches(payer, batches)


def _pay_over_http(db: Path, batches: int) -> Payments:
    with servers.minibill(db) as port, servers.Client(port) as client:
        return pay_batches(OverHttp(client), batches)


def _replay(db: Path, batches: int, *, with_triggers: bool) -> Seconds:
    copy = db.with_name(f"bare-{with_triggers}.db")
    captured = bare.capture(db, with_triggers=with_triggers)
    seconds = bare.replay(captured, copy, like=db, with_triggers=with_triggers)
    return {NEW: seconds[:batches], EXISTING: seconds[batches:]}


def _seconds(payments: Payments) -> Seconds:
    return {NEW: [paid.seconds for paid in payments.new], EXISTING: [paid.seconds for paid in payments.existing]}


def noop_seconds(port: int, path: str, batches: Mapping[str, Sequence[Paid]]) -> Seconds:
    """Send the bodies of batches to the no-op."""
    return {kind: [_noop_seconds(port, path, paid.request) for paid in of_kind] for kind, of_kind in batches.items()}


def _noop_seconds(port: int, path: str, body: bytes) -> float:
    request = request_bytes("POST", path, body=body)
    connection = Connection(port)
    try:
        began_s = time.perf_counter()
        answer = connection.ask(request)
        seconds = time.perf_counter() - began_s
    finally:
        connection.close()
    if answer.status != 200:
        raise Unfit(f"the no-op answered {answer.status}")
    return seconds


def batch_table(
    title: str,
    items: str,
    about: str,
    ways: list[Timed],
    *,
    base: Timed,
    at_most: float,
    aimed: tuple[str, ...] = (NEW, EXISTING),
) -> Table:
    """Return the table of some ways to run batches of 1,000 items. The aim is for the first way and these kinds."""
    columns = (f"1,000 {items}", "how", "median ms", "slowest ms", "items/s", "ratio")
    rows: list[tuple[str, ...]] = []
    verdicts = []
    for kind, of_base in base.seconds.items():
        base_ms = median_ms(of_base)
        for way in ways:
            seconds = way.seconds[kind]
            ms = median_ms(seconds)
            cells = (number(ms), number(max(seconds) * 1000), number(BATCH_GRANTS / ms * 1000), number(ms / base_ms))
            rows.append((kind, way.how, *cells))
        if kind in aimed:
            verdicts.append(verdict(f"{kind}, to {base.how}", median_ms(ways[0].seconds[kind]) / base_ms, at_most))
    return Table(title, about, columns, rows, columns[:2], tuple(verdicts))
