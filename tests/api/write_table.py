"""Every write of the API as a table, for guarantees that hold for all of them."""

from collections.abc import Callable
from typing import NamedTuple

from tests.api_client import Api, Json, ok


class Write(NamedTuple):
    """A request that changes something once its book is prepared."""

    method: str
    path: str
    body: Json


ENTITY: Json = {"entityType": "person", "entityId": "ada"}
CAMPAIGN: Json = {"name": "Airdrop", "campaignType": "loyalty", "budgetMicro": "100"}


def _mint(api: Api) -> Write:
    return Write(
        "POST", f"/accounts/{api.account(3)}/mint", {"amountMicro": "5", "sourceId": "order-1", "metadata": {"n": 1}}
    )


TIERS: Json = {"tiers": [{"tier": "gold", "rateBps": 2000}, {"tier": "free", "rateBps": 10000, "maxDiscountMicro": "5"}]}


THRESHOLDS: Json = {"thresholds": [{"belowMicro": "10", "recoveredMicro": "20"}, {"belowMicro": "5", "poolId": "gpu"}]}


# An address without a name to resolve. Nothing is sent to it.
WEBHOOK: Json = {"url": "https://192.88.98.1/hook", "types": ["ledger.*"], "description": "the bookkeeping"}


def _webhook(api: Api) -> str:
    webhook: str = ok(api.post("/webhooks", WEBHOOK))["id"]
    return webhook


def _membership(api: Api) -> Write:
    api.call("PUT", "/discounts/guild/tiers", TIERS)
    return Write("PUT", f"/accounts/{api.account()}/memberships/guild", {"tier": "gold", "expiresAt": api.after(60)})


def _change_of_a_membership(api: Api) -> Write:
    write = _membership(api)
    api.call(*write)
    return write._replace(body={"tier": "free"})


def _replaced_tiers(api: Api) -> Write:
    api.call("PUT", "/discounts/lodge/tiers", TIERS)
    return Write("PUT", "/discounts/lodge/tiers", {"tiers": TIERS["tiers"][1:]})


def _batch(api: Api) -> Write:
    account, paid = api.account(), api.account(2)
    campaign = api.campaign(grantFormula="proportional_loss")
    api.batch(campaign, (paid, 7))
    grants = [
        {"accountId": account, "formulaInput": {"lossMicro": "9", "source": "list"}},
        {"entity": {"entityType": "agent", "entityId": "new"}, "amountMicro": "4"},
        {"accountId": paid, "amountMicro": "8"},
        {"accountId": "acct_none", "amountMicro": "8"},
        {"entity": {"entityType": "agent", "entityId": "nothing lost"}, "formulaInput": {"lossMicro": "0"}},
    ]
    return Write("POST", f"/campaigns/{campaign}/grants/batch", {"grants": grants})


def _granted(api: Api) -> str:
    """Return the path of a campaign that has paid two accounts; one has spent and reserved some credits."""
    campaign, account = api.campaign(), api.account()
    api.batch(campaign, (account, 20), (api.account(), 30))
    api.finalize(api.reserve(account, 5), 3)
    api.reserve(account, 7)
    return f"/campaigns/{campaign}"


def _revoke_one(api: Api) -> Write:
    path = _granted(api)
    grant = api.get(f"{path}/grants")["items"][0]["grantId"]
    return Write("POST", f"{path}/grants/{grant}/revoke", {"reason": "a mistake"})


def _forgiven(api: Api) -> Write:
    account = api.account()
    api.finalize(api.reserve(account, 5, billingMode="soft"), 5)
    [debt] = api.get(f"/accounts/{account}/debts")["items"]
    return Write("POST", f"/accounts/{account}/debts/{debt['debtId']}/forgive", {"reason": "a mistake"})


def _charge(api: Api) -> Write:
    account, body = (
        api.account(3, 9),
        {"costMicro": "7", "sourceId": "call-1", "description": "a call", "metadata": {"n": 1}},
    )
    return Write("POST", f"/accounts/{account}/charges", body)


def _charged(api: Api) -> Write:
    write = _charge(api)
    ok(api.post(write.path, write.body), 201)
    return write


