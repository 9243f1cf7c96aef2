"""The tour of docs/EVENTS.md works when it is pasted."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest

from tests.service_process import serving

DOCUMENT = Path(__file__).parents[2] / "docs" / "EVENTS.md"


@pytest.mark.skipif(shutil.which("curl") is None, reason="the tour is made of curl lines, and this machine has no curl")
def test_the_tour_of_events_works_when_it_is_pasted(tmp_path: Path) -> None:
    [block] = re.findall(r"<!-- tour -->\n```sh\n(.*?)```", DOCUMENT.read_text("utf-8"), re.DOTALL)
    with serving(tmp_path / "minibill.db") as server:
        base = server.http.base_url
        environment = {
            **os.environ,
            "MINIBILL_URL": f"http://{base.host}:{base.port}",
            "MINIBILL_TOKEN": server.http.headers["Authorization"].removeprefix("Bearer "),
        }
        script = "set -euo pipefail\n" + block
        result = subprocess.run(
            ["bash", "-c", script], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
    assert result.returncode == 0, result.stderr
    answers = [msgspec.json.decode(line) for line in result.stdout.splitlines() if line.startswith("{")]
    thresholds, _, _, since, mail, _ = answers
    assert thresholds["thresholds"][0]["state"] == "below"
    assert [event["type"] for event in since["items"]] == [
        "account.opened", "ledger.grant", "threshold.recovered", "ledger.reserve", "threshold.below",
    ]  # fmt: skip
    assert mail["items"] == since["items"][-1:]
