"""The wheel: it contains the SQL files, and works in a fresh environment with its dependencies alone."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import minibill

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT))
    [wheel] = folder.glob("*.whl")
    return wheel


def run(*command: str, cwd: Path | None = None) -> str:
    result = subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_the_wheel_holds_every_sql_file(wheel: Path) -> None:
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".sql")}
    assert inside == {f"minibill/{file.relative_to(ROOT)}" for file in (ROOT / "sql").rglob("*.sql")}


@pytest.mark.slow
def test_the_wheel_migrates_from_a_fresh_environment(wheel: Path, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    run(sys.executable, "-m", "venv", str(venv))
    # The versions of the lock without its hashes, since pip has none for a wheel just built.
    lock = (ROOT / "requirements.lock").read_text()
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("\n".join(re.findall(r"^[\w.-]+==[^\\\n]+", lock, re.MULTILINE)))
    pip = [str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run(*pip, "--constraint", str(constraints), str(wheel))
    command = str(venv / "bin" / "minibill")
    # The commit of the checkout that the wheel was built in, if there is one.
    commit = r", commit [0-9a-f]{12}(-dirty)?" if (ROOT / ".git").exists() else ""
    said = run(command, "--version", cwd=tmp_path)
    assert re.fullmatch(rf"minibill, version {minibill.__version__}{commit}, SQLite \d+\.\d+\.\d+\n", said), said
    assert "applied 0001 epochs" in run(command, "migrate", "--db", "new.db", cwd=tmp_path)
    assert (tmp_path / "new.db").exists()
