"""The history of an account with several pools: every combination of filters, and the cost of a page."""

import itertools
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from minibill.core.clock import format_time, parse_time
from minibill.db.connection import open_reader, open_writer
from minibill.db.queries import Row, queries
from minibill.db.sqlite import sqlite3
from minibill.ledger.history import history_page
from minibill.ledger.time_lookup import EntryPosition, entries_before, position_at
from tests.api_client import Api, Json
from tests.fake_clocks import set_time

START_US = parse_time("2030-01-01T00:00:00Z")
POOLS = ("general", "gpu", "cpu")
NEVER_USED = "revoke"


@pytest.fixture
def conn(db: Path) -> Iterator[sqlite3.Connection]:
    conn = open_reader(db)
    yield conn
    conn.close()


class ExpectedHistory:
    """The history of an account, from a sort of all its entries; with all values of the filters that are worth a test."""

    def __init__(self, conn: sqlite3.Connection, account_id: int) -> None:
        # The feed selects the same columns, and then the account.
        columns, *_ = queries("events").entry_events.sql.partition("WHERE")
        rows = [row[:-1] for row in conn.execute(f"{columns}WHERE e.account_id = ?", (account_id,)).fetchall()]
        self.entries: list[Row] = sorted(rows, key=lambda row: (row[-1], row[0]), reverse=True)
        self.types = [None, NEVER_USED, *sorted({row[2] for row in rows})]
        self.pools = [None, "none-such", *sorted({row[3] for row in rows})]
        times = {row[-1] for row in rows}
        self.times = [None, *sorted({time + by for time in times for by in (-1, 0, 1)})]

    def page(
        self,
        *,
        pool_id: str | None,
        entry_type: str | None,
        from_us: int | None,
        before: EntryPosition | None,
        count: int,
    ) -> list[Row]:
        found = (
            row
            for row in self.entries
            if pool_id in (None, row[3])
            and entry_type in (None, row[2])
            and (from_us is None or row[-1] >= from_us)
            and (before is None or (row[-1], row[0]) < before)
        )
        return list(itertools.islice(found, count))


