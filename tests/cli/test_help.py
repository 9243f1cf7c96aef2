"""Help of the commands and of make, and the reference pages that are generated from it."""

import re
import subprocess

import click
import click.testing

from minibill.cli.help import SHORT_HELP_CHARS_MAX, Command, Group
from minibill.cli.main import main
from minibill.config import SETTINGS
from tests.tools.reference_docs import FOLDER, PAGES, ROOT, commands

COMMANDS = dict(commands())


def help_of(*arguments: str) -> str:
    result = click.testing.CliRunner().invoke(main, [*arguments, "--help"], terminal_width=80)
    assert result.exit_code == 0
    return result.output


def test_reference_pages_match_the_code() -> None:
    outdated = [name for name, page in PAGES.items() if (FOLDER / name).read_text("utf-8") != page()]
    assert outdated == [], "run `make reference`"


def test_no_summary_of_a_command_is_cut_off() -> None:
    summaries = {path: command.short_help or "" for path, command in COMMANDS.items()}
    wrong = {path: text for path, text in summaries.items() if not 0 < len(text) <= SHORT_HELP_CHARS_MAX}
    assert wrong == {}
    for arguments in ([], ["campaign"], ["clock"]):
        text = help_of(*arguments)
        listed = [command for path, command in COMMANDS.items() if path.split()[1:-1] == arguments]
        assert listed and [command.short_help for command in listed if f"  {command.short_help}\n" not in text] == []


def test_every_help_ends_with_its_examples() -> None:
    assert {path for path, command in COMMANDS.items() if not isinstance(command, Command | Group)} == set()
    for path, command in COMMANDS.items():
        assert isinstance(command, Command | Group)
        assert "minibill" in command.examples, path
        assert help_of(*path.split()[1:]).endswith(command.examples.splitlines()[-1].strip() + "\n"), path


def test_every_command_explains_its_exit_codes() -> None:
    for path, command in COMMANDS.items():
        if isinstance(command, Command):
            assert command.exit_codes.keys() >= {0, 2}, path
            assert all(meaning in " ".join(help_of(*path.split()[1:]).split()) for meaning in command.exit_codes.values())


def test_every_option_has_a_help_text() -> None:
    options = [(path, option) for path, command in COMMANDS.items() for option in command.params]
    assert [(path, o.opts) for path, o in options if isinstance(o, click.Option) and not o.help] == []


def test_the_help_of_serve_lists_every_setting() -> None:
    text = help_of("serve")
    assert [setting.variable for setting in SETTINGS if f"  {setting.variable} (" not in text] == []


def test_make_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    listed = subprocess.run(["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"^  ([a-z-]+)  ", listed, re.MULTILINE)) == targets
