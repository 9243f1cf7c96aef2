"""Build hook of hatchling: write the commit into the wheel, as `minibill/commit.txt`."""

import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CommitHook(BuildHookInterface[Any]):
    """Adds the commit to a wheel built from a git checkout. An editable install asks git when it runs."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add `commit.txt` to the files of the wheel, unless git knows no commit."""
        if version == "editable":
            return
        git = ["git", "-C", self.root, "describe", "--always", "--dirty", "--exclude=*", "--abbrev=12"]
        try:
            commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError):
            return
        self._folder = tempfile.TemporaryDirectory()
        stamp = Path(self._folder.name, "commit.txt")
        stamp.write_text(commit)
        build_data["force_include"][str(stamp)] = "minibill/commit.txt"
