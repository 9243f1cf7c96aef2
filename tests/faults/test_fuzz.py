"""Fuzzing of the parsers that clients reach: bodies, cursors, tokens, CSV lists, and complete requests.

The short form runs the seeds and hypothesis. The long form runs atheris for ten minutes per target.
"""

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.faults.fuzz.seeds import SEEDS
from tests.faults.fuzz.targets import TARGETS

MINUTES = 10

# A complete request takes about a millisecond, a parser some microseconds.
EXAMPLES = {"request": 300}
EXAMPLES_ELSE = 800

# Replacements for a piece of a seed, many of them difficult for parsers.
PIECES = st.sampled_from(
    [b"", b"\0", b"\xff", b"\xed\xa0\x80", b'"', b"\n", b"{}", b"[[", b"null", b"9" * 400, b"1e999", b"%00", b"\\ud800"]
)


@st.composite
def _changed_seeds(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    data = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 8)))
        data = data[:start] + draw(PIECES | st.binary(max_size=4)) + data[end:]
    return data


@pytest.mark.parametrize("name", TARGETS)
def test_mutated_seeds_break_no_parser(name: str) -> None:
    with TARGETS[name]() as target:
        for seed in SEEDS[name]:
            target(seed)

        @settings(
            max_examples=EXAMPLES.get(name, EXAMPLES_ELSE), derandomize=True, database=None, deadline=None,
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(_changed_seeds(SEEDS[name]) | st.binary(max_size=200))
        def hold(data: bytes) -> None:
            target(data)

        hold()


@pytest.mark.parametrize("name", TARGETS)
def test_a_fuzzer_finds_nothing_in_ten_minutes(name: str, long: bool, tmp_path: Path, record: Callable[[str], None]) -> None:
    if not long:
        pytest.skip("ten minutes each: make torture T=fuzz")
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris is not installed: it has no wheel for this Python on this system")
    corpus = tmp_path / name
    corpus.mkdir()
    options = [f"-max_total_time={MINUTES * 60}", "-verbosity=0", "-print_final_stats=1"]
    result = subprocess.run(
        [sys.executable, "-m", "tests.faults.fuzz", name, str(corpus), *options],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=(MINUTES + 5) * 60,
    )
    assert result.returncode == 0, result.stderr[-10_000:]
    found = re.search(r"stat::number_of_executed_units:\s+(\d+)", result.stderr)
    assert found is not None, result.stderr[-2_000:]
    record(f"{int(found[1]):,} inputs in {MINUTES} minutes, {len(list(corpus.iterdir()))} kept")
