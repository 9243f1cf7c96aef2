"""Charges and batches of charges, as a service sends them, in a form that is easy to compare."""

from contextlib import closing

import httpx

from minibill.core import ids
from minibill.db.connection import open_reader
from tests.api_client import Api, Json, ok


def ask_to_charge(api: Api, account: str, cost_micro: int, **body: Json) -> httpx.Response:
    return api.internal("POST", "/charges", {"accountId": account, "costMicro": str(cost_micro), **body})


def charge(api: Api, account: str, cost_micro: int, **body: Json) -> Json:
    """Charge an account, for the first time."""
    return ok(ask_to_charge(api, account, cost_micro, **body), 201)


def item(account: str, cost_micro: int, source: str, **body: Json) -> Json:
    """Return an item of a batch."""
    return {"accountId": account, "costMicro": str(cost_micro), "sourceId": source, **body}


def ask_for_batch(api: Api, *items: Json, **options: Json) -> httpx.Response:
    return api.internal("POST", "/charges/batch", {"charges": list(items)}, **options)


def batch(api: Api, *items: Json) -> Json:
    """Send a batch that is evaluated."""
    return ok(ask_for_batch(api, *items), 200)


def results(answer: Json) -> list[str]:
    """Return the code of each rejected item of a batch, and the status of each other one."""
    return [result.get("code", result["status"]) for result in answer["charges"]]


def figures(charged: Json) -> tuple[int, int, int, int]:
    """Return the list price, the discount, the charged amount and the debt."""
    list_micro, discount, amount, debt = (int(charged[f"{name}Micro"]) for name in ("list", "discount", "charged", "debt"))
    return list_micro, discount, amount, debt


def consumed(charged: Json) -> list[tuple[str, int]]:
    return [(lot["lotId"], int(lot["consumedMicro"])) for lot in charged["lotAllocations"]]


def entries_of(api: Api, charged: Json) -> list[tuple[str, int]]:
    """Return type and amount of the entries of a charge, in their order."""
    with closing(open_reader(api.book.path)) as conn:
        return conn.execute(
            "SELECT entry_type, amount_micro FROM credit_ledger WHERE charge_id = ? ORDER BY id",
            (ids.decode(ids.CHARGE, charged["chargeId"]),),
        ).fetchall()
