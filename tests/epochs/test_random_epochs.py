"""A book is written, backed up, restored, damaged and copied in random order: no issued id has two meanings."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.api_client import Json, ok
from tests.epochs.machine import Machine
from tests.epochs.test_epochs import NOWHERE, all_ids
from tests.events.feed_client import drain

STEPS = 14


def write(machine: Machine, choose: random.Random, kept: list[str]) -> Json:
    """Run a random write; return its response."""
    api = machine.api
    account = choose.choice(kept) if kept else api.account(100)
    kind = choose.choice(["account", "mint", "draft", "reserve", "finalize", "webhook", "batch"])
    if kind == "account":
        return {"id": api.account()}
    if kind == "draft":
        return {"id": api.draft()}
    if kind == "reserve":
        return {"id": api.reserve(account, 5, billingMode="soft")}
    if kind == "finalize":
        return ok(api.finalize(api.reserve(account, 5, billingMode="soft"), choose.choice([3, 5, 7])))
    if kind == "webhook":
        made = ok(api.post("/webhooks", {"url": NOWHERE}), 201)
        assert api.call("DELETE", f"/webhooks/{made['id']}").status_code == 204
        return {"id": made["id"]}
    if kind == "batch":
        return ok(api.batch(api.campaign(), (account, 5)))["grants"][0]
    return ok(api.post(f"/accounts/{account}/mint", {"amountMicro": "100"}))


@pytest.mark.parametrize("seed", range(4))
def test_no_id_ever_issued_has_two_meanings(new_machine: Callable[..., Machine], seed: int) -> None:
    choose = random.Random(seed)
    machine = new_machine()
    # A copy without commits and without an anchor is a new book.
    machine.api.account()
    copies: list[Path] = []
    meanings: dict[str, Json] = {}
    answered: dict[str, int] = {}
    writes = 0
    for _ in range(STEPS):
        step = choose.choice(["write", "write", "backup", "restore", "accept a loss", "move"])
        if step == "backup" or not copies:
            copies.append(machine.backup())
        elif step == "restore":
            replaced = machine.restore(choose.choice(copies))
            copies.append(Path(replaced["kept"]))
        elif step == "accept a loss":
            machine.lose_what_is_later(choose.choice(copies))
        elif step == "move":
            machine.move(choose.choice(copies))
        for _ in range(choose.randrange(4)):
            accounts = [item["id"] for item in machine.api.get("/accounts")["items"]]
            answer = write(machine, choose, accounts)
            writes += 1
            # No other write got the id that this write created.
            key = answer.get("id") or answer.get("reservationId") or answer.get("lotId")
            assert key is not None
            assert answered.setdefault(key, writes) == writes, key
        for key, thing in all_ids(machine.api).items():
            assert meanings.setdefault(key, thing) == thing
        ids = [event["id"] for event in drain(machine.api)]
        assert ids == sorted(ids)
    assert writes > 5
