"""Loss lists: a CSV file becomes the items of grant batches, exactly and with line numbers. Nothing is sent from here.

Amounts are read digit by digit; no float is involved anywhere.
"""

import codecs
import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from minibill.ids import ID_CHARACTERS_MAX
from minibill.money import MAX_MICRO, MICRO_PER_UNIT

ENTITY_ID_CHARS_MAX = 200
FORMULA_INPUT_BYTES_MAX = 4096
BATCH_ITEMS_MAX = 1000
# The service takes 1 MiB; the rest is room for whatever a proxy counts as well.
BATCH_BYTES_MAX = 900 * 1024
# A float has no more digits and no larger exponent than this; anything beyond is not a number that a list holds.
NUMBER_CHARS_MAX = 400
EXPONENT_MAX = 330

_PLACES = len(str(MICRO_PER_UNIT)) - 1
_NUMBER = re.compile(r"([0-9]+)(?:\.([0-9]+))?(?:[eE]([+-]?[0-9]{1,3}))?")
_UNDECODABLE = re.compile("[\ud800-\udfff]")
_QUOTED_CHARS_MAX = 40


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How the file is written, and which column means what.

    With an entity type the account column holds entity ids, otherwise account ids. `input_columns` maps a key of the
    formula's input to its column; a key that ends in `Micro` is an amount, any other is kept as it is written.
    """

    account_column: str
    entity_type: str | None = None
    amount_column: str | None = None
    input_columns: Mapping[str, str] = field(default_factory=dict)
    delimiter: str = ","
    round_down: bool = False


@dataclass(frozen=True, slots=True)
class Item:
    """One grant to ask for: the line its record starts on, and its JSON."""

    line: int
    account: str
    json: bytes


@dataclass(frozen=True, slots=True)
class BadRow:
    """A record that can't be paid, and why."""

    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class LossList:
    """A whole file, read: what can be sent, and what can't, both in the order of the file."""

    items: list[Item]
    bad_rows: list[BadRow]


@dataclass(frozen=True, slots=True)
class Batch:
    """Items that go out together, and the body that carries them."""

    items: Sequence[Item]
    body: bytes


class UnreadableList(Exception):
    """The file as a whole can't be read, so no row of it can be trusted; the message says why."""


class _BadRecord(Exception):
    """One record can't be read."""


def read_loss_list(data: bytes, *, layout: Layout) -> LossList:
    """Reads a CSV file to its end; line 1 is its first line, header or not.

    An account that was named before makes a bad row of the later one, also when the earlier could not be read: which of
    the two is right is not for this program to say. Raises UnreadableList when the header lacks a column or names it
    twice, and when quotes are so broken that rows can't be told apart.
    """
    records = _records(_decoded(data), delimiter=layout.delimiter)
    columns = _columns(records, layout)
    items: list[Item] = []
    bad_rows: list[BadRow] = []
    first_lines: dict[str, int] = {}
    for line, fields in records:
        try:
            record = columns.pick(fields)
            account = _account(record[layout.account_column], layout)
            if account in first_lines:
                raise _BadRecord(f"names the same account as line {first_lines[account]}: {_quoted(account)}")
            first_lines[account] = line
            items.append(Item(line, account, _grant_json(account, record, layout)))
        except _BadRecord as error:
            bad_rows.append(BadRow(line, str(error)))
    return LossList(items, bad_rows)


def batches(items: Sequence[Item], *, size_max: int, force: bool) -> Iterator[Batch]:
    """The items in their order, as bodies within the service's limits."""
    head, tail = b'{"grants":[', b'],"force":true}' if force else b'],"force":false}'
    start, size_bytes = 0, 0
    for end, item in enumerate(items):
        item_bytes = len(item.json) + 1
        if end > start and (end - start == size_max or size_bytes + item_bytes > BATCH_BYTES_MAX):
            yield _batch(items[start:end], head, tail)
            start, size_bytes = end, 0
        size_bytes += item_bytes
    if items:
        yield _batch(items[start:], head, tail)


def parse_units(text: str, *, round_down: bool) -> int:
    """The micro-units of a decimal number of units: `1.5`, `0.000001`, and `1.2e-05` as statistics programs write it.

    Raises ValueError, with a message for the user, for anything else, for more than six places unless they may be
    cut off, and for more than the service can hold.
    """
    found = _NUMBER.fullmatch(text) if len(text) <= NUMBER_CHARS_MAX else None
    exponent = int(found[3] or "0") if found else 0
    if not found or abs(exponent) > EXPONENT_MAX:
        raise ValueError(
            f"expected a plain decimal number, not {_quoted(text)}" if text else "expected a number, found nothing"
        )
    whole, fraction = found[1], found[2] or ""
    shift = _PLACES + exponent - len(fraction)
    multiplier: int = 10 ** max(shift, 0)
    divisor: int = 10 ** max(-shift, 0)
    amount_micro, beyond = divmod(int(whole + fraction) * multiplier, divisor)
    if beyond and not round_down:
        raise ValueError(f"{_quoted(text)} has more than {_PLACES} decimal places (--round down cuts them off)")
    if amount_micro > MAX_MICRO:
        raise ValueError(f"{_quoted(text)} is too large (at most {MAX_MICRO} micro)")
    return amount_micro


