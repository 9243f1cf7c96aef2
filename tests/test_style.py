"""Structure, style and documentation: layers, banned calls, prose, and pages that name everything a user sees."""

import ast
import importlib
import pkgutil
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import click
import pytest

import minibill
from minibill.cli.main import main
from minibill.config import OTHER_VARIABLES, SETTINGS, Setting
from minibill.core.problems import Problem

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "minibill"
SOURCES = {str(file.relative_to(PACKAGE)): file for file in sorted(PACKAGE.rglob("*.py"))}
SQL_FILES = sorted((ROOT / "sql").rglob("*.sql"))

# A file that is longer does more than one thing.
LINES_MAX = 450

TREES = {name: ast.parse(file.read_text("utf-8")) for name, file in SOURCES.items()}


def find(pattern: str, text: str) -> list[str]:
    return [match[0] for match in re.finditer(pattern, text)]


# --- import directions ---


# From left to right: a module imports modules of its own layer and of those before it.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("core", "config"),
    ("db",),
    ("auth",),
    ("api",),
    ("ledger", "charges", "campaigns", "discounts", "events", "webhooks", "audit", "integrity", "metrics"),
    ("book",),
    ("app", "background"),
    ("client",),
    ("embedded",),
    ("server", "testing"),
    ("cli",),
)


def part_of(module: str) -> str:
    """Return the package of a module, or the module itself at the top level."""
    return module.split(".")[0]


def imports_of(tree: ast.Module) -> set[str]:
    """Return the modules of minibill that a module imports at run time, without the leading `minibill.`"""
    found = set()
    for node in _at_run_time(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            # from minibill.core import ids; from minibill.ledger import reads: the name may be a module.
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.removeprefix("minibill.") for name in found if name.startswith("minibill.")}


