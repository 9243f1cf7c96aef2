"""The named queries: their plans, their callers and their parameters; and the parser that loads them."""

import ast
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

import minibill
from minibill.db.connection import open_reader
from minibill.db.queries import Query, queries, read_queries, sql_folder
from minibill.db.sqlite import sqlite3

SOURCE = Path(minibill.__file__).parent

# Reads of a whole table that are meant: what the plan says, and why it is no harm.
SCANS = {
    ("newest_time", "SCAN credit_ledger"): "one row: the last by rowid",
    ("newest_time", "SCAN credit_accounts"): "one row: the last by rowid",
    ("newest_time", "SCAN credit_reservations"): "one row: the last by rowid",
    ("newest_time", "SCAN credit_charges"): "one row: the last by rowid",
    ("newest_time", "SCAN admin_audit_log"): "one row: the last by rowid",
    ("newest_time", "SCAN events"): "one row: the last by rowid",
    ("total_balances", "SCAN credit_balances"): "for the metrics, on a reader and seldom: totals.py says how seldom",
    ("total_debts", "SCAN credit_debts USING INDEX debts_open_by_account"): "only the open debts, likewise",
    ("last_audit_row", "SCAN admin_audit_log"): "one row: the last by rowid",
    (
        "revoked_tokens",
        "SCAN revoked_tokens USING COVERING INDEX revoked_tokens_integrity_copy",
    ): "the whole deny list is what a start loads, and it is pruned",
    (
        "revoked_subjects",
        "SCAN revoked_subjects USING COVERING INDEX revoked_subjects_integrity_copy",
    ): "the same",
    ("newest_uptime", "SCAN idempotency_keys"): "one row: the last by rowid",
    ("newest_uptime_to_compare", "SCAN idempotency_keys"): "one row: the last by rowid",
    ("prune_keys", "SCAN idempotency_keys"): "the first rows by rowid, up to LIMIT",
    ("balance_at", "SCAN o"): "the overdue reservations of one account, chosen by index just before",
    ("entries_before", "SCAN b"): "the pools of one account, each in the state that its search is in",
    ("entries_before", "SCAN search"): "the same",
    ("entries_of_pools", "SCAN m"): "the pools of one account, each with the entry that it has queued up",
    ("accounts_returning_budget", "SCAN o"): "overdue reservations, up to LIMIT",
    ("accounts_returning_budget", "SCAN h"): "holds of theirs, up to LIMIT",
    ("accounts_returning_budget", "SCAN overdue"): "overdue reservations, up to LIMIT",
    ("accounts_returning_budget", "SCAN held"): "holds of theirs, up to LIMIT",
    ("campaign_stats", "SCAN o"): "one row: what is overdue, added up",
    ("campaign_stats", "SCAN e"): "one row: what is expired, added up",
    ("last_link", "SCAN book_chain"): "one row: the last by rowid",
    ("links", "SCAN book_chain"): "verify reads the whole chain, with all that it is of",
    ("stored_responses", "SCAN idempotency_keys"): "verify reads them all",
    ("webhook_lag", "SCAN h"): "at most 20 webhooks",
    ("webhook_lag", "SCAN feed_end"): "one row",
    ("webhook_lag", "SCAN book_epochs"): "one row a restore",
    ("row_counts", "SCAN book_epochs"): "one row a restore",
    ("end_of_feed", "SCAN feed_end"): "one row",
    ("newest_epoch", "SCAN book_epochs"): "one row: the last by rowid",
    ("newest_ids", "SCAN admin_audit_log"): "one row: the last by rowid",
    ("forget_counted_id", "SCAN sqlite_sequence"): "two rows",
    ("first_entry", "SCAN credit_ledger"): "one row: the first by rowid",
    ("enabled_webhooks", "SCAN webhooks USING COVERING INDEX webhooks_integrity_copy"): "at most 20",
    ("count_webhooks", "SCAN webhooks USING COVERING INDEX webhooks_integrity_copy"): "at most 20",
}

