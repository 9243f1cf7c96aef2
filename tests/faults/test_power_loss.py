"""Power loss: acknowledged writes are there, and none in part, whatever the disk does to unsynced data."""

import random
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from minibill.book import Book
from minibill.db.connection import open_reader
from minibill.integrity.checks import violations
from tests.api_client import Api, Loop
from tests.faults.disk_model import Disk, Recorder, recorded, write_files
from tests.faults.load import Load, faults_of

NAME = "book.db"

HISTORIES, IMAGES = 2, 30
TORTURE_HISTORIES, TORTURE_IMAGES = 50, 100


def test_an_acknowledged_write_survives_a_power_loss(
    tmp_path: Path, loop: Loop, long: bool, record: Callable[[str], None]
) -> None:
    histories, images = (TORTURE_HISTORIES, TORTURE_IMAGES) if long else (HISTORIES, IMAGES)
    answered = checked = 0
    for seed in range(histories):
        chance = random.Random(seed)
        folder = tmp_path / str(seed)
        folder.mkdir()
        recorder, load = history(folder, loop, chance)
        cuts = sorted(moments(recorder, load, images, chance))
        disk, done = Disk(), 0
        for number, cut in enumerate(cuts):
            for step in recorder.steps[done:cut]:
                disk.do(step)
            done = cut
            image = folder / f"image-{number}"
            write_files(disk.lose_power(chance), image)
            assert faults_of_image(image / NAME, loop, load, until=cut) == [], f"history {seed}, step {cut}"
            shutil.rmtree(image)
            checked += 1
            answered += sum(answer.step <= cut for answer in load.answers.values())
        shutil.rmtree(folder)
    record(f"{histories} histories, {checked:,} images, {answered:,} answers looked for: all there, whole")


def moments(recorder: Recorder, load: Load, count: int, chance: random.Random) -> list[int]:
    """Return the steps of power losses: random ones, those of responses, and three after the kill."""
    answered = [answer.step for answer in load.answers.values()]
    replayed = min((answer.step for answer in load.answers.values() if answer.replayed), default=0)
    anywhere = [chance.randint(0, len(recorder.steps)) for _ in range(count // 2)]
    return [*anywhere, *[replayed] * 3, *chance.choices(answered, k=count - count // 2 - 3)]


def history(folder: Path, loop: Loop, chance: random.Random) -> tuple[Recorder, Load]:
    """Create, use, close, open, kill and reuse a book under load, with a checkpoint every few writes."""
    first, second = folder / "first", folder / "second"
    first.mkdir()
    with recorded(first) as recorder:
        load = Load(chance, lambda: len(recorder.steps))
        api = open_book(first, loop, chance)
        load.begin(api)
        load.go_on(api, rounds=chance.randint(1, 8))
        if chance.random() < 0.5:
            api.stop()
            api = open_book(first, loop, chance)
        load.go_on(api, rounds=chance.randint(1, 8))
        kill(recorder, load, second, after=a_moment_before_the_last_sync(recorder))
        api.stop()
        api = open_book(second, loop, chance)
        load.send(api, *load.unanswered())
        load.go_on(api, rounds=chance.randint(1, 8))
        api.stop()
    assert load.refused == []
    return recorder, load


def open_book(folder: Path, loop: Loop, chance: random.Random) -> Api:
    api = Api(folder / NAME, loop, {})
    # With small checkpoints, many steps write the database file itself.
    api.book._conn.execute(f"PRAGMA wal_autocheckpoint = {chance.randint(5, 60)}")
    return api


def kill(recorder: Recorder, load: Load, folder: Path, *, after: int) -> None:
    recorder.leave_for(folder, after=after)
    load.forget_answers(after=after)


def a_moment_before_the_last_sync(recorder: Recorder) -> int:
    """Return a step at which a transaction is written but not synced: processes see it, and the disk may lose it."""
    return max(n for n, step in enumerate(recorder.steps) if step.kind == "sync" and step.name.endswith("-wal"))


def faults_of_image(path: Path, loop: Loop, load: Load, *, until: int) -> list[str]:
    """Open a file as the service does after a power loss, and return its faults."""
    book = loop.run(Book.open(path))
    try:
        with closing(open_reader(path)) as conn:
            [*damage] = conn.execute("PRAGMA integrity_check").fetchall()
            return [
                *(text for (text,) in damage if text != "ok"),
                *map(str, violations(conn).items()),
                *faults_of(conn, load, until=until),
            ]
    finally:
        loop.run(book.close())
