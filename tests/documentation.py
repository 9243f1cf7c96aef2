"""The documentation as tests read it: pages, blocks, links, and running a tour against a service."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.service_process import serving

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")]
PAGES += sorted((ROOT / "docs").rglob("*.md"))

needs_curl = pytest.mark.skipif(
    shutil.which("curl") is None, reason="the tour is made of curl lines, and this machine has no curl"
)


def page(name: str) -> str:
    """Return the text of a page, named from the top folder."""
    return (ROOT / name).read_text("utf-8")


def blocks(name: str, language: str) -> list[str]:
    """Return the code blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page(name), re.DOTALL | re.MULTILINE)


def tours(name: str) -> list[str]:
    """Return the shell blocks of a page that are pasted in order."""
    return re.findall(r"^<!-- tour -->\n```sh\n(.*?)^```", page(name), re.DOTALL | re.MULTILINE)


def run_tour(name: str, folder: Path) -> str:
    """Paste the tour of a page against a fresh service, and return what it printed."""
    with serving(folder / "minibill.db") as server:
        base = server.http.base_url
        environment = {
            **os.environ,
            "MINIBILL_URL": f"http://{base.host}:{base.port}",
            "MINIBILL_TOKEN": server.http.headers["Authorization"].removeprefix("Bearer "),
        }
        (folder / ".venv").symlink_to(ROOT / ".venv")
        script = "set -euo pipefail\n" + "\n".join(tours(name))
        result = subprocess.run(
            ["bash", "-c", script], env=environment, cwd=folder, capture_output=True, text=True, timeout=60
        )
    assert result.returncode == 0, result.stderr
    return result.stdout


def responses(output: str) -> list[dict[str, Any]]:
    """Return the JSON responses among the lines of an output."""
    return [msgspec.json.decode(line) for line in output.splitlines() if line.startswith("{")]


def run_python(folder: Path, *arguments: str, **environment: str) -> str:
    """Run Python with these arguments in a folder, and return what it printed."""
    result = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout
