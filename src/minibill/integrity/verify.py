"""The same checks on a file that this process does not serve, whether the file is sound, and whether it lacks anything."""

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
from minibill.integrity.checks import CHECKS, EXAMPLES_MAX, Finding, is_of_the_file, run_checks
from minibill.integrity.hash_chain import broken_links
from minibill.integrity.report import Report, report_of

# What SQLite finds out about its pages, indexes and constraints, and whether the schema, whose triggers and unique indexes
# hold the rules, is the migrations'; beside the checks of a reconciliation, which are about what rows say.
FILE_CHECK = "file_integrity"

# Whether rows that never change are what the chain says, and whether it reaches as far as the anchor.
CHAIN_CHECK = "commit_chain"

# Whether the answers that are kept for idempotency keys are what was answered.
ANSWERS_CHECK = "kept_answers"

STEPS = 3 + len(CHECKS)

# A file that begins to be served while it is read is read again, now as one that is served.
TRIES_MAX = 3
AGAIN_SECONDS = 0.5

_CHECK = re.compile(r"CONSTRAINT\s+(\w+)\s+CHECK\s*\(")
# A parenthesis, a literal, a comment, or any other character.
_PIECE = re.compile(r"[()]|'(?:[^']|'')*'|--[^\n]*|.", re.DOTALL)

OnStep = Callable[[str], None]


class Verified(NamedTuple):
    """What a file came to: the report with what is checked of files alone, and the rules that each failed check broke.

    Not `anchored`: there was nothing to compare with that could tell whether the newest commits are missing.
    """

    report: Report
    broken: dict[str, list[str]]
    anchored: bool


def verify_file(path: Path, *, on_step: OnStep = lambda _: None, paced: bool = False) -> Verified:
    """Checks a file without changing it or its log, whether or not it is being served.

    `on_step` hears of each of the `STEPS` checks before it begins. A `paced` check leaves the core to others now and then.
    Raises what `open_snapshot` raises; a book that is too damaged to be opened fails `file_integrity`, and nothing else is
    checked.
    """
    for _ in range(TRIES_MAX - 1):
        try:
            return _verify(path, on_step, paced=paced)
        except SnapshotInvalidated:
            time.sleep(AGAIN_SECONDS)
    return _verify(path, on_step, paced=paced)


def _verify(path: Path, on_step: OnStep, *, paced: bool) -> Verified:
    began_s, at_us = monotonic_s(), real_now_us()
    # Before the snapshot, which then has all that the anchor speaks of, also while the book is served.
    anchored = read_anchor(path)
    try:
        with open_snapshot(path) as conn:
            if paced:
                pace(conn)
            findings = {}
            for name, check in (
                (FILE_CHECK, _check_file),
                (CHAIN_CHECK, lambda conn: _check_chain(conn, anchored)),
                (ANSWERS_CHECK, _check_answers),
            ):
                on_step(name)
                findings[name] = _finding(check, conn)
            findings |= run_checks(conn, on_check=on_step)
    except (NotABook, DatabaseError) as error:
        if (isinstance(error, DatabaseError) and not is_of_the_file(error)) or not was_a_book(path):
            raise
        findings = {FILE_CHECK: Finding(0, 1, [str(error)], [])}
    report = report_of(findings, at_us=at_us, duration_ms=round((monotonic_s() - began_s) * 1000))
    broken = {name: found.broken for name, found in findings.items() if found.violations}
    return Verified(report, broken, anchored is not None)


def _finding(check: Callable[[Connection], Finding], conn: Connection) -> Finding:
    try:
        return check(conn)
    except DatabaseError as error:
        if not is_of_the_file(error):
            raise
        return Finding(0, 1, [str(error)], [])


def _check_chain(conn: Connection, anchored: HighWaterMark | None) -> Finding:
    checked, numbers = broken_links(conn)
    faults = [f"link {number} is not that of its rows" for number in numbers]
    mark_of(conn)
    if anchored is not None and (lost := missing(conn, anchored)) is not None:
        faults.insert(0, lost)
    return Finding(checked, len(faults), faults[:EXAMPLES_MAX], [])


def _check_answers(conn: Connection) -> Finding:
    checked, keys = damaged_responses(conn)
    examples = [f"idempotency_keys:{key}" for key in keys[:EXAMPLES_MAX]]
    return Finding(checked, len(keys), examples, [])


def _check_file(conn: Connection) -> Finding:
    """What is wrong with pages, indexes, columns (in SQLite's words) and the schema, and which constraints rows break."""
    pages: int = conn.execute("PRAGMA page_count").fetchone()[0]
    # One more than is shown.
    rows = conn.execute(f"PRAGMA integrity_check({EXAMPLES_MAX + 1})").fetchall()
    faults = [text for (text,) in rows if text != "ok"]
    faults += schema_differences(conn)
    broken = _broken_constraints(conn)
    named = [f"{count} of {table} break {constraint}" for table, constraint, count in broken]
    return Finding(pages, len(faults) + sum(count for *_, count in broken), [*faults, *named][:EXAMPLES_MAX], [])


def _broken_constraints(conn: Connection) -> list[tuple[str, str, int]]:
    """Table, constraint, and how many rows break it. On a read-only connection SQLite's own check leaves these out."""
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
    """The name and the expression of each CHECK of a CREATE TABLE."""
    checks = []
    for found in _CHECK.finditer(sql):
        depth, end = 1, found.end()
        while depth:
            piece = _PIECE.match(sql, end)
            assert piece is not None, "SQLite took this statement"
            depth += {"(": 1, ")": -1}.get(piece[0], 0)
            end = piece.end()
        checks.append((found[1], sql[found.end() : end - 1]))
    return checks
