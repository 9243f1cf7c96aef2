"""The checks of a reconciliation, for the service, the command line and the tests.

A check is a group of rules. Most rules are queries of sql/invariants.sql; three kinds need Python: the hashes of the audit
log, the settings, and the sums by day. A check never raises for the contents of a database, however damaged: it reports a
finding. Memory stays bounded, because a rule that sorts runs over one slice of accounts after the other.
"""

import logging
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from minibill.audit import log as audit_log
from minibill.core import ids
from minibill.db.constraint_errors import error_code
from minibill.db.queries import read_queries, sql_folder
from minibill.db.sqlite import Connection, DatabaseError, ProgrammingError
from minibill.integrity.audited_settings import SETTINGS, differences

log = logging.getLogger("minibill.checks")

EXAMPLES_MAX = 10

# Rows of the audit log that are hashed between two pauses: well under a millisecond.
AUDIT_CHUNK_ROWS = 100

# Entries of the accounts of one slice: a sort of these takes some MiB.
SLICE_ENTRIES = 25_000

# Violations that are counted once even if they break two rules; about one MiB.
DISTINCT_MAX = 10_000

# Bounds of any id, also that of a damaged row.
_LEAST, _GREATEST = -(2**63), 2**63 - 1

RULES = {query.name: query for query in read_queries(sql_folder() / "invariants.sql")}

_KINDS = frozenset(
    {ids.ACCOUNT, ids.LOT, ids.ENTRY, ids.RESERVATION, ids.CHARGE, ids.CAMPAIGN, ids.GRANT, ids.AUDIT, ids.WEBHOOK}
)


class Check(NamedTuple):
    """A check: the tables whose rows it counts (none: all tables with foreign keys), and the rules that must hold."""

    tables: tuple[str, ...]
    rules: tuple[str, ...]


# Rules that need Python: the hashes of the audit log, and sums whose number grows with the days of a campaign.
AUDIT_RULE = "audit_rows_are_chained"
DAYS_RULE = "campaign_days_match_entries"


# In the order of docs/reference/http-api.md.
CHECKS = {
    "lot_balance_match": Check(("credit_lots",), ("lots_parts_sum_to_original",)),
    "balance_cache_match": Check(
        ("credit_balances",),
        (
            "balances_match_newest_entry",
            "balances_match_lots",
            "pools_with_entries_have_balance",
            "thresholds_match_balance",
        ),
    ),
    "entry_chain": Check(
        ("credit_ledger",),
        (
            "entries_continue_previous_entry",
            "entries_are_in_time_order",
            "entries_deltas_match_type",
            "events_are_in_entry_order",
            "ids_belong_to_an_epoch",
        ),
    ),
    "entries_match_lots": Check(("credit_ledger",), ("lots_match_entries", "entries_match_account_and_pool_of_lot")),
    "reservation_match": Check(
        ("credit_reservations",),
        (
            "reservations_match_reserved_lots",
            "reservation_lots_match_account_and_pool",
            "lots_match_pending_reservations",
            "reservations_amounts_add_up",
            "reservations_match_entries",
            "entries_match_reserved_lots",
            "entries_match_account_of_reservation",
            "reservations_have_entries",
            "silent_ends_are_recorded",
            "debts_match_incurring_entry",
            "debt_entries_have_debt",
            "debts_paid_matches_entries",
            "paid_debts_have_entries",
        ),
    ),
    "charge_match": Check(
        ("credit_charges",),
        ("charges_amounts_add_up", "charges_match_entries", "entries_match_their_charge"),
    ),
    "orphan_reservations": Check(
        ("credit_reservations",),
        (
            "reservations_have_lots",
            "reservations_have_account",
            "reservation_lots_have_reservation_and_lot",
            "entries_have_reservation",
        ),
    ),
    "campaign_spent_match": Check(
        ("credit_campaigns",),
        (
            "campaigns_spent_matches_grants",
            "campaign_totals_match_grants",
            "campaign_days_match_entries",
        ),
    ),
    "grant_lot_match": Check(
        ("credit_grants",),
        (
            "grants_match_lots",
            "campaign_lots_have_grant",
            "grants_revocation_matches_lot",
            "revoked_lots_have_revoked_grant",
            "grants_match_revoked_event",
            "revoked_grants_have_event",
        ),
    ),
    "audit_chain": Check(
        ("admin_audit_log",),
        (
            AUDIT_RULE,
            "audit_log_contains_reconciled_row",
            "lots_not_newer_than_audit_log",
            "campaigns_not_newer_than_audit_log",
            "revocations_not_newer_than_audit_log",
        ),
    ),
    "foreign_keys": Check(
        (),
        (
            "foreign_keys_are_valid",
            "reservation_lots_foreign_keys_are_valid",
            "balances_have_account",
            "thresholds_have_account",
            "campaign_days_have_campaign",
        ),
    ),
    "settings_match_audit": Check(
        ("discount_tiers", "memberships", "thresholds", "credit_campaigns", "webhooks", "revoked_tokens"),
        tuple(SETTINGS),
    ),
}

