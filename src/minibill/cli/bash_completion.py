"""What completes a command line in bash, where click's own way stops at the colons of a scope."""

import os
from typing import Any

from click.shell_completion import BashComplete, CompletionItem, split_arg_string


class Bash(BashComplete):
    """bash ends a word at a colon, and puts what completes it in the place of what comes after the last one.

    So `admin:mint:write` reaches us as five words, and goes back without what stands before its last colon.
    """

    _before = ""

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words as they were typed, and the one to be completed."""
        place = int(os.environ["COMP_CWORD"])
        pieces = split_arg_string(os.environ["COMP_WORDS"])[: place + 1]
        if len(pieces) == place:
            # An empty word to be completed is lost on the way here.
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
        """One completion as the script reads it."""
        return f"{item.type},{str(item.value).removeprefix(self._before)}"
