"""Reads of an account, in a form that is easy to compare."""

from typing import NamedTuple

from tests.api_client import Api, Json


class Entry(NamedTuple):
    """An entry without its id, its time and its number."""

    type: str
    amount: int
    available: int
    reserved: int
    lot: str | None = None
    reservation: str | None = None


def history(api: Api, account: str, **query: object) -> list[Json]:
    """Return all entries of an account, the oldest first."""
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
    """Return the entries of an account, the oldest first, without the first `after` ones."""
    return [
        Entry(
            e["entryType"], int(e["amountMicro"]), int(e["availableDeltaMicro"]), int(e["reservedDeltaMicro"]), e["lotId"],
            e["reservationId"],
        )
        for e in history(api, account)[after:]
    ]  # fmt: skip


def balance(api: Api, account: str, **query: object) -> tuple[int, int, int]:
    """Return available, reserved and owed micro-units."""
    found = api.get(f"/accounts/{account}/balance", **query)
    return int(found["totalAvailableMicro"]), int(found["totalReservedMicro"]), int(found["debtMicro"])


def lots(api: Api, account: str) -> dict[str, dict[str, int]]:
    """Return the parts of each lot that are not 0, by its id."""
    parts = ("available", "reserved", "consumed", "expired", "revoked")
    return {
        lot["id"]: {part: int(lot[f"{part}Micro"]) for part in parts if lot[f"{part}Micro"] != "0"}
        for lot in api.get(f"/accounts/{account}/lots", limit=100)["items"]
    }


def allocations(reserved: Json) -> list[tuple[str, int]]:
    return [(a["lotId"], int(a["reservedMicro"])) for a in reserved["lotAllocations"]]


def all_reads(api: Api, account: str, *reservations: str) -> Json:
    """Return all reads of an account and its reservations, except times and entries."""
    found = api.get(f"/accounts/{account}/balance")
    del found["at"]
    return [
        found,
        api.get(f"/accounts/{account}/lots", limit=100)["items"],
        *(api.get(f"/reservations/{reservation}") for reservation in reservations),
    ]
