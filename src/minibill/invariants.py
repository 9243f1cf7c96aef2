"""Whether a book is whole: the ten checks of a reconciliation. The service, the command line and the tests run these alone.

A check is a handful of rules of sql/invariants.sql; the hashes of the audit log are recomputed here. A check never raises
for what a book holds: however broken, it comes to a finding that names what is wrong.
"""

import logging
from collections.abc import Callable
from typing import NamedTuple

from minibill import audit, ids
from minibill.db.constraints import error_code
from minibill.db.queries import read_queries, sql_folder
from minibill.db.sqlite import sqlite3

log = logging.getLogger("minibill.invariants")

EXAMPLES_MAX = 10

# Rows of the audit log that are hashed without a pause: well under a millisecond.
AUDIT_CHUNK_ROWS = 100

RULES = {query.name: query for query in read_queries(sql_folder() / "invariants.sql")}

_KINDS = frozenset({ids.ACCOUNT, ids.LOT, ids.ENTRY, ids.RESERVATION, ids.CAMPAIGN, ids.GRANT, ids.AUDIT})


class Check(NamedTuple):
    """What a check looks at: the table whose rows it counts (None: all that name others), and the rules that must hold."""

    table: str | None
    rules: tuple[str, ...]


# In the order of the contract, section 6.
CHECKS = {
    "lot_balance_match": Check("credit_lots", ("lots_have_parts_that_sum_to_their_original",)),
    "balance_cache_match": Check(
        "credit_balances",
        (
            "balances_are_those_of_the_newest_entry",
            "balances_are_the_sums_of_the_lots",
            "every_pool_with_entries_has_a_balance",
            "debts_are_what_the_entries_say",
            "thresholds_are_on_the_side_of_their_balance",
        ),
    ),
    "entry_chain": Check(
        "credit_ledger",
        (
            "entries_follow_the_one_before",
            "entries_are_in_the_order_of_time",
            "entries_mean_what_their_type_says",
            "events_are_in_the_order_of_the_entries",
            "rows_have_ids_of_an_epoch",
        ),
    ),
    "entries_match_lots": Check(
        "credit_ledger", ("lots_say_what_their_entries_say", "entries_are_about_lots_of_their_account_and_pool")
    ),
    "reservation_match": Check(
        "credit_reservations",
        (
            "reservations_hold_what_their_lots_say",
            "reservations_hold_lots_of_their_account_and_pool",
            "lots_hold_what_pending_reservations_hold",
            "reservations_have_figures_that_add_up",
            "reservations_moved_what_their_entries_say",
            "entries_move_lots_for_the_reservation_that_holds_them",
            "entries_act_for_reservations_of_their_account",
            "debts_are_what_their_reservation_left_unpaid",
        ),
    ),
    "orphan_reservations": Check(
        "credit_reservations",
        (
            "reservations_that_hold_credits_hold_lots",
            "reservations_are_of_accounts_that_there_are",
            "lots_are_held_by_reservations_that_there_are",
            "entries_name_reservations_that_there_are",
        ),
    ),
    "campaign_spent_match": Check(
        "credit_campaigns",
        (
            "campaigns_have_spent_what_their_grants_came_to",
            "campaigns_counted_what_became_of_their_grants",
            "campaigns_counted_what_they_did_each_day",
        ),
    ),
    "grant_lot_match": Check(
        "credit_grants",
        (
            "grants_have_their_lots",
            "lots_of_campaigns_have_their_grants",
            "grants_say_of_their_lots_what_was_revoked",
            "lots_are_revoked_with_their_grant",
        ),
    ),
    "audit_chain": Check(
        "admin_audit_log",
        (
            "the_audit_log_holds_what_the_last_reconciliation_saw",
            "accounts_are_no_newer_than_the_audit_log",
            "lots_are_no_newer_than_the_audit_log",
            "campaigns_are_no_newer_than_the_audit_log",
            "revocations_are_no_newer_than_the_audit_log",
        ),
    ),
    "foreign_keys": Check(
        None,
        (
            "rows_name_rows_that_there_are",
            "reservation_lots_name_rows_that_there_are",
            "balances_are_of_accounts_that_there_are",
            "thresholds_are_of_accounts_that_there_are",
            "campaign_days_are_of_campaigns_that_there_are",
        ),
    ),
}

# What the hashes of the audit log prove; no query can.
AUDIT_RULE = "audit_rows_are_chained"
# What is broken when SQLite can't even read what a check looks at.
FILE_RULE = "the_file_can_be_read"


# SQLite's codes of what a broken file comes to: 0 (text that is no UTF-8), ERROR, IOERR, CORRUPT, NOTADB.
_OF_THE_FILE = frozenset({0, 1, 10, 11, 26})


