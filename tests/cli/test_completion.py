"""Completion with the Tab key, in real shells."""

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from minibill.cli.main import COMMANDS, main

SHELLS = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], "source <(minibill completion bash)"),
    "zsh": (["zsh", "-f", "-i"], "autoload -U compinit; compinit -u -D; source <(minibill completion zsh)"),
}
TIMEOUT_S = 30
READY = "ready-to-type"


def complete(shell: str, line: str, expected: str) -> str:
    """Press Tab at the end of `line`. Return the terminal's text once it has `expected`, or after a timeout."""
    command, setup = SHELLS[shell]
    terminal, theirs = pty.openpty()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {"PATH": path, "HOME": "/nonexistent", "TERM": "dumb", "PS1": ""}
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
    ) as process:
        os.close(theirs)
        try:
            # Written in two pieces, because the terminal repeats the typed line, which is not the output.
            os.write(terminal, f"{setup}; echo ready-to''-type\n".encode())
            seen = read_until(terminal, READY)
            assert READY in seen, seen
            os.write(terminal, f"{line}\t".encode())
            return read_until(terminal, expected)
        finally:
            process.kill()
            os.close(terminal)


def read_until(terminal: int, expected: str) -> str:
    seen, end = "", time.monotonic() + TIMEOUT_S
    while expected not in seen and time.monotonic() < end:
        if select.select([terminal], [], [], 0.2)[0]:
            seen += os.read(terminal, 4096).decode(errors="replace")
    return seen


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("minibill comp", "minibill completion"),
        ("minibill campaign act", "minibill campaign activate"),
        ("minibill serve --test", "minibill serve --test-clock"),
        ("minibill completion z", "minibill completion zsh"),
        ("minibill token --scope admin:acc", "--scope admin:accounts:write"),
        ("minibill token --scope admin:grants:write --sc", "--scope admin:grants:write --scope"),
        ("minibill campaign create --type reverse", "--type reverse_airdrop"),
    ],
)
@pytest.mark.parametrize("shell", SHELLS)
def test_the_tab_key_completes_commands_options_and_choices(shell: str, line: str, completed: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"this machine has no {shell}")
    assert completed in complete(shell, line, completed)


def test_completing_command_names_imports_no_command() -> None:
    script = (
        "import sys; from minibill.cli.main import COMMANDS, main\n"
        "try: main(['serve'], 'minibill')\n"
        "finally: print([name for name in COMMANDS.values() if f'minibill.cli.{name}' in sys.modules])"
    )
    environment = {**os.environ, "_MINIBILL_COMPLETE": "bash_complete", "COMP_WORDS": "minibill ", "COMP_CWORD": "1"}
    result = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60)
    assert result.stdout.splitlines() == [*(f"plain,{name}" for name in COMMANDS), "[]"]


def test_completing_options_of_serve_does_not_import_the_server() -> None:
    script = (
        "import sys; from minibill.cli.main import main; main.get_command(None, 'serve'); print('uvicorn' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert result.stdout == "False\n"
    assert main.name == "main"
