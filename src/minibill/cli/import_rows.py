"""The rows of an import in a temporary file, so that memory does not grow with the list.

The file is an SQLite database without a journal. It has no name from the moment it is open: nothing is left behind,
however the program ends.
"""

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import NamedTuple, Self

import msgspec

from minibill.cli.grants_csv import Fault, ListRow, quoted
from minibill.core.money import MAX_MICRO
from minibill.db.sqlite import sqlite3

# Pages kept in memory; the rest is in the file.
CACHE_KIB = 16_384

_SCHEMA = """
-- pays: the row carries its account. Of several rows of one account it is the first; into_line is that one's, where they are
-- added up. expected_micro is the amount, or what the campaign's formula comes to; NULL where that is not known.
CREATE TABLE rows (
    line INTEGER PRIMARY KEY, account TEXT, pays INTEGER NOT NULL, into_line INTEGER, amount_micro INTEGER,
    expected_micro INTEGER, formula_input BLOB, what TEXT, value TEXT);
CREATE UNIQUE INDEX rows_once_per_account ON rows (account) WHERE pays;
CREATE TABLE results (
    line INTEGER PRIMARY KEY, status TEXT NOT NULL, amount_micro INTEGER, account_id TEXT, grant_id TEXT, reason TEXT);
"""
_INSERT = """
INSERT OR IGNORE INTO rows (line, account, pays, into_line, amount_micro, expected_micro, formula_input, what, value)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"""
_TO_SEND = """
SELECT r.line, r.account, r.amount_micro, r.expected_micro, r.formula_input
  FROM rows r LEFT JOIN results s USING (line)
 WHERE r.line > ? AND r.pays AND r.what IS NULL AND coalesce(s.status, 'new') = 'new'
 ORDER BY r.line LIMIT ?"""
_OUTCOMES = """
SELECT r.line, r.account, r.into_line, coalesce(f.what, r.what), coalesce(f.value, r.value), f.expected_micro,
       s.status, s.amount_micro, s.account_id, s.grant_id, s.reason
  FROM rows r LEFT JOIN rows f ON f.line = coalesce(r.into_line, r.line) LEFT JOIN results s ON s.line = f.line
 ORDER BY r.line"""


# Raised by every operation on the rows when the temporary file can't be written.
TemporaryFileError = sqlite3.Error


class Item(NamedTuple):
    """One grant to ask for. `expected_micro` is None where the amount is not known here."""

    line: int
    account: str
    amount_micro: int | None
    expected_micro: int | None
    formula_input: bytes | None


class Result(NamedTuple):
    """The status of a row. A row is `new` when a real run would pay it."""

    line: int
    status: str
    amount_micro: int | None = None
    account_id: str | None = None
    grant_id: str | None = None
    reason: str | None = None


class Outcome(NamedTuple):
    """A row of the list with its result; `status` is None where it was not sent."""

    line: int
    account: str | None
    into_line: int | None
    fault: Fault | None
    expected_micro: int | None
    status: str | None
    amount_micro: int | None
    account_id: str | None
    grant_id: str | None
    reason: str | None


class Bound(NamedTuple):
    """An upper bound of what the rows come to: their sum, the largest, and how many amounts are not known."""

    total_micro: int
    largest_micro: int
    unknown: int


