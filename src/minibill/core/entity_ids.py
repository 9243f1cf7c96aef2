"""Entity ids: one spelling for each entity, and only visible characters.

An id is in Unicode NFC, and an EVM address in lower case (docs/reference/http-api.md). The Unicode version is that of the
running Python, `unicodedata.unidata_version`; later characters count as unassigned. Stored ids stay valid under a newer
version, because Unicode never changes the normal form of assigned characters.
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
    """Return an entity id as it is stored and compared. Raises `ValueError`, which names an invalid character."""
    if len(text) > _SENT_CHARACTERS_MAX:
        raise ValueError(_EXPECTED)
    # Visible ASCII with single spaces inside is always valid and in NFC.
    if not (text.isascii() and text.isprintable() and "  " not in text and text == text.strip(" ")):
        _require_visible(text)
        text = unicodedata.normalize("NFC", text)
    if not 1 <= len(text) <= ENTITY_ID_CHARACTERS_MAX:
        raise ValueError(_EXPECTED)
    return text.lower() if len(text) == 42 and _EVM_ADDRESS.fullmatch(text) else text


_EXPECTED = f"expected 1 to {ENTITY_ID_CHARACTERS_MAX} characters"


def named(character: str) -> str:
    """Return number and name, such as `U+200B ZERO WIDTH SPACE`; the number alone if the character has no name."""
    return f"U+{ord(character):04X} {unicodedata.name(character, '')}".rstrip()


def _require_visible(text: str) -> None:
    last = len(text) - 1
    for index, character in enumerate(text):
        category = unicodedata.category(character)
        if kind := _KINDS.get(category):
            raise ValueError(f"{named(character)} at position {index + 1} is {kind}; remove it")
        if category not in _SPACES:
            continue
        if index in (0, last):
            raise ValueError(f"{named(character)} at the {'end' if index else 'start'} is white space; remove it")
        if character != " " or text[index - 1] == " ":
            raise ValueError(f"{named(character)} at position {index + 1}: the only white space inside is a single U+0020")
