"""Entity ids: one spelling for each entity, and only characters that can be seen. Source: contract, section 1.

An id is in Unicode NFC, and an EVM address in lower case. The Unicode version is that of the running Python
(`unicodedata.unidata_version`): a character that it does not know is unassigned. Ids that are stored stay valid under a
newer version, because Unicode never changes the normal form of assigned characters.
"""

import re
import unicodedata

ENTITY_ID_CHARACTERS_MAX = 200

# NFC composes a character from at most four.
_SENT_CHARACTERS_MAX = 4 * ENTITY_ID_CHARACTERS_MAX

_EVM_ADDRESS = re.compile(r"0[xX][0-9a-fA-F]{40}")

_KINDS = {
    "Cc": "a control character",
    "Cf": "a character without a shape of its own",
    "Cs": "half of a surrogate pair",
    "Co": "a private-use character",
    "Cn": "not an assigned character",
}
_SPACES = frozenset({"Zs", "Zl", "Zp"})


def normalized(text: str) -> str:
    """Return an entity id as it is stored and compared. Raise `ValueError`, which names the character, for no entity id."""
    if len(text) > _SENT_CHARACTERS_MAX:
        raise ValueError(_EXPECTED)
    # Visible ASCII with single spaces inside is in NFC and needs no further look.
    if not (text.isascii() and text.isprintable() and "  " not in text and text == text.strip(" ")):
        _require_visible(text)
        text = unicodedata.normalize("NFC", text)
    if not 1 <= len(text) <= ENTITY_ID_CHARACTERS_MAX:
        raise ValueError(_EXPECTED)
    return text.lower() if len(text) == 42 and _EVM_ADDRESS.fullmatch(text) else text


_EXPECTED = f"expected 1 to {ENTITY_ID_CHARACTERS_MAX} characters"


def named(character: str) -> str:
    """`U+200B ZERO WIDTH SPACE`; the number alone where the character has no name."""
    return f"U+{ord(character):04X} {unicodedata.name(character, '')}".rstrip()


def _require_visible(text: str) -> None:
    last = len(text) - 1
    for place, character in enumerate(text):
        category = unicodedata.category(character)
        if kind := _KINDS.get(category):
            raise ValueError(f"{named(character)} at position {place + 1} is {kind}; remove it")
        if category not in _SPACES:
            continue
        if place in (0, last):
            raise ValueError(f"{named(character)} at the {'end' if place else 'start'} is white space; remove it")
        if character != " " or text[place - 1] == " ":
            raise ValueError(f"{named(character)} at position {place + 1}: the only white space inside is a single U+0020")
