"""Generate the synchronous client from the asynchronous one: `make client`."""

import re
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "src" / "minibill" / "client"
FILES = ("base.py", "accounts.py", "campaigns.py", "charges.py", "events.py", "methods.py", "http.py")

_CHANGES = (
    (r"\basync (def|with|for)\b", r"\1"),
    (r"\bawait ", ""),
    (r"\bAsync(Accounts|BaseClient|BaseTransport|Campaigns|Charges|Client|Feed|Iterator|Methods)\b", r"\1"),
    (r"\b_async\b", "_sync"),
    (r"\b__aenter__\b", "__enter__"),
    (r"\b__aexit__\b", "__exit__"),
    (r"\baclose\b", "close"),
    (r"\basyncio\b", "time"),
    (r"\bAsync(Tokens|TokenSource)\b", r"\1"),
)


def synchronous(name: str) -> str:
    """Return the generated text of a file in `_sync/`."""
    text = (FOLDER / "_async" / name).read_text("utf-8")
    for pattern, replacement in _CHANGES:
        text = re.sub(pattern, replacement, text)
    head, _, rest = text.partition("\n")
    text = f"{head}\n\n# Generated from _async/{name} by `make client`; edit that file.\n{rest}"
    return _formatted(_formatted(text, "check", "--fix-only", "--select", "I"), "format")


def _formatted(text: str, *command: str) -> str:
    ruff = [sys.executable, "-m", "ruff", *command, "--quiet", "--stdin-filename", str(FOLDER / "_sync" / "file.py"), "-"]
    return subprocess.run(ruff, input=text, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    for file in FILES:
        (FOLDER / "_sync" / file).write_text(synchronous(file), "utf-8")
