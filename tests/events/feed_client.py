"""Reading the feed as a consumer does, for the tests of it."""

from typing import Any

from tests.api_client import Api, Json


def drain(api: Api, after: str | None = None, **query: Any) -> list[Json]:
    """All events from a place on, by going on from each `nextCursor` until nothing comes."""
    events: list[Json] = []
    while True:
        page = api.get("/events", **({} if after is None else {"after": after}), **query)
        if not page["items"] and page["nextCursor"] == after:
            return events
        events += page["items"]
        after = page["nextCursor"]


def latest(api: Api) -> str:
    """Where the feed ends now."""
    page = api.get("/events", after="latest")
    assert page["items"] == []
    cursor: str = page["nextCursor"]
    return cursor


def types_of(events: list[Json]) -> list[str]:
    """The types of events, in their order."""
    return [event["type"] for event in events]


def new_types(api: Api, after: str) -> list[str]:
    """The types of what came after a place."""
    return types_of(drain(api, after))