# The broken rule of a check whose tables SQLite can't read.
FILE_RULE = "the_file_can_be_read"


# SQLite's error codes for a damaged file: 0 (text that is not UTF-8), ERROR, IOERR, CORRUPT, NOTADB.
_DAMAGE_CODES = frozenset({0, 1, 10, 11, 26})


class Finding(NamedTuple):
    """The result of a check: public ids of the first violations in `examples`, and the broken rules."""

    checked: int
    violations: int
    examples: list[str]
    broken: list[str]


# Raised by values that minibill never writes: text that is not UTF-8, NULL or text in place of a number.
_UNREADABLE = (TypeError, ValueError, OverflowError)


def run_checks(
    conn: Connection,
    *,
    pause: Callable[[], object] = lambda: None,
    on_check: Callable[[str], None] = lambda _: None,
) -> dict[str, Finding]:
    """Return the findings of all checks, by name. The connection must have a read transaction open, for one snapshot.

    `on_check` is called with the name of each check before it starts. `pause` is called between slices of work.
    """
    findings = {}
    for name in CHECKS:
        on_check(name)
        findings[name] = run_check(conn, name, pause=pause)
    return findings


def run_check(conn: Connection, name: str, *, pause: Callable[[], object] = lambda: None) -> Finding:
    """Return the finding of one check. Raises errors that no damage causes: an interrupt, or no space for a sort."""
    check = CHECKS[name]
    # For the one reference that is stored as text: the debt that an entry pays.
    conn.create_function("key_of", 2, _key_of, deterministic=True)
    found = _Violations()
    try:
        checked = sum(_count(conn, table) for table in check.tables or _tables_with_references(conn))
        for rule in check.rules:
            for violation in violations_of(conn, rule, pause):
                found.add(rule, *violation)
    except DatabaseError as error:
        if not is_file_damage(error):
            raise
        return _unreadable(name, error)
    except _UNREADABLE as error:
        return _unreadable(name, error)
    return Finding(checked, found.count, found.examples(), sorted(found.rules))


def _unreadable(name: str, error: Exception) -> Finding:
    log.error("could not read the database file", extra={"check": name, "reason": str(error)})
    return Finding(0, 1, [], [FILE_RULE])


class _Violations:
    """The violations of one check. A row that breaks several rules counts once."""

    def __init__(self) -> None:
        self.rules = set[str]()
        self.count = 0
        self._seen = set[tuple[str, Any]]()
        self._first: list[tuple[str, Any]] = []

    def add(self, rule: str, kind: str, key: Any) -> None:
        self.rules.add(rule)
        if (kind, key) in self._seen:
            return
        self.count += 1
        # Bounds the memory: beyond this number, a row that breaks two rules counts twice.
        if len(self._seen) < DISTINCT_MAX:
            self._seen.add((kind, key))
        self._first = sorted([*self._first, (kind, key)], key=_order)[:EXAMPLES_MAX]

    def examples(self) -> list[str]:
        return [public_id(kind, key) for kind, key in self._first]


def _order(violation: tuple[str, Any]) -> tuple[str, int, Any]:
    kind, key = violation
    rank = 0 if key is None else 1 if isinstance(key, int | float) else 2
    return kind, rank, 0 if key is None else key if rank == 1 else str(key)


def violations_of(conn: Connection, rule: str, pause: Callable[[], object] = lambda: None) -> Iterator[tuple[str, Any]]:
    """Yield the kind and the key of each row that breaks a rule.

    A sum beyond 63 bits is a violation by the table that the check reads: SQLite does not name the row.
    """
    try:
        yield from _violations_of(conn, rule, pause)
    except DatabaseError as error:
        if str(error) != "integer overflow":
            raise
        yield next(check.tables[0] for check in CHECKS.values() if rule in check.rules), None


def _violations_of(conn: Connection, rule: str, pause: Callable[[], object]) -> Iterator[tuple[str, Any]]:
    if rule == AUDIT_RULE:
        yield from ((ids.AUDIT, audit_id) for audit_id in _unchained(conn, pause))
        return
    if rule == DAYS_RULE:
        yield from ((ids.CAMPAIGN, campaign_id) for campaign_id in _miscounted_days(conn, pause))
        return
    if (setting := SETTINGS.get(rule)) is not None:
        for target_id in differences(conn, setting, pause):
            key = None if setting.prefix is None else ids.decode(setting.prefix, target_id)
            yield (setting.target_type, target_id) if setting.prefix is None or key is None else (setting.prefix, key)
        return
    query = RULES[rule]
    slices = account_slices(conn) if "after_account" in query.parameters else [{}]
    for bounds in slices:
        yield from conn.cursor().execute(query.sql, query.values(bounds))
        pause()


