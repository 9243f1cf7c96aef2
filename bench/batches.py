"""Batches of 1,000 grants: in process compared with the bare insert, over HTTP compared with in process."""

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from bench import bare, servers
from bench.load import Connection, request_bytes
from bench.machine import on_server_core
from bench.payers import BATCH_GRANTS, InProcess, OverHttp, Payments, pay_batches
from bench.report import Table, Unfit, median_ms, number, verdict
from bench.sizes import Sizes

IN_PROCESS_TO_BARE_MAX = 2.0
HTTP_TO_IN_PROCESS_MAX = 1.5

COLUMNS = ("1,000 grants to", "how", "median ms", "slowest ms", "grants/s", "ratio")


class Timed:
    """One way to run the batches: the seconds of each batch, by kind, over all passes."""

    def __init__(self, how: str) -> None:
        self.how = how
        self.new: list[float] = []
        self.existing: list[float] = []

    def add(self, new: list[float], existing: list[float]) -> None:
        self.new += new
        self.existing += existing


class Kind(NamedTuple):
    """Return the table rows of one kind of batch, and the ratio of its first way to the baseline."""

    rows: list[tuple[str, ...]]
    ratio: float


def in_process(sizes: Sizes) -> Table:
    """Measure `Book.write(pay_batch, …)` and the bare insert of the same rows."""
    ours = Timed("Book.write(pay_batch, …)")
    inserted = Timed("bare insert of the same rows")
    without_triggers = Timed("bare insert, triggers dropped")
    for _ in range(sizes.passes):
        with TemporaryDirectory() as folder, on_server_core():
            db = Path(folder, "book.db")
            ours.add(*_seconds(_pay_in_process(db, sizes.batches)))
            inserted.add(*_replay(db, sizes.batches, with_triggers=True))
            without_triggers.add(*_replay(db, sizes.batches, with_triggers=False))
    return _table(
        "Batches in process",
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
                    inside.add(*_seconds(_pay_in_process(Path(folder, "in-process.db"), sizes.batches)))
                payments = _pay_over_http(Path(folder, "http.db"), sizes.batches)
            ours.add(*_seconds(payments))
            noop.add(*([_noop_seconds(noop_port, paid.request) for paid in kind] for kind in payments))
            sent_bytes, answered_bytes = len(payments.new[0].request), len(payments.new[0].answer)
    return _table(
        "Batches over HTTP",
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


def _replay(db: Path, batches: int, *, with_triggers: bool) -> tuple[list[float], list[float]]:
    copy = db.with_name(f"bare-{with_triggers}.db")
    captured = bare.capture(db, with_triggers=with_triggers)
    seconds = bare.replay(captured, copy, like=db, with_triggers=with_triggers)
    return seconds[:batches], seconds[batches:]


def _noop_seconds(port: int, body: bytes) -> float:
    request = request_bytes("POST", "/batch", body=body)
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


def _seconds(payments: Payments) -> tuple[list[float], list[float]]:
    return [paid.seconds for paid in payments.new], [paid.seconds for paid in payments.existing]


def _table(title: str, about: str, ways: list[Timed], *, base: Timed, at_most: float) -> Table:
    new = _kind("new entities", [(way.how, way.new) for way in ways], base.new)
    existing = _kind("existing accounts", [(way.how, way.existing) for way in ways], base.existing)
    verdicts = (
        verdict(f"new entities, to {base.how}", new.ratio, at_most),
        verdict(f"existing accounts, to {base.how}", existing.ratio, at_most),
    )
    return Table(title, about, COLUMNS, new.rows + existing.rows, ("1,000 grants to", "how"), verdicts)


def _kind(name: str, ways: list[tuple[str, list[float]]], base: list[float]) -> Kind:
    rows: list[tuple[str, ...]] = []
    for how, seconds in ways:
        ms = median_ms(seconds)
        cells = (number(ms), number(max(seconds) * 1000), number(BATCH_GRANTS / ms * 1000), number(ms / median_ms(base)))
        rows.append((name, how, *cells))
    return Kind(rows, median_ms(ways[0][1]) / median_ms(base))
