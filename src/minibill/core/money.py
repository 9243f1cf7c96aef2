"""Money: integer micro-units, 1,000,000 to the unit; strings of decimal digits in the API."""

MICRO_PER_UNIT = 1_000_000
MAX_MICRO = 2**63 - 1

_MAX_DIGITS = len(str(MAX_MICRO))
_EXPECTED = f"expected a string of decimal digits without sign or leading zero, at most {MAX_MICRO}"


def parse_micro(value: object) -> int:
    """Return the amount of a request, in micro-units.

    Raises `ValueError`, with a message for the client, for anything but a string of ASCII digits without a leading zero.
    """
    if type(value) is not str or not value.isascii() or not value.isdigit() or len(value) > _MAX_DIGITS:
        raise ValueError(_EXPECTED)
    if value[0] == "0" and value != "0":
        raise ValueError(_EXPECTED)
    amount = int(value)
    if amount > MAX_MICRO:
        raise ValueError(_EXPECTED)
    return amount
