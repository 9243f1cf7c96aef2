"""Validation errors: the messages of msgspec that `api/decoding.py` turns into errors with a path and an expectation."""

from typing import Any

import msgspec
import pytest

from minibill.api.decoding import Decoder, convert
from minibill.api.types import Limit
from minibill.campaigns.schemas import BatchBody
from minibill.core.problems import InvalidRequest
from minibill.ledger.schemas import MintBody

# A body, msgspec's message, and the error that a client gets.
MESSAGES: list[tuple[type[Any], bytes, str, str, str]] = [
    (MintBody, b"{}", "Object missing required field `amountMicro`", "amountMicro", "is required"),
    (MintBody, b'{"x": 1}', "Object contains unknown field `x`", "x", "is not known here"),
    (
        BatchBody,
        b'{"grants": [{"x": 1}]}',
        "Object contains unknown field `x` - at `$.grants[0]`",
        "grants[0].x",
        "is not known here",
    ),
    (BatchBody, b'{"grants": 1}', "Expected `array`, got `int` - at `$.grants`", "grants", "Expected `array`, got `int`"),
    (
        MintBody,
        b'{"amountMicro": "1", "sourceType": "gift"}',
        "Invalid enum value 'gift' - at `$.sourceType`",
        "sourceType",
        "expected one of ",
    ),
    (
        MintBody,
        b'{"amountMicro": "1", "sourceType": "deposit", "poolId": "A"}',
        "Expected `str` matching regex '^[a-z0-9][a-z0-9:._-]{0,63}\\\\Z' - at `$.poolId`",
        "poolId",
        "expected 1 to 64 characters a-z 0-9 : . _ - that begin with a letter or digit",
    ),
]


def test_msgspec_words_its_errors_as_the_decoder_expects() -> None:
    """Compare msgspec's messages with those that `minibill.api.decoding` parses.

    If this fails after an update of msgspec, adapt the patterns there and the messages here.
    """
    for kind, body, message, path, text in MESSAGES:
        with pytest.raises(msgspec.ValidationError) as raised:
            Decoder(kind)._decoder.decode(body)
        assert str(raised.value) == message
        with pytest.raises(InvalidRequest) as problem:
            Decoder(kind).decode(body)
        [error] = problem.value.extensions["errors"]
        assert error.path == path and error.message.startswith(text), error


def test_a_custom_types_error_is_the_message() -> None:
    class Query(msgspec.Struct):
        limit: Limit

    with pytest.raises(InvalidRequest) as problem:
        convert({"limit": "0"}, Query)
    [error] = problem.value.extensions["errors"]
    assert (error.path, error.message) == ("limit", "expected an integer from 1 to 100")