def _at_run_time(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield child
            yield from _at_run_time(child)


def imports_between_parts() -> set[tuple[str, str]]:
    """Return each pair of a module and a part of the package, other than its own, that it imports."""
    return {
        (name, part_of(imported))
        for name, tree in TREES.items()
        for imported in imports_of(tree)
        if not imported.startswith("__") and part_of(imported) != Path(name).parts[0].removesuffix(".py")
    }


def test_imports_point_left_only() -> None:
    rank = {part: number for number, layer in enumerate(LAYERS) for part in layer}
    parts = {Path(name).parts[0].removesuffix(".py") for name in SOURCES} - {"__init__", "__main__"}
    assert parts == set(rank)
    wrong = {
        (name, imported)
        for name, imported in imports_between_parts()
        if not name.startswith("__") and rank[imported] > rank[Path(name).parts[0].removesuffix(".py")]
    }
    assert wrong == set()


def test_the_package_shows_at_most_8_modules_beside_its_packages() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= 8


def test_no_packages_import_each_other() -> None:
    graph: dict[str, set[str]] = {}
    for name, imported in imports_between_parts():
        graph.setdefault(Path(name).parts[0].removesuffix(".py"), set()).add(imported)
    assert list(TopologicalSorter(graph).static_order())


def test_only_db_names_the_database_driver() -> None:
    drivers = {"sqlite3", "pysqlite3", "aiosqlite"}
    wrong = {
        (name, node.lineno)
        for name, tree in TREES.items()
        if not name.startswith("db/")
        for node in ast.walk(tree)
        if (isinstance(node, ast.Name) and node.id in drivers)
        or (isinstance(node, ast.Import | ast.ImportFrom) and drivers & _imported_names(node))
    }
    assert wrong == set()


def _imported_names(node: ast.Import | ast.ImportFrom) -> set[str]:
    module = [(node.module or "").split(".")[0]] if isinstance(node, ast.ImportFrom) else []
    return {*module, *(alias.name.split(".")[0] for alias in node.names)}


# Whose SQL is whose: others call the operations of a feature, never its statements. The book asks for its newest time, and a
# reservation for the memberships of who pays: no caller may forget them.
OWNERS = {
    "accounts": ("ledger/",),
    "ledger": ("ledger/", "book.py"),
    "charges": ("charges/",),
    "campaigns": ("campaigns/",),
    "discounts": ("discounts/", "ledger/spending.py"),
    "book": ("book.py", "metrics/totals.py"),
    "events": ("events/",),
    "webhooks": ("webhooks/",),
    "reconcile": ("integrity/", "book.py"),
    "chain": ("integrity/hash_chain.py", "db/anchor.py", "db/epochs.py"),
    "epochs": ("db/",),
    "sequence": ("db/ledger_sequence.py",),
}


def test_only_a_feature_runs_its_own_sql() -> None:
    wrong = []
    seen = set()
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            match node:
                case ast.Call(func=ast.Name(id="queries"), args=[ast.Constant(value=str(feature))]):
                    seen.add(feature)
                    if feature in OWNERS and not name.startswith(OWNERS[feature]):
                        wrong.append(f"{name} runs the statements of {feature}")
    assert wrong == []
    assert seen >= OWNERS.keys()


# --- banned calls ---


# Only core/clock.py reads the clock. The time at which a migration was applied is the machine's; migrations.py says why.
_CLOCKS = r"time\.(?:time|monotonic|perf_counter)(?:_ns)?|(?:datetime\.)?(?:datetime|date)\.(?:now|utcnow|today)"
MAY_READ_THE_CLOCK = {"core/clock.py": {"time.time_ns", "time.monotonic"}, "db/migrations.py": {"time.time_ns"}}


def clock_reads(tree: ast.Module) -> set[str]:
    """Return the names of the machine's clock that a module uses, called or passed on."""
    read = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    by_name = {
        f"time.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "time"
        for alias in node.names
    }
    return {name for name in read | by_name if re.fullmatch(_CLOCKS, name)}


def test_only_the_clock_reads_the_clock() -> None:
    assert {name: read for name, tree in TREES.items() if (read := clock_reads(tree))} == MAY_READ_THE_CLOCK


def test_no_amount_becomes_a_float() -> None:
    calls = [
        f"{name}:{node.lineno}"
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("float", "builtins.float")
    ]
    assert calls == []


@pytest.mark.parametrize("name", SOURCES)
def test_only_commands_print(name: str) -> None:
    prints = [n.lineno for n in ast.walk(TREES[name]) if isinstance(n, ast.Call) and ast.unparse(n.func) == "print"]
    # python -m minibill.db.migrations prints the schema.
    assert prints == [] or name.startswith("cli/") or name == "db/migrations.py"


BANNED_SQL = {
    "SQL never reads the clock": (
        r"(?i)\b(?:datetime|date|time|julianday|unixepoch|strftime|timediff)\s*\(|\bCURRENT_(?:TIME|DATE|TIMESTAMP)\b"
    ),
    "columns are listed": r"(?i)\bSELECT\s+(?:DISTINCT\s+)?\*|\b\w+\.\*",
    "money is INTEGER": r"(?i)\b(?:REAL|FLOAT|DOUBLE|NUMERIC|DECIMAL)\b",
    "a page is found by its key, not by counting": r"(?i)\bOFFSET\b",
    "what is random can't be tried again": r"(?i)\brandom(?:blob)?\s*\(",
}


@pytest.mark.parametrize("rule", BANNED_SQL)
def test_sql_has_no_banned_constructs(rule: str) -> None:
    found = {}
    for file in SQL_FILES:
        between = re.sub(r"--[^\n]*", "", file.read_text("utf-8"))
        if matches := find(BANNED_SQL[rule], between):
            found[file.name] = matches
    assert found == {}


@pytest.mark.parametrize(
    ("rule", "sql"),
    [
        ("SQL never reads the clock", "datetime('now')"),
        ("SQL never reads the clock", "DEFAULT CURRENT_TIMESTAMP"),
        ("SQL never reads the clock", "unixepoch()"),
        ("columns are listed", "SELECT *\n  FROM x"),
        ("columns are listed", "SELECT a.* FROM a"),
        ("money is INTEGER", "amount REAL NOT NULL"),
        ("a page is found by its key, not by counting", "LIMIT 5 OFFSET 5"),
        ("what is random can't be tried again", "random()"),
    ],
)
def test_a_banned_construct_is_found(rule: str, sql: str) -> None:
    assert find(BANNED_SQL[rule], sql) != []


@pytest.mark.parametrize("sql", ["SELECT count(*) FROM x", "created_at_us INTEGER", "SELECT x FROM realms", "(1 * 2)"])
def test_an_allowed_construct_is_not_found(sql: str) -> None:
    assert [rule for rule, pattern in BANNED_SQL.items() if find(pattern, sql)] == []


def test_sql_columns_of_times_and_amounts_name_their_unit() -> None:
    schema = re.sub(r"--[^\n]*", "", (ROOT / "sql" / "schema.sql").read_text("utf-8"))
    columns = re.findall(r"^    (\w+)\s+(?:INTEGER|TEXT|BLOB)\b", schema, re.MULTILINE)
    assert "created_at_us" in columns
    assert [column for column in columns if re.search(r"_at$|_time$|_seconds_at|_ms$", column)] == []
    assert [column for column in columns if re.search(r"amount$|budget$|spent$|_cap$|available$|reserved$", column)] == []


# --- files ---


def test_source_files_are_short() -> None:
    lengths = {name: len(file.read_text("utf-8").splitlines()) for name, file in SOURCES.items()}
    assert {name: lines for name, lines in lengths.items() if lines > LINES_MAX} == {}


# docs/reference/http-api.md names the fields of requests and responses; a docstring would repeat it.
_WIRE = {"ResponseBody", "Body", "Query", "PageQuery"}


def undocumented(name: str, tree: ast.Module) -> Iterator[str]:
    if tree.body and not ast.get_docstring(tree):
        yield name
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or node.name.startswith("_"):
            continue
        is_wire = isinstance(node, ast.ClassDef) and not _WIRE.isdisjoint(map(ast.unparse, node.bases))
        if not is_wire and not ast.get_docstring(node):
            yield f"{name}: {node.name}"


def test_every_module_and_public_name_has_a_docstring() -> None:
    assert [missing for name, tree in TREES.items() for missing in undocumented(name, tree)] == []


# --- prose ---


_CLAUSE = re.compile(r"(?:What|Whether|Which|How|Who|Whom|Whose|When|Where)\b")
_WITH_DOCSTRING = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef

PYTHON_FILES = sorted(file for folder in ("src", "tests", "bench", "docs") for file in (ROOT / folder).rglob("*.py"))


def test_docstrings_begin_with_a_verb_or_a_noun() -> None:
    """A docstring says what a thing does or is. One that begins with a question word is a clause without a subject."""
    found = [
        f"{file.relative_to(ROOT)}: {text.splitlines()[0]}"
        for file in PYTHON_FILES
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, _WITH_DOCSTRING) and (text := ast.get_docstring(node)) and _CLAUSE.match(text)
    ]
    assert found == []