def random_book(api: Api, seed: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Open two accounts with several pools, many entries of the same time, and some of a rare type; return their ids."""
    chance = random.Random(seed)
    now_us = START_US
    set_time(monkeypatch, lambda: now_us)
    accounts = [api.account(), api.account()]
    held: list[str] = []
    for _ in range(60):
        now_us += chance.choice([0, 0, 0, 1, 2, 1_000_000])
        account, pool = chance.choice(accounts), chance.choice((*POOLS, "general", "general"))
        match chance.randrange(5):
            case 0 | 1:
                expiry = {"expiresAt": format_time(now_us + 1_000_000)} if chance.random() < 0.3 else {}
                api.mint(account, chance.randint(1, 9), poolId=pool, **expiry)
            case 2:
                api.mint(account, 5, poolId=pool, sourceType="deposit")
            case 3 if api.available(account, pool):
                held.append(api.reserve(account, 1, poolId=pool))
            case _ if held:
                api.finalize(held.pop(), chance.randint(0, 1))
    return accounts


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_page_of_several_pools_equals_a_sort_of_all_entries(
    api: Api, conn: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    random_book(api, seed, monkeypatch)
    # Positions of the other account's entries lie between those of this one.
    cursors = [EntryPosition(*row) for row in conn.execute("SELECT created_at_us, id FROM credit_ledger").fetchall()]
    for (account_id,) in conn.execute("SELECT id FROM credit_accounts").fetchall():
        asked = ExpectedHistory(conn, account_id)
        assert len(asked.pools) == 2 + len(POOLS) and len(asked.entries) > len({row[-1] for row in asked.entries})
        chance = random.Random(seed)
        ends = [None if time is None else position_at(time) for time in asked.times]
        intervals = list(itertools.product(asked.times, [*ends, *cursors]))
        for pool_id, entry_type in itertools.product(asked.pools, asked.types):
            for from_us, before in [(None, None), *chance.sample(intervals, 200)]:
                count = chance.choice([1, 2, 3, 5, 101])
                what: dict[str, Any] = {
                    "pool_id": pool_id, "entry_type": entry_type, "from_us": from_us, "before": before, "count": count
                }  # fmt: skip
                assert history_page(conn, account_id=account_id, **what) == asked.page(**what), what


def test_pages_of_several_pools_return_each_entry_once(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    for account in random_book(api, 4, monkeypatch):
        path = f"/accounts/{account}/history"
        entries = api.get(path, limit=100)["items"]
        assert entries == sorted(entries, key=lambda entry: entry["id"], reverse=True)
        time = entries[len(entries) // 2]["createdAt"]
        asked: list[tuple[dict[str, str], list[Json]]] = [
            ({}, entries),
            ({"poolId": "gpu"}, [entry for entry in entries if entry["poolId"] == "gpu"]),
            ({"entryType": "deposit"}, [entry for entry in entries if entry["entryType"] == "deposit"]),
            ({"from": time}, [entry for entry in entries if entry["createdAt"] >= time]),
            ({"to": time}, [entry for entry in entries if entry["createdAt"] < time]),
        ]
        for (query, expected), limit in itertools.product(asked, (1, 2, 7)):
            page = api.get(path, limit=limit, **query)
            seen = page["items"]
            while page["nextCursor"] is not None:
                assert len(page["items"]) == limit
                page = api.get(path, limit=limit, cursor=page["nextCursor"])
                seen += page["items"]
            assert seen == expected


def test_entries_before_any_position_are_counted_in_each_pool(
    api: Api, conn: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    random_book(api, 5, monkeypatch)
    rows = conn.execute("SELECT created_at_us, id, account_id, pool_id FROM credit_ledger").fetchall()
    places = {EntryPosition(time + by, key) for time, last, *_ in rows for by in (-1, 0, 1) for key in (0, last, last + 1)}
    for account_id, place in itertools.product({row[2] for row in rows}, places):
        expected = {pool: 0 for _, _, account, pool in rows if account == account_id}
        for *time_and_id, account, pool in rows:
            expected[pool] = expected.get(pool, 0) + (account == account_id and tuple(time_and_id) < place)
        assert dict(entries_before(conn, place, account_id=account_id)) == expected


# --- what a page costs ---


@pytest.fixture(scope="module")
def cost(tmp_path_factory: pytest.TempPathFactory, migrated_file: Path) -> Iterator[Callable[..., int]]:
    """Return a function that counts SQLite's steps for a page: `cost(10, 10_000)` for pools of 10 and 10,000 entries.

    The newest entries alternate between the pools until the smaller one has no more, one microsecond apart. The first pool
    has grants, the other one deposits.
    """
    path = tmp_path_factory.mktemp("large") / "book.db"
    shutil.copyfile(migrated_file, path)
    writer, reader = open_writer(path), open_reader(path)
    accounts: dict[tuple[int, int], int] = {}

    def cost(general: int, gpu: int, **asked: Any) -> int:
        sizes = (general, gpu)
        if sizes not in accounts:
            accounts[sizes] = _account_of(writer, len(accounts) + 1, sizes)
        steps = itertools.count()
        reader.set_progress_handler(lambda: next(steps) < 0, 1)
        options = {"pool_id": None, "entry_type": None, "from_us": None, "before": None, "count": 51} | asked
        history_page(reader, account_id=accounts[sizes], **options)
        return next(steps)

    yield cost
    reader.close()
    writer.close()


def _account_of(conn: sqlite3.Connection, account_id: int, sizes: tuple[int, int]) -> int:
    conn.execute("BEGIN")
    conn.execute("INSERT INTO credit_accounts VALUES (?, 'person', ?, 1)", (account_id, str(account_id)))
    begun_us = conn.execute("SELECT coalesce(max(created_at_us), 0) FROM credit_ledger").fetchone()[0]
    lots = (2 * account_id, 2 * account_id + 1)
    conn.executemany(
        "INSERT INTO credit_lots VALUES (?, ?, ?, 'grant', NULL, NULL, 50, 1, 1, 0, 0, 0, 0, NULL, NULL, NULL, 1)",
        ((lots[pool], account_id, ("general", "gpu")[pool]) for pool in (0, 1)),
    )
    entries = sorted((number - size, number, pool) for pool, size in enumerate(sizes) for number in range(1, size + 1))
    conn.executemany(
        "INSERT INTO credit_ledger VALUES (NULL, ?, ?, ?, ?, ?, NULL, NULL, 1, 1, 0, ?, 0, NULL, NULL, ?)",
        (
            (account_id, ("general", "gpu")[pool], number, ("grant", "deposit")[pool], lots[pool], number, begun_us + place)
            for place, (_, number, pool) in enumerate(entries, 1)
        ),
    )
    conn.execute("COMMIT")
    return account_id


def test_the_cost_of_a_page_does_not_depend_on_older_entries(cost: Callable[..., int]) -> None:
    # SQLite counts steps per loop, so the numbers are not exact.
    for pool in (None, "general", "gpu"):
        assert cost(10_000, 10_000, pool_id=pool) < 1.05 * cost(100, 100, pool_id=pool)


def test_a_page_of_two_pools_reads_only_the_entries_that_it_shows(cost: Callable[..., int]) -> None:
    per_entry = (cost(10_000, 10_000, count=51) - cost(10_000, 10_000, count=1)) / 50
    for count in (1, 20, 100):
        assert cost(10_000, 10_000, count=count) < cost(10_000, 10_000, count=0) + per_entry * (count + 2)
        # The only entry of the other pool is the newest of all.
        assert cost(10_000, 1, count=count) < cost(10_000, 10_000, count=count) + per_entry


def test_a_time_is_found_in_few_steps_wherever_it_lies(cost: Callable[..., int]) -> None:
    page = cost(10_000, 10_000)
    # A binary search of 14 steps in each pool.
    search = 1.2 * cost(10_000, 10_000, before=position_at(0))
    assert search < 2 * page
    for at_us in (1, 5_000, 10_000, 19_999):
        assert cost(10_000, 10_000, before=position_at(at_us)) < page + search
        assert cost(10_000, 10_000, from_us=at_us) < page + search
    assert cost(10_000, 10_000, from_us=10_000, before=position_at(10_001)) < 2 * search


def test_a_filter_by_type_does_not_scan_pools_without_it(cost: Callable[..., int]) -> None:
    all_of_it = cost(10_000, 10_000, entry_type=NEVER_USED)
    assert cost(10_000, 10_000, entry_type="grant") < all_of_it / 25
    assert cost(10_000, 10_000, entry_type="deposit") < all_of_it / 25