# Sorts that no index does, and what bounds them.
SORTS = {
    "accounts_page_by_entity_id": "seven rows at most, one per entity type",
    "campaigns_page_expired": "two indexes are joined by OR; campaigns are made by hand, and so few",
    "entries_of_pool": "the entries of one page",
    "entries_of_pools": "the entries of one page",
    "lots_of_reservations": "what the overdue reservations of one slice hold",
    "first_lots_of_pools": "the lots that one batch of charges loads",
    "lots_of_charges": "the entries of one page of charges, at most 1,001 each",
    "memberships_of_accounts": "the memberships of the accounts of one batch",
    "open_debts": "the unpaid debts of the accounts of one request",
    "balance_at": "the pools of one account",
    "lots_to_explain": "the lots that one explanation names",
    "memberships_page": "an account has at most 1,000 memberships",
}

# json_each is a table of the request, constant rows and subqueries are no tables.
_HARMLESS_SCAN = re.compile(r"SCAN (\w+ VIRTUAL TABLE INDEX .*|CONSTANT ROW|\(.*\)|\d+ CONSTANT ROWS?)")


class Use(NamedTuple):
    """A place where a module says NAME.query, and the call around it, if it is one that runs the query."""

    file: str
    feature: str
    query: str
    how: str | None
    arguments: frozenset[str]


def every_query() -> list[Query]:
    return [query for file in sorted((sql_folder() / "queries").glob("*.sql")) for query in queries(file.stem)]


@pytest.fixture(scope="module")
def conn(migrated_file: Path) -> Iterator[sqlite3.Connection]:
    """Open a book without ANALYZE statistics, like every book."""
    conn = open_reader(migrated_file)
    assert conn.execute("SELECT count(*) FROM sqlite_schema WHERE name LIKE 'sqlite_stat%'").fetchone() == (0,)
    yield conn
    conn.close()


def plan(conn: sqlite3.Connection, query: Query) -> list[str]:
    rows = conn.execute(f"EXPLAIN QUERY PLAN {query.sql}", [None] * len(query.parameters)).fetchall()
    return [detail for *_, detail in rows]


def by_name(query: Query) -> str:
    return query.name


# --- plans ---


def test_no_query_reads_a_whole_table(conn: sqlite3.Connection) -> None:
    scans = {
        (query.name, step)
        for query in every_query()
        for step in plan(conn, query)
        if step.startswith("SCAN") and not _HARMLESS_SCAN.fullmatch(step)
    }
    assert scans == set(SCANS)


def test_lists_of_a_request_are_looked_up_by_index(conn: sqlite3.Connection) -> None:
    # The other way round a list is read once per row: a batch then costs as much as its campaign is large.
    listing = [query for query in every_query() if "json_each(?) j" in query.sql]
    first = {
        query.name: next(step for step in plan(conn, query) if step.startswith(("SCAN", "SEARCH"))) for query in listing
    }
    assert len(first) >= 10
    assert {name: step for name, step in first.items() if not step.startswith("SCAN j VIRTUAL")} == {}


def test_no_query_sorts_what_can_grow(conn: sqlite3.Connection) -> None:
    sorting = {
        query.name
        for query in every_query()
        if any("USE TEMP B-TREE FOR" in step and "ORDER BY" in step for step in plan(conn, query))
    }
    assert sorting == SORTS.keys()


def test_every_limit_that_is_a_parameter_is_added_to() -> None:
    """SQLite plans a statement anew whenever it binds a LIMIT that is a bare parameter (decision record 0001)."""
    bare = [query.name for query in every_query() if re.search(r"\bLIMIT \?(?! \+ 0)", query.sql)]
    assert bare == []


def test_declared_scans_and_sorts_name_existing_queries() -> None:
    assert {name for name, _ in SCANS} | SORTS.keys() <= {query.name for query in every_query()}


