"""Bit flips in the database file or its write-ahead log: `verify` or the start detects those that change the book.

Bits are flipped in copies of a book with data in every table: at random places, and in every column. The rows of each copy
are compared with the original. If they differ or can't be read, `verify` or the start must have reported it.
"""

import random
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from minibill.db.anchor import BehindItsAnchor, CommitAnchor
from minibill.db.connection import NotABook, open_writer
from minibill.db.migrations import MigrationRefused
from minibill.db.sqlite import sqlite3
from minibill.integrity.verify import FILE_CHECK, verify_file
from tests.api_client import UNIT, Api, Loop, ok
from tests.faults.database_pages import Place, places

# Properties of the file and the progress of deliveries, which SECURITY.md lists as not covered.
NOT_OF_THE_BOOK = {
    ("schema_migrations", "applied_at_us"), ("schema_migrations", "name"), ("webhooks", "entry_id"),
    ("webhooks", "event_id"), ("webhooks", "failing_since_us"), ("sqlite_sequence", "name"), ("sqlite_sequence", "seq"),
}  # fmt: skip

# A flip changes one bit, or a burst of adjacent bits.
BITS_MAX = 12


class State(NamedTuple):
    """The files of a book by suffix, and its rows."""

    files: dict[str, bytes]
    rows: object

    def flipped(self, ending: str, bit: int, bits: int) -> dict[str, bytes]:
        changed = bytearray(self.files[ending])
        for at in range(bit, min(bit + bits, len(changed) * 8)):
            changed[at // 8] ^= 0x80 >> at % 8
        return {**self.files, ending: bytes(changed)}


def rows_of(path: Path) -> object:
    """Return the schema and all rows of all tables; None if they can't be read."""
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as conn:
            # Read every table from its own pages, not from an index with the same columns.
            schema = conn.execute("SELECT type, name, sql FROM sqlite_schema ORDER BY name").fetchall()
            found: list[object] = [schema]
            for name in [name for kind, name, _ in schema if kind == "table"]:
                columns = [column for (column,) in conn.execute(f"SELECT name FROM pragma_table_info('{name}')")]
                wanted = [column for column in columns if (name, column) not in NOT_OF_THE_BOOK]
                rows = conn.execute(f"SELECT {', '.join(wanted)} FROM {name} NOT INDEXED") if wanted else ()
                found.append(sorted(rows, key=repr))
            return found
    except (sqlite3.DatabaseError, UnicodeDecodeError):
        return None


def taken(path: Path, folder: Path) -> State:
    """Copy the files of a book, also of an open one. Closing a file in this process would drop its locks."""
    folder.mkdir()
    endings = [ending for ending in ("", "-wal", "-anchor") if path.with_name(path.name + ending).exists()]
    subprocess.run(["cp", *(f"{path}{ending}" for ending in endings), folder], check=True)
    files = {ending: (folder / f"{path.name}{ending}").read_bytes() for ending in endings}
    return State(files, rows_of(folder / path.name))


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory, migrated_file: Path, loop: Loop) -> dict[str, State]:
    """Return a book with half of its data in the log, one with a checkpointed log, and a closed one."""
    folder = tmp_path_factory.mktemp("flips")
    path = folder / "book.db"
    path.write_bytes(migrated_file.read_bytes())
    found = {}
    api = Api(path, loop, {})
    try:
        live(api)
        loop.run(api.book.extend_chain())
        checkpoint(api)
        live(api)
        loop.run(api.book.extend_chain())
        found["log"] = taken(path, folder / "log")
        checkpoint(api)
        found["folded log"] = taken(path, folder / "folded")
        live(api)
    finally:
        api.stop()
    found["closed"] = taken(path, folder / "closed")
    assert "-wal" in found["log"].files and "-wal" not in found["closed"].files
    assert all(state.rows is not None for state in found.values())
    return found


def checkpoint(api: Api) -> None:
    """Checkpoint, as the service does after a thousand pages."""

    async def run() -> None:
        api.book._conn.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    api.loop.run(run())


