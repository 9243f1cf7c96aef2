"""Rows of an import and their results, in a temporary file, so that memory does not grow with the list.

The file is an SQLite database without a journal. It is deleted as soon as it is open, so a crash leaves nothing behind.
"""

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple, Self

import msgspec

from minibill.cli.grants_csv import ListRow, RowError, quoted
from minibill.core.money import MAX_MICRO
from minibill.db.connection import open_scratch
from minibill.db.sqlite import DatabaseError

# Pages kept in memory; the others are in the file.
CACHE_KIB = 16_384

_SCHEMA = """
-- pays: the row pays its account. Of several rows of one account, the first one pays; with --sum, into_line of the others is
-- its line. expected_micro: the amount, or the result of the campaign's formula; NULL if only the service knows it.
CREATE TABLE rows (
    line INTEGER PRIMARY KEY, account TEXT, pays INTEGER NOT NULL, into_line INTEGER, amount_micro INTEGER,
    expected_micro INTEGER, formula_input BLOB, error TEXT, error_value TEXT);
CREATE UNIQUE INDEX rows_once_per_account ON rows (account) WHERE pays;
CREATE TABLE results (
    line INTEGER PRIMARY KEY, status TEXT NOT NULL, amount_micro INTEGER, account_id TEXT, grant_id TEXT, reason TEXT);
"""
_INSERT = """
INSERT OR IGNORE INTO rows (line, account, pays, into_line, amount_micro, expected_micro, formula_input, error, error_value)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"""
_TO_SEND = """
SELECT r.line, r.account, r.amount_micro, r.expected_micro, r.formula_input
  FROM rows r LEFT JOIN results s USING (line)
 WHERE r.line > ? AND r.pays AND r.error IS NULL AND coalesce(s.status, 'new') = 'new'
 ORDER BY r.line LIMIT ?"""
_OUTCOMES = """
SELECT r.line, r.account, r.into_line, coalesce(f.error, r.error), coalesce(f.error_value, r.error_value), f.expected_micro,
       s.status, s.amount_micro, s.account_id, s.grant_id, s.reason
  FROM rows r LEFT JOIN rows f ON f.line = coalesce(r.into_line, r.line) LEFT JOIN results s ON s.line = f.line
 ORDER BY r.line"""


# Raised by every operation on the rows if the temporary file can't be written.
TemporaryFileError = DatabaseError


class Item(NamedTuple):
    """One grant to request. `expected_micro` is None if only the service knows the amount."""

    line: int
    account: str
    amount_micro: int | None
    expected_micro: int | None
    formula_input: bytes | None


class Result(NamedTuple):
    """Result of a row. In a dry run, `new` means that a real run would pay the row."""

    line: int
    status: str
    amount_micro: int | None = None
    account_id: str | None = None
    grant_id: str | None = None
    reason: str | None = None


class Outcome(NamedTuple):
    """A row of the list with its result. `status` is None if the row was not sent."""

    line: int
    account: str | None
    into_line: int | None
    error: RowError | None
    expected_micro: int | None
    status: str | None
    amount_micro: int | None
    account_id: str | None
    grant_id: str | None
    reason: str | None


class Total(NamedTuple):
    """Sum and largest amount of the good rows, and the number of rows whose amount only the service knows."""

    total_micro: int
    largest_micro: int
    unknown: int


