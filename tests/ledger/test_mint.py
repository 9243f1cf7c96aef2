"""Minting over HTTP."""

from tests.api_client import Api, ok, problem_of


def test_a_mint_creates_a_lot_an_entry_and_a_balance(api: Api) -> None:
    account = api.account()
    minted = api.mint(account, 100, poolId="gpu", priority=7, metadata={"order": 1.10})
    [lot] = api.get(f"/accounts/{account}/lots")["items"]
    [entry] = api.get(f"/accounts/{account}/history")["items"]
    assert (lot["id"], lot["originalMicro"], lot["priority"], lot["state"]) == (minted["lotId"], "100", 7, "live")
    assert (entry["lotId"], entry["entryType"], entry["entrySeq"], entry["availableAfterMicro"]) == (
        lot["id"],
        "grant",
        1,
        "100",
    )
    assert api.available(account, "gpu") == 100


def test_a_rejected_mint_changes_nothing(api: Api) -> None:
    account = api.account(5)
    with api.unchanged():
        problem_of(api.post(f"/accounts/{account}/mint", {"amountMicro": "0"}), 400, "validation_error", "amountMicro")
        problem_of(
            api.post(f"/accounts/{account}/mint", {"amountMicro": "1", "expiresAt": api.after(-1)}),
            400,
            "validation_error",
            "expiresAt",
        )
        ok(api.post(f"/accounts/{account}/mint", {"amountMicro": "1"}, dryRun="true"))