def live(api: Api) -> None:
    """Write data into every column of every table."""
    rich, poor, guild = api.account(5_000_000), api.account(), api.account(700, 80, poolId="gpu", priority=7)
    source = {"sourceType": "deposit", "sourceId": f"order-{rich}", "description": "paid by card"}
    api.mint(rich, 900_000, metadata={"shop": "7"}, expiresAt=api.after(3_600), **source)
    api.mint(poor, 40, expiresAt=api.after(30))
    tiers = [{"tier": "gold", "rateBps": 9_000}, {"tier": "iron", "rateBps": 150, "maxDiscountMicro": "70"}]
    ok(api.call("PUT", f"/discounts/guild-{guild}/tiers", {"tiers": tiers}))
    for account, tier, body in ((rich, "gold", {}), (poor, "iron", {"expiresAt": api.after(9_000)})):
        ok(api.call("PUT", f"/accounts/{account}/memberships/guild-{guild}", {"tier": tier, **body}))

    spent = api.reserve(rich, 1_000, description="a picture", metadata={"size": "large"})
    ok(api.finalize(spent, 407, key=f"finalize-{spent}"))
    ok(api.finalize(api.reserve(guild, 30, poolId="gpu"), 12))
    ok(api.release(api.reserve(guild, 20, poolId="gpu"), key=f"release-{guild}"))
    ok(api.release(api.reserve(guild, 0, poolId="gpu")))
    ok(api.finalize(api.reserve(guild, 0, poolId="gpu"), 0))
    ok(api.finalize(api.reserve(poor, 15, billingMode="soft", metadata={"n": 1}), 900))
    ok(api.finalize(api.reserve(guild, 50, billingMode="shadow"), 70))
    ok(api.release(api.reserve(guild, 60, billingMode="shadow")))
    usage = {"sourceId": "call-1", "description": "a picture", "metadata": {"size": "small"}}
    ok(api.internal("POST", "/charges", {"accountId": rich, "costMicro": "700", **usage}), 201)
    ok(api.internal("POST", "/charges", {"accountId": poor, "costMicro": "60", "billingMode": "soft"}), 201)
    ok(api.internal("POST", "/charges", {"accountId": guild, "costMicro": "40", "billingMode": "shadow"}), 201)
    api.mint(poor, 333)
    # A reservation closed by another caller, and a forgiven debt.
    ok(api.post(f"/reservations/{api.reserve(rich, 90)}/release"))
    ok(api.finalize(api.reserve(poor, 0, billingMode="soft"), 77))
    debt = api.get(f"/accounts/{poor}/debts")["items"][-1]["debtId"]
    ok(api.post(f"/accounts/{poor}/debts/{debt}/forgive", {"reason": "our mistake"}))
    api.reserve(rich, 5_000, ttlSeconds=20)
    api.reserve(rich, 6_000)

    terms = {"grantFormula": "proportional_loss", "grantConfig": {"ratioBps": 5_000, "capMicro": "90000"}}
    times = {"startsAt": api.after(0), "expiresAt": api.after(50)}
    paying = api.campaign(100 * UNIT, description="for losses", **terms, **times)
    losses = [
        {"accountId": account, "formulaInput": {"lossMicro": "10000", "why": "bug"}} for account in (rich, poor, guild)
    ]
    ok(api.batch(paying, *losses, key=f"batch-{paying}"))
    ok(api.finalize(api.reserve(guild, 99), 55))
    held = api.reserve(guild, 1_000)
    [first, *_] = api.get(f"/campaigns/{paying}/grants", accountId=guild)["items"]
    ok(api.post(f"/campaigns/{paying}/grants/{first['grantId']}/revoke", {"reason": "paid in error"}))
    ok(api.release(held))
    api.advance(60)
    ok(api.call("PATCH", f"/campaigns/{api.draft(grantTtlSeconds=600)}", {"name": "Renamed", "description": "later"}))
    ok(api.post(f"/campaigns/{api.campaign()}/pause"))
    ok(api.post(f"/campaigns/{api.campaign()}/complete"))
    ok(api.post(f"/tokens/token-of-{guild}/revoke"))
    marks = [{"belowMicro": "1", "recoveredMicro": "900000000"}, {"poolId": "gpu", "belowMicro": "10000"}]
    ok(api.call("PUT", f"/accounts/{rich}/thresholds", {"thresholds": marks}))
    hook = ok(api.post("/webhooks", {"url": f"https://192.88.98.1/{guild}", "types": ["grant.*"], "description": "all"}))
    ok(api.post(f"/webhooks/{hook['id']}/rotate-secret"))
    ok(api.post("/tokens/revoke", {"sub": f"owner of {guild}", "issuedBefore": "2026-01-01T00:00:00Z"}))
    ok(api.post("/reconciliation"))
    api.mint(rich, 1)


class Verdict(NamedTuple):
    """The result for a copy: whether its rows changed, and the failures of `verify` and the start."""

    changed: bool
    verify: list[str]
    start: str