class Finding(NamedTuple):
    """What a check came to. `examples` are public ids of the first things that are wrong, `broken` the rules they break."""

    checked: int
    violations: int
    examples: list[str]
    broken: list[str]


def run_checks(
    conn: sqlite3.Connection,
    *,
    pause: Callable[[], object] = lambda: None,
    on_check: Callable[[str], None] = lambda _: None,
) -> dict[str, Finding]:
    """The findings of all checks, by name. Reads only; the caller gives it a snapshot by a transaction of its own.

    `on_check` hears of each check before it begins. `pause` is called between pieces of what is computed in Python.
    """
    findings = {}
    for name in CHECKS:
        on_check(name)
        findings[name] = run_check(conn, name, pause=pause)
    return findings


def run_check(conn: sqlite3.Connection, name: str, *, pause: Callable[[], object] = lambda: None) -> Finding:
    """The finding of one check. Raises only what is not the file's fault: an interrupt, no room for a sort."""
    check = CHECKS[name]
    try:
        checked = sum(_count(conn, table) for table in ([check.table] if check.table else _referencing(conn)))
        rows = conn.execute(_STATEMENTS[name]).fetchall()
        violations = rows[0][0] if rows else 0
        examples = [_public_id(kind, key) for _, kind, key, _ in rows]
        broken = {rule for *_, rules in rows for rule in rules.split()}
        if name == "audit_chain" and (unchained := _unchained(conn, pause)):
            # The anchor is one row at most, and may be one of these.
            violations += len(unchained) - len(set(examples) & set(unchained))
            examples = list(dict.fromkeys(unchained + examples))[:EXAMPLES_MAX]
            broken.add(AUDIT_RULE)
    except sqlite3.DatabaseError as error:
        if not is_of_the_file(error):
            raise
        log.error("the file can't be read", extra={"check": name, "reason": str(error)})
        return Finding(0, 1, [], [FILE_RULE])
    return Finding(checked, violations, examples, sorted(broken))


def is_of_the_file(error: sqlite3.DatabaseError) -> bool:
    """Whether an error is one that a broken file comes to, and not a lock, an interrupt or no room for a sort."""
    return error_code(error) in _OF_THE_FILE and not isinstance(error, sqlite3.ProgrammingError)


def violations(conn: sqlite3.Connection) -> dict[str, list[str]]:
    """The checks that fail, with examples of what is wrong and the rules they break; empty when the book is whole."""
    return {name: found.examples + found.broken for name, found in run_checks(conn).items() if found.violations}


def _statement(check: Check) -> str:
    """One statement for all rules of a check: a thing that breaks several of them is one violation."""
    found = " UNION ALL ".join(f"SELECT '{rule}' AS rule, kind, id FROM ({RULES[rule].sql})" for rule in check.rules)
    return (
        f"SELECT count(*) OVER (), kind, id, group_concat(rule, ' ') FROM ({found}) "
        f"GROUP BY kind, id ORDER BY kind, id LIMIT {EXAMPLES_MAX}"
    )


_STATEMENTS = {name: _statement(check) for name, check in CHECKS.items()}


def _referencing(conn: sqlite3.Connection) -> list[str]:
    """The tables with foreign keys."""
    rows = conn.execute(
        "SELECT name FROM sqlite_schema s WHERE type = 'table' AND EXISTS (SELECT 1 FROM pragma_foreign_key_list(s.name))"
    ).fetchall()
    return [name for (name,) in rows]


def _count(conn: sqlite3.Connection, table: str) -> int:
    count: int = conn.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
    return count


def _public_id(kind: str, key: object) -> str:
    if kind in _KINDS and isinstance(key, int):
        return ids.encode(kind, key)
    return kind if key is None else f"{kind}:{key}"


def _unchained(conn: sqlite3.Connection, pause: Callable[[], object]) -> list[str]:
    """The rows of the audit log that do not carry the hash of the one before, or their own."""
    unchained: list[str] = []
    previous_hash, number = audit.NO_HASH, 0
    columns = ", ".join(audit.HASHED)
    cursor = conn.execute(f"SELECT {columns}, previous_hash, hash FROM admin_audit_log ORDER BY seq")
    while rows := cursor.fetchmany(AUDIT_CHUNK_ROWS):
        for *hashed, previous, own in rows:
            number += 1
            if hashed[0] != number or previous != previous_hash or own != _row_hash(tuple(hashed), previous):
                unchained.append(_public_id(ids.AUDIT, hashed[1]))
                number = hashed[0]
            previous_hash = own
        pause()
    return unchained


def _row_hash(row: tuple[object, ...], previous_hash: bytes) -> bytes | None:
    """The hash that a row should have; None when it holds what no row of ours can."""
    try:
        return audit.row_hash(row, previous_hash)
    except (TypeError, ValueError):
        return None
