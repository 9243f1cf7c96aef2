"""Epochs: after a restore or an accepted loss, no id is issued that the lost copy of the book has issued."""

import re
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from minibill.db import epochs
from minibill.db.anchor import anchor_file
from minibill.db.connection import open_reader
from minibill.db.epochs import CLOCK_ORIGIN_US, FIRST, SKIPPED_IDS, Epoch, base_after, current_epoch
from minibill.db.queries import queries
from minibill.events import feed as feed_module
from minibill.events.feed import Feed
from minibill.integrity.hash_chain import append_link
from tests.api_client import Api, Json, log_fields, ok, problem_of
from tests.epochs.machine import Machine, minibill
from tests.events.feed_client import drain, latest
from tests.webhooks.conftest import Running
from tests.webhooks.receiver import Receiver

NOWHERE = "http://127.0.0.1:9/"
BEGINNING = "evt_" + 26 * "0"
RESTORE, ACCEPT, MOVE = Machine.restore, Machine.lose_what_is_later, Machine.move

# The ids in a response, an event or a row.
_ID = re.compile(r"\b(?:acct|lot|entry|res|charge|camp|grant|audit|hook|evt)_[0-9a-z]+\b")


def live(api: Api) -> Json:
    """Create one of each kind with an id; return the ids by kind."""
    account = api.account(100)
    reservation = api.reserve(account, 60)
    ok(api.finalize(reservation, 30))
    overspent = api.reserve(account, 10, billingMode="soft")
    ok(api.finalize(overspent, 500))
    charged = api.internal("POST", "/charges", {"accountId": account, "costMicro": "5", "billingMode": "soft"})
    campaign = api.campaign()
    grant = ok(api.batch(campaign, (account, 5)))["grants"][0]
    webhook = ok(api.post("/webhooks", {"url": NOWHERE}), 201)
    events = drain(api)
    return {
        "acct": account, "res": reservation, "charge": ok(charged, 201)["chargeId"],
        "lot": grant["lotId"], "camp": campaign, "grant": grant["grantId"],
        "hook": webhook["id"], "entry": api.get(f"/accounts/{account}/history")["items"][0]["id"],
        "audit": api.get("/audit")["items"][0]["id"], "evt": events[-1]["id"],
    }  # fmt: skip


def all_ids(api: Api) -> dict[str, Json]:
    """Return all events and audit rows of a book by id."""
    rows = page_through(api, "/audit")
    return {item["id"]: item for item in (*drain(api), *rows)}


def page_through(api: Api, path: str, **query: Any) -> list[Json]:
    found, cursor = [], None
    while True:
        page = api.get(path, limit=100, **({} if cursor is None else {"cursor": cursor}), **query)
        found += page["items"]
        if (cursor := page["nextCursor"]) is None:
            return found


def epoch_of(path: Path) -> Epoch:
    with closing(open_reader(path)) as conn:
        return current_epoch(conn)


# --- ids ---


@pytest.mark.parametrize("lose", [RESTORE, ACCEPT, MOVE])
def test_a_late_finalize_of_a_lost_reservation_is_404(machine: Machine, lose: Callable[..., Json]) -> None:
    accounts = [machine.api.account(100) for _ in range(2)]
    copy = machine.backup()
    lost = machine.api.reserve(accounts[0], 60)
    lose(machine, copy)
    new = machine.api.reserve(accounts[1], 70)
    assert new != lost
    problem_of(machine.api.finalize(lost, 60), 404, "reservation_not_found")
    problem_of(machine.api.internal("POST", "/release", {"reservationId": lost}), 404, "reservation_not_found")
    assert [machine.api.available(account) for account in accounts] == [100, 30]
    assert ok(machine.api.finalize(new, 70))["accountId"] == accounts[1]


@pytest.mark.parametrize("lose", [RESTORE, ACCEPT, MOVE])
def test_no_id_of_a_lost_epoch_is_issued_again(machine: Machine, lose: Callable[..., Json]) -> None:
    live(machine.api)
    copy = machine.backup()
    kept = all_ids(machine.api)
    lost = live(machine.api)
    lost_things = {key: thing for key, thing in all_ids(machine.api).items() if key not in kept}
    lose(machine, copy)
    again = live(machine.api)
    assert set(again.values()).isdisjoint(lost.values())
    things = all_ids(machine.api)
    # Ids from before the backup stay the same.
    assert {key: things[key] for key in kept} == kept
    assert things.keys().isdisjoint(lost_things)


