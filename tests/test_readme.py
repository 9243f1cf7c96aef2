"""The README's tour works when it is pasted."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.service_process import serving

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"<!-- tour -->\n```sh\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)


@pytest.mark.skipif(shutil.which("curl") is None, reason="the tour is made of curl lines, and this machine has no curl")
def test_the_tour_works_when_it_is_pasted(tmp_path: Path) -> None:
    assert len(BLOCKS) == 2
    with serving(tmp_path / "minibill.db") as server:
        base = server.http.base_url
        environment = {
            **os.environ,
            "MINIBILL_URL": f"http://{base.host}:{base.port}",
            "MINIBILL_TOKEN": server.http.headers["Authorization"].removeprefix("Bearer "),
        }
        (tmp_path / ".venv").symlink_to(ROOT / ".venv")
        script = "set -euo pipefail\n" + "\n".join(BLOCKS)
        result = subprocess.run(
            ["bash", "-c", script], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
    assert result.returncode == 0, result.stderr
    answers = [line for line in result.stdout.splitlines() if line.startswith("{")]
    assert [bool(re.search(r'"duplicate":true', line)) for line in answers[1:3]] == [False, True]
    assert '"dryRun":true' in answers[6]
    assert answers[7] == answers[8] and '"totalGranted":2' in answers[7]
    assert '"code":"budget_exceeded"' in answers[10]
    assert re.search(r"granted\s+1", result.stdout) and re.search(r"skipped\s+1", result.stdout)


@pytest.mark.parametrize("target", ["demo", "test", "lint", "serve", "bench", "wheel", "binary"])
def test_the_makefile_has_the_targets_that_are_promised(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
