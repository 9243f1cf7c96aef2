"""A command whose help ends with its exit codes and examples; `docs/reference/cli.md` is generated from the same values."""

import inspect
from collections.abc import Mapping
from typing import Any

import click

# A longer summary would be cut off in the list of commands.
SHORT_HELP_CHARS_MAX = 45

DONE_OR_USAGE_ERROR = {0: "done", 2: "wrong usage or configuration"}
SERVICE_EXIT_CODES = {0: "done", 1: "the service rejected the request", 2: "wrong usage, URL or token"}


class Command(click.Command):
    """A click command with examples, one command per line, and exit codes with their meaning."""

    def __init__(
        self, *args: Any, examples: str, exit_codes: Mapping[int, str] = DONE_OR_USAGE_ERROR, **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self.examples = inspect.cleandoc(examples)
        self.exit_codes = exit_codes

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_epilog(ctx, formatter)
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code), meaning) for code, meaning in self.exit_codes.items()])
        write_examples(formatter, self.examples)


class Group(click.Group):
    """A group of commands whose help ends with examples."""

    command_class = Command

    def __init__(self, *args: Any, examples: str = "", **options: Any) -> None:
        super().__init__(*args, **options)
        self.examples = inspect.cleandoc(examples)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_epilog(ctx, formatter)
        if self.examples:
            write_examples(formatter, self.examples)


def write_examples(formatter: click.HelpFormatter, examples: str) -> None:
    """Write command lines as they are: a wrapped command could not be pasted."""
    formatter.write("\nExamples:\n" + "".join(f"  {line}\n" for line in examples.splitlines()))
