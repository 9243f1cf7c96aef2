"""What the API tells of an account, in a form that is easy to compare."""

from typing import NamedTuple

from tests.api_client import Api, Json


class Entry(NamedTuple):
    """One entry without its id, time and place."""

    type: str
    amount: int
    available: int
    reserved: int
    lot: str | None = None
    reservation: str | None = None


def history(api: Api, account: str, **query: object) -> list[Json]:
    """All entries of an account, oldest first."""
    items: list[Json] = []
    page: Json = {"nextCursor": None}
    while not items or page["nextCursor"]:
        cursor = {"cursor": page["nextCursor"]} if page["nextCursor"] else {}
        page = api.get(f"/accounts/{account}/history", limit=100, **query, **cursor)
        items += page["items"]
        if not page["items"]:
            break
    return items[::-1]


def entries(api: Api, account: str, after: int = 0) -> list[Entry]:
    """The entries of an account, oldest first, without the first ones."""
    return [
        Entry(
            e["entryType"], int(e["amountMicro"]), int(e["availableDeltaMicro"]), int(e["reservedDeltaMicro"]), e["lotId"],
            e["reservationId"],
        )
        for e in history(api, account)[after:]
    ]  # fmt: skip


def balance(api: Api, account: str, **query: object) -> tuple[int, int, int]:
    """Available, reserved and owed."""
    found = api.get(f"/accounts/{account}/balance", **query)
    return int(found["totalAvailableMicro"]), int(found["totalReservedMicro"]), int(found["debtMicro"])


def lots(api: Api, account: str) -> dict[str, dict[str, int]]:
    """The parts of each lot that are not nothing, by its id."""
    parts = ("available", "reserved", "consumed", "expired", "revoked")
    return {
        lot["id"]: {part: int(lot[f"{part}Micro"]) for part in parts if lot[f"{part}Micro"] != "0"}
        for lot in api.get(f"/accounts/{account}/lots", limit=100)["items"]
    }


def allocations(reserved: Json) -> list[tuple[str, int]]:
    return [(a["lotId"], int(a["reservedMicro"])) for a in reserved["lotAllocations"]]


def seen(api: Api, account: str, *reservations: str) -> Json:
    """All that reads tell of an account and its reservations, except what was written when."""
    found = api.get(f"/accounts/{account}/balance")
    del found["at"]
    return [
        found,
        api.get(f"/accounts/{account}/lots", limit=100)["items"],
        *(api.get(f"/reservations/{reservation}") for reservation in reservations),
    ]
