"""A batch leaves the same book as its items sent one by one, ids included, whatever the book was before."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minibill.core.problems import Problem
from minibill.core.write_result import NOWHERE
from minibill.db.connection import open_reader
from tests.api_client import Json, Loop
from tests.reservations.test_random_ledger import (
    SERVICE,
    Charge,
    ChargeAll,
    ModelClock,
    Run,
    Step,
    begin,
    charge_operation,
    open_book,
    small_and_quick,
    stories,
    usage,
)

# More than any batch here may come to: the ceiling is per request, and so differs on purpose.
CEILING = 10**6
TABLES = ("credit_charges", "credit_lots", "credit_ledger", "credit_debts", "credit_balances", "credit_reservations",
          "credit_campaign_totals", "credit_campaign_days")  # fmt: skip


@pytest.fixture(scope="module")
def first_file(tmp_path_factory: pytest.TempPathFactory, migrated_file: Path, loop: Loop) -> Path:
    path = tmp_path_factory.mktemp("beginning") / "book.db"
    shutil.copyfile(migrated_file, path)
    loop.run(begin(path))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("one-by-one")


@given(
    story=stories(steps_min=2, steps_max=8),
    batches=st.lists(st.lists(usage, min_size=1, max_size=20), min_size=1, max_size=3),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_a_batch_equals_its_items_one_by_one(
    folder: Path, first_file: Path, loop: Loop, story: list[Step], batches: list[list[Charge]]
) -> None:
    with small_and_quick():
        run = Run(folder, first_file)
        loop.run(run.story(story, wholly_every=100))
        books = [folder / "together.db", folder / "singly.db"]
        for path in books:
            for ending in ("", "-anchor"):
                shutil.copyfile(f"{run.path}{ending}", f"{path}{ending}")
        together = loop.run(charge_all(books[0], run.clock, batches, sent=in_batches))
        singly = loop.run(charge_all(books[1], run.clock, batches, sent=one_by_one))
    assert together == singly
    assert rows(books[0]) == rows(books[1])


async def charge_all(
    path: Path, clock: ModelClock, batches: list[list[Charge]], *, sent: Callable[..., Any]
) -> list[tuple[str, Json]]:
    """Return status or code, and the figures of each charge."""
    book = await open_book(path, clock)
    try:
        return [result for items in batches for result in await sent(book, items)]
    finally:
        await book.close()


async def in_batches(book: Any, items: list[Charge]) -> list[tuple[str, Json]]:
    answer = await write(book, ChargeAll(tuple(items)))
    return [(each.get("code", each["status"]), figures(each)) for each in answer["charges"]]


async def one_by_one(book: Any, items: list[Charge]) -> list[tuple[str, Json]]:
    results: list[tuple[str, Json]] = []
    for item in items:
        try:
            answer = await write(book, item)
        except Problem as problem:
            results.append((problem.code, [None] * 3))
        else:
            results.append(("duplicate" if answer["duplicate"] else "charged", figures(answer)))
    return results


async def write(book: Any, action: Charge | ChargeAll) -> Json:
    do, values = charge_operation(action)
    operation = lambda conn, now_us: do(conn, now_us, **(values | {"ceiling_micro": CEILING}))
    return json.loads((await book.write(operation, caller=SERVICE, origin=NOWHERE)).body)


def figures(answer: Json) -> Json:
    return [answer[name] for name in ("chargeId", "chargedMicro", "debtMicro")]


def rows(path: Path) -> list[object]:
    conn = open_reader(path)
    try:
        return [conn.execute(f"SELECT * FROM {table}").fetchall() for table in TABLES]
    finally:
        conn.close()
