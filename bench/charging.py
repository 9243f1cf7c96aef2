"""Charges: batches of 1,000 compared with the bare insert of their rows, and single charges compared with a no-op."""

import itertools
import shutil
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

import msgspec

from bench import bare, servers
from bench.batches import Seconds, Timed, batch_table, noop_seconds
from bench.machine import on_server_core
from bench.payers import CEILING_MICRO, InProcess, Paid, accounts_paid, new_entities, time_request
from bench.report import Table, Unfit
from bench.singles import COLUMNS, NOOP_POST, Target, compare
from bench.sizes import Sizes
from minibill.api.decoding import Decoder
from minibill.auth.tokens import Caller
from minibill.charges.batch import charge_batch
from minibill.charges.schemas import ChargeBatchBody
from minibill.db.connection import open_reader
from minibill.db.write_operation import bind

IN_PROCESS_TO_BARE_MAX = 2.0
HTTP_TO_IN_PROCESS_MAX = 1.3

ACCOUNTS = 1_000
FEW_ACCOUNTS = 10
BATCH_CHARGES = 1_000
COST_MICRO = 10

# Kinds of batches.
ONCE_EACH, FEW, REPEATED = "1,000 accounts", "10 accounts", "1,000 accounts, half duplicates"

CONSUME = """
UPDATE credit_lots
   SET available_micro = available_micro + ?,
       consumed_micro = consumed_micro - ?
 WHERE id = ?
"""

_BODY = Decoder(ChargeBatchBody)
_SERVICE = Caller("service", "bench", None, frozenset())

Batches = dict[str, list[Paid]]


class Charger(Protocol):
    """Send a batch of charges."""

    def charge(self, body: bytes, key: str) -> Paid: ...


def in_process(sizes: Sizes) -> Table:
    """Measure `Book.write(charge_batch, …)` and the bare insert of the same rows."""
    ours, inserted = Timed("Book.write(charge_batch, …)"), Timed("bare insert of the same rows")
    for _ in range(sizes.passes):
        with TemporaryDirectory() as folder, on_server_core():
            db = Path(folder, "book.db")
            accounts = _book(db)
            before = shutil.copyfile(db, db.with_name("bare.db"))
            ours.add(_seconds(_charge_in_process(db, accounts, sizes.batches)))
            seconds = iter(bare.replay(_capture(db), before, like=db, with_triggers=True))
            inserted.add({kind: list(itertools.islice(seconds, sizes.batches)) for kind in ours.seconds})
    return batch_table(
        "Batches of charges in process",
        "charges to",
        f"{sizes.passes} books of {sizes.batches} batches of each kind over {ACCOUNTS:,} accounts of one lot; each batch "
        "has an idempotency key. The bare insert writes every row that the batch wrote, the kept answer among them, and "
        "moves the same lots, with one executemany a table and one COMMIT, on a copy of the book; it comes out as the same "
        "book, row for row. Ratios are to the bare insert.",
        [ours, inserted],
        base=inserted,
        at_most=IN_PROCESS_TO_BARE_MAX,
        aimed=(ONCE_EACH,),
    )


def over_http(sizes: Sizes) -> Table:
    """Measure the same batches over HTTP, in process, and as a no-op with the same body."""
    ours, inside, noop = Timed("over HTTP"), Timed("in process"), Timed("no-op of the same body")
    sent_bytes = answered_bytes = 0
    with servers.noop() as noop_port:
        for _ in range(sizes.passes):
            with TemporaryDirectory() as folder:
                db = Path(folder, "book.db")
                with on_server_core():
                    other = db.with_name("in-process.db")
                    inside.add(_seconds(_charge_in_process(other, _book(other), sizes.batches)))
                    accounts = _book(db)
                with servers.minibill(db) as port, servers.Client(port, service=True) as client:
                    batches = _charge_batches(_OverHttp(client), accounts, sizes.batches)
            ours.add(_seconds(batches))
            noop.add(noop_seconds(noop_port, "/charges", batches))
            sent_bytes, answered_bytes = len(batches[ONCE_EACH][0].request), len(batches[ONCE_EACH][0].answer)
    return batch_table(
        "Batches of charges over HTTP",
        "charges to",
        f"{sizes.passes} books of {sizes.batches} batches of each kind, one after the other on one connection. A batch is "
        f"{sent_bytes:,} bytes and its answer {answered_bytes:,}. In process is as in the table above, measured anew. The "
        "no-op has the same framework and server, decodes the same body and answers a few bytes. Ratios are to in process.",
        [ours, inside, noop],
        base=inside,
        at_most=HTTP_TO_IN_PROCESS_MAX,
        aimed=(ONCE_EACH,),
    )