def test_ids_sort_by_creation_across_epochs(machine: Machine) -> None:
    issued: list[Json] = [live(machine.api)]
    for lose in (RESTORE, ACCEPT, RESTORE, MOVE):
        copy = machine.backup()
        # Lost rows were created before later ones.
        issued.append(live(machine.api))
        lose(machine, copy)
        issued.append(live(machine.api))
    for kind in issued[0]:
        ids = [each[kind] for each in issued]
        assert ids == sorted(set(ids)), kind
    assert [event["id"] for event in drain(machine.api)] == sorted(event["id"] for event in drain(machine.api))
    assert epoch_of(machine.db).number == 5


def test_the_first_event_after_a_restore_sorts_after_all_lost_ones(machine: Machine) -> None:
    machine.api.account(5)
    copy = machine.backup()
    machine.api.account(5, 6)
    lost = drain(machine.api)[-1]["id"]
    machine.restore(copy)
    # Until the new epoch has an entry, the sequence is the base of the epoch.
    machine.api.account()
    assert drain(machine.api)[-1]["type"] == "account.opened"
    assert drain(machine.api)[-1]["id"] > lost


def test_two_restores_of_one_backup_issue_different_ids(new_machine: Callable[..., Machine]) -> None:
    one, other = new_machine(), new_machine()
    live(one.api)
    copy = one.backup()
    kept = all_ids(one.api)
    things = []
    for machine in (one, other):
        machine.restore(copy)
        live(machine.api)
        things.append(all_ids(machine.api).keys() - kept.keys())
    assert things[0] and things[1] and things[0].isdisjoint(things[1])


def test_a_sequence_does_not_decrease_across_a_restore(machine: Machine) -> None:
    def sequence(api: Api) -> int:
        return int(api.call("GET", f"/accounts/{account}/balance").headers["Ledger-Sequence"])

    account = machine.api.account(5)
    copy = machine.backup()
    machine.api.mint(account, 5)
    seen = [sequence(machine.api)]
    machine.restore(copy)
    seen.append(sequence(machine.api))
    machine.api.mint(account, 5)
    seen.append(sequence(machine.api))
    assert seen == sorted(set(seen)) and seen[-1] < 2**53


# --- cursors ---


def test_feed_cursors_of_a_lost_epoch_stay_invalid(machine: Machine) -> None:
    def refuse_lost() -> None:
        for cursor in lost:
            problem_of(machine.api.call("GET", "/events", after=cursor), 400, "invalid_cursor")
        assert [event["id"] for event in drain(machine.api, BEGINNING)][: len(kept)] == kept

    account = machine.api.account(5)
    kept = [event["id"] for event in drain(machine.api)]
    copy = machine.backup()
    lost: list[str] = []
    for number in range(3):
        # Three lost events; the last one is also the cursor at the end of the feed.
        machine.api.draft()
        machine.api.mint(account, 5)
        machine.api.draft()
        lost += [event["id"] for event in drain(machine.api)][-3:]
        lost.append(latest(machine.api))
        assert len(set(lost)) == 3 * number + 3
        machine.restore(copy)
        refuse_lost()
        # The book grows past its former ids.
        for _ in range(5):
            machine.api.draft()
            machine.api.mint(account, 5)
        refuse_lost()
        assert len(drain(machine.api, kept[0])) == len(kept) - 1 + 10


def test_a_cursor_at_the_end_of_a_restored_book_stays_valid(machine: Machine) -> None:
    account = machine.api.account(5)
    machine.restore(machine.backup())
    end = latest(machine.api)
    machine.api.mint(account, 7)
    assert [event["type"] for event in drain(machine.api, end)] == ["ledger.grant"]
    # The cursor is valid for this book, also after another restore.
    machine.restore(machine.backup())
    assert [event["type"] for event in drain(machine.api, end)] == ["ledger.grant"]


def test_a_position_between_two_events_is_no_cursor(machine: Machine) -> None:
    machine.api.account(5)
    event = drain(machine.api)[-1]["id"]
    for text in (event[:-1] + "9", BEGINNING[:-1] + "9", BEGINNING[:16] + "9" + BEGINNING[17:]):
        problem_of(machine.api.call("GET", "/events", after=text), 400, "invalid_cursor")


