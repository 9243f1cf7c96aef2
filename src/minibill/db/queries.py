"""SQL by name: every statement of `sql/queries/*.sql`, loaded once.

A statement is written with `:named` parameters and run with positional ones, because binding by name costs a look-up per
value and row. `Query.one`, `all` and `run` take the values by name; `many` takes rows in the order of `Query.parameters`.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from minibill.db.sqlite import sqlite3

Row = tuple[Any, ...]

_PARAMETER = re.compile(r"(?<![:\w]):([a-z_]+)")
_LITERAL_OR_COMMENT = re.compile(r"'(?:[^']|'')*'|--[^\n]*")


def sql_folder() -> Path:
    """`sql/`: inside the installed package, or at the top of the source tree."""
    package = Path(__file__).parents[1]
    return package / "sql" if (package / "sql").is_dir() else package.parents[1] / "sql"


class Query:
    """One named statement."""

    __slots__ = ("name", "parameters", "sql")

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.parameters: tuple[str, ...] = ()
        names: list[str] = []

        def positional(match: re.Match[str]) -> str:
            names.append(match[1])
            return "?"

        # Literals and comments may hold colons: only what lies between them has parameters.
        pieces: list[str] = []
        end = 0
        for skipped in _LITERAL_OR_COMMENT.finditer(text):
            pieces.append(_PARAMETER.sub(positional, text[end : skipped.start()]))
            pieces.append("" if skipped[0].startswith("--") else skipped[0])
            end = skipped.end()
        pieces.append(_PARAMETER.sub(positional, text[end:]))
        self.sql = "".join(pieces).strip().rstrip(";")
        self.parameters = tuple(names)

    def values(self, named: dict[str, Any]) -> Row:
        """The values in the order of the statement."""
        return tuple([named[name] for name in self.parameters])

    def one(self, conn: sqlite3.Connection, **named: Any) -> Row | None:
        """The first row, or None."""
        row: Row | None = conn.execute(self.sql, self.values(named)).fetchone()
        return row

    def all(self, conn: sqlite3.Connection, **named: Any) -> list[Row]:
        """Every row."""
        return conn.execute(self.sql, self.values(named)).fetchall()

    def run(self, conn: sqlite3.Connection, **named: Any) -> sqlite3.Cursor:
        """Runs a statement that answers no rows."""
        return conn.execute(self.sql, self.values(named))

    def many(self, conn: sqlite3.Connection, rows: Iterable[Sequence[Any]]) -> None:
        """Runs it once per row; each row holds the values in the order of `parameters`."""
        conn.executemany(self.sql, rows)


class Queries:
    """The statements of one file, as attributes."""

    def __init__(self, feature: str) -> None:
        self._queries = {query.name: query for query in read_queries(sql_folder() / "queries" / f"{feature}.sql")}

    def __getattr__(self, name: str) -> Query:
        try:
            return self._queries[name]
        except KeyError:
            raise AttributeError(f"no query is named {name}") from None

    def __iter__(self) -> Iterator[Query]:
        return iter(self._queries.values())


@cache
def queries(feature: str) -> Queries:
    """The statements of `sql/queries/<feature>.sql`."""
    return Queries(feature)


def every_query() -> list[Query]:
    """All statements of all files, for tests that look at each."""
    return [query for file in sorted((sql_folder() / "queries").glob("*.sql")) for query in queries(file.stem)]


def read_queries(file: Path) -> Iterator[Query]:
    """The named statements of one file, in its order."""
    for part in re.split(r"(?m)^-- name: ", file.read_text("utf-8"))[1:]:
        name, _, text = part.partition("\n")
        yield Query(name.strip(), text)
