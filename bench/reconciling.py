"""Reconciliation: the time of each check over a million entries, and the effect of a run on reserve requests."""

import asyncio
import itertools
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from bench import servers
from bench.load import Load, request_bytes, run_load
from bench.machine import on_server_core
from bench.report import Table, Unfit, number
from bench.singles import CONNECTIONS, WARM_UP_SECONDS
from bench.sizes import Sizes
from minibill.api.types import Entity
from minibill.audit import log
from minibill.auth.tokens import Caller, sign_token
from minibill.book import Book
from minibill.campaigns.lifecycle import CampaignRow, campaign_response
from minibill.config import read_settings
from minibill.core import ids
from minibill.core.write_result import NOWHERE
from minibill.db.connection import open_writer
from minibill.db.migrations import migrate_file
from minibill.db.snapshot import open_snapshot
from minibill.db.write_operation import bind
from minibill.integrity.checks import CHECKS, run_check
from minibill.ledger.accounts import open_account

# Every account has a deposit, a grant, this many finalized reservations (a reserve, a finalize and a release each), and this
# many charges of one entry.
SPENDS, CHARGES = 5, 3
ENTRIES_AN_ACCOUNT = 2 + 3 * SPENDS + CHARGES

DEPOSIT, GRANT, HELD, COST = 1_000_000, 1_000, 100, 60

# Accounts of the reserve requests.
HTTP_ACCOUNTS = 64

# Seconds of load before a run begins, and the maximum seconds of a run during the load.
LEAD_SECONDS = 0.1
RUN_SECONDS_MAX = 120

AIM_P99 = 2.0


def checks(sizes: Sizes) -> Table:
    """Measure each check on its own, on a large book that is read from the file."""
    with TemporaryDirectory() as folder, on_server_core():
        db = Path(folder, "book.db")
        make_book(db, sizes.reconcile_entries)
        seconds: dict[str, list[float]] = {name: [] for name in CHECKS}
        checked: dict[str, int] = {}
        for _ in range(sizes.rounds):
            with open_snapshot(db) as conn:
                for name in CHECKS:
                    began_s = time.perf_counter()
                    found = run_check(conn, name)
                    seconds[name].append(time.perf_counter() - began_s)
                    checked[name] = found.checked
                    if found.violations:
                        raise Unfit(f"{name}: {found}")
        size_mib = db.stat().st_size / 2**20
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    whole_s = sum(medians.values())
    rows: list[tuple[str, ...]] = [
        (name, f"{checked[name]:,}", number(s * 1000), f"{s / whole_s:.0%}") for name, s in medians.items()
    ]
    rows.append(("all of them", "", number(whole_s * 1000), "100%"))
    about = (
        f"Medians of {sizes.rounds} runs on one core over {sizes.reconcile_entries:,} entries, {size_mib:,.0f} MiB: "
        f"{ENTRIES_AN_ACCOUNT} entries an account, of a deposit, a grant and {SPENDS} finalized reservations."
    )
    return Table("Reconciliation, check by check", about, ("check", "checked", "median ms", "share"), rows, ("check",))


def under_load(sizes: Sizes) -> Table:
    """Measure reserve requests over HTTP, with and without a reconciliation, in turns."""
    rows: list[tuple[str, ...]] = []
    ratios: list[tuple[int, float]] = []
    with TemporaryDirectory() as folder:
        db = Path(folder, "book.db")
        make_book(db, sizes.reconcile_entries)
        with servers.minibill(db, MINIBILL_RECONCILE_SECONDS="0") as port:
            requests = _reserves()
            for connections in CONNECTIONS:
                run_load(port, requests, connections=connections, seconds=WARM_UP_SECONDS)
                alone, beside, runs_s = list[Load](), list[Load](), list[float]()
                for _ in range(sizes.rounds):
                    alone.append(run_load(port, requests, connections=connections, seconds=sizes.seconds))
                    load, run_s = _load_beside_a_run(port, requests, connections, sizes.seconds)
                    beside.append(load)
                    runs_s.append(run_s)
                base_ms = statistics.median(load.p99_ms for load in alone)
                rows.append(_row(connections, "reserve", alone, base_ms, ""))
                rows.append(_row(connections, "reserve, reconciling", beside, base_ms, number(statistics.median(runs_s))))
                ratios.append((connections, statistics.median(load.p99_ms for load in beside) / base_ms))
    columns = ("connections", "request", "requests/s", "p50 ms", "p99 ms", "p99 beside none", "run s")
    about = (
        f"Medians of {sizes.rounds} runs of {sizes.seconds} s of each kind, taken in turns, over a book of "
        f"{sizes.reconcile_entries:,} entries. The server, its reconciliation included, has one core."
    )
    verdicts = tuple(
        f"{connections} connections, p99 while it runs to p99 while none does: {ratio:.2f}, aim at most {AIM_P99:.1f}: "
        f"{'holds' if ratio <= AIM_P99 else 'DOES NOT HOLD'}"
        for connections, ratio in ratios
    )
    return Table("Reserving while the book is reconciled", about, columns, rows, ("request",), verdicts)


def _row(connections: int, name: str, loads: list[Load], base_ms: float, run: str) -> tuple[str, ...]:
    rate, p50_ms, p99_ms = (
        statistics.median(values) for values in zip(*[(x.requests_per_s, x.p50_ms, x.p99_ms) for x in loads], strict=True)
    )
    return str(connections), name, number(rate), number(p50_ms), number(p99_ms), number(p99_ms / base_ms), run


def _load_beside_a_run(port: int, requests: Iterator[bytes], connections: int, seconds: float) -> tuple[Load, float]:
    """Run a load while a reconciliation runs all the time; return its result and the seconds of the reconciliation."""
    answered: list[tuple[float, bytes]] = []

    def reconcile() -> None:
        with servers.Client(port, answer_seconds_max=RUN_SECONDS_MAX) as client:
            began_s = time.perf_counter()
            body = client.post("/reconciliation")
            answered.append((time.perf_counter() - began_s, body))

    thread = threading.Thread(target=reconcile)
    thread.start()
    time.sleep(LEAD_SECONDS)
    load = run_load(port, requests, connections=connections, seconds=seconds)
    if answered:
        raise Unfit("the reconciliation was over before the load was: take more entries")
    thread.join()
    if not answered or msgspec.json.decode(answered[0][1])["status"] != "healthy":
        raise Unfit("a reconciliation came to nothing good")
    return load, answered[0][0]


def _reserves() -> Iterator[bytes]:
    token = sign_token(read_settings(servers.ENVIRONMENT), "service", sub="bench", scopes=[], ttl=300)
    for count in itertools.count():
        body = {"accountId": ids.encode(ids.ACCOUNT, 1 + count % HTTP_ACCOUNTS), "amountMicro": "1"}
        headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": f"r{count}"}
        yield request_bytes("POST", "/api/internal/billing/reservations", headers=headers, body=msgspec.json.encode(body))


# --- a large book, made by SQL alone; the checks then show that it is consistent ---


def make_book(db: Path, entries: int) -> None:
    """Make a book with that many entries, whose accounts alternate as they would over time."""
    count = entries // ENTRIES_AN_ACCOUNT
    migrate_file(db)
    with closing(open_writer(db)) as conn:
        # Triggers and constraints would take most of the time. The checks find violations.
        triggers = conn.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger' ORDER BY rowid").fetchall()
        for name, _ in triggers:
            conn.execute(f"DROP TRIGGER {name}")
        conn.execute("PRAGMA synchronous = OFF")
        conn.execute("BEGIN")
        for statement in _statements(count):
            conn.execute(
                f"WITH RECURSIVE n (x) AS (SELECT 0 UNION ALL SELECT x + 1 FROM n WHERE x + 1 < {count}) {statement}"
            )
        conn.executemany(f"INSERT INTO admin_audit_log VALUES ({', '.join('?' * 14)})", _audit_rows(count))
        for _, sql in triggers:
            conn.execute(sql)
        conn.execute("COMMIT")
    # Times that are earlier than the clock of the service.
    asyncio.run(_open_once(db))


async def _open_once(db: Path) -> None:
    book = await Book.open(db)
    # All rows are of 1970, and the service does not follow a clock that far ahead until it is accepted.
    book.clock.accept()
    admin = Caller("admin", "op", None, frozenset())
    await book.write(bind(open_account, body=Entity("foundation", "bench")), caller=admin, origin=NOWHERE)
    await book.close()


def _statements(count: int) -> Iterator[str]:
    spent = (SPENDS + CHARGES) * COST
    yield "INSERT INTO credit_accounts SELECT x + 1, 'person', 'wallet-' || x, 1000 FROM n"
    budget = count * GRANT
    yield f"""INSERT INTO credit_campaigns SELECT 1, 'Bench', NULL, 'loyalty', 'active', {budget}, {budget}, 'fixed_amount',
              NULL, 'general', {GRANT}, NULL, NULL, NULL, {count}, 'op', 1000, 2001 FROM n WHERE x = 0"""
    yield f"""INSERT INTO credit_lots SELECT x + 1, x + 1, 'general', 'deposit', 'order-' || x, NULL, 50, {DEPOSIT},
              {DEPOSIT - spent}, 0, {spent}, 0, 0, NULL, NULL, NULL, 2000 FROM n"""
    yield f"""INSERT INTO credit_lots SELECT x + 1 + {count}, x + 1, 'general', 'grant', NULL, 1, 60, {GRANT}, {GRANT},
              0, 0, 0, 0, NULL, NULL, NULL, 2001 FROM n"""
    yield f"INSERT INTO credit_campaign_totals SELECT 1, {budget}, 0, 0, 0, 0, 0, 0, 0 FROM n WHERE x = 0"
    yield f"INSERT INTO credit_campaign_days SELECT 1, 0, {count}, {budget}, 0 FROM n WHERE x = 0"
    yield f"""INSERT INTO credit_grants SELECT x + 1, 1, x + 1, x + 1 + {count}, {GRANT}, 'granted', 'fixed_amount', NULL,
              2001, NULL, NULL, NULL, NULL, NULL FROM n"""
    yield _entry("x + 1", 1, "deposit", "x + 1", "NULL", (DEPOSIT, DEPOSIT, 0), (DEPOSIT, 0), 2000)
    yield _entry(f"x + 1 + {count}", 2, "grant", f"x + 1 + {count}", "NULL", (GRANT, GRANT, 0), (DEPOSIT + GRANT, 0), 2001)
    for turn in range(SPENDS):
        at_us, reservation = 2002 + 3 * turn, f"x + 1 + {turn * count}"
        yield f"""INSERT INTO credit_reservations SELECT {reservation}, x + 1, 'general', 'live', 'finalized', {HELD}, 0,
                  NULL, 0, NULL, NULL, {HELD}, 9000000, NULL, NULL, 'service:bench', NULL, {COST}, {COST}, 0, 0,
                  {HELD - COST}, {at_us + 1}, {at_us} FROM n"""
        yield f"INSERT INTO reservation_lots SELECT {reservation}, 1, x + 1, {HELD} FROM n"
        first, seq, before = (2 + 3 * turn) * count, 3 + 3 * turn, DEPOSIT + GRANT - turn * COST
        left, back = before - HELD, HELD - COST
        yield _entry(f"x + 1 + {first}", seq, "reserve", "x + 1", reservation, (-HELD, -HELD, HELD), (left, HELD), at_us)
        second = first + count
        yield _entry(
            f"2 * x + 1 + {second}", seq + 1, "finalize", "x + 1", reservation, (-COST, 0, -COST), (left, back), at_us + 1
        )
        yield _entry(
            f"2 * x + 2 + {second}",
            seq + 2,
            "release",
            "x + 1",
            reservation,
            (back, back, -back),
            (left + back, 0),
            at_us + 1,
        )
    for turn in range(CHARGES):
        charge, key = f"x + 1 + {turn * count}", f"x + 1 + {(2 + 3 * SPENDS + turn) * count}"
        at_us, left = 2002 + 3 * SPENDS + turn, DEPOSIT + GRANT - (SPENDS + turn + 1) * COST
        yield f"""INSERT INTO credit_charges SELECT {charge}, x + 1, 'general', 'call-{turn}', 'live', {COST}, 0, NULL, 0,
                  NULL, NULL, {COST}, 0, {key} - 1, 1, NULL, NULL, 'service:bench', {at_us} FROM n"""
        yield _entry(
            key, 3 + 3 * SPENDS + turn, "charge", "x + 1", "NULL", (-COST, -COST, 0), (left, 0), at_us, charge=charge
        )
    yield f"INSERT INTO credit_balances SELECT x + 1, 'general', {DEPOSIT + GRANT - spent}, 0, {ENTRIES_AN_ACCOUNT} FROM n"


def _entry(
    key: str,
    seq: int,
    kind: str,
    lot: str,
    reservation: str,
    moved: tuple[int, int, int],
    after: tuple[int, int],
    at_us: int,
    charge: str = "NULL",
) -> str:
    figures = ", ".join(map(str, (*moved, *after)))
    return f"""INSERT INTO credit_ledger SELECT {key}, x + 1, 'general', {seq}, '{kind}', {lot}, {reservation}, {charge},
               {figures}, NULL, NULL, {at_us} FROM n"""


def _audit_rows(count: int) -> Iterator[tuple[object, ...]]:
    """Insert the campaign, a mint for each account, and the batches."""
    budget = count * GRANT
    campaign = CampaignRow(
        1, "Bench", None, "loyalty", "active", budget, 0, "fixed_amount", None, "general", GRANT, None, None, None, 0, "op",
        1000, 1000,
    )  # fmt: skip
    made = msgspec.json.encode({"before": None, "after": campaign_response(campaign, now_us=1000)}).decode()
    row: tuple[object, ...] = (
        1, 1, "op", "campaign.create", "campaign", ids.encode(ids.CAMPAIGN, 1), made, None, None, None, None, 1000,
    )  # fmt: skip
    previous_hash = log.row_hash(row, log.NO_HASH)
    yield (*row, log.NO_HASH, previous_hash)
    details = '{"lotId":"lot_0000000000001","amountMicro":"1000000","poolId":"general"}'
    for seq in range(2, count + count // 1000 + 3):
        row = (seq, seq, "op", "account.mint", "account", f"acct_{seq}", details, "192.0.2.1", "bench", f"c-{seq}", "t-1",
               2000 if seq <= count else 2001)  # fmt: skip
        own_hash = log.row_hash(row, previous_hash)
        yield (*row, previous_hash, own_hash)
        previous_hash = own_hash
