"""Completion in bash of values with colons, such as scopes, which click does not support."""

import os
from typing import Any

from click.shell_completion import BashComplete, CompletionItem, split_arg_string


class Bash(BashComplete):
    """Completion for bash, which splits words at colons and replaces only the text after the last colon.

    `admin:mint:write` arrives as five words. The completion is printed without the text before its last colon.
    """

    _before = ""

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the words before the cursor, joined again at colons, and the incomplete word."""
        position = int(os.environ["COMP_CWORD"])
        pieces = split_arg_string(os.environ["COMP_WORDS"])[: position + 1]
        if len(pieces) == position:
            # split_arg_string drops an empty incomplete word.
            pieces.append("")
        words: list[str] = []
        for piece in pieces:
            if words and words[-1] and piece and (piece.startswith(":") or words[-1].endswith(":")):
                words[-1] += piece
            else:
                words.append(piece)
        *arguments, incomplete = words
        self._before = incomplete[: incomplete.rfind(":") + 1]
        return arguments[1:], incomplete

    def format_completion(self, item: CompletionItem[Any]) -> str:
        """Return a completion in the format of click's bash script."""
        return f"{item.type},{str(item.value).removeprefix(self._before)}"
