"""Many random histories with restarts and kills, compared with the model of test_random_ledger.py."""

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from minibill.core.clock import monotonic_s
from tests.api_client import Loop
from tests.reservations.test_random_ledger import (
    Lost,
    Pass,
    Restart,
    Retry,
    Run,
    Step,
    Sweep,
    begin,
    small_and_quick,
    stories,
)

HISTORIES = 20_000


def test_random_histories_match_the_model(
    tmp_path: Path, migrated_file: Path, loop: Loop, long: bool, record: Callable[[str], None]
) -> None:
    if not long:
        pytest.skip("the short form is tests/reservations/test_random_ledger.py")
    first_file, folder = tmp_path / "first.db", tmp_path / "books"
    folder.mkdir()
    shutil.copyfile(migrated_file, first_file)
    loop.run(begin(first_file))
    counts: Counter[str] = Counter()
    began_s = monotonic_s()

    @given(story=stories(steps_min=6, steps_max=12))
    @settings(
        max_examples=HISTORIES, deadline=None, database=None, phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    def every(story: list[Step]) -> None:
        loop.run(Run(folder, first_file).story(story, wholly_every=8))
        counts.update(["histories"], steps=len(story))
        counts.update(type(step.command).__name__ for step in story)

    with small_and_quick():
        every()
    of = {name: counts[kind.__name__] for name, kind in KINDS.items()}
    told = ", ".join(f"{number:,} {name}" for name, number in of.items())
    minutes, seconds = divmod(round(monotonic_s() - began_s), 60)
    record(
        f"{counts['histories']:,} histories, {counts['steps']:,} steps ({told}), {minutes} min {seconds} s, no difference"
    )


KINDS = {
    "retries": Retry, "kills in a write": Lost, "restarts": Restart, "steps of the clock": Pass, "sweeps": Sweep,
}  # fmt: skip