def test_the_plan_of_a_scan_is_recognized(conn: sqlite3.Connection) -> None:
    [step] = plan(conn, Query("probe", "SELECT id FROM credit_lots WHERE metadata = :text"))
    assert step == "SCAN credit_lots"
    assert not _HARMLESS_SCAN.fullmatch(step)


# --- names and callers ---


def every_name() -> list[tuple[str, str]]:
    """File and name of each query as the files have them, repetitions and all."""
    return [
        (file.stem, query.name) for file in sorted((sql_folder() / "queries").glob("*.sql")) for query in read_queries(file)
    ]


def every_use() -> list[Use]:
    """Every NAME.query of the package, where NAME = queries("feature") is said in that module or one that it imports."""
    trees = {file: ast.parse(file.read_text("utf-8")) for file in sorted(SOURCE.rglob("*.py"))}
    own = {_module_of(file): _features_of(tree) for file, tree in trees.items()}
    found = []
    for file, tree in trees.items():
        names = dict(own[_module_of(file)])
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                for imported in node.names:
                    alias = imported.asname or imported.name
                    there = own.get(f"{node.module}.{imported.name}", {})
                    names |= {f"{alias}.{name}": feature for name, feature in there.items()}
                    if imported.name in own.get(str(node.module), {}):
                        names[alias] = own[str(node.module)][imported.name]
        calls = _calls_of(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) in names:
                how, arguments = calls.get(node, (None, frozenset()))
                found.append(Use(str(file.relative_to(SOURCE)), names[ast.unparse(node.value)], node.attr, how, arguments))
    return found


def _module_of(file: Path) -> str:
    return ".".join(("minibill", *file.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")


def _features_of(tree: ast.Module) -> dict[str, str]:
    names: dict[str, str] = {}
    for node in tree.body:
        match node:
            case ast.Assign(
                targets=[ast.Name(id=name)],
                value=ast.Call(func=ast.Name(id="queries"), args=[ast.Constant(value=str(feature))]),
            ):
                names[name] = feature
    return names


def _calls_of(tree: ast.Module) -> dict[ast.AST, tuple[str, frozenset[str]]]:
    """The calls that run a query, SQL.query.one(conn, name=value) or readers.one(SQL.query, name=value), by the query."""
    calls: dict[ast.AST, tuple[str, frozenset[str]]] = {}
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Attribute() as query, attr=("one" | "all" | "run") as how), args=[_]):
                calls[query] = (how, _names_of(node))
        match node:
            case ast.Call(func=ast.Attribute(attr=("one" | "all") as how), args=[ast.Attribute() as query]):
                calls[query] = (how, _names_of(node))
    return calls


def _names_of(call: ast.Call) -> frozenset[str]:
    return frozenset("**" if keyword.arg is None else keyword.arg for keyword in call.keywords)


def test_query_names_are_unique() -> None:
    names = [name for _, name in every_name()]
    assert sorted(names) == sorted(set(names))


def test_every_query_is_used() -> None:
    used = {(use.feature, use.query) for use in every_use()}
    assert [name for name in every_name() if name not in used] == []


def test_every_query_that_a_module_names_exists() -> None:
    there = set(every_name())
    assert [use for use in every_use() if (use.feature, use.query) not in there] == []


def test_every_call_passes_exactly_the_parameters_of_its_query() -> None:
    parameters = {(file, query.name): frozenset(query.parameters) for file, _ in every_name() for query in queries(file)}
    calls = [use for use in every_use() if use.how is not None and "**" not in use.arguments]
    assert calls
    wrong = [use for use in calls if use.arguments != parameters.get((use.feature, use.query))]
    assert wrong == []


def test_an_unknown_query_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nobody"):
        _ = queries("ledger").nobody


# --- parameters ---


