"""The anchor: a start and `verify` detect lost commits, and nothing else."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from minibill.book import Book
from minibill.cli.main import main
from minibill.db.anchor import (
    LINE_BYTES,
    BehindItsAnchor,
    CommitAnchor,
    HighWaterMark,
    anchor_file,
    begin_anchor,
    mark_of,
    read_anchor,
)
from minibill.db.connection import open_reader, open_writer
from minibill.db.sqlite import sqlite3
from tests.api_client import SECRETS, Api, Loop, ok
from tests.service_process import SERVE, environment, serving

FIRST, SECOND = HighWaterMark(7, 2, bytes(range(32))), HighWaterMark(8, 3, bytes(range(1, 33)))


def minibill(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], env={"MINIBILL_DB": None})


def copied(path: Path, other: Path) -> None:
    """Copy an open book as a kill would leave it; another process copies it, since that drops none of SQLite's locks."""
    for ending in ("", "-wal", "-anchor"):
        subprocess.run(["cp", f"{path}{ending}", f"{other}{ending}"], check=True)


@pytest.fixture
def anchor(db: Path) -> Iterator[CommitAnchor]:
    """The anchor of an empty book."""
    with closing(open_writer(db)) as conn:
        opened = CommitAnchor(db, conn)
        yield opened
        opened.close()


@pytest.fixture
def killed(api: Api, tmp_path: Path) -> Path:
    """A book whose service was killed, with its four acknowledged commits in the log."""
    api.account(5, 6, 7)
    copied(api.book.path, tmp_path / "killed.db")
    return tmp_path / "killed.db"


@pytest.fixture
def opened(loop: Loop) -> Callable[..., None]:
    """Start a service on a file, and stop it again."""

    def opened(path: Path, *, accept_loss: bool = False) -> None:
        loop.run(loop.run(Book.open(path, accept_loss=accept_loss)).close())

    return opened


# --- the file ---


def test_an_anchor_holds_the_newest_mark(db: Path, anchor: CommitAnchor) -> None:
    assert read_anchor(db) == HighWaterMark(0, 0, bytes(32))
    for mark in (FIRST, SECOND):
        anchor.write(mark)
        assert read_anchor(db) == mark
    assert anchor_file(db).read_text().split()[:2] == [f"{8:020}", f"{3:020}"]


def test_a_broken_line_falls_back_to_the_other_line(db: Path, anchor: CommitAnchor) -> None:
    anchor.write(FIRST)
    anchor.write(SECOND)
    whole = anchor_file(db).read_bytes()
    for place in range(0, 116, 7):
        broken = bytearray(whole)
        broken[place] ^= 0x10
        anchor_file(db).write_bytes(broken)
        assert read_anchor(db) == FIRST
    anchor_file(db).write_bytes(bytes(LINE_BYTES) + whole[LINE_BYTES:])
    assert read_anchor(db) == FIRST


@pytest.mark.parametrize("content", [b"", b"\0" * 1024, b"noise" * 300])
def test_a_file_that_is_no_anchor_is_replaced(db: Path, content: bytes) -> None:
    anchor_file(db).write_bytes(content)
    assert read_anchor(db) is None
    with closing(open_writer(db)) as conn:
        CommitAnchor(db, conn).close()
        assert read_anchor(db) == mark_of(conn)


def test_a_new_anchor_replaces_the_old_one(db: Path, anchor: CommitAnchor) -> None:
    anchor.write(FIRST)
    anchor.write(SECOND)
    begin_anchor(db, HighWaterMark(1, 0, bytes(32)))
    assert read_anchor(db) == HighWaterMark(1, 0, bytes(32))


def test_an_anchor_lies_beside_the_file_not_beside_a_link(db: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "link.db").symlink_to(db)
    assert anchor_file(tmp_path / "elsewhere" / "link.db") == db.with_name("book.db-anchor")


# --- writes ---


