"""SQL by name: every statement of `sql/queries/*.sql`, loaded once.

A statement is written with `:named` parameters and run with positional ones, because binding by name costs a look-up per
value and row. `Query.one`, `all` and `run` take the values by name; `many` takes rows in the order of `Query.parameters`.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from minibill.db.sqlite import sqlite3

Row = tuple[Any, ...]

# From so many rows on an INSERT reads them from JSON.
_MANY_ROWS = 16

_PARAMETER = re.compile(r"(?<![:\w]):([a-z_]+)")
# SQLite plans by the number of a LIMIT that is nothing but a parameter, and so plans anew each time that it is bound: 5 to
# 40 µs a query. It does not for one that is added to.
_BARE_LIMIT = re.compile(r"(?<=\bLIMIT \?)")

_LITERAL_OR_COMMENT = re.compile(r"'(?:[^']|'')*'|--[^\n]*")


def sql_folder() -> Path:
    """`sql/`: inside the installed package, or at the top of the source tree."""
    package = Path(__file__).parents[1]
    return package / "sql" if (package / "sql").is_dir() else package.parents[1] / "sql"


class Query:
    """One named statement. `one`, `all` and `run` take a connection and the values by name.

    `one` answers the first row or None, `all` every row, `run` the cursor of a statement that answers no rows.
    """

    __slots__ = ("_insert_from_json", "all", "name", "one", "parameters", "run", "sql")

    one: Callable[..., Row | None]
    all: Callable[..., list[Row]]
    run: Callable[..., sqlite3.Cursor]

    def __init__(self, name: str, text: str) -> None:
        self.name = name
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
        self.sql = _BARE_LIMIT.sub(" + 0", "".join(pieces).strip().rstrip(";"))
        self.parameters = tuple(names)
        self._insert_from_json = _insert_from_json(self.sql)
        self.run, self.one, self.all = self._compile("", ".fetchone()", ".fetchall()")

    def values(self, named: dict[str, Any]) -> Row:
        """The values in the order of the statement."""
        return tuple([named[name] for name in self.parameters])

    def many(self, conn: sqlite3.Connection, rows: Sequence[Sequence[Any]]) -> None:
        """Runs it for each row; each row holds the values in the order of `parameters`.

        Many rows of an INSERT go in as one statement that reads them from one JSON parameter: a batch of 1,000 took half the
        time of a statement a row so.
        """
        if self._insert_from_json is not None and len(rows) >= _MANY_ROWS:
            conn.execute(self._insert_from_json, (msgspec.json.encode(rows).decode(),))
        else:
            conn.executemany(self.sql, rows)

    def _compile(self, *endings: str) -> list[Callable[..., Any]]:
        """Functions that take the values by name and bind them by place: a third of the cost of a look-up per value."""
        takes = "".join(f", {name}" for name in dict.fromkeys(self.parameters))
        keyword_only = f", *{takes}" if takes else ""
        binds = "".join(f"{name}, " for name in self.parameters)
        return [
            eval(f"lambda conn{keyword_only}: conn.execute(sql, ({binds})){ending}", {"sql": self.sql})  # noqa: S307 - our own SQL files
            for ending in endings
        ]


def _insert_from_json(sql: str) -> str | None:
    """The same INSERT of rows from a JSON array of arrays; None for any other statement. JSON has no place for blobs."""
    found = re.fullmatch(r"(INSERT INTO .*?\))\s*VALUES\s*\((.*)\)", sql, re.DOTALL)
    if found is None:
        return None
    places = count()
    values = re.sub(r"\?", lambda _: f"value ->> {next(places)}", found[2])
    return f"{found[1]} SELECT {values} FROM json_each(?)"


class Queries:
    """The statements of one file, as attributes."""

    def __init__(self, feature: str) -> None:
        self._queries = {query.name: query for query in read_queries(sql_folder() / "queries" / f"{feature}.sql")}
        # Real attributes: a __getattr__ that looks them up cost the hot path 5 % of its time.
        vars(self).update(self._queries)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Query: ...

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
