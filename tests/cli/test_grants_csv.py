"""The reader of grant lists: exact amounts, physical line numbers, and no guesses."""

import io
import json
from decimal import Decimal
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibill.cli.grants_csv import LINE_CHARS_MAX, Layout, ListRow, UnreadableList, parse_base_units, parse_units, read_rows
from minibill.cli.import_batches import BATCH_BYTES_MAX, body_of, first_batch
from minibill.cli.import_rows import Item
from minibill.core.money import MAX_MICRO


class Read(NamedTuple):
    """The rows of a list, good and bad."""

    entity_type: str | None
    rows: list[ListRow]

    @property
    def items(self) -> list[ListRow]:
        return [row for row in self.rows if row.error is None]

    @property
    def bad_rows(self) -> list[tuple[int, str]]:
        return [(row.line, str(row.error)) for row in self.rows if row.error is not None]


def read(text: str | bytes, **layout: Any) -> Read:
    """Read a list with the columns `who` and `amount`, unless the layout says otherwise."""
    data = text if isinstance(text, bytes) else text.encode()
    made = Layout(**{"account_column": "who", "amount_column": "amount", **layout})
    return Read(made.entity_type, list(read_rows(io.BytesIO(data), layout=made)))


def item_of(row: ListRow) -> Item:
    return Item(row.line, row.account or "", row.amount_micro, row.amount_micro, row.formula_input)


def grants(read_list: Read) -> list[Any]:
    assert not read_list.bad_rows
    body = body_of([item_of(row) for row in read_list.items], entity_type=read_list.entity_type, force=False)
    items: list[Any] = json.loads(body)["grants"]
    return items


def bad_line(read_list: Read) -> tuple[int, str]:
    [row] = read_list.bad_rows
    return row


# --- amounts ---


@pytest.mark.parametrize(
    ("text", "amount_micro"),
    [
        ("0", 0),
        ("1", 1_000_000),
        ("0.5", 500_000),
        ("0.000001", 1),
        ("007.50", 7_500_000),
        ("1.50000000000000000000", 1_500_000),
        ("1.2e-05", 12),
        ("1E-6", 1),
        ("1e+3", 1_000_000_000),
        ("1.5e3", 1_500_000_000),
        ("9223372036854.775807", MAX_MICRO),
    ],
)
def test_an_amount_is_read_exactly(text: str, amount_micro: int) -> None:
    assert parse_units(text, round_down=False) == amount_micro
    assert parse_units(text, round_down=True) == amount_micro


@pytest.mark.parametrize(
    "text",
    [
        *["", " ", "one", "-1", "-0", "+5", ".5", "5.", "1,000", "1_000", "1 000", " 1", "1\n", "0x10", "$1"],
        *["nan", "inf", "Infinity", "1e400", "0e400", "1e-400", "1e", "1e5.0", "\u0663", "\uff11", "1e\u0663"],
        *["9223372036854.775808", "1e13", "9" * 401, "9" * 5000],
    ],
)
def test_an_invalid_or_too_large_amount_is_rejected_rounded_or_not(text: str) -> None:
    for round_down in (False, True):
        with pytest.raises(ValueError, match=r"expected|too large"):
            parse_units(text, round_down=round_down)


@pytest.mark.parametrize(
    ("text", "floor_micro"),
    [
        ("0.0000001", 0),
        ("0.1234567899999999999", 123_456),
        ("1.9999999", 1_999_999),
        ("1.234567e-1", 123_456),
        ("3e-324", 0),
    ],
)
def test_more_than_six_decimal_places_are_rejected_unless_rounded(text: str, floor_micro: int) -> None:
    with pytest.raises(ValueError, match="more than 6 decimal places"):
        parse_units(text, round_down=False)
    assert parse_units(text, round_down=True) == floor_micro


@given(st.integers(0, MAX_MICRO), st.integers(0, 12), st.integers(-20, 20))
def test_every_notation_of_an_amount_is_read_as_that_amount(amount_micro: int, zeros: int, exponent: int) -> None:
    shifted = Decimal((0, tuple(map(int, str(amount_micro))), -6 - exponent))
    text = f"{shifted:f}" + ("0" * zeros if "." in f"{shifted:f}" else "")
    assert parse_units(f"{text}e{exponent}", round_down=False) == amount_micro


