"""What hatchling runs when it builds a wheel: the commit that it is built from goes into it, as `minibill/commit.txt`."""

import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CommitHook(BuildHookInterface[Any]):
    """Stamps the wheel; one that is built outside a git checkout has no commit, and an editable one asks git itself."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Adds the file to what is packed."""
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
