"""Reader for lists of grants: a CSV file becomes rows with exact amounts and line numbers. Nothing is sent from here.

Amounts are parsed as decimal digits, never as floats. The file is read as a stream, one row at a time.
"""

import codecs
import csv
import difflib
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple

import msgspec

from minibill.core.entity_ids import named, normalized
from minibill.core.ids import ID_CHARACTERS_MAX
from minibill.core.money import MAX_MICRO, MICRO_PER_UNIT

FORMULA_INPUT_BYTES_MAX = 4096
# No float has more digits or a larger exponent than this. Longer text is not an amount.
NUMBER_CHARS_MAX = 400
EXPONENT_MAX = 330
DECIMALS_MAX = 100
# Reading a line of any length would take unbounded memory.
LINE_CHARS_MAX = 1_048_576

PLACES = len(str(MICRO_PER_UNIT)) - 1
_NUMBER = re.compile(r"([0-9]+)(?:\.([0-9]+))?(?:[eE]([+-]?[0-9]{1,3}))?")
_DIGITS = re.compile(r"[0-9]+")
_UNDECODABLE = re.compile("[\ud800-\udfff]")
_QUOTED_CHARS_MAX = 40
_COLUMNS_LISTED_MAX = 30

# White space, but no control characters. Those are always an error.
_BLANKS = "\t \u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"

# Spreadsheets write numbers with decimals or a signed exponent. `12e4` has neither, so it is an id.
_EXPONENT_FORM = re.compile(r"[+-]?[0-9]+(?:[.,][0-9]+[eE][+-]?|[eE][+-])[0-9]+")
_ERROR_VALUE = re.compile(r"#[¡¿]?[\w/]+[!?]|#(?:N/A|N/D|N/V|NV|GETTING_DATA|#+)|Err:[0-9]{3}", re.IGNORECASE)

_DELIMITERS = {";": "';'", "\t": "tab", "|": "'|'"}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Format of the file and meaning of its columns.

    With an entity type, the account column holds entity ids, otherwise account ids. `input_columns` maps each key of the
    formula's input to a column. A key that ends in `Micro` is an amount; any other remains text. With `decimals`,
    amounts are integers in base units of 10^-decimals.
    """

    account_column: str
    entity_type: str | None = None
    amount_column: str | None = None
    input_columns: Mapping[str, str] = field(default_factory=dict)
    delimiter: str = ","
    round_down: bool = False
    decimals: int | None = None


class RowError(NamedTuple):
    """Reason why a row can't be paid. Rows with the same error have the same `reason`; `value` is specific to the row."""

    reason: str
    value: str = ""

    def __str__(self) -> str:
        return f"{self.reason} {self.value}".rstrip()


class ListRow(NamedTuple):
    """One record of the file and the line on which it starts. `account` is None if it can't be read."""

    line: int
    account: str | None
    amount_micro: int | None
    formula_input: bytes | None
    error: RowError | None


class UnreadableList(Exception):
    """The file as a whole can't be read, so none of its rows can be trusted."""


class _InvalidRecord(Exception):
    """A record can't be read. The other records can."""

    def __init__(self, reason: str, value: str = "") -> None:
        super().__init__(reason, value)
        self.error = RowError(reason, value)


def read_rows(source: BinaryIO, *, layout: Layout) -> Iterator[ListRow]:
    """Read a CSV file to its end, one row at a time. Line 1 is its first line.

    Raise `UnreadableList` if the header lacks a column or names it twice, or if broken quotes leave the rows ambiguous.
    """
    records = _records(_Lines(source), delimiter=layout.delimiter)
    columns = _columns(records, layout)
    for record in records:
        account: str | None = None
        amount_micro: int | None = None
        formula_input: bytes | None = None
        try:
            fields = columns.pick(record)
            account = _account(fields[layout.account_column], layout)
            if layout.amount_column is not None:
                amount_micro = _amount(fields, layout.amount_column, layout)
            if layout.input_columns:
                formula_input = _formula_input(fields, layout)
        except _InvalidRecord as invalid:
            yield ListRow(record.line, account, None, None, invalid.error)
        else:
            yield ListRow(record.line, account, amount_micro, formula_input, None)


# --- amounts ---