# --- items ---


def test_a_row_becomes_a_grant_to_an_account() -> None:
    assert grants(read("who,amount\nacct_1,1.5\n")) == [{"accountId": "acct_1", "amountMicro": "1500000"}]


def test_with_an_entity_type_the_account_column_holds_entity_ids() -> None:
    assert grants(read("who,amount\n0xAb,1\n", entity_type="person")) == [
        {"entity": {"entityType": "person", "entityId": "0xAb"}, "amountMicro": "1000000"}
    ]


def test_input_whose_key_ends_in_micro_is_an_amount_any_other_is_text() -> None:
    text = "who,ETH to recover , note\nacct_1, 0.25,007.50 \n"
    inputs = {"lossMicro": "ETH to recover", "note": "note", "loss": "ETH to recover"}
    assert grants(read(text, amount_column=None, input_columns=inputs)) == [
        {"accountId": "acct_1", "formulaInput": {"lossMicro": "250000", "note": "007.50", "loss": "0.25"}}
    ]


def test_a_row_can_have_an_amount_and_input() -> None:
    [grant] = grants(read("who,amount\nacct_1,1\n", input_columns={"lossMicro": "amount"}))
    assert grant["amountMicro"] == grant["formulaInput"]["lossMicro"] == "1000000"


def test_rounding_applies_to_amounts_and_input() -> None:
    [grant] = grants(read("who,amount\nacct_1,0.0000019\n", input_columns={"lossMicro": "amount"}, round_down=True))
    assert (grant["amountMicro"], grant["formulaInput"]["lossMicro"]) == ("1", "1")


# --- files as they come ---


@pytest.mark.parametrize(
    "text",
    [
        "who,amount\nacct_1,1\n",
        "who,amount\nacct_1,1",
        "\ufeffwho,amount\r\nacct_1,1\r\n",
        "who,amount\racct_1,1\r",
        '"who","amount"\n"acct_1","1"\n',
        "\n\nwho,amount\n\nacct_1,1\n\n",
        ",who,% lost,amount\n0,acct_1,97.5,1\n",
        "amount,who\n1,acct_1\n",
        "who,x,x,amount\nacct_1,a,b,1\n",
    ],
    ids=["plain", "no end", "BOM and CRLF", "CR", "quoted", "blank lines", "nameless column", "order", "names twice"],
)
def test_a_list_is_read_in_all_usual_variants_of_csv(text: str) -> None:
    assert grants(read(text)) == [{"accountId": "acct_1", "amountMicro": "1000000"}]


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_columns_can_have_another_delimiter(delimiter: str) -> None:
    text = "who,amount\nacct_1,1\n".replace(",", delimiter)
    assert len(grants(read(text, delimiter=delimiter))) == 1


def test_line_numbers_count_physical_lines() -> None:
    result = read('who,note,amount\r\n\r\na,"two",1\r\n,,\r\nb,x,x\r\nc,,1\r\n')
    assert [(row.account, row.line) for row in result.items] == [("a", 3), ("c", 6)]
    assert bad_line(result)[0] == 5


@pytest.mark.parametrize("blank", ["", ",,", " , ,\t", "   ", '"","",""', "\u00a0,,", ",,,,,,"])
def test_a_row_of_blank_fields_is_left_out(blank: str) -> None:
    result = read(f"who,amount,note\n{blank}\na,1,\n{blank}\n{blank}")
    assert [(row.account, row.line) for row in result.rows] == [("a", 3)]


def test_white_space_around_fields_and_names_is_ignored() -> None:
    result = read('\u00a0who , amount,x\n a ,\t1.5\u00a0, x\n "b" , 2,\n', entity_type="person")
    assert [(row.account, row.amount_micro) for row in result.items] == [("a", 1_500_000)]
    result = read('who, amount\n "b", "2"\n')
    assert [(row.account, row.amount_micro) for row in result.items] == [("b", 2_000_000)]


