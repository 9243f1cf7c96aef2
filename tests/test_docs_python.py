"""docs/PYTHON.md works when it is pasted."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.service_process import serving

BLOCKS = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[1] / "docs" / "PYTHON.md").read_text("utf-8"), re.DOTALL)


def run(folder: Path, *command: str, **environment: str) -> str:
    ran = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_a_book_inside_a_program(tmp_path: Path) -> None:
    inside, _, _ = BLOCKS
    assert run(tmp_path, "-c", inside).splitlines()[0] == "only 4300000 left"


def test_a_client_of_a_service(tmp_path: Path) -> None:
    _, client, _ = BLOCKS
    with serving(tmp_path / "book.db") as server:
        base = server.http.base_url
        token = server.http.headers["Authorization"].removeprefix("Bearer ")
        told = run(tmp_path, "-c", client, MINIBILL_URL=f"http://{base.host}:{base.port}", MINIBILL_TOKEN=token)
    assert told.splitlines()[0] == "2 paid"


def test_a_test_with_a_book(tmp_path: Path) -> None:
    _, _, test = BLOCKS
    (tmp_path / "test_charging.py").write_text(test)
    assert "1 passed" in run(tmp_path, "-m", "pytest", "-q", "-p", "no:schemathesis", "-p", "no:cacheprovider")