def judge(state: State, files: dict[str, bytes], folder: Path) -> Verdict:
    """Write files to a folder, run `verify` and the start, and compare the rows with the original."""
    path = folder / "book.db"
    for old in folder.iterdir():
        old.unlink()
    for ending, content in files.items():
        path.with_name(path.name + ending).write_bytes(content)
    try:
        report = verify_file(path).report
        verify = [name for name, check in report.checks.items() if check.status == "fail"]
    except (NotABook, MigrationRefused, sqlite3.DatabaseError) as error:
        verify = [repr(error)]
    start = started(path)
    # Opening and closing a file checkpoints its log, as a service does.
    return Verdict(rows_of(path) != state.rows, verify, start)


def started(path: Path) -> str:
    """Return the error of a start on a file; empty if it succeeds."""
    try:
        with closing(open_writer(path)) as conn:
            CommitAnchor(path, conn).close()
    except (NotABook, BehindItsAnchor, sqlite3.DatabaseError) as error:
        return repr(error)
    return ""


class Tally:
    """Judge flips and count their results."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.counts: Counter[str] = Counter()
        self.missed: list[str] = []

    def flip(self, state: State, ending: str, bit: int, bits: int, where: str) -> None:
        verdict = judge(state, state.flipped(ending, bit, bits), self.folder)
        detected = bool(verdict.verify or verdict.start)
        self.counts["flips"] += 1
        self.counts["changed the book"] += verdict.changed
        self.counts["changed nothing and were reported"] += detected and not verdict.changed
        if verdict.changed and not detected:
            self.missed.append(f"not detected: {bits} bits at {bit} of {where}")
        # Damage outside of rows is in an index or a page of the file.
        if not verdict.changed and verdict.verify and verdict.verify != [FILE_CHECK] and FILE_CHECK not in verdict.verify:
            self.missed.append(f"false alarm: {bits} bits at {bit} of {where}: {verdict}")

    def line(self) -> str:
        return ", ".join(f"{count:,} {what}" for what, count in self.counts.items()) + ", all of these detected"


@pytest.fixture
def tally(tmp_path: Path) -> Iterator[Tally]:
    folder = tmp_path / "flipped"
    folder.mkdir()
    found = Tally(folder)
    yield found
    assert found.missed == []


def test_an_unchanged_book_passes_verify_in_every_state(states: dict[str, State], tmp_path: Path) -> None:
    for state in states.values():
        assert judge(state, state.files, tmp_path) == Verdict(False, [], "")
        # A book without its anchor also passes. It may be incomplete, so it begins an epoch of ids.
        without = judge(state, {e: c for e, c in state.files.items() if e != "-anchor"}, tmp_path)
        assert without == Verdict(True, [], "")


def test_random_bit_flips_that_change_the_book_are_detected(
    states: dict[str, State], tally: Tally, long: bool, record: Callable[[str], None]
) -> None:
    dice = random.Random(6)
    for name, state in states.items():
        for _ in range(1_700 if long else 10):
            ending = dice.choice([ending for ending in ("", "-wal") if ending in state.files])
            bits = dice.choice((1, 1, 1, dice.randint(2, BITS_MAX)))
            tally.flip(state, ending, dice.randrange(len(state.files[ending]) * 8), bits, f"{name}{ending}")
    record(tally.line())


def test_a_bit_flip_in_any_column_is_detected(
    states: dict[str, State], tally: Tally, tmp_path: Path, long: bool, record: Callable[[str], None]
) -> None:
    state, dice = states["closed"], random.Random(7)
    (tmp_path / "there.db").write_bytes(state.files[""])
    found: dict[tuple[str, str, str], list[Place]] = {}
    with closing(sqlite3.connect(tmp_path / "there.db")) as conn:
        for place in places(state.files[""], conn):
            if (place.table, place.column) not in NOT_OF_THE_BOOK:
                found.setdefault((place.table, place.column, place.kind), []).append(place)
    kinds = found if long else dice.sample(sorted(found), 30)
    for table, column, kind in kinds:
        candidates = found[table, column, kind]
        for place in dice.sample(candidates, min(len(candidates), 3) if long else 1):
            bits = range(place.start * 8, place.end * 8)
            for bit in dice.sample(bits, min(len(bits), 2) if long else 1):
                tally.flip(state, "", bit, 1, f"{table}.{column} ({kind})")
    record(f"{len(found)} kinds of places: {tally.line()}")