def test_names_of_tests_have_at_most_70_characters() -> None:
    found = [
        node.name
        for file in PYTHON_FILES
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_") and len(node.name) > 70
    ]
    assert found == []


# --- documentation of what users see ---


DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINES = [line for file in DOCUMENTS for line in file.read_text("utf-8").splitlines()]
REFERENCE = ROOT / "docs" / "reference"
# Text between backticks, by line.
CODE = [code for line in LINES for code in re.findall(r"`([^`]+)`", line)]
VARIABLE = r"\b(?:MINIBILL|BILLING)_[A-Z][A-Z0-9_]*[A-Z0-9]\b"

KNOWN_VARIABLES = {setting.variable for setting in SETTINGS} | OTHER_VARIABLES


def every_problem() -> list[type[Problem]]:
    """Return every problem class of the package."""
    for module in pkgutil.walk_packages(minibill.__path__, "minibill."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)

    def subclasses(kind: type[Problem]) -> Iterator[type[Problem]]:
        for subclass in kind.__subclasses__():
            yield subclass
            yield from subclasses(subclass)

    return [kind for kind in subclasses(Problem) if kind.__module__.startswith("minibill.")]


def every_command(group: click.Group = main, prefix: str = "minibill") -> Iterator[str]:
    """Yield the full name of each command that is no group."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None and command.name == name
        if isinstance(command, click.Group):
            yield from every_command(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}"


def test_error_codes_are_documented_with_their_status() -> None:
    def is_documented(problem: type[Problem]) -> bool:
        lines = [line for line in LINES if f"`{problem.code}`" in line]
        return any(re.search(rf"\b{problem.status}\b", line) for line in lines)

    assert [f"{problem.status} {problem.code}" for problem in every_problem() if not is_documented(problem)] == []


def test_each_error_code_belongs_to_one_problem() -> None:
    codes = [problem.code for problem in every_problem()]
    assert sorted(codes) == sorted(set(codes))


def test_settings_are_documented_once_with_their_default() -> None:
    lines = (REFERENCE / "settings.md").read_text("utf-8").partition("## Development")[0].splitlines()

    def is_documented(setting: Setting) -> bool:
        rows = [line for line in lines if line.startswith("|") and f"`{setting.variable}`" in line.split("|")[1]]
        return len(rows) == 1 and (not setting.default or f"| `{setting.default}` |" in rows[0])

    assert [setting.variable for setting in SETTINGS if not is_documented(setting)] == []


def test_variables_of_commands_are_documented() -> None:
    assert OTHER_VARIABLES - set(CODE) == set()


def test_commands_are_documented() -> None:
    lines = (REFERENCE / "cli.md").read_text("utf-8").splitlines()
    headings = {line.lstrip("# ") for line in lines if line.startswith("##")}
    assert set(every_command()) - headings == set()


def test_every_variable_in_the_sources_is_a_setting() -> None:
    named = {variable for file in SOURCES.values() for variable in find(VARIABLE, file.read_text("utf-8"))}
    assert named == KNOWN_VARIABLES


def test_documents_name_only_settings_that_exist() -> None:
    assert {variable for line in LINES for variable in find(VARIABLE, line)} - KNOWN_VARIABLES == set()


def test_documents_name_only_commands_that_exist() -> None:
    groups = {command.rpartition(" ")[0] for command in every_command()}
    known = {*every_command(), *groups}
    named = {match[0] for code in CODE if (match := re.match(r"minibill(?: [a-z]+)+", code))}
    assert {name for name in named if not any(name == k or name.startswith(f"{k} ") for k in known - {"minibill"})} == set()