# --- the file ---


def _decoded(data: bytes) -> str:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UnreadableList("the file is UTF-16; save it as UTF-8")
    # What is not UTF-8 becomes surrogates, so that it can be told by its line.
    return data.decode("utf-8-sig", errors="surrogateescape")


class _Lines:
    """The physical lines of a text, with the last one at hand."""

    def __init__(self, text: str) -> None:
        self._lines = io.StringIO(text, newline="")
        self.last = ""

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        self.last = next(self._lines)
        return self.last


def _records(text: str, *, delimiter: str) -> Iterator[tuple[int, list[str] | None]]:
    """Each record with the line it starts on; None for one that breaks the rules of CSV. Blank lines are left out."""
    lines = _Lines(text)
    # Not strict, the reader would take `"1"2` for 12.
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error:
            # The reader goes on at the next line, which is the next record only if no quote is open.
            if reader.line_num != line or lines.last.count('"') % 2:
                raise UnreadableList(
                    f"line {line}: a quote is not closed, or a field is too long; the rows after it can't be told apart"
                ) from None
            yield line, None
            continue
        if fields:
            yield line, fields


@dataclass(frozen=True, slots=True)
class _Columns:
    """Where the columns in use are."""

    positions: dict[str, int]
    count: int

    def pick(self, fields: list[str] | None) -> dict[str, str]:
        """The fields in use by the name of their column."""
        if fields is None:
            raise _BadRecord("has broken quotes, or a field that is too long")
        joined = "".join(fields)
        if _UNDECODABLE.search(joined):
            raise _BadRecord("has bytes that are not UTF-8")
        if "\0" in joined:
            raise _BadRecord("has a NUL byte")
        if len(fields) != self.count:
            raise _BadRecord(f"has {len(fields)} fields where the header has {self.count}")
        return {name: fields[position] for name, position in self.positions.items()}


def _columns(records: Iterator[tuple[int, list[str] | None]], layout: Layout) -> _Columns:
    _, header = next(records, (0, []))
    if not header:
        raise UnreadableList("the file is empty" if header == [] else "line 1: the header has broken quotes")
    if _UNDECODABLE.search("".join(header)) or "\0" in "".join(header):
        raise UnreadableList("line 1: the header is not UTF-8 text")
    used = [
        layout.account_column,
        *([] if layout.amount_column is None else [layout.amount_column]),
        *layout.input_columns.values(),
    ]
    for name in used:
        if header.count(name) != 1:
            fault = "is there more than once" if name in header else "is not in the file"
            raise UnreadableList(f"the column {name!r} {fault}; its columns are {', '.join(map(repr, header))}")
    return _Columns({name: header.index(name) for name in used}, len(header))


# --- one record ---


def _account(text: str, layout: Layout) -> str:
    column = repr(layout.account_column)
    if not text:
        raise _BadRecord(f"column {column}: no account")
    if text != text.strip():
        raise _BadRecord(f"column {column}: {_quoted(text)} has spaces around it")
    chars_max = ID_CHARACTERS_MAX if layout.entity_type is None else ENTITY_ID_CHARS_MAX
    if len(text) > chars_max:
        raise _BadRecord(f"column {column}: {_quoted(text)} is longer than {chars_max} characters")
    return text


def _grant_json(account: str, record: Mapping[str, str], layout: Layout) -> bytes:
    grant: dict[str, object] = (
        {"accountId": account}
        if layout.entity_type is None
        else {"entity": {"entityType": layout.entity_type, "entityId": account}}
    )
    if layout.amount_column is not None:
        grant["amountMicro"] = _amount(record, layout.amount_column, layout)
    if layout.input_columns:
        formula_input = {
            key: _amount(record, column, layout) if key.endswith("Micro") else record[column]
            for key, column in layout.input_columns.items()
        }
        if len(msgspec.json.encode(formula_input)) > FORMULA_INPUT_BYTES_MAX:
            raise _BadRecord(f"its formula input is larger than {FORMULA_INPUT_BYTES_MAX} bytes")
        grant["formulaInput"] = formula_input
    return msgspec.json.encode(grant)


def _amount(record: Mapping[str, str], column: str, layout: Layout) -> str:
    try:
        return str(parse_units(record[column], round_down=layout.round_down))
    except ValueError as error:
        raise _BadRecord(f"column {column!r}: {error}") from None


def _quoted(text: str) -> str:
    # repr, so that nothing in a list can play tricks with the terminal.
    return repr(text) if len(text) <= _QUOTED_CHARS_MAX else repr(text[:_QUOTED_CHARS_MAX]) + " and so on"


def _batch(items: Sequence[Item], head: bytes, tail: bytes) -> Batch:
    return Batch(items, head + b",".join(item.json for item in items) + tail)