def parse_units(text: str, *, round_down: bool) -> int:
    """Return the micro-units of a decimal number of units: `1.5`, `0.000001`, or `1.2e-05` as statistics programs write it.

    Raise ValueError with a message for the user for any other text, for an amount above the service's maximum, and for
    more than six decimal places unless `round_down` is set.
    """
    match = _NUMBER.fullmatch(text) if len(text) <= NUMBER_CHARS_MAX else None
    exponent = int(match[3] or "0") if match else 0
    if not match or abs(exponent) > EXPONENT_MAX:
        raise _not_a_number("a plain decimal number", text)
    fraction = match[2] or ""
    return _micro(int(match[1] + fraction), PLACES + exponent - len(fraction), text, round_down=round_down)


def parse_base_units(text: str, *, decimals: int, round_down: bool) -> int:
    """Return the micro-units of an integer in base units of 10^-decimals. Raise ValueError like `parse_units`."""
    if len(text) > NUMBER_CHARS_MAX or not _DIGITS.fullmatch(text):
        raise _not_a_number("an integer, since --decimals is given", text)
    return _micro(int(text), PLACES - decimals, text, round_down=round_down)


def _not_a_number(expected: str, text: str) -> ValueError:
    if not text:
        return ValueError("expected a number, found nothing", "")
    return ValueError(f"expected {expected}, not", quoted(text))


def _micro(digits: int, shift: int, text: str, *, round_down: bool) -> int:
    """Return `digits` times 10^shift as micro-units."""
    if shift >= 0:
        amount_micro: int = digits * 10**shift
    else:
        amount_micro, remainder = divmod(digits, 10**-shift)
        if remainder and not round_down:
            raise ValueError(f"more than {PLACES} decimal places (--round down cuts them off):", quoted(text))
    if amount_micro > MAX_MICRO:
        raise ValueError(f"too large (at most {MAX_MICRO} micro):", quoted(text))
    return amount_micro


# --- the file ---


class _Lines:
    """Physical lines of a file; keeps the latest one. Bytes that are not UTF-8 become surrogates."""

    def __init__(self, source: BinaryIO) -> None:
        start = source.read(4096)
        if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or start[:200].count(b"\0") > len(start[:200]) // 4:
            raise UnreadableList("the file is UTF-16; save it as UTF-8")
        joined = io.BufferedReader(_Rejoined(start, source))
        self._text = io.TextIOWrapper(joined, encoding="utf-8-sig", errors="surrogateescape", newline="")
        self.last = ""

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        self.last = self._text.readline(LINE_CHARS_MAX)
        if not self.last:
            raise StopIteration
        if len(self.last) == LINE_CHARS_MAX:
            raise UnreadableList(f"a line is longer than {LINE_CHARS_MAX} characters; is it a CSV file?")
        return self.last


class _Rejoined(io.RawIOBase):
    """A stream together with its start, which has been read already. A pipe can't be rewound."""

    def __init__(self, start: bytes, rest: BinaryIO) -> None:
        self._start = start
        self._rest = rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        data, self._start = self._start[: len(buffer)], self._start[len(buffer) :]
        data = data or self._rest.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class _Record(NamedTuple):
    """The fields of a record without surrounding white space, or the error that made them unreadable."""

    line: int
    fields: list[str]
    error: RowError | None = None


def _records(lines: _Lines, *, delimiter: str) -> Iterator[_Record]:
    """Yield each record with the line on which it starts. Leave out blank lines and records of blank fields."""
    # Without strict, the reader would read `"1"2` as 12.
    reader = csv.reader(lines, delimiter=delimiter, strict=True, skipinitialspace=delimiter != " ")
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error:
            # The reader continues at the next line. That is the next record only if no quote is open.
            if reader.line_num != line or lines.last.count('"') % 2:
                raise UnreadableList(
                    f"line {line}: a quote is not closed, or a field is too long; the rows after it are ambiguous"
                ) from None
            yield _Record(line, [], RowError("has broken quotes, or a field that is too long"))
            continue
        fields = [text.strip(_BLANKS) for text in fields]
        if reader.line_num != line:
            yield _Record(
                line, fields, RowError("has a field that spans lines:", f"a quote is open up to line {reader.line_num}")
            )
        elif any(fields):
            yield _Record(line, fields)


@dataclass(frozen=True, slots=True)
class _Columns:
    """Positions of the columns in use, and the number of all columns."""

    positions: dict[str, int]
    count: int

    def pick(self, record: _Record) -> dict[str, str]:
        """Return the fields in use by the names of their columns."""
        if record.error is not None:
            raise _InvalidRecord(*record.error)
        fields = record.fields
        joined = "".join(fields)
        if not joined.isascii() and _UNDECODABLE.search(joined):
            raise _InvalidRecord("has bytes that are not UTF-8")
        if "\0" in joined:
            raise _InvalidRecord("has a NUL byte")
        if len(fields) != self.count:
            raise _InvalidRecord(f"has {len(fields)} fields, but the header has {self.count}")
        return {name: fields[position] for name, position in self.positions.items()}