def test_a_replay_from_a_lost_event_is_rejected(machine: Machine) -> None:
    webhook = ok(machine.api.post("/webhooks", {"url": NOWHERE}), 201)["id"]
    account = machine.api.account(5)
    copy = machine.backup()
    machine.api.mint(account, 5)
    lost = drain(machine.api)[-1]["id"]
    machine.restore(copy)
    machine.api.account(5, 6)
    problem_of(machine.api.post(f"/webhooks/{webhook}/replay", {"after": lost}), 400, "validation_error", "after")
    problem_of(machine.api.post(f"/webhooks/{webhook}/replay", {"eventIds": [lost]}), 400, "validation_error", "eventIds[0]")
    ok(machine.api.post(f"/webhooks/{webhook}/replay", {"after": BEGINNING}))


def test_list_cursors_of_a_lost_epoch_stay_invalid(machine: Machine) -> None:
    account = machine.api.account(5, 6, 7)
    copy = machine.backup()
    machine.api.mint(account, 8)
    for _ in range(3):
        machine.api.account()
        machine.api.draft()
    lists = ["/accounts", f"/accounts/{account}/lots", f"/accounts/{account}/history", "/campaigns", "/audit"]
    cursors = {path: machine.api.get(path, limit=2)["nextCursor"] for path in lists}
    for path, cursor in cursors.items():
        assert machine.api.get(path, cursor=cursor)["items"], path
    machine.restore(copy)
    for _ in range(2):
        for path, cursor in cursors.items():
            problem_of(machine.api.call("GET", path, cursor=cursor), 400, "invalid_cursor")
        for _ in range(5):
            machine.api.account()
            machine.api.mint(account, 5)
            machine.api.draft()
    cursor = machine.api.get("/accounts", limit=2)["nextCursor"]
    assert machine.api.get("/accounts", cursor=cursor)["items"]


# --- webhooks ---


def test_message_ids_of_two_epochs_differ(new_machine: Callable[..., Machine]) -> None:
    def has_come(count: int) -> bool:
        return len(receiver.messages) >= count

    machine = new_machine()
    receiver = Receiver()
    try:
        account = machine.api.account(5)
        ok(machine.api.post("/webhooks", {"url": receiver.url}), 201)
        copy = machine.backup()
        for epoch in range(2):
            courier = Running(machine.api)
            machine.api.mint(account, 6)
            machine.api.draft()
            machine.api.mint(account, 7)
            receiver.wait_for(partial(has_come, 3 * epoch + 3))
            courier.stop()
            if not epoch:
                machine.restore(copy)
    finally:
        receiver.close()
    sent = [message.headers["webhook-id"] for message in receiver.messages]
    assert len(sent) == len(set(sent)) == 6
    # After the restore, delivery continues from the position of the backup.
    assert sorted(sent[3:]) == [event["id"] for event in drain(machine.api)][-3:]


def test_webhook_lag_does_not_count_skipped_ids(machine: Machine) -> None:
    def lag() -> int:
        machine.api.book.totals._cached = None
        behind: int = machine.api.loop.run(machine.api.book.totals.current()).webhook_lag_events
        return behind

    account = machine.api.account(5)
    ok(machine.api.post("/webhooks", {"url": NOWHERE}), 201)
    machine.api.mint(account, 6)
    machine.api.draft()
    assert lag() == 2
    for further in (4, 6):
        machine.restore(machine.backup())
        assert lag() == further - 2
        machine.api.mint(account, 6)
        machine.api.draft()
        assert lag() == further


def test_attempts_of_an_earlier_epoch_stay_in_the_list(machine: Machine) -> None:
    def attempt(at_us: int) -> None:
        def write(conn: Any) -> None:
            conn.execute(
                "INSERT INTO webhook_attempts (webhook_id, entry_id, event_id, attempt, outcome, duration_us, "
                f"attempted_at_us) VALUES (1, 1, 0, 1, 'failed', 1, {at_us})"
            )
            queries("webhooks").prune_attempts.run(conn, kept=3)

        machine.api.loop.run(machine.api.book.writer.run(write))

    webhook = ok(machine.api.post("/webhooks", {"url": NOWHERE}), 201)["id"]
    machine.api.account(5)
    for at_us in (1, 2):
        attempt(at_us)
    machine.restore(machine.backup())
    attempt(3)
    attempts = machine.api.get(f"/webhooks/{webhook}/deliveries")["items"]
    assert [each["attemptedAt"][-4:-1] for each in attempts] == ["003", "002", "001"]
    assert [each["id"] for each in attempts] == sorted((each["id"] for each in attempts), reverse=True)
    for at_us in range(4, 9):
        attempt(at_us)
    assert len(machine.api.get(f"/webhooks/{webhook}/deliveries")["items"]) <= 4


