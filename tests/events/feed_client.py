"""A consumer of the feed, for tests."""

from typing import Any

from tests.api_client import Api, Json


def drain(api: Api, after: str | None = None, **query: Any) -> list[Json]:
    """Return all events after a cursor, by following each `nextCursor` to the end."""
    events: list[Json] = []
    while True:
        page = api.get("/events", **({} if after is None else {"after": after}), **query)
        if not page["items"] and page["nextCursor"] == after:
            return events
        events += page["items"]
        after = page["nextCursor"]


def latest(api: Api) -> str:
    """Return the cursor of the current end of the feed."""
    page = api.get("/events", after="latest")
    assert page["items"] == []
    cursor: str = page["nextCursor"]
    return cursor


def types_of(events: list[Json]) -> list[str]:
    """Return the types of events, in order."""
    return [event["type"] for event in events]


def new_types(api: Api, after: str) -> list[str]:
    """Return the types of the events after a cursor."""
    return types_of(drain(api, after))
