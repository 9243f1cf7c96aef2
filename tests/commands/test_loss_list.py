"""Reading a list: exact amounts, physical line numbers, and nothing guessed."""

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibill.commands.loss_list import (
    BATCH_BYTES_MAX,
    BadRow,
    Item,
    Layout,
    LossList,
    UnreadableList,
    batches,
    parse_units,
    read_loss_list,
)
from minibill.money import MAX_MICRO


def read(text: str | bytes, **layout: Any) -> LossList:
    """Reads a list with the columns `who` and `amount`, unless the layout says otherwise."""
    data = text if isinstance(text, bytes) else text.encode()
    return read_loss_list(data, layout=Layout(**{"account_column": "who", "amount_column": "amount", **layout}))


def grants(loss_list: LossList) -> list[Any]:
    assert not loss_list.bad_rows
    return [json.loads(item.json) for item in loss_list.items]


def bad_line(loss_list: LossList) -> tuple[int, str]:
    [row] = loss_list.bad_rows
    return row.line, row.reason


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
def test_what_is_no_amount_in_range_is_refused_whether_or_not_it_may_be_rounded(text: str) -> None:
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
def test_more_than_six_places_are_refused_unless_they_are_to_be_cut_off(text: str, floor_micro: int) -> None:
    with pytest.raises(ValueError, match="more than 6 decimal places"):
        parse_units(text, round_down=False)
    assert parse_units(text, round_down=True) == floor_micro


@given(st.integers(0, MAX_MICRO), st.integers(0, 12), st.integers(-20, 20))
def test_any_way_to_write_an_amount_reads_back_as_that_amount(amount_micro: int, zeros: int, exponent: int) -> None:
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


def test_input_that_ends_in_micro_is_an_amount_and_any_other_is_kept_as_it_is_written() -> None:
    text = "who,ETH to recover,note\nacct_1,0.25,007.50 \n"
    inputs = {"lossMicro": "ETH to recover", "note": "note", "loss": "ETH to recover"}
    assert grants(read(text, amount_column=None, input_columns=inputs)) == [
        {"accountId": "acct_1", "formulaInput": {"lossMicro": "250000", "note": "007.50 ", "loss": "0.25"}}
    ]


def test_evidence_keeps_its_line_ends() -> None:
    [grant] = grants(read('who,note\r\na,"two\r\nlines"\r\n', amount_column=None, input_columns={"note": "note"}))
    assert grant["formulaInput"] == {"note": "two\r\nlines"}


def test_an_amount_and_input_go_together() -> None:
    [grant] = grants(read("who,amount\nacct_1,1\n", input_columns={"lossMicro": "amount"}))
    assert grant["amountMicro"] == grant["formulaInput"]["lossMicro"] == "1000000"


def test_rounding_down_reaches_amounts_and_input() -> None:
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
def test_a_list_is_read_however_it_was_written(text: str) -> None:
    assert grants(read(text)) == [{"accountId": "acct_1", "amountMicro": "1000000"}]


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_columns_may_be_delimited_otherwise(delimiter: str) -> None:
    text = "who,amount\nacct_1,1\n".replace(",", delimiter)
    assert len(grants(read(text, delimiter=delimiter))) == 1


def test_a_line_number_is_that_of_the_physical_line_on_which_the_record_starts() -> None:
    text = 'who,note,amount\r\n\r\na,"two\r\nlines",1\r\nb,"three\n\nlines",x\r\nc,,1\r\n'
    loss_list = read(text)
    assert [(item.account, item.line) for item in loss_list.items] == [("a", 3), ("c", 8)]
    assert bad_line(loss_list)[0] == 5


def test_a_file_with_a_header_only_has_no_rows() -> None:
    assert read("who,amount\n") == LossList([], [])


# --- rows that can't be paid ---


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b"b", "has 1 fields where the header has 2"),
        (b"b,1,", "has 3 fields where the header has 2"),
        (b",", "no account"),
        (b" b,1", "spaces around it"),
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
def test_a_row_that_cannot_be_read_is_named_by_line_and_reason_and_spoils_no_other(row: bytes, reason: str) -> None:
    loss_list = read(b"who,amount\na,1\n" + row + b"\nc,1\n")
    assert [item.line for item in loss_list.items] == [2, 4]
    line, why = bad_line(loss_list)
    assert line == 3
    assert reason in why