# --- code that counts by ids ---


def test_rows_are_counted_without_skipped_ids(machine: Machine) -> None:
    def rows() -> dict[str, int]:
        machine.api.book.totals._cached = None
        return machine.api.loop.run(machine.api.book.totals.current()).rows

    def counted() -> dict[str, int]:
        tables = {
            "accounts": "credit_accounts", "lots": "credit_lots", "entries": "credit_ledger",
            "reservations": "credit_reservations", "charges": "credit_charges",
            "campaigns": "credit_campaigns", "grants": "credit_grants",
            "audit": "admin_audit_log",
        }  # fmt: skip
        with closing(open_reader(machine.db)) as conn:
            return {name: conn.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for name, table in tables.items()}

    for step in range(4):
        if step != 1:
            live(machine.api)
        machine.api.account()
        assert rows() == counted()
        machine.restore(machine.backup())
        assert rows() == counted()


def test_the_hash_chain_skips_the_gap_of_an_epoch_in_one_step(machine: Machine) -> None:
    def links() -> int:
        with closing(open_reader(machine.db)) as conn:
            found: int = conn.execute("SELECT count(*) FROM book_chain").fetchone()[0]
            return found

    live(machine.api)
    machine.restore(machine.backup())
    before = links()
    live(machine.api)
    machine.api.loop.run(machine.api.book.extend_chain())
    assert links() == before + 1
    assert not machine.api.loop.run(machine.api.book.writer.run(append_link))


@pytest.mark.parametrize("types", [None, "campaign.*", "ledger.deposit", "ledger.grant", "account.opened"])
def test_the_feed_skips_the_gap_of_an_epoch_in_one_step(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, types: str | None
) -> None:
    monkeypatch.setattr(feed_module, "SCAN_ROWS_MAX", 4)
    query = {} if types is None else {"types": types}
    expected = 0
    for step in range(3):
        machine.api.account(5, 6)
        machine.api.mint(machine.api.account(), 5, sourceType="deposit")
        machine.api.draft()
        expected += {None: 7, "campaign.*": 1, "ledger.deposit": 1, "ledger.grant": 2, "account.opened": 2}[types] - (
            0 if types is not None else 1
        )
        if step < 2:
            machine.restore(machine.backup())
    reads = 0
    read = Feed.read

    async def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal reads
        reads += 1
        return await read(*arguments, **named)

    monkeypatch.setattr(Feed, "read", counted)
    found = drain(machine.api, limit=100, **query)
    assert len(found) == expected
    assert [event["id"] for event in found] == sorted(event["id"] for event in found)
    # 18 rows in scans of 4, and one at the end.
    assert reads <= 12


def test_a_restore_reports_newer_rows_across_epochs(machine: Machine) -> None:
    account = machine.api.account(5)
    copy = machine.backup()
    for amount in (6, 7, 8):
        machine.api.mint(account, amount)
    first = machine.restore(copy)
    assert (first["laterEntries"], first["laterAuditRows"], first["epoch"]) == (3, 3, 2)
    machine.api.mint(account, 9)
    second_copy = machine.backup()
    machine.api.mint(account, 10)
    # Restore the lost copy: none of its ids is above the base of the replaced epoch.
    second = machine.restore(Path(first["kept"]))
    assert (second["laterEntries"], second["laterAuditRows"], second["epoch"]) == (2, 2, 3)
    machine.api.mint(account, 11)
    third = machine.restore(second_copy)
    assert (third["laterEntries"], third["laterAuditRows"], third["epoch"]) == (4, 4, 4)
    # Two diverged books, with ids of different epochs above the ids that one of them skipped.
    machine.api.mint(account, 12)
    fourth = machine.restore(Path(third["kept"]))
    assert (fourth["laterEntries"], fourth["laterAuditRows"], fourth["epoch"]) == (2, 2, 5)


def test_balances_in_the_past_and_history_are_read_across_epochs(machine: Machine) -> None:
    account = machine.api.account(5)
    between = machine.api.after(0)
    machine.restore(machine.backup())
    machine.api.mint(account, 6)
    assert machine.api.available(account, at=between) == 5 and machine.api.available(account) == 11
    history = page_through(machine.api, f"/accounts/{account}/history")
    assert [entry["entrySeq"] for entry in history] == [2, 1]
    assert [row["seq"] for row in page_through(machine.api, "/audit")] == [3, 2, 1]