@pytest.mark.parametrize(
    "text",
    [
        'who,amount,note\n"a,1,\nb,2,\nc",3,x\nd,4,\n',
        'who,amount,note\na,1,"he said\nb,2,no\nc,3,"\nd,4,-\n',
        'who,amount,note\n"a\n",1,\r\nd,4,-\n',
    ],
)
def test_a_field_that_spans_lines_is_a_bad_row(text: str) -> None:
    result = read(text)
    assert bad_line(result)[0] == 2
    assert "spans lines" in bad_line(result)[1]
    assert [row.account for row in result.items] == ["d"]


def test_a_file_with_a_header_only_has_no_rows() -> None:
    assert read("who,amount\n").rows == []


@pytest.mark.parametrize(
    ("text", "decimals", "amount_micro"),
    [
        ("1500000000000000000", 18, 1_500_000),
        ("25", 0, 25_000_000),
        ("7", 6, 7),
        ("70", 7, 7),
        ("007", 2, 70_000),
        ("0", 18, 0),
    ],
)
def test_base_units_are_read_exactly(text: str, decimals: int, amount_micro: int) -> None:
    assert parse_base_units(text, decimals=decimals, round_down=False) == amount_micro


@pytest.mark.parametrize("text", ["", "1.5", "1e18", "-1", "+1", "1,000", "x", "\u0663", "1" * 401])
def test_base_units_are_integers(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse_base_units(text, decimals=18, round_down=True)


def test_base_units_below_a_micro_unit_are_rounded_only_on_request() -> None:
    with pytest.raises(ValueError, match="more than 6 decimal places"):
        parse_base_units("1500000000001", decimals=18, round_down=False)
    assert parse_base_units("1999999999999", decimals=18, round_down=True) == 1
    with pytest.raises(ValueError, match="too large"):
        parse_base_units("9" * 20, decimals=0, round_down=True)


# --- rows that can't be paid ---


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b"b", "has 1 fields, but the header has 2"),
        (b"b,1,", "has 3 fields, but the header has 2"),
        (b",1", "no account"),
        (b"b\xc3\xa9,1", "U+00E9"),
        (b"b,", "found nothing"),
        (b"b,1.0000001", "more than 6 decimal places"),
        (b"b\xff,1", "not UTF-8"),
        (b"b,1\xc0\x80", "not UTF-8"),
        (b"b\0,1", "NUL"),
        (b'"b"b,1', "broken quotes"),
        (b"b" * 200_000 + b",1", "too long"),
        (b"b" * 65 + b",1", "longer than 64 characters"),
    ],
)
def test_a_bad_row_has_a_line_and_a_reason_and_affects_no_other_row(row: bytes, reason: str) -> None:
    result = read(b"who,amount\na,1\n" + row + b"\nc,1\n")
    assert [item.line for item in result.items] == [2, 4]
    line, why = bad_line(result)
    assert line == 3
    assert reason in why


def test_entity_ids_have_200_characters_at_most() -> None:
    result = read(f"who,amount\n{'é' * 200},1\n{'x' * 201},1\n", entity_type="person")
    assert [item.line for item in result.items] == [2]
    assert "1 to 200 characters" in bad_line(result)[1]


def test_formula_input_has_4_kib_at_most() -> None:
    fits = "x" * (4096 - len('{"note":""}'))
    layout = {"amount_column": None, "input_columns": {"note": "note"}}
    result = read(f"who,note\na,{fits}\nb,{fits}x\n", **layout)
    assert [item.line for item in result.items] == [2]
    assert "larger than 4096 bytes" in bad_line(result)[1]


@pytest.mark.parametrize(
    "name",
    [
        "'0xabc", "=1+1", '"=""0xabc"""', "1.23457E+17", "1.2e+17", "-1.2E-5", "1,2E+17", "2E+05", "1.5e3", "#N/A", "#NAME?",
        "#REF!", "#VALUE!", "#DIV/0!", "#n/a", "#WERT!", "#NV", "########", "Err:502",
    ],
)  # fmt: skip
@pytest.mark.parametrize("entity_type", ["person", None])
def test_an_id_that_a_spreadsheet_changed_is_a_bad_row(name: str, entity_type: str | None) -> None:
    result = read(f"who;amount\na;1\n{name};1\n", entity_type=entity_type, delimiter=";")
    assert bad_line(result)[0] == 3
    assert "spreadsheet" in bad_line(result)[1]


