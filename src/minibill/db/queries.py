"""SQL by name: the statements of `sql/queries/*.sql`, which run as the files have them, with `?` for each `:parameter`.

The driver looks up a named parameter at each run: 7 % of the time of a reserve and finalize
(docs/internals/decisions/0002-bind-by-position.md).
"""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from minibill.db.sqlite import Connection, Cursor

Row = tuple[Any, ...]

# A literal, a comment, or a parameter.
_TOKEN = re.compile(r"'(?:[^']|'')*'|--[^\n]*|(?<![:\w]):([a-z_]+)")


def sql_folder() -> Path:
    """Return `sql/`: inside the installed package, or at the top of the source tree."""
    package = Path(__file__).parents[1]
    return package / "sql" if (package / "sql").is_dir() else package.parents[1] / "sql"


class Query:
    """One named statement, and its parameters in their order.

    `one`, `all` and `run` take a connection and the values by name. `one` returns the first row or None, `all` every row,
    and `run` the cursor: of rows to read one by one, or for `rowcount` and `lastrowid`.
    """

    __slots__ = ("all", "name", "one", "parameters", "run", "sql", "values")

    one: Callable[..., Row | None]
    all: Callable[..., list[Row]]
    run: Callable[..., Cursor]

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.parameters = tuple(found[1] for found in _TOKEN.finditer(text) if found[1])
        self.sql = _TOKEN.sub(lambda token: "?" if token[1] else token[0], text)
        sql, values = self.sql, _values_of(self.parameters)
        self.values = values
        self.run = lambda conn, **named: conn.execute(sql, values(named))
        self.one = lambda conn, **named: conn.execute(sql, values(named)).fetchone()
        self.all = lambda conn, **named: conn.execute(sql, values(named)).fetchall()

    def many(self, conn: Connection, rows: Sequence[Sequence[Any]]) -> None:
        """Run the statement for each row, which holds the values in the order of `parameters`."""
        conn.executemany(self.sql, rows)

    def many_as_json(self, conn: Connection, rows: Sequence[Sequence[Any]]) -> None:
        """Run the statement once for all rows: its only parameter is a JSON array of arrays, which can't hold bytes."""
        conn.execute(self.sql, (msgspec.json.encode(rows).decode(),))


def _values_of(names: tuple[str, ...]) -> Callable[[dict[str, Any]], Row]:
    match names:
        case ():
            return lambda _: ()
        case (name,):
            return lambda named: (named[name],)
    return itemgetter(*names)


class Queries:
    """The statements of one file, as attributes."""

    def __init__(self, feature: str) -> None:
        self._queries = {query.name: query for query in read_queries(sql_folder() / "queries" / f"{feature}.sql")}
        vars(self).update(self._queries)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Query: ...

    def __iter__(self) -> Iterator[Query]:
        return iter(self._queries.values())


@cache
def queries(feature: str) -> Queries:
    """Return the statements of `sql/queries/<feature>.sql`."""
    return Queries(feature)


def read_queries(file: Path) -> Iterator[Query]:
    """Yield the named statements of a file, in its order."""
    for part in re.split(r"(?m)^-- name: ", file.read_text("utf-8"))[1:]:
        name, _, text = part.partition("\n")
        # The statement lies between the comments about it and a semicolon that ends a line.
        begin = re.sub(r"\A(?:--.*\n)*", "", text)
        yield Query(name.strip(), re.split(r";\s*(?:\n|\Z)", begin, maxsplit=1)[0].strip())