_INSERT = re.compile(r"INSERT INTO (\w+) \(([^()]*)\)\s+VALUES \(([^()]*)\)")
_INSERT_FROM_JSON = re.compile(r"INSERT INTO (\w+) \(([^()]*)\)\s+SELECT (.*?)\s+FROM json_each\(\?\)", re.DOTALL)

# Columns whose parameter has another name, because callers know it by that.
BOUND_AS = {
    "id": {"account_id", "lot_id", "grant_id", "entry_id", "reservation_id", "charge_id", "campaign_id", "debt_id"},
    "created_at_us": {"now_us", "uptime_us"},
    "updated_at_us": {"now_us"},
    "revoked_at_us": {"now_us", "uptime_us"},
    "original_micro": {"amount_micro"},
    "available_micro": {"amount_micro"},
}

# The columns that these statements read from JSON rows, in the order in which their callers write them.
JSON_ROWS = {
    "open_accounts": "id entity_type entity_id created_at_us",
    "insert_grants": "id campaign_id account_id lot_id amount_micro grant_formula formula_input created_at_us",
}


def inserts() -> list[Query]:
    return [query for query in every_query() if query.sql.startswith("INSERT")]


def test_every_insert_gives_each_column_the_parameter_of_its_name() -> None:
    wrong = [fault for query in inserts() if query.name not in JSON_ROWS for fault in _misbound(query)]
    assert wrong == []


def _misbound(query: Query) -> Iterator[str]:
    found = _INSERT.match(query.sql)
    if found is None:
        yield f"{query.name} is no INSERT INTO table (columns) VALUES (values)"
        return
    parameters = iter(query.parameters)
    for column, value in zip(_items(found[2]), _items(found[3]), strict=True):
        if value == "?":
            if next(parameters) not in {column, *BOUND_AS.get(column, ())}:
                yield f"{query.name}: {column}"
        elif not _is_literal(value):
            yield f"{query.name}: {column}: {value} is neither a parameter nor a literal"


def test_every_insert_of_json_rows_reads_its_columns_in_order() -> None:
    assert {query.name for query in inserts() if query.parameters == ("rows",)} == JSON_ROWS.keys()
    for query in inserts():
        if query.name in JSON_ROWS:
            found = _INSERT_FROM_JSON.fullmatch(query.sql)
            assert found is not None, query.name
            columns = zip(_items(found[2]), _items(found[3]), strict=True)
            read = [(column, value) for column, value in columns if not _is_literal(value)]
            assert read == [(column, f"value ->> {place}") for place, column in enumerate(JSON_ROWS[query.name].split())]


def _items(listed: str) -> list[str]:
    return [item.strip() for item in listed.split(",")]


def _is_literal(value: str) -> bool:
    return re.fullmatch(r"[0-9]+|'\w+'|NULL", value) is not None


def test_no_parameter_of_a_query_is_overlooked() -> None:
    """A name with a digit or a capital would stay in the statement, in part or as a whole."""
    for query in [*every_query(), *read_queries(sql_folder() / "invariants.sql")]:
        between = re.sub(r"'(?:[^']|'')*'|--[^\n]*", "", query.sql)
        assert not re.search(r"[:@$]\w|\?\w", between), query.name
        assert between.count("?") == len(query.parameters), query.name
        assert ";" not in between, f"{query.name} is more than one statement"


def test_integrity_rules_take_only_slice_bounds_and_have_unique_names() -> None:
    found = list(read_queries(sql_folder() / "invariants.sql"))
    assert len({query.name for query in found}) == len(found)
    assert {frozenset(query.parameters) for query in found} == {
        frozenset(), frozenset({"after_account", "until_account"}), frozenset({"after", "until"})
    }  # fmt: skip


# --- the parser ---