# Each prepares a book and returns the request.
WRITES: dict[str, Callable[[Api], Write]] = {
    "open": lambda _: Write("POST", "/accounts", ENTITY),
    "mint": _mint,
    "create": lambda _: Write("POST", "/campaigns", CAMPAIGN),
    "edit": lambda api: Write("PATCH", f"/campaigns/{api.campaign()}", {"name": "Another", "budgetMicro": "7"}),
    "activate": lambda api: Write("POST", f"/campaigns/{api.draft()}/activate", None),
    "pause": lambda api: Write("POST", f"/campaigns/{api.campaign()}/pause", None),
    "complete": lambda api: Write("POST", f"/campaigns/{api.campaign()}/complete", {}),
    "batch": _batch,
    "revoke a grant": _revoke_one,
    "revoke a campaign": lambda api: Write("POST", f"{_granted(api)}/revoke", {"reason": "a mistake"}),
    "reserve": lambda api: Write("POST", f"/accounts/{api.account(9)}/reservations", {"amountMicro": "5"}),
    "finalize": lambda api: Write(
        "POST", f"/reservations/{api.reserve(api.account(9), 5)}/finalize", {"actualCostMicro": "3"}
    ),
    "release": lambda api: Write("POST", f"/reservations/{api.reserve(api.account(9), 5)}/release", None),
    "charge": _charge,
    "put tiers": lambda _: Write("PUT", "/discounts/guild/tiers", TIERS),
    "replace tiers": _replaced_tiers,
    "join": _membership,
    "change a membership": _change_of_a_membership,
    "put thresholds": lambda api: Write("PUT", f"/accounts/{api.account(9)}/thresholds", THRESHOLDS),
    "make a webhook": lambda _: Write("POST", "/webhooks", WEBHOOK),
    "edit a webhook": lambda api: Write("PATCH", f"/webhooks/{_webhook(api)}", {"enabled": False, "types": ["grant.*"]}),
    "rotate a secret": lambda api: Write("POST", f"/webhooks/{_webhook(api)}/rotate-secret", None),
    "replay": lambda api: Write("POST", f"/webhooks/{_webhook(api)}/replay", {"after": "evt_" + "0" * 26}),
    "reconcile": lambda _: Write("POST", "/reconciliation", None),
    "accept the clock": lambda _: Write("POST", "/clock/accept", None),
    "forgive a debt": _forgiven,
    "revoke tokens of a subject": lambda _: Write(
        "POST", "/tokens/revoke", {"sub": "eve", "issuedBefore": "2026-01-01T00:00:00Z"}
    ),
    "revoke a token": lambda _: Write("POST", "/tokens/some-id/revoke", None),
}

# Each prepares a book and returns a request that the book rejects.
REFUSALS: dict[str, Callable[[Api], Write]] = {
    "mint to nobody": lambda _: Write("POST", "/accounts/acct_none/mint", {"amountMicro": "5"}),
    "mint over the ceiling": lambda api: Write("POST", f"/accounts/{api.account()}/mint", {"amountMicro": "9" * 18}),
    "charge more than is there": lambda api: _charge(api)._replace(body={"costMicro": "13"}),
    "charge a source again, otherwise": lambda api: _charged(api)._replace(body={"costMicro": "6", "sourceId": "call-1"}),
    "put a tier twice": lambda _: Write("PUT", "/discounts/guild/tiers", {"tiers": TIERS["tiers"][:1] * 2}),
    "join a tier that is not there": lambda api: _membership(api)._replace(body={"tier": "glod"}),
    "delete no membership": lambda api: Write("DELETE", f"/accounts/{api.account()}/memberships/guild", None),
    "put a threshold twice": lambda api: Write(
        "PUT", f"/accounts/{api.account()}/thresholds", {"thresholds": THRESHOLDS["thresholds"][:1] * 2}
    ),
    "make a webhook that leads inside": lambda _: Write("POST", "/webhooks", WEBHOOK | {"url": "https://10.0.0.1/"}),
    "delete no webhook": lambda _: Write("DELETE", "/webhooks/hook_none", None),
    "replay both ways": lambda api: Write("POST", f"/webhooks/{_webhook(api)}/replay", {}),
    "edit nothing": lambda _: Write("PATCH", "/campaigns/camp_none", {"name": "x"}),
    "edit a locked field": lambda api: Write("PATCH", f"/campaigns/{api.campaign()}", {"poolId": "gpu"}),
    "revoke a grant of another campaign": lambda api: Write(
        "POST", _revoke_one(api).path.replace("camp_0000000000001", api.campaign()), {"reason": "a mistake"}
    ),
    "forgive no debt": lambda api: Write("POST", f"/accounts/{api.account()}/debts/debt_none/forgive", {"reason": "x"}),
    "revoke tokens that are not issued yet": lambda _: Write(
        "POST", "/tokens/revoke", {"sub": "eve", "issuedBefore": "2999-01-01T00:00:00Z"}
    ),
    "revoke without a reason": lambda api: Write("POST", f"{_granted(api)}/revoke", {}),
    "pause a draft": lambda api: Write("POST", f"/campaigns/{api.draft()}/pause", None),
    "pay from a draft": lambda api: Write(
        "POST", f"/campaigns/{api.draft()}/grants/batch", {"grants": [{"accountId": api.account(), "amountMicro": "1"}]}
    ),
    "pay over the budget": lambda api: Write(
        "POST", f"/campaigns/{api.campaign(5)}/grants/batch", {"grants": [{"accountId": api.account(), "amountMicro": "6"}]}
    ),
}