def singles(sizes: Sizes) -> Table:
    """Measure charges one by one, with and without a source."""
    with TemporaryDirectory() as folder:
        db = Path(folder, "book.db")
        with on_server_core():
            accounts = _book(db)
        with servers.noop() as noop_port, servers.minibill(db) as port, servers.Client(port, service=True) as client:
            noop = Target("no-op POST", noop_port, itertools.repeat(NOOP_POST), 200)
            keyed = Target("charge, idempotency key", port, _charges(client, accounts, with_source=False), 201)
            sourced = Target("charge, sourceId", port, _charges(client, accounts, with_source=True), 201)
            rows, sent = compare([noop, keyed, sourced], sizes)
        answered, found = sent[keyed.name] + sent[sourced.name], _count_charges(db)
        if found != answered:
            raise Unfit(f"{answered} charges were answered and {found} are there")
    return Table(
        "Single charges over HTTP",
        f"Medians of {sizes.rounds} runs of {sizes.seconds} s of each kind, taken in turns. Each charge goes to one of "
        f"{ACCOUNTS:,} accounts in turn, and is on disk before it is answered. It has an idempotency key or a sourceId.",
        COLUMNS,
        rows,
        ("request",),
    )


class _InProcess(InProcess):
    """Charge through `Book.write`; decoding is not timed."""

    def charge(self, body: bytes, key: str) -> Paid:
        decoded = _BODY.decode(body)
        decoded.check()
        operation = bind(
            charge_batch, body=decoded, default_billing_mode="live", ceiling_micro=CEILING_MICRO, created_by=_SERVICE.name
        )
        return self.time(operation, caller=_SERVICE, path="charges", body=body, key=key, status=200)


class _OverHttp:
    """Charge through a server."""

    def __init__(self, client: servers.Client) -> None:
        self._client = client

    def charge(self, body: bytes, key: str) -> Paid:
        return time_request(self._client, "/charges/batch", body, key=key)


def _book(db: Path) -> list[str]:
    """Make a book; return its accounts. Each has one lot of a campaign."""
    with InProcess(db) as payer:
        return accounts_paid(payer.pay(payer.campaign(), new_entities(ACCOUNTS), "accounts").answer)


def _charge_in_process(db: Path, accounts: list[str], batches: int) -> Batches:
    with _InProcess(db) as charger:
        return _charge_batches(charger, accounts, batches)


def _charge_batches(charger: Charger, accounts: list[str], batches: int) -> Batches:
    sent: Batches = defaultdict(list)
    for kind, among in ((ONCE_EACH, accounts), (FEW, accounts[:FEW_ACCOUNTS]), (REPEATED, accounts)):
        step, new = (BATCH_CHARGES // 2, BATCH_CHARGES // 2) if kind == REPEATED else (BATCH_CHARGES, BATCH_CHARGES)
        for number in range(batches):
            # The first half of a batch with duplicates is the second half of the one before.
            items = range(number * step, number * step + BATCH_CHARGES)
            paid = charger.charge(_batch(kind, among, items), f"batch-{len(sent)}-{number}")
            charged = msgspec.json.decode(paid.answer)["totalCharged"]
            if charged != (BATCH_CHARGES if number == 0 else new):
                raise Unfit(f"{charged} of a batch were charged: {paid.answer[:300]!r}")
            sent[kind].append(paid)
    return sent


def _batch(kind: str, accounts: list[str], items: range) -> bytes:
    charges = [
        {"accountId": accounts[item % len(accounts)], "costMicro": str(COST_MICRO), "sourceId": f"{kind}-{item:09d}"}
        for item in items
    ]
    return msgspec.json.encode({"charges": charges})


def _charges(client: servers.Client, accounts: list[str], *, with_source: bool) -> Iterator[bytes]:
    # One prepared request per account; only the key changes, because making requests takes the generator's time.
    place = "#" * 12
    source, key = ({"sourceId": place}, None) if with_source else ({}, place)
    bodies = [msgspec.json.encode({"accountId": account, "costMicro": "1", **source}) for account in accounts]
    split = [client.request("POST", "/charges", body, key=key).split(place.encode()) for body in bodies]
    for count, (head, tail) in enumerate(itertools.cycle(split)):
        yield b"%b%012d%b" % (head, count, tail)


def _capture(db: Path) -> bare.Captured:
    """Read the rows of the batches of charges of a finished book."""
    conn = open_reader(db)
    try:
        charges, entries = bare.rows_by_time(conn, "credit_charges"), bare.rows_by_time(conn, "credit_ledger")
        # The first key is that of the batch of grants that made the book.
        _, *keys = bare.table_rows(conn, "idempotency_keys")
    finally:
        conn.close()
    batches = []
    for (time_us, of_batch), key in zip(charges.items(), keys, strict=True):
        moved: dict[int, int] = defaultdict(int)
        for entry in entries[time_us]:
            moved[entry["lot_id"]] += entry["amount_micro"]
        batches.append([
            bare.insert_rows("credit_charges", of_batch),
            bare.Statement(CONSUME, [(micro, micro, lot_id) for lot_id, micro in moved.items()]),
            bare.insert_rows("credit_ledger", entries[time_us]),
            bare.insert_rows("idempotency_keys", [key]),
        ])  # fmt: skip
    return bare.Captured([], batches)


def _count_charges(db: Path) -> int:
    conn = open_reader(db)
    try:
        count: int = conn.execute("SELECT count(*) FROM credit_charges").fetchone()[0]
        return count
    finally:
        conn.close()


def _seconds(batches: Batches) -> Seconds:
    return {kind: [paid.seconds for paid in of_kind] for kind, of_kind in batches.items()}
