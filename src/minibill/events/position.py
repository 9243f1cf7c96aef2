"""Positions in the feed: the total order of ledger entries and other events, and the event ids made of it.

The position of an entry is (its id, 0). The position of another event is (the newest entry at that time, its own id). A
later commit always has a later position, so a consumer that continues from a position misses no event. A new epoch without
an entry uses its base (db/epochs.py) as its newest entry, so its events follow all events of earlier epochs.
"""

from typing import NamedTuple

from minibill.core import ids


class Position(NamedTuple):
    """A position in the feed; positions compare in the order of the feed."""

    entry_id: int
    event_id: int


BEGINNING = Position(0, 0)

_ENTRY_CHARACTERS = len(ids.encode(ids.EVENT, 0))


def event_id(position: Position) -> str:
    """Return the id of the event at a position, which is also the cursor after it. Ids sort as positions do."""
    return ids.encode(ids.EVENT, position.entry_id) + ids.encode("", position.event_id)


def parse_position(text: str) -> Position | None:
    """Return the position of an event id; None for text that `event_id` cannot have returned."""
    entry_id = ids.decode(ids.EVENT, text[:_ENTRY_CHARACTERS])
    number = ids.decode("", text[_ENTRY_CHARACTERS:])
    return None if entry_id is None or number is None else Position(entry_id, number)
