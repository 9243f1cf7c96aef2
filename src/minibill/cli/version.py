"""Which minibill this is: version, commit and SQLite, as `minibill --version` says it."""

import subprocess
from pathlib import Path

import minibill

_PACKAGE = Path(__file__).parents[1]


def version_line() -> str:
    """`minibill, version 0.1.0, commit 0123456789ab, SQLite 3.53.4`; the commit is left out where nobody knows it."""
    # Imported when it is asked for: no other command line needs the database library this early.
    from minibill.db.sqlite import VERSION

    known = commit()
    named = f"commit {known}, " if known else ""
    return f"minibill, version {minibill.__version__}, {named}SQLite {VERSION}"


def commit() -> str | None:
    """The commit that was stamped into the package when it was built, or that of the source tree that it runs from."""
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
