"""Helpers for tiers, memberships and quotes."""

from urllib.parse import quote as encoded

from tests.api_client import Api, Json, ok

GOLD: Json = {"tier": "gold", "rateBps": 2000}
CAPPED: Json = {"tier": "capped", "rateBps": 5000, "maxDiscountMicro": "100"}
FREE: Json = {"tier": "free", "rateBps": 10_000}


def put_tiers(api: Api, community: str, *tiers: Json) -> Json:
    return ok(api.call("PUT", f"/discounts/{encoded(community, safe='')}/tiers", {"tiers": list(tiers)}), 200)


def path_of(account: str, community: str) -> str:
    """Return the path of a membership."""
    return f"/accounts/{account}/memberships/{encoded(community, safe='')}"


def join(api: Api, account: str, community: str, tier: str, **body: Json) -> Json:
    return ok(api.call("PUT", path_of(account, community), {"tier": tier, **body}), 200)


def member(api: Api, tier: Json, *amounts: int, community: str = "guild") -> str:
    """Return a new account in the only tier of a community."""
    account = api.account(*amounts)
    put_tiers(api, community, tier)
    join(api, account, community, tier["tier"])
    return account


def quote(api: Api, account: str, amount_micro: int) -> Json:
    return api.get(f"/accounts/{account}/quote", amountMicro=amount_micro)


def reasons(answer: Json) -> dict[str, tuple[bool, str]]:
    """Return (applied, reason) by community."""
    return {each["communityId"]: (each["applied"], each["reason"]) for each in answer["considered"]}
