"""The same checks on a file that this process does not serve, and whether the file itself is sound."""

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from minibill.clock import monotonic_s, real_now_us
from minibill.db.migrate import schema_differences
from minibill.db.snapshot import Disturbed, open_snapshot
from minibill.db.sqlite import sqlite3
from minibill.invariants import CHECKS, EXAMPLES_MAX, Finding, run_checks
from minibill.reconcile.report import Report, report_of

# What SQLite finds out about its pages, indexes and constraints, and whether the schema, whose triggers and unique indexes
# hold the rules, is the migrations'; beside the ten checks, which are about what rows say.
FILE_CHECK = "file_integrity"

STEPS = 1 + len(CHECKS)

# A file that begins to be served while it is read is read again, now as one that is served.
TRIES_MAX = 3
AGAIN_SECONDS = 0.5

_CHECK = re.compile(r"CONSTRAINT\s+(\w+)\s+CHECK\s*\(")
# A parenthesis, a literal, a comment, or any other character.
_PIECE = re.compile(r"[()]|'(?:[^']|'')*'|--[^\n]*|.", re.DOTALL)

OnStep = Callable[[str], None]


class Verified(NamedTuple):
    """What a file came to: the report with `file_integrity` among its checks, and the rules that each failed check broke."""

    report: Report
    broken: dict[str, list[str]]


def verify_file(path: Path, *, on_step: OnStep = lambda _: None) -> Verified:
    """Checks a file without changing it or its log, whether or not it is being served.

    `on_step` hears of each of the `STEPS` checks before it begins. Raises what `open_snapshot` raises, and
    `sqlite3.DatabaseError` when not even the schema can be read.
    """
    for _ in range(TRIES_MAX - 1):
        try:
            return _verify(path, on_step)
        except Disturbed:
            time.sleep(AGAIN_SECONDS)
    return _verify(path, on_step)


def _verify(path: Path, on_step: OnStep) -> Verified:
    began_s, at_us = monotonic_s(), real_now_us()
    with open_snapshot(path) as conn:
        on_step(FILE_CHECK)
        findings = {FILE_CHECK: _check_file(conn)}
        findings |= run_checks(conn, on_check=on_step)
    report = report_of(findings, at_us=at_us, duration_ms=round((monotonic_s() - began_s) * 1000))
    return Verified(report, {name: found.broken for name, found in findings.items() if found.violations})


def _check_file(conn: sqlite3.Connection) -> Finding:
    """What is wrong with pages, indexes, columns (in SQLite's words) and the schema, and which constraints rows break."""
    try:
        pages: int = conn.execute("PRAGMA page_count").fetchone()[0]
        # One more than is shown.
        rows = conn.execute(f"PRAGMA integrity_check({EXAMPLES_MAX + 1})").fetchall()
        faults = [text for (text,) in rows if text != "ok"]
        faults += schema_differences(conn)
        broken = _broken_constraints(conn)
    except sqlite3.DatabaseError as error:
        return Finding(0, 1, [str(error)], [])
    named = [f"{count} of {table} break {constraint}" for table, constraint, count in broken]
    return Finding(pages, len(faults) + sum(count for *_, count in broken), [*faults, *named][:EXAMPLES_MAX], [])


def _broken_constraints(conn: sqlite3.Connection) -> list[tuple[str, str, int]]:
    """Table, constraint, and how many rows break it. On a read-only connection SQLite's own check leaves these out."""
    broken = []
    for table, sql in conn.execute(
        "SELECT name, sql FROM sqlite_schema WHERE type = 'table' AND sql IS NOT NULL"
    ).fetchall():
        checks = list(_checks_of(sql))
        if not checks:
            continue
        counts = ", ".join(f"coalesce(sum(NOT ({expression})), 0)" for _, expression in checks)
        found = conn.execute(f"SELECT {counts} FROM {table}").fetchone()
        broken += [(table, name, count) for (name, _), count in zip(checks, found, strict=True) if count]
    return broken


def _checks_of(sql: str) -> Iterator[tuple[str, str]]:
    """The name and the expression of each CHECK of a CREATE TABLE."""
    for found in _CHECK.finditer(sql):
        depth, end = 1, found.end()
        while depth:
            piece = _PIECE.match(sql, end)
            assert piece is not None, "SQLite took this statement"
            depth += {"(": 1, ")": -1}.get(piece[0], 0)
            end = piece.end()
        yield found[1], sql[found.end() : end - 1]