# --- the begin of an epoch ---


def test_a_restore_reports_the_new_epoch_in_one_line(machine: Machine, tmp_path: Path) -> None:
    machine.api.account(5)
    copy = machine.backup()
    machine.stop()
    result = minibill("restore", copy, "--db", machine.db)
    assert "began epoch 2: ids issued from now on differ from any issued before\n" in result.stdout
    result = minibill("restore", copy, "--db", tmp_path / "elsewhere.db")
    assert "began epoch 2: " in result.stdout
    assert epoch_of(machine.db).base_id < epoch_of(tmp_path / "elsewhere.db").base_id


@pytest.mark.parametrize(("lose", "reason"), [(ACCEPT, "loss_accepted"), (MOVE, "anchor_missing")])
def test_a_start_with_possibly_lost_commits_begins_an_epoch(
    machine: Machine, lose: Callable[..., Json], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    machine.api.account(5)
    copy = machine.backup()
    machine.api.account(5)
    lose(machine, copy)
    machine.api.account()
    [record] = [each for each in caplog.records if each.message == "began a new epoch"]
    assert log_fields(record)["epoch"] == 2
    machine.stop()
    with closing(open_reader(machine.db)) as conn:
        assert conn.execute("SELECT number, reason FROM book_epochs").fetchall() == [(2, reason)]
    # Later starts without a loss begin no epoch.
    machine.api.account()
    machine.stop()
    assert epoch_of(machine.db).number == 2


def test_a_start_without_a_loss_begins_no_epoch(machine: Machine) -> None:
    for _ in range(2):
        machine.api.account(5)
        machine.stop()
    assert epoch_of(machine.db) == FIRST


def test_a_restored_file_replaced_by_its_backup_is_rejected(machine: Machine) -> None:
    machine.api.account(5)
    machine.stop()
    copy = machine.backup()
    machine.restore(copy)
    # The new epoch is a commit that the backup lacks, so a copy by hand is detected.
    machine.lose_what_is_later(copy)
    result = minibill("verify", "--db", machine.db)
    assert result.exit_code == 1 and "its anchor says" in result.stdout
    assert machine.api.book.epoch.number == 2
    assert anchor_file(machine.db).exists()


def test_a_base_follows_the_clock_and_never_comes_before_an_id() -> None:
    assert base_after(5, now_us=CLOCK_ORIGIN_US + 1_000) == 1 << 11
    assert base_after(5, now_us=CLOCK_ORIGIN_US) == 5 + SKIPPED_IDS
    assert base_after(5, now_us=0) == 5 + SKIPPED_IDS
    for highest_id in (1 << 11, (1 << 11) + 9):
        assert base_after(highest_id, now_us=CLOCK_ORIGIN_US + 1_999) == highest_id + SKIPPED_IDS
    in_the_year_2165 = CLOCK_ORIGIN_US + 139 * 365 * 86_400_000_000
    assert base_after(5, now_us=in_the_year_2165) < 2**53


def test_a_clock_set_back_reissues_no_ids(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    live(machine.api)
    for lose in (RESTORE, ACCEPT):
        copy = machine.backup()
        lost = live(machine.api)
        monkeypatch.setattr(epochs, "real_now_us", lambda: 1)
        lose(machine, copy)
        assert set(live(machine.api).values()).isdisjoint(lost.values())


def test_a_batch_may_be_the_first_write_of_an_epoch(machine: Machine) -> None:
    campaign = machine.api.campaign()
    account = machine.api.account()
    machine.api.call("PUT", f"/accounts/{account}/thresholds", {"thresholds": [
        {"belowMicro": "5"}, {"belowMicro": "6"}, {"belowMicro": "7"}]})  # fmt: skip
    machine.restore(machine.backup())
    names = [{"entity": {"entityType": "person", "entityId": f"p-{n}"}, "amountMicro": "5"} for n in range(40)]
    answer = ok(machine.api.batch(campaign, {"accountId": account, "amountMicro": "50"}, *names))
    assert answer["totalGranted"] == 41
    base = machine.api.book.epoch.base_id
    with closing(open_reader(machine.db)) as conn:
        for table, count in (("credit_accounts", 40), ("credit_lots", 41), ("credit_ledger", 41), ("credit_grants", 41)):
            ids = [key for (key,) in conn.execute(f"SELECT id FROM {table} WHERE id > {base} ORDER BY id").fetchall()]
            assert ids == list(range(base + 1, base + 1 + count)), table