def test_entity_ids_have_200_characters_at_most() -> None:
    loss_list = read(f"who,amount\n{'é' * 200},1\n{'x' * 201},1\n", entity_type="person")
    assert [item.line for item in loss_list.items] == [2]
    assert "longer than 200" in bad_line(loss_list)[1]


def test_formula_input_has_4_kib_at_most() -> None:
    fits = "x" * (4096 - len('{"note":""}'))
    layout = {"amount_column": None, "input_columns": {"note": "note"}}
    loss_list = read(f"who,note\na,{fits}\nb,{fits}x\n", **layout)
    assert [item.line for item in loss_list.items] == [2]
    assert "larger than 4096 bytes" in bad_line(loss_list)[1]


def test_an_account_named_twice_makes_the_later_row_bad_and_names_both_lines() -> None:
    loss_list = read("who,amount\na,1\nb,1\na,2\n")
    assert [item.line for item in loss_list.items] == [2, 3]
    line, reason = bad_line(loss_list)
    assert line == 4
    assert "line 2" in reason


def test_an_account_whose_first_row_cannot_be_read_is_not_paid_by_a_later_one() -> None:
    loss_list = read("who,amount\na,one\na,2\n")
    assert not loss_list.items
    assert [row.line for row in loss_list.bad_rows] == [2, 3]


def test_nothing_that_a_list_says_reaches_the_terminal_raw() -> None:
    [row] = read("who,amount\na,\x1b[2J1\n").bad_rows
    assert row == BadRow(2, r"column 'amount': expected a plain decimal number, not '\x1b[2J1'")


# --- files that can't be read at all ---


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"\n\n", "empty"),
        (b"wallet,amount\na,1\n", "'who' is not in the file; its columns are 'wallet', 'amount'"),
        (b"who,amount,amount\na,1,2\n", "'amount' is there more than once"),
        (b"who;amount\na;1\n", "'who;amount'"),
        ("who,amount\na,1\n".encode("utf-16"), "UTF-16"),
        (b"who,amount,\xff\na,1,\n", "not UTF-8"),
        (b'"who"x,amount\n', "broken quotes"),
        (b'who,amount\na,1\n"b,1\nc,1\n', "line 3: a quote is not closed"),
        (b'who,amount\n"a"b,"1\nc,1\n', "line 2: a quote is not closed"),
    ],
)
def test_a_file_whose_rows_cannot_be_told_is_refused_as_a_whole(data: bytes, reason: str) -> None:
    with pytest.raises(UnreadableList) as refusal:
        read(data)
    assert reason in str(refusal.value)


# --- batches ---


def items(count: int, size_bytes: int = 2) -> list[Item]:
    return [Item(line, f"a{line}", b"{" + b" " * (size_bytes - 2) + b"}") for line in range(2, count + 2)]


@pytest.mark.parametrize(("count", "sizes"), [(0, []), (1, [1]), (3, [3]), (4, [3, 1]), (7, [3, 3, 1])])
def test_a_batch_has_no_more_items_than_it_may(count: int, sizes: list[int]) -> None:
    assert [len(batch.items) for batch in batches(items(count), size_max=3, force=False)] == sizes


def test_batches_hold_every_item_once_and_in_order_and_say_whether_to_force() -> None:
    source = items(10)
    made = list(batches(source, size_max=4, force=True))
    assert [item for batch in made for item in batch.items] == source
    assert all(json.loads(batch.body) == {"grants": [{}] * len(batch.items), "force": True} for batch in made)
    assert json.loads(next(batches(source, size_max=4, force=False)).body)["force"] is False


def test_a_batch_is_cut_before_its_body_is_too_large() -> None:
    made = list(batches(items(1000, size_bytes=4500), size_max=1000, force=False))
    assert len(made) > 1
    assert sum(len(batch.items) for batch in made) == 1000
    assert all(len(batch.body) <= BATCH_BYTES_MAX + 64 for batch in made)