def _columns(records: Iterator[_Record], layout: Layout) -> _Columns:
    header = next(records, None)
    if header is None:
        raise UnreadableList("the file is empty")
    if header.error is not None:
        raise UnreadableList(f"line {header.line}: the header {header.error}")
    names = header.fields
    if _UNDECODABLE.search("".join(names)) or "\0" in "".join(names):
        raise UnreadableList(f"line {header.line}: the header is not UTF-8 text")
    used = [
        layout.account_column,
        *([] if layout.amount_column is None else [layout.amount_column]),
        *layout.input_columns.values(),
    ]
    for name in used:
        if names.count(name) > 1:
            raise UnreadableList(f"the file has more than one column {name!r}; rename the others")
        if name not in names:
            raise UnreadableList(f"the file has no column {name!r}; {_column_hint(name, names, header.line, layout)}")
    return _Columns({name: names.index(name) for name in used}, len(names))


def _column_hint(name: str, names: list[str], line: int, layout: Layout) -> str:
    """Suggest a correction for a header that lacks a column."""
    listed = ", ".join(map(quoted, names[:_COLUMNS_LISTED_MAX])) + (" and more" if len(names) > _COLUMNS_LISTED_MAX else "")
    columns = f"its columns are {listed}"
    for delimiter, option in _DELIMITERS.items():
        if delimiter != layout.delimiter and any(delimiter in text for text in names):
            return f"{columns}; if they are separated by another character, give --delimiter {option}"
    if layout.delimiter != "," and any("," in text for text in names):
        return f"{columns}; if they are separated by commas, leave out --delimiter"
    by_folded = {text.casefold(): text for text in names}
    if close := difflib.get_close_matches(name.casefold(), by_folded, n=1):
        return f"did you mean {by_folded[close[0]]!r}? {columns}"
    if any(_NUMBER.fullmatch(text) for text in names):
        return f"line {line} looks like a row, but must name the columns: {columns}"
    return columns


# --- one record ---


def _account(text: str, layout: Layout) -> str:
    column = repr(layout.account_column)
    if not text:
        raise _InvalidRecord(f"column {column}: no account")
    if text[0] in "'=":
        raise _InvalidRecord(f"column {column}: a spreadsheet has put {text[0]} before the id:", quoted(text))
    if text[0] in "+-0123456789" and _EXPONENT_FORM.fullmatch(text):
        raise _InvalidRecord(f"column {column}: a spreadsheet has turned the id into a number:", quoted(text))
    if text[0] in "#Ee" and _ERROR_VALUE.fullmatch(text):
        raise _InvalidRecord(f"column {column}: an error value of a spreadsheet:", quoted(text))
    if layout.entity_type is not None:
        try:
            return normalized(text)
        except ValueError as error:
            raise _InvalidRecord(f"column {column}: {error}:", quoted(text)) from None
    if len(text) > ID_CHARACTERS_MAX:
        raise _InvalidRecord(f"column {column}: longer than {ID_CHARACTERS_MAX} characters:", quoted(text))
    if invalid := next((character for character in text if not "!" <= character <= "~"), None):
        raise _InvalidRecord(f"column {column}: account ids can't have {named(invalid)}:", quoted(text))
    return text


def _formula_input(fields: Mapping[str, str], layout: Layout) -> bytes:
    formula_input = msgspec.json.encode(
        {
            key: str(_amount(fields, column, layout)) if key.endswith("Micro") else fields[column]
            for key, column in layout.input_columns.items()
        }
    )
    if len(formula_input) > FORMULA_INPUT_BYTES_MAX:
        raise _InvalidRecord(f"its formula input is larger than {FORMULA_INPUT_BYTES_MAX} bytes")
    return formula_input


def _amount(fields: Mapping[str, str], column: str, layout: Layout) -> int:
    text = fields[column]
    try:
        if layout.decimals is None:
            return parse_units(text, round_down=layout.round_down)
        return parse_base_units(text, decimals=layout.decimals, round_down=layout.round_down)
    except ValueError as error:
        reason, value = error.args
        raise _InvalidRecord(f"column {column!r}: {reason}", value) from None


def quoted(text: str) -> str:
    """Quote a value of the list with repr, so that it can't change a terminal."""
    return repr(text) if len(text) <= _QUOTED_CHARS_MAX else repr(text[:_QUOTED_CHARS_MAX]) + " and so on"
