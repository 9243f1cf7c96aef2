"""The version line of `minibill --version`: version, commit and SQLite."""

import subprocess
from pathlib import Path

import minibill

_PACKAGE = Path(__file__).parents[1]


def version_line() -> str:
    """Return `minibill, version 0.1.0, commit 0123456789ab, SQLite 3.53.4`, without a commit that is not known."""
    # Imported on use: completion does not need the database library.
    from minibill.db.sqlite import VERSION

    known = commit()
    named = f"commit {known}, " if known else ""
    return f"minibill, version {minibill.__version__}, {named}SQLite {VERSION}"


def commit() -> str | None:
    """Return the commit stamped into the package by `hatch_build.py`, or the commit of the source tree."""
    stamp = _PACKAGE / "commit.txt"
    if stamp.exists():
        return stamp.read_text("utf-8").strip()
    tree = _PACKAGE.parents[1]
    if not (tree / ".git").exists():
        return None
    git = ["git", "-C", str(tree), "describe", "--always", "--dirty", "--exclude=*", "--abbrev=12"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