class Rows:
    """All rows of a list and their results, in list order."""

    def __init__(self) -> None:
        descriptor, path = tempfile.mkstemp(prefix="minibill-import-")
        os.close(descriptor)
        try:
            self._conn = open_scratch(Path(path), cache_kib=CACHE_KIB)
            self._conn.executescript(_SCHEMA)
        finally:
            os.unlink(path)  # noqa: PTH108
        # One transaction, never committed: only this connection reads the file.
        self._conn.execute("BEGIN")
        self.good = 0
        self.bad = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._conn.close()

    # --- reading the list ---

    def add(self, rows: Iterable[ListRow], *, sum_rows: bool) -> None:
        """Store the rows of a list. A second row of an account is an error, or is added to the first with `sum_rows`."""
        for row in rows:
            if row.account is None or not self._insert(row, pays=True):
                self._add_other(row, sum_rows=sum_rows)
        self.good = self._number("SELECT count(*) FROM rows WHERE pays AND error IS NULL")
        self.bad = self._number(
            "SELECT count(*) FROM rows r LEFT JOIN rows f ON f.line = r.into_line "
            "WHERE coalesce(f.error, r.error) IS NOT NULL"
        )

    def _add_other(self, row: ListRow, *, sum_rows: bool) -> None:
        """Store a row that has no account, or whose account an earlier row names."""
        if row.account is None:
            self._insert(row, pays=False)
            return
        first, amount_micro, formula_input, first_error = self._conn.execute(
            "SELECT line, amount_micro, formula_input, error FROM rows WHERE account = ? AND pays", (row.account,)
        ).fetchone()
        if not sum_rows:
            error = row.error or RowError("names the account of an earlier row:", f"{quoted(row.account)} of line {first}")
            self._insert(row._replace(error=error), pays=False)
            return
        # An incomplete sum must not be paid: the campaign pays an account only once.
        if row.error is not None or first_error is not None:
            reason = "another row of the same account can't be read:"
            if first_error is None:
                self._set_error(first, RowError(reason, f"line {row.line}"))
            self._insert(row._replace(error=row.error or RowError(reason, f"line {first}")), pays=False)
            return
        total_micro = None if amount_micro is None else amount_micro + (row.amount_micro or 0)
        total_input = _sum_inputs(formula_input, row.formula_input)
        if total_input is None or (total_micro or 0) > MAX_MICRO:
            self._set_error(first, RowError(f"the rows of this account add up to more than {MAX_MICRO} micro"))
        else:
            self._conn.execute(
                "UPDATE rows SET amount_micro = ?, expected_micro = ?, formula_input = ? WHERE line = ?",
                (total_micro, total_micro, total_input or None, first),
            )
        self._insert(row, pays=False, into_line=first)

    def _insert(self, row: ListRow, *, pays: bool, into_line: int | None = None) -> bool:
        """Return true if the row was inserted, false if another row pays its account."""
        reason, value = row.error or (None, None)
        values = (
            row.line,
            row.account,
            pays,
            into_line,
            row.amount_micro,
            row.amount_micro,
            row.formula_input,
            reason,
            value,
        )
        return self._conn.execute(_INSERT, values).rowcount == 1

    def _set_error(self, line: int, error: RowError) -> None:
        self._conn.execute("UPDATE rows SET error = ?, error_value = ? WHERE line = ?", (*error, line))

    def errors(self) -> Iterator[tuple[int, RowError]]:
        """Yield line and error of each bad row, by line."""
        return ((outcome.line, outcome.error) for outcome in self.outcomes() if outcome.error is not None)

    # --- paying it ---

    def compute_amounts(self, amount_of: Callable[[bytes | None], int | None]) -> None:
        """Compute the expected amounts of rows without an amount, from their formula input."""
        self._conn.create_function("amount_of", 1, amount_of, deterministic=True)
        self._conn.execute(
            "UPDATE rows SET expected_micro = amount_of(formula_input) WHERE amount_micro IS NULL AND pays AND error IS NULL"
        )

    def total(self) -> Total:
        """Add up the expected amounts of the good rows."""
        total_micro = largest_micro = unknown = 0
        with closing(self._conn.execute("SELECT expected_micro FROM rows WHERE pays AND error IS NULL")) as cursor:
            for (amount_micro,) in cursor:
                if amount_micro is None:
                    unknown += 1
                else:
                    total_micro += amount_micro
                    largest_micro = max(largest_micro, amount_micro)
        return Total(total_micro, largest_micro, unknown)

    def to_send(self, *, after_line: int, count: int) -> list[Item]:
        """Return the next good rows without a final result."""
        return [Item(*row) for row in self._conn.execute(_TO_SEND, (after_line, count)).fetchall()]

    def record(self, results: Iterable[Result]) -> None:
        """Store results. A later result of a row replaces an earlier one."""
        self._conn.executemany("INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?, ?, ?)", results)

    def outcomes(self) -> Iterator[Outcome]:
        """Yield every row of the list with its result, by line."""
        with closing(self._conn.execute(_OUTCOMES)) as cursor:
            for line, account, into_line, reason, value, *rest in cursor:
                yield Outcome(line, account, into_line, None if reason is None else RowError(reason, value), *rest)

    def _number(self, query: str) -> int:
        [number] = self._conn.execute(query).fetchone()
        return int(number)


def _sum_inputs(first: bytes | None, second: bytes | None) -> bytes | None:
    """Add the amounts of two formula inputs and keep the first one's evidence. Return None above the maximum."""
    if first is None or second is None:
        return b""
    total, more = msgspec.json.decode(first), msgspec.json.decode(second)
    for key in total:
        if key.endswith("Micro"):
            total[key] = str(int(total[key]) + int(more[key]))
            if int(total[key]) > MAX_MICRO:
                return None
    return msgspec.json.encode(total)
