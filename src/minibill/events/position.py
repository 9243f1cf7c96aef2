"""Places in the feed: the one order of ledger entries and other events, and the ids that are made of it.

An entry's place is (its id, 0); another event's is (the newest entry when it happened, its own id). Whatever is committed
has a place after all that was committed before, so a consumer that goes on from a place misses nothing. Until a new epoch
has an entry, its base (db/epochs.py) stands for one, so its events come after every event of the epochs before.
"""

from typing import NamedTuple

from minibill.core import ids


class Position(NamedTuple):
    """Places compare in the order of the feed."""

    entry_id: int
    event_id: int


BEGINNING = Position(0, 0)

_ENTRY_CHARACTERS = len(ids.encode(ids.EVENT, 0))


def event_id(place: Position) -> str:
    """The id of the event at a place; also the cursor that goes on after it. Ids sort as places do."""
    return ids.encode(ids.EVENT, place.entry_id) + ids.encode("", place.event_id)


def parse_position(text: str) -> Position | None:
    """The place that an id names; None for anything that `event_id` did not make."""
    entry_id = ids.decode(ids.EVENT, text[:_ENTRY_CHARACTERS])
    number = ids.decode("", text[_ENTRY_CHARACTERS:])
    return None if entry_id is None or number is None else Position(entry_id, number)
