"""An embedded book does not follow a wall clock that jumps ahead until the program accepts it."""

from pathlib import Path

import pytest

import minibill
from minibill.core.clock import format_time
from tests.api_client import Loop
from tests.ledger.test_clock import HOUR, START_US, Machine

EARLY, LATE = format_time(START_US), format_time(START_US + HOUR * 1_000_000)


def test_an_embedded_book_waits_for_the_program_to_accept_a_jump(
    monkeypatch: pytest.MonkeyPatch, loop: Loop, db: Path
) -> None:
    machine = Machine(monkeypatch)

    async def story() -> tuple[str, str, str]:
        settings = {"MINIBILL_CLOCK_JUMP_SECONDS": "5"}
        async with minibill.open(db, actor="shop", settings=settings, test_clock=True) as book:
            machine.jump(HOUR)
            held = (await book.now()).now
            accepted = await book.accept_clock()
            return held, accepted.before, accepted.now

    assert loop.run(story()) == (EARLY, EARLY, LATE)
