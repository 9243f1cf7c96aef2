"""Verification of a database file: the checks of a reconciliation, the file itself, the hash chain and the stored responses.

`minibill verify` and the backup commands use it on files that this process does not serve.
"""

import re
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

from minibill.api.idempotency import damaged_responses
from minibill.core.clock import monotonic_s, real_now_us
from minibill.db.anchor import HighWaterMark, mark_of, missing, read_anchor
from minibill.db.connection import NotABook
from minibill.db.migrations import schema_differences
from minibill.db.pacing import pace
from minibill.db.snapshot import SnapshotInvalidated, open_snapshot, was_a_book
from minibill.db.sqlite import Connection, DatabaseError
from minibill.integrity.checks import CHECKS, EXAMPLES_MAX, Finding, is_file_damage, run_checks
from minibill.integrity.hash_chain import broken_links
from minibill.integrity.report import Report, report_of

# SQLite's own checks of pages, indexes and constraints, and a comparison of the schema with the migrations.
FILE_CHECK = "file_integrity"

# Append-only rows compared with the hash chain, and its end compared with the anchor.
CHAIN_CHECK = "commit_chain"

# Stored responses of idempotency keys compared with their checksums.
RESPONSES_CHECK = "stored_responses"

STEPS = 3 + len(CHECKS)

# If a service opens the file during a read, the read is repeated as for a served file.
ATTEMPTS_MAX = 3
RETRY_SECONDS = 0.5

_CHECK = re.compile(r"CONSTRAINT\s+(\w+)\s+CHECK\s*\(")
# A parenthesis, a literal, a comment, or any other character.
_PIECE = re.compile(r"[()]|'(?:[^']|'')*'|--[^\n]*|.", re.DOTALL)

OnStep = Callable[[str], None]


class Verified(NamedTuple):
    """The report of a file, and the broken rules of each failed check.

    Without an anchor file `anchored` is false: missing commits at the end can't be detected.
    """

    report: Report
    broken: dict[str, list[str]]
    anchored: bool


def verify_file(path: Path, *, on_step: OnStep = lambda _: None, paced: bool = False) -> Verified:
    """Check a file, served or not, without changing it or its write-ahead log.

    `on_step` is called with the name of each of the `STEPS` checks before it starts. With `paced`, the checks yield the core
    to other processes. Raises what `open_snapshot` raises. A database that is too damaged to open fails `file_integrity`,
    and no other check runs.
    """
    for _ in range(ATTEMPTS_MAX - 1):
        try:
            return _verify(path, on_step, paced=paced)
        except SnapshotInvalidated:
            time.sleep(RETRY_SECONDS)
    return _verify(path, on_step, paced=paced)


def _verify(path: Path, on_step: OnStep, *, paced: bool) -> Verified:
    began_s, at_us = monotonic_s(), real_now_us()
    # Read before the snapshot, which then has all commits that the anchor counts, also while the book is served.
    anchored = read_anchor(path)
    try:
        with open_snapshot(path) as conn:
            if paced:
                pace(conn)
            findings = {}
            for name, check in (
                (FILE_CHECK, _check_file),
                (CHAIN_CHECK, lambda conn: _check_chain(conn, anchored)),
                (RESPONSES_CHECK, _check_responses),
            ):
                on_step(name)
                findings[name] = _finding(check, conn)
            findings |= run_checks(conn, on_check=on_step)
    except (NotABook, DatabaseError) as error:
        if (isinstance(error, DatabaseError) and not is_file_damage(error)) or not was_a_book(path):
            raise
        findings = {FILE_CHECK: Finding(0, 1, [str(error)], [])}
    report = report_of(findings, at_us=at_us, duration_ms=round((monotonic_s() - began_s) * 1000))
    broken = {name: found.broken for name, found in findings.items() if found.violations}
    return Verified(report, broken, anchored is not None)


def _finding(check: Callable[[Connection], Finding], conn: Connection) -> Finding:
    try:
        return check(conn)
    except DatabaseError as error:
        if not is_file_damage(error):
            raise
        return Finding(0, 1, [str(error)], [])


def _check_chain(conn: Connection, anchored: HighWaterMark | None) -> Finding:
    checked, numbers = broken_links(conn)
    faults = [f"link {number} does not match its rows" for number in numbers]
    mark_of(conn)
    if anchored is not None and (lost := missing(conn, anchored)) is not None:
        faults.insert(0, lost)
    return Finding(checked, len(faults), faults[:EXAMPLES_MAX], [])


def _check_responses(conn: Connection) -> Finding:
    checked, keys = damaged_responses(conn)
    examples = [f"idempotency_keys:{key}" for key in keys[:EXAMPLES_MAX]]
    return Finding(checked, len(keys), examples, [])


def _check_file(conn: Connection) -> Finding:
    """Check pages, indexes and columns with SQLite, the schema, and the constraints of all rows."""
    pages: int = conn.execute("PRAGMA page_count").fetchone()[0]
    # One more than the report shows, so that a longer list is counted as longer.
    rows = conn.execute(f"PRAGMA integrity_check({EXAMPLES_MAX + 1})").fetchall()
    faults = [text for (text,) in rows if text != "ok"]
    faults += schema_differences(conn)
    broken = _broken_constraints(conn)
    named = [f"{count} of {table} break {constraint}" for table, constraint, count in broken]
    return Finding(pages, len(faults) + sum(count for *_, count in broken), [*faults, *named][:EXAMPLES_MAX], [])


def _broken_constraints(conn: Connection) -> list[tuple[str, str, int]]:
    """Return each table and constraint with the number of rows that break it.

    On a read-only connection SQLite's integrity check leaves CHECK constraints out.
    """
    broken = []
    for table, sql in conn.execute(
        "SELECT name, sql FROM sqlite_schema WHERE type = 'table' AND sql IS NOT NULL"
    ).fetchall():
        checks = _checks_of(sql)
        if not checks:
            continue
        counts = ", ".join(f"coalesce(sum(NOT ({expression})), 0)" for _, expression in checks)
        found = conn.execute(f"SELECT {counts} FROM {table}").fetchone()
        broken += [(table, name, count) for (name, _), count in zip(checks, found, strict=True) if count]
    return broken


@cache
def _checks_of(sql: str) -> list[tuple[str, str]]:
    """Return the name and the expression of each CHECK of a CREATE TABLE statement."""
    checks = []
    for found in _CHECK.finditer(sql):
        depth, end = 1, found.end()
        while depth:
            piece = _PIECE.match(sql, end)
            assert piece is not None, "SQLite accepted this statement"
            depth += {"(": 1, ")": -1}.get(piece[0], 0)
            end = piece.end()
        checks.append((found[1], sql[found.end() : end - 1]))
    return checks
