"""The position of every column of every row in a database file, for tests that flip bits.

It follows SQLite's documented file format: b-trees of pages, whose cells hold records of a header with types and then
values. Overflow pages are left out.
"""

from collections.abc import Iterator
from typing import NamedTuple

from minibill.db.sqlite import sqlite3

INTERIOR_INDEX, INTERIOR_TABLE, LEAF_INDEX, LEAF_TABLE = 2, 5, 10, 13


class Place(NamedTuple):
    """The bytes of a column of a row: its type in the record header, and its value. `rowid` counts as a column."""

    table: str
    column: str
    kind: str
    start: int
    end: int


def places(file: bytes, conn: sqlite3.Connection) -> Iterator[Place]:
    """Yield the places of all rows of all tables; `conn` is open on the same file."""
    tables = conn.execute("SELECT name, rootpage, sql FROM sqlite_schema WHERE type = 'table'").fetchall()
    for table, root, sql in tables:
        columns = conn.execute(f"SELECT name, pk FROM pragma_table_info('{table}')").fetchall()
        names = [name for name, _ in columns]
        if "WITHOUT ROWID" in sql:
            # SQLite stores such a table as an index, so its key comes first.
            keys = [name for name, _ in sorted((c for c in columns if c[1]), key=lambda column: column[1])]
            names = keys + [name for name in names if name not in keys]
        for rowid, record, end in _cells(file, root):
            if rowid is not None:
                yield Place(table, "rowid", "value", *rowid)
            yield from _columns(file, table, names, record, end)


def _columns(file: bytes, table: str, names: list[str], record: int, end: int) -> Iterator[Place]:
    header_bytes, at = _varint(file, record)
    value = record + header_bytes
    for name in names:
        serial, after = _varint(file, at)
        yield Place(table, name, "type", at, after)
        length = _length(serial)
        if length and value + length <= end:
            yield Place(table, name, "value", value, value + length)
        at, value = after, value + length


def _cells(file: bytes, page: int) -> Iterator[tuple[tuple[int, int] | None, int, int]]:
    """Yield, for each cell of a b-tree, the range of its rowid and the start and end of its record on this page."""
    page_bytes = int.from_bytes(file[16:18], "big")
    base = (page - 1) * page_bytes
    header = base + (100 if page == 1 else 0)
    kind, count = file[header], int.from_bytes(file[header + 3 : header + 5], "big")
    is_interior = kind in (INTERIOR_INDEX, INTERIOR_TABLE)
    pointers = header + (12 if is_interior else 8)
    for number in range(count):
        at = base + int.from_bytes(file[pointers + 2 * number : pointers + 2 * number + 2], "big")
        if is_interior:
            yield from _cells(file, int.from_bytes(file[at : at + 4], "big"))
            at += 4
        if kind == INTERIOR_TABLE:
            continue
        payload_bytes, at = _varint(file, at)
        rowid = None
        if kind == LEAF_TABLE:
            _, after = _varint(file, at)
            rowid, at = (at, after), after
        yield rowid, at, at + _on_page(payload_bytes, page_bytes, is_table=kind == LEAF_TABLE)
    if is_interior:
        yield from _cells(file, int.from_bytes(file[header + 8 : header + 12], "big"))


def _on_page(payload_bytes: int, page_bytes: int, *, is_table: bool) -> int:
    most = page_bytes - 35 if is_table else (page_bytes - 12) * 64 // 255 - 23
    if payload_bytes <= most:
        return payload_bytes
    least = (page_bytes - 12) * 32 // 255 - 23
    there = least + (payload_bytes - least) % (page_bytes - 4)
    return there if there <= most else least


def _length(serial: int) -> int:
    if serial >= 12:
        return (serial - 12) // 2
    return (0, 1, 2, 3, 4, 6, 8, 8, 0, 0, 0, 0)[serial]


def _varint(file: bytes, at: int) -> tuple[int, int]:
    """Return a varint of 1 to 9 bytes, and its end."""
    number = 0
    for place in range(8):
        byte = file[at + place]
        number = number << 7 | byte & 0x7F
        if byte < 0x80:
            return number, at + place + 1
    return number << 8 | file[at + 8], at + 9
