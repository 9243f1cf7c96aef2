"""The origins of entries and lots: reservation, charge, campaign, grant and cause."""

import pytest

from tests.api_client import Api, Json, ok

CAUSED = {"release", "expire", "revoke"}


def entries(api: Api, account: str, **query: str) -> list[Json]:
    found: list[Json] = api.get(f"/accounts/{account}/history", **query)["items"]
    return found


def granted(api: Api, **terms: Json) -> tuple[str, str, str]:
    """Open an account with one grant of 50; return the account, the campaign and the grant."""
    # Its key differs from that of the grant.
    api.draft()
    account, campaign = api.account(), api.campaign(**terms)
    [grant] = ok(api.batch(campaign, (account, 50)))["grants"]
    return account, campaign, grant["grantId"]


def revoke(api: Api, campaign: str, grant: str) -> None:
    ok(api.post(f"/campaigns/{campaign}/grants/{grant}/revoke", {"reason": "sent twice"}))


def charge(api: Api, account: str, cost_micro: int, **body: Json) -> str:
    made = ok(api.internal("POST", "/charges", {"accountId": account, "costMicro": str(cost_micro), **body}), 201)
    key: str = made["chargeId"]
    return key


def end(api: Api, reservation: str, status: str) -> None:
    """End a reservation of 20 with 60 seconds to live."""
    match status:
        case "released":
            ok(api.release(reservation))
        case "finalized":
            ok(api.finalize(reservation, 5))
        case _:
            api.advance(60)


ENDS = [("released", "requested"), ("finalized", "finalized"), ("expired", "expired")]


def test_a_lot_names_its_campaign_and_grant(api: Api) -> None:
    account, campaign, grant = granted(api)
    api.mint(account, 5)
    for query in ({}, {"state": "live"}):
        lots = api.get(f"/accounts/{account}/lots", **query)["items"]
        assert [(lot["campaignId"], lot["grantId"]) for lot in lots] == [(campaign, grant), (None, None)]


@pytest.mark.parametrize("pools", [("general",), ("general", "gpu")])
def test_entries_of_a_granted_lot_name_its_campaign_and_grant(api: Api, pools: tuple[str, ...]) -> None:
    account, campaign, grant = granted(api)
    minted = [api.mint(account, 5, poolId=pool, priority=90)["lotId"] for pool in pools]
    ok(api.finalize(api.reserve(account, 20), 5))
    charged = charge(api, account, 7)
    revoke(api, campaign, grant)
    found = entries(api, account)
    assert {entry["entryType"] for entry in found} == {"grant", "reserve", "finalize", "release", "charge", "revoke"}
    for entry in found:
        is_minted = entry["lotId"] in minted
        assert (entry["campaignId"], entry["grantId"]) == ((None, None) if is_minted else (campaign, grant))
        assert entry["chargeId"] == (charged if entry["entryType"] == "charge" else None)


def test_every_entry_of_a_charge_names_it(api: Api) -> None:
    account = api.account(10, 10)
    made = [charge(api, account, 25, billingMode="soft"), charge(api, account, 4, billingMode="shadow")]
    named = {entry["entryType"]: (entry["chargeId"], entry["reservationId"]) for entry in entries(api, account)}
    assert named == {
        "grant": (None, None), "charge": (made[0], None), "debt_incurred": (made[0], None), "shadow_charge": (made[1], None),
    }  # fmt: skip


def test_a_grant_that_pays_a_debt_is_named(api: Api) -> None:
    api.draft()
    account, campaign = api.account(), api.campaign()
    charge(api, account, 30, billingMode="soft")
    [grant] = ok(api.batch(campaign, (account, 50)))["grants"]
    [paid] = entries(api, account, entryType="debt_paid")
    [incurred] = entries(api, account, entryType="debt_incurred")
    assert (paid["campaignId"], paid["grantId"], paid["cause"]) == (campaign, grant["grantId"], None)
    assert (incurred["campaignId"], incurred["grantId"], incurred["cause"]) == (None, None, None)


@pytest.mark.parametrize(("status", "cause"), ENDS)
def test_a_release_names_the_end_of_its_reservation(api: Api, status: str, cause: str) -> None:
    account = api.account(50)
    end(api, api.reserve(account, 20, ttlSeconds=60), status)
    [entry] = entries(api, account, entryType="release")
    assert entry["cause"] == cause


@pytest.mark.parametrize(("status", "cause"), ENDS)
def test_credits_returned_to_an_expired_lot_name_what_returned_them(api: Api, status: str, cause: str) -> None:
    account = api.account(50, expiresAt=api.after(30))
    reservation = api.reserve(account, 20, ttlSeconds=60)
    api.advance(40)
    end(api, reservation, status)
    returned, expired = entries(api, account, entryType="expire")
    assert (returned["cause"], returned["reservationId"]) == (cause, reservation)
    assert (expired["cause"], expired["reservationId"]) == ("expired", None)


@pytest.mark.parametrize(("status", "cause"), ENDS)
def test_credits_returned_to_a_revoked_lot_name_what_returned_them(api: Api, status: str, cause: str) -> None:
    account, campaign, grant = granted(api)
    reservation = api.reserve(account, 20, ttlSeconds=60)
    revoke(api, campaign, grant)
    end(api, reservation, status)
    returned, revoked = entries(api, account, entryType="revoke")
    assert (returned["cause"], returned["reservationId"], returned["grantId"]) == (cause, reservation, grant)
    assert (revoked["cause"], revoked["reservationId"], revoked["grantId"]) == ("revoked", None, grant)


def test_only_releases_expiries_and_revokes_have_a_cause(api: Api) -> None:
    account, campaign, grant = granted(api)
    api.mint(account, 20, expiresAt=api.after(30))
    for mode in ("live", "soft", "shadow"):
        ok(api.finalize(api.reserve(account, 6, billingMode=mode), 4))
        charge(api, account, 3, billingMode=mode)
    api.advance(30)
    revoke(api, campaign, grant)
    charge(api, account, 9, billingMode="soft")
    api.mint(account, 5)
    found = entries(api, account)
    assert len({entry["entryType"] for entry in found}) == 12
    for entry in found:
        assert (entry["cause"] is not None) == (entry["entryType"] in CAUSED), entry


def test_events_of_entries_have_the_same_origins(api: Api) -> None:
    account, campaign, grant = granted(api)
    charge(api, account, 5)
    end(api, api.reserve(account, 20, ttlSeconds=60), "expired")
    revoke(api, campaign, grant)
    events = api.get("/events", types="ledger.*")["items"]
    assert [event["data"] for event in events][::-1] == entries(api, account)
    assert {event["campaignId"] for event in events} == {campaign}
    assert [event["data"]["cause"] for event in events] == [None, None, None, "expired", "revoked"]