def test_only_kept_writes_are_anchored_and_before_their_response(api: Api) -> None:
    def anchored() -> int:
        mark = read_anchor(api.book.path)
        assert mark is not None
        return mark.commits

    before = anchored()
    account = api.account(500)
    assert anchored() == before + 2
    reservation = api.reserve(account, 100)
    for _ in range(2):
        ok(api.release(reservation))
    assert anchored() == before + 4
    # Rejected requests, dry runs, reads and replays change nothing.
    api.ask_to_reserve(account, 10_000)
    ok(api.post(f"/accounts/{account}/mint", {"amountMicro": "5"}, dryRun="true"))
    api.available(account)
    assert anchored() == before + 4


def test_after_any_power_loss_the_book_is_not_behind_its_anchor(
    start: Callable[..., Api], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # All earlier commits are on disk when a line of the anchor is written. The anchor itself is never synced, so each of its
    # sectors may be on disk or not.
    api = start()
    folder, images = tmp_path / "images", list[Path]()
    folder.mkdir()
    pwrite = os.pwrite

    def cut(descriptor: int, line: bytes, place: int) -> int:
        image = folder / f"{len(images)}.db"
        written = pwrite(descriptor, line, place)
        copied(api.book.path, image)
        images.append(image)
        return written

    monkeypatch.setattr("minibill.db.anchor.os.pwrite", cut)
    account = api.account(500)
    for _ in range(3):
        ok(api.finalize(api.reserve(account, 10), 7))
        api.loop.run(api.book.extend_chain())
    monkeypatch.undo()
    assert len(images) == 11
    older = bytes(2 * LINE_BYTES)
    for image in images:
        newer = anchor_file(image).read_bytes()
        with closing(open_writer(image)) as conn:
            for content in (newer, newer[:LINE_BYTES] + older[LINE_BYTES:], older[:LINE_BYTES] + newer[LINE_BYTES:]):
                anchor_file(image).write_bytes(content)
                CommitAnchor(image, conn).close()
        older = newer


def test_a_failed_anchor_write_does_not_stop_writes(
    start: Callable[..., Api], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(5, "Input/output error")

    api = start()
    before = read_anchor(api.book.path)
    monkeypatch.setattr("minibill.db.anchor.os.pwrite", refuse)
    account = api.account(5, 6)
    assert api.available(account) == 11
    assert read_anchor(api.book.path) == before
    assert sum("anchor write failed" in record.message for record in caplog.records) == 1
    monkeypatch.undo()
    api.mint(account, 7)
    after = read_anchor(api.book.path)
    assert before is not None and after is not None and after.commits == before.commits + 4
    start()


# --- detection ---


def test_acknowledged_commits_lost_by_a_bit_flip_are_detected(killed: Path, opened: Callable[..., None]) -> None:
    log = killed.with_name("killed.db-wal")
    content = bytearray(log.read_bytes())
    content[len(content) * 3 // 4] ^= 1
    log.write_bytes(content)
    told = minibill("verify", "--db", killed)
    assert told.exit_code == 1 and "commit_chain" in told.stdout and "its anchor says 4" in told.stdout
    with pytest.raises(BehindItsAnchor, match=r"has lost acknowledged commits: .* restore a backup, .* --accept-loss"):
        opened(killed)
    opened(killed, accept_loss=True)
    assert minibill("verify", "--db", killed).exit_code == 0
    # An accepted loss is not reported again.
    opened(killed)


def test_a_service_reports_lost_commits_in_one_line(killed: Path) -> None:
    killed.with_name("killed.db-wal").unlink()
    serve = [*SERVE, "--port", "0", "--db", str(killed)]
    refused = subprocess.run(serve, env=environment(**SECRETS), capture_output=True, text=True, timeout=30)
    assert refused.returncode == 2 and len(refused.stderr.splitlines()) == 1
    assert "0 commits, and its anchor says 4" in refused.stderr and "--accept-loss" in refused.stderr
    with serving(killed, "--accept-loss") as server:
        assert server.http.get("/accounts").json()["items"] == []


def test_a_deleted_database_is_created_again(killed: Path, tmp_path: Path) -> None:
    for ending in ("", "-wal"):
        killed.with_name(f"killed.db{ending}").unlink()
    log = tmp_path / "log"
    with serving(killed, log=log) as server:
        assert server.http.get("/accounts").json()["items"] == []
    assert "lost commits accepted" in log.read_text()


def test_an_older_copy_is_rejected_unless_it_was_restored(
    start: Callable[..., Api], tmp_path: Path, opened: Callable[..., None]
) -> None:
    api, copy = start(), tmp_path / "copy.db"
    db = api.book.path
    account = api.account(5)
    assert minibill("backup", copy, "--db", db).exit_code == 0
    assert not anchor_file(copy).exists()
    api.mint(account, 6)
    api.stop()
    kept = db.read_bytes()
    shutil.copyfile(copy, db)
    with pytest.raises(BehindItsAnchor):
        opened(db)
    for ending in ("-wal", "-shm"):
        db.with_name(f"book.db{ending}").unlink(missing_ok=True)
    db.write_bytes(kept)
    assert minibill("restore", copy, "--db", db, "--force").exit_code == 0
    with closing(open_reader(db)) as conn:
        assert read_anchor(db) == mark_of(conn)
    opened(db)
    assert json.loads(minibill("verify", "--db", db, "--json").stdout)["anchored"] is True


def test_another_history_of_the_same_length_is_rejected(db: Path, start: Callable[..., Api]) -> None:
    api = start()
    api.account(5, 6)
    api.stop()
    mark = read_anchor(db)
    assert mark is not None and mark.links == 1
    with closing(open_writer(db)) as conn:
        begin_anchor(db, mark._replace(link_hash=bytes(32)))
        with pytest.raises(BehindItsAnchor, match="its link 1 is not the one"):
            CommitAnchor(db, conn)
        begin_anchor(db, mark._replace(links=2))
        with pytest.raises(BehindItsAnchor, match="its link 2"):
            CommitAnchor(db, conn)
        begin_anchor(db, mark)
        CommitAnchor(db, conn).close()


def test_a_rejected_book_is_unlocked(db: Path, opened: Callable[..., None]) -> None:
    begin_anchor(db, FIRST)
    for _ in range(2):
        with pytest.raises(BehindItsAnchor):
            opened(db)
    opened(db, accept_loss=True)


def test_a_copy_without_its_anchor_is_accepted(
    killed: Path, opened: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    anchor_file(killed).unlink()
    result = minibill("verify", "--db", killed)
    assert result.exit_code == 0 and "There is no anchor next to" in result.stdout
    assert json.loads(minibill("verify", "--db", killed, "--json").stdout)["anchored"] is False
    opened(killed)
    assert sum("anchor missing" in record.message for record in caplog.records) == 1
    assert "There is no anchor" not in minibill("verify", "--db", killed).stdout


def test_a_damaged_commit_count_is_detected(killed: Path, opened: Callable[..., None]) -> None:
    with closing(open_writer(killed)) as conn:
        conn.execute("PRAGMA ignore_check_constraints = ON")
        conn.execute("UPDATE book_head SET commits = commits + 1")
    assert minibill("verify", "--db", killed).exit_code == 1
    with pytest.raises(sqlite3.DatabaseError, match="counts the commits is damaged"):
        opened(killed)


@pytest.mark.parametrize("place", [3, 70], ids=["the name of the format", "the name of the program"])
def test_a_damaged_header_fails_the_file_check(start: Callable[..., Api], tmp_path: Path, place: int) -> None:
    api = start()
    api.stop()
    copy = tmp_path / "damaged.db"
    content = bytearray(api.book.path.read_bytes())
    content[place] ^= 1
    copy.write_bytes(content)
    told = minibill("verify", "--db", copy)
    assert told.exit_code == 1 and "file_integrity" in told.stdout and "is unhealthy" in told.stdout
    answer = json.loads(minibill("verify", "--db", copy, "--json").stdout)
    assert answer["status"] == "unhealthy" and answer["checks"]["file_integrity"]["violations"] == 1