@pytest.mark.parametrize(
    ("text", "sql", "parameters"),
    [
        ("SELECT :a", "SELECT ?", ("a",)),
        ("SELECT :b, :a, :b", "SELECT ?, ?, ?", ("b", "a", "b")),
        ("SELECT ':a', :a", "SELECT ':a', ?", ("a",)),
        ("SELECT 'it''s :a' || :b", "SELECT 'it''s :a' || ?", ("b",)),
        ("SELECT '-- :a' || :b", "SELECT '-- :a' || ?", ("b",)),
        ("SELECT '' || :a", "SELECT '' || ?", ("a",)),
        (
            "SELECT :a -- the caller's :b and 'that'\n     , :c",
            "SELECT ? -- the caller's :b and 'that'\n     , ?",
            ("a", "c"),
        ),
        ("SELECT 1\n-- 'unclosed :a", "SELECT 1\n-- 'unclosed :a", ()),
        ("SELECT x->>1, y::b FROM t WHERE id=:id_of_it", "SELECT x->>1, y::b FROM t WHERE id=?", ("id_of_it",)),
        ("VALUES (:a,:b)", "VALUES (?,?)", ("a", "b")),
        ("SELECT 1", "SELECT 1", ()),
    ],
)
def test_parameters_are_found_outside_literals_and_comments(text: str, sql: str, parameters: tuple[str, ...]) -> None:
    query = Query("probe", text)
    assert (query.sql, query.parameters) == (sql, parameters)


def test_a_file_is_split_into_its_named_queries(tmp_path: Path) -> None:
    file = tmp_path / "probe.sql"
    file.write_text(
        "-- A preamble: it's no query.\n\n-- name: one\n-- Isn't :much.\nSELECT :a;\n\n-- name: two\nSELECT '-- name: x';\n"
    )
    assert [(query.name, query.sql) for query in read_queries(file)] == [("one", "SELECT ?"), ("two", "SELECT '-- name: x'")]


def test_values_bind_by_name_and_rows_by_position(migrated_file: Path) -> None:
    conn = open_reader(migrated_file)
    try:
        query = Query("probe", "SELECT :b || ':a', :a, :b")
        assert query.parameters == ("b", "a", "b")
        assert query.one(conn, a=1, b="x") == ("x:a", 1, "x")
        assert query.all(conn, a=None, b="y") == [("y:a", None, "y")]
        with pytest.raises(KeyError, match="'b'"):
            query.one(conn, a=1)
    finally:
        conn.close()
    memory = sqlite3.connect(":memory:")
    try:
        memory.execute("CREATE TABLE t (x, y)")
        Query("probe", "INSERT INTO t (x, y) VALUES (:y, :x)").many(memory, [(1, 2), (3, 4)])
        assert Query("probe", "SELECT x, y FROM t").all(memory) == [(1, 2), (3, 4)]
        assert Query("probe", "SELECT x FROM t WHERE x > :x").one(memory, x=9) is None
    finally:
        memory.close()


def test_json_rows_insert_the_same_values_as_rows_one_by_one() -> None:
    texts: list[object] = ["a", "12", "1.0", "true", "null", "", "\n\t\"'\\", "ä☃😀", '{"a": [1, null]}', "\x1f", None]
    numbers: list[object] = [0, 1, -1, 2**53 + 1, 2**63 - 1, -(2**63), None]
    rows = [(text, number) for text in texts for number in numbers]
    found = []
    for as_json in (True, False):
        with closing(sqlite3.connect(":memory:")) as memory:
            memory.execute("CREATE TABLE t (x TEXT, y INTEGER, z TEXT NOT NULL) STRICT")
            if as_json:
                sql = "INSERT INTO t (x, y, z) SELECT value ->> 0, value ->> 1, 'granted' FROM json_each(:rows)"
                Query("probe", sql).many_as_json(memory, rows)
            else:
                Query("probe", "INSERT INTO t (x, y, z) VALUES (:x, :y, 'granted')").many(memory, rows)
            found.append(memory.execute("SELECT x, y, z, typeof(x), typeof(y) FROM t ORDER BY rowid").fetchall())
    assert found[0] == found[1] and len(found[0]) == len(rows)
