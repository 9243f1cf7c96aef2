"""Whether what is installed is known to be vulnerable: `python -m tests.tools.audit_dependencies`, part of `make lint`.

Asks with pip-audit for every pinned dependency. A known vulnerability is a failure. Where nobody can be asked, because there
is no network or the service does not answer, one line says so and nothing fails: that is no fault of the change at hand.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

LOCK = Path(__file__).parents[2] / "requirements.lock"

# The service answers for one dependency at a time; a connection that takes longer will not come.
CONNECT_SECONDS_MAX = 5
SECONDS_MAX = 120


class Verdict(NamedTuple):
    """What to say, and whether it is a failure."""

    line: str
    is_failure: bool


def judge(report: str, complaint: str) -> Verdict:
    """What pip-audit's report on stdout and its complaint on stderr come to."""
    try:
        dependencies = json.loads(report)["dependencies"]
    except (ValueError, KeyError):
        last = complaint.strip().splitlines()[-1:] or ["no answer"]
        return Verdict(f"Dependencies were not audited, since nobody could be asked: {last[0][:200]}", False)
    vulnerable = [
        f"{dependency['name']} {dependency['version']}: {', '.join(found['id'] for found in dependency['vulns'])}"
        for dependency in dependencies
        if dependency.get("vulns")
    ]
    asked = [dependency for dependency in dependencies if "skip_reason" not in dependency]
    if vulnerable:
        return Verdict("Known vulnerabilities: " + "; ".join(vulnerable), True)
    if len(asked) < len(dependencies):
        unasked = len(dependencies) - len(asked)
        return Verdict(
            f"Of {len(dependencies)} dependencies {unasked} were not audited: the service does not know them", False
        )
    return Verdict(f"No known vulnerability in {len(asked)} dependencies", False)


def audit() -> Verdict:
    """Asks about every dependency of the lock."""
    options = ["--requirement", str(LOCK), "--disable-pip", "--require-hashes", "--format", "json"]
    quiet = ["--progress-spinner", "off", "--timeout", str(CONNECT_SECONDS_MAX)]
    try:
        result = subprocess.run(
            [sys.executable, "-m", "pip_audit", *options, *quiet], capture_output=True, text=True, timeout=SECONDS_MAX
        )
    except subprocess.TimeoutExpired:
        return Verdict(f"Dependencies were not audited: no answer within {SECONDS_MAX} s", False)
    return judge(result.stdout, result.stderr)


if __name__ == "__main__":
    verdict = audit()
    print(verdict.line)
    sys.exit(verdict.is_failure)