@pytest.mark.parametrize("name", ["12e4", "0x1e10", "e5", "#1", "a=b", "O'Brien", "1.5", "#general", "1e"])
def test_an_id_that_only_resembles_a_number_is_good(name: str) -> None:
    assert [row.account for row in read(f"who,amount\n{name},1\n", entity_type="person").items] == [name]


def test_entity_ids_are_read_in_their_normal_form() -> None:
    result = read("who,amount\n0xABCDEF0123456789abcdef0123456789abcdef01,1\nju\u0308rgen,1\n", entity_type="person")
    assert [row.account for row in result.items] == ["0xabcdef0123456789abcdef0123456789abcdef01", "j\u00fcrgen"]
    assert "U+200B" in bad_line(read("who,amount\nalice\u200b,1\n", entity_type="person"))[1]


def test_values_of_the_list_are_quoted_in_messages() -> None:
    [row] = read("who,amount\na,\x1b[2J1\n").bad_rows
    assert row == (2, r"column 'amount': expected a plain decimal number, not '\x1b[2J1'")


# --- files that can't be read at all ---


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"\n\n", "empty"),
        (b"wallet,amount\na,1\n", "no column 'who'; its columns are 'wallet', 'amount'"),
        (b"Who,amount\na,1\n", "did you mean 'Who'?"),
        (b"whos,amount\na,1\n", "did you mean 'whos'?"),
        (b"0xabc,1\n0xdef,2\n", "line 1 looks like a row"),
        (b"who,amount,amount\na,1,2\n", "more than one column 'amount'"),
        (b"who;amount\na;1\n", "--delimiter ';'"),
        (b"who\tamount\na\t1\n", "--delimiter tab"),
        (b"who|amount\na|1\n", "--delimiter '|'"),
        ("who,amount\na,1\n".encode("utf-16-le"), "UTF-16"),
        (b"who,amount\n" + b"x" * (LINE_CHARS_MAX + 1), "longer than"),
        ("who,amount\na,1\n".encode("utf-16"), "UTF-16"),
        (b"who,amount,\xff\na,1,\n", "not UTF-8"),
        (b'"who"x,amount\n', "broken quotes"),
        (b'who,amount\na,1\n"b,1\nc,1\n', "line 3: a quote is not closed"),
        (b'who,amount\n"a"b,"1\nc,1\n', "line 2: a quote is not closed"),
    ],
)
def test_an_ambiguous_file_is_rejected_as_a_whole(data: bytes, reason: str) -> None:
    with pytest.raises(UnreadableList) as error:
        read(data)
    assert reason in str(error.value)


# --- batches ---


def items(count: int, *, amount_micro: int | None = 1, size_bytes: int = 0) -> list[Item]:
    return [Item(line, f"a{line}", amount_micro, amount_micro, b" " * size_bytes or None) for line in range(2, count + 2)]


def test_a_body_holds_every_item_in_order_and_the_flag() -> None:
    body = json.loads(body_of(items(3), entity_type=None, force=True))
    assert body == {"grants": [{"accountId": f"a{n}", "amountMicro": "1"} for n in (2, 3, 4)], "force": True}
    assert json.loads(body_of(items(1), entity_type="mod", force=False)) == {
        "grants": [{"entity": {"entityType": "mod", "entityId": "a2"}, "amountMicro": "1"}],
        "force": False,
    }


def test_a_batch_is_cut_before_its_body_is_too_large() -> None:
    source = items(1000, size_bytes=4096)
    fitting = first_batch(source, ceiling_micro=None)
    assert 1 < len(fitting) < 1000
    assert fitting == source[: len(fitting)]
    assert len(body_of(fitting, entity_type="foundation", force=False)) <= BATCH_BYTES_MAX + 64


@pytest.mark.parametrize(("amount_micro", "count"), [(3, 3), (10, 1), (11, 1), (None, 20)])
def test_a_batch_is_cut_to_the_ceiling_of_one_request(amount_micro: int | None, count: int) -> None:
    assert len(first_batch(items(20, amount_micro=amount_micro), ceiling_micro=10)) == count