class Rows:
    """All rows of a list and their results, in the order of the list."""

    def __init__(self) -> None:
        descriptor, path = tempfile.mkstemp(prefix="minibill-import-")
        os.close(descriptor)
        try:
            self._conn = sqlite3.connect(path, isolation_level=None)
            self._conn.execute("PRAGMA journal_mode = OFF")
            self._conn.execute("PRAGMA synchronous = OFF")
            self._conn.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._conn.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
            self._conn.executescript(_SCHEMA)
        finally:
            os.unlink(path)  # noqa: PTH108
        # One transaction for all: it is never committed, since nobody reads the file afterwards.
        self._conn.execute("BEGIN")
        self.good = 0
        self.bad = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._conn.close()

    # --- reading the list ---

    def add(self, rows: Iterable[ListRow], *, adds_up: bool) -> None:
        """Take in the rows of a list. A second row of an account is bad, or is added up to the first."""
        for row in rows:
            if row.account is None or not self._insert(row, pays=True):
                self._add_again(row, adds_up=adds_up)
        self.good = self._number("SELECT count(*) FROM rows WHERE pays AND what IS NULL")
        self.bad = self._number(
            "SELECT count(*) FROM rows r LEFT JOIN rows f ON f.line = r.into_line WHERE coalesce(f.what, r.what) IS NOT NULL"
        )

    def _add_again(self, row: ListRow, *, adds_up: bool) -> None:
        """Take in a row without an account, or of one that an earlier row names."""
        if row.account is None:
            self._insert(row, pays=False)
            return
        first, amount_micro, formula_input, what = self._conn.execute(
            "SELECT line, amount_micro, formula_input, what FROM rows WHERE account = ? AND pays", (row.account,)
        ).fetchone()
        if not adds_up:
            fault = row.fault or Fault("names the account of an earlier row:", f"{quoted(row.account)} of line {first}")
            self._insert(row._replace(fault=fault), pays=False)
            return
        # A sum without one of its parts would be paid once and for all.
        if row.fault is not None or what is not None:
            part = "another row of the same account can't be read:"
            if what is None:
                self._spoil(first, Fault(part, f"line {row.line}"))
            self._insert(row._replace(fault=row.fault or Fault(part, f"line {first}")), pays=False)
            return
        total_micro = None if amount_micro is None else amount_micro + (row.amount_micro or 0)
        total_input = _added_up(formula_input, row.formula_input)
        if total_input is None or (total_micro or 0) > MAX_MICRO:
            self._spoil(first, Fault(f"the rows of this account come to more than {MAX_MICRO} micro"))
        else:
            self._conn.execute(
                "UPDATE rows SET amount_micro = ?, expected_micro = ?, formula_input = ? WHERE line = ?",
                (total_micro, total_micro, total_input or None, first),
            )
        self._insert(row, pays=False, into_line=first)

    def _insert(self, row: ListRow, *, pays: bool, into_line: int | None = None) -> bool:
        """Return true if the row was inserted; false where another row pays its account."""
        what, value = row.fault or (None, None)
        values = (row.line, row.account, pays, into_line, row.amount_micro, row.amount_micro, row.formula_input, what, value)
        return self._conn.execute(_INSERT, values).rowcount == 1

    def _spoil(self, line: int, fault: Fault) -> None:
        self._conn.execute("UPDATE rows SET what = ?, value = ? WHERE line = ?", (*fault, line))

    def faults(self) -> Iterator[tuple[int, Fault]]:
        """The bad rows, by line."""
        return ((outcome.line, outcome.fault) for outcome in self.outcomes() if outcome.fault is not None)

    # --- paying it ---

    def expect(self, amount_of: Callable[[bytes | None], int | None]) -> None:
        """Compute the amounts of rows that name none, by the formula of the campaign."""
        self._conn.create_function("amount_of", 1, amount_of, deterministic=True)
        self._conn.execute(
            "UPDATE rows SET expected_micro = amount_of(formula_input) WHERE amount_micro IS NULL AND pays AND what IS NULL"
        )

    def bound(self) -> Bound:
        """Add up the good rows."""
        total_micro = largest_micro = unknown = 0
        with closing(self._conn.execute("SELECT expected_micro FROM rows WHERE pays AND what IS NULL")) as cursor:
            for (amount_micro,) in cursor:
                if amount_micro is None:
                    unknown += 1
                else:
                    total_micro += amount_micro
                    largest_micro = max(largest_micro, amount_micro)
        return Bound(total_micro, largest_micro, unknown)

    def to_send(self, *, after_line: int, count: int) -> list[Item]:
        """The next good rows that have no final result."""
        return [Item(*row) for row in self._conn.execute(_TO_SEND, (after_line, count)).fetchall()]

    def record(self, results: Iterable[Result]) -> None:
        """Keep results; a later one of a row takes the place of an earlier one."""
        self._conn.executemany("INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?, ?, ?)", results)

    def outcomes(self) -> Iterator[Outcome]:
        """Every row of the list with its result, by line."""
        with closing(self._conn.execute(_OUTCOMES)) as cursor:
            for line, account, into_line, what, value, *rest in cursor:
                yield Outcome(line, account, into_line, None if what is None else Fault(what, value), *rest)

    def _number(self, query: str) -> int:
        [number] = self._conn.execute(query).fetchone()
        return int(number)


def _added_up(first: bytes | None, second: bytes | None) -> bytes | None:
    """The formula input of two rows: amounts are added up, evidence is the first row's. None for too much."""
    if first is None or second is None:
        return b""
    total, more = msgspec.json.decode(first), msgspec.json.decode(second)
    for key in total:
        if key.endswith("Micro"):
            total[key] = str(int(total[key]) + int(more[key]))
            if int(total[key]) > MAX_MICRO:
                return None
    return msgspec.json.encode(total)