def account_slices(conn: Connection) -> Iterator[dict[str, int]]:
    """Yield ranges that cover all accounts, each with about `SLICE_ENTRIES` entries or one larger account.

    SQLite sorts in memory, so the size of a sort must not grow with the book.
    """
    after, entries = _LEAST, 0
    # The sequence number of a pool is its number of entries. In a damaged book the slices only differ in size.
    pools = conn.cursor().execute("SELECT account_id, entry_seq FROM credit_balances ORDER BY account_id")
    last = after
    for account_id, entry_seq in pools:
        if account_id != last and entries >= SLICE_ENTRIES:
            yield {"after_account": after, "until_account": last}
            after, entries = last, 0
        last = account_id
        entries += max(entry_seq, 1)
    yield {"after_account": after, "until_account": _GREATEST}


def _miscounted_days(conn: Connection, pause: Callable[[], object]) -> Iterator[int]:
    """Yield the campaign of each day whose counts differ from the sums of that day's grants and entries."""
    left: dict[tuple[int, int], list[int]] = {}
    query = RULES[DAYS_RULE]
    for after, until in _id_slices(conn):
        for campaign_id, day, *counts in conn.execute(query.sql, query.values({"after": after, "until": until})).fetchall():
            sums = left.setdefault((campaign_id, day), [0, 0, 0])
            sums[:] = [own + other for own, other in zip(sums, counts, strict=True)]
        pause()
    for campaign_id, day, *counts in conn.execute(
        "SELECT campaign_id, day, grants, granted_micro, consumed_micro FROM credit_campaign_days"
    ):
        if left.pop((campaign_id, day), [0, 0, 0]) != counts:
            yield campaign_id
    yield from (campaign_id for (campaign_id, _), sums in left.items() if any(sums))


def _id_slices(conn: Connection) -> Iterator[tuple[int, int]]:
    """Yield ranges that cover all ids, each with at most `SLICE_ENTRIES` entries and as many grants.

    Rows are counted, because ids skip to the base of each new epoch.
    """
    after = _LEAST
    while True:
        ends = [
            row[0]
            for table in ("credit_ledger", "credit_grants")
            for row in conn.execute(
                f"SELECT id FROM {table} WHERE id > ? ORDER BY id LIMIT 1 OFFSET ?", (after, SLICE_ENTRIES - 1)
            )
        ]
        if not ends:
            yield after, _GREATEST
            return
        yield after, min(ends)
        after = min(ends)


def _key_of(prefix: str, public_id: object) -> int | None:
    return ids.decode(prefix, public_id) if isinstance(public_id, str) else None


def is_file_damage(error: DatabaseError) -> bool:
    """Return true if a damaged file causes an error, false for a lock, an interrupt or no space for a sort."""
    return error_code(error) in _DAMAGE_CODES and not isinstance(error, ProgrammingError)


def violations(conn: Connection) -> dict[str, list[str]]:
    """Return the failed checks, each with its examples and its broken rules; empty if all checks pass."""
    return {name: found.examples + found.broken for name, found in run_checks(conn).items() if found.violations}


def _tables_with_references(conn: Connection) -> list[str]:
    rows = conn.execute(
        "SELECT name FROM sqlite_schema s WHERE type = 'table' AND EXISTS (SELECT 1 FROM pragma_foreign_key_list(s.name))"
    ).fetchall()
    return [name for (name,) in rows]


def _count(conn: Connection, table: str) -> int:
    count: int = conn.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
    return count


def public_id(kind: str, key: object) -> str:
    """Return the public id of a row that a rule reports, or its kind and key if it has no public id."""
    if kind in _KINDS and isinstance(key, int):
        return ids.encode(kind, key)
    return kind if key is None else f"{kind}:{key}"


def _unchained(conn: Connection, pause: Callable[[], object]) -> Iterator[int]:
    """Yield the rows of the audit log whose own hash, or hash of the previous row, is wrong."""
    previous_hash, number = audit_log.NO_HASH, 0
    columns = ", ".join(audit_log.HASHED)
    cursor = conn.cursor().execute(f"SELECT {columns}, previous_hash, hash FROM admin_audit_log ORDER BY seq")
    while rows := cursor.fetchmany(AUDIT_CHUNK_ROWS):
        for *hashed, previous, own in rows:
            number += 1
            if hashed[0] != number or previous != previous_hash or own != _row_hash(tuple(hashed), previous):
                yield hashed[1]
                number = hashed[0]
            previous_hash = own
        pause()


def _row_hash(row: tuple[object, ...], previous_hash: bytes) -> bytes | None:
    """Return the hash that a row should have; None if it holds a value that minibill never writes."""
    try:
        return audit_log.row_hash(row, previous_hash)
    except (TypeError, ValueError):
        return None
