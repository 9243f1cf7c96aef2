"""Check the pinned dependencies for known vulnerabilities with pip-audit: `python -m tests.tools.audit_dependencies`.

`make lint` runs it. A known vulnerability is a failure. If the vulnerability service can't be reached, it prints one line
and succeeds, because that is not a fault of the code.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

LOCK = Path(__file__).parents[2] / "requirements.lock"

# pip-audit sends one request per dependency. A connection that takes longer will fail.
CONNECT_SECONDS_MAX = 5
SECONDS_MAX = 120


class Verdict(NamedTuple):
    """The line to print, and true if it is a failure."""

    line: str
    is_failure: bool


def judge(report: str, complaint: str) -> Verdict:
    """Return the verdict on pip-audit's report from stdout and its errors from stderr."""
    try:
        dependencies = json.loads(report)["dependencies"]
    except (ValueError, KeyError):
        last = complaint.strip().splitlines()[-1:] or ["pip-audit printed nothing"]
        return Verdict(f"Dependencies were not audited: {last[0][:200]}", False)
    vulnerable = [
        f"{dependency['name']} {dependency['version']}: {', '.join(found['id'] for found in dependency['vulns'])}"
        for dependency in dependencies
        if dependency.get("vulns")
    ]
    audited = [dependency for dependency in dependencies if "skip_reason" not in dependency]
    if vulnerable:
        return Verdict("Known vulnerabilities: " + "; ".join(vulnerable), True)
    if len(audited) < len(dependencies):
        skipped = len(dependencies) - len(audited)
        return Verdict(
            f"Of {len(dependencies)} dependencies {skipped} were not audited: the service does not know them", False
        )
    return Verdict(f"No known vulnerability in {len(audited)} dependencies", False)


def audit() -> Verdict:
    """Run pip-audit on the lock."""
    options = ["--requirement", str(LOCK), "--disable-pip", "--require-hashes", "--format", "json"]
    quiet = ["--progress-spinner", "off", "--timeout", str(CONNECT_SECONDS_MAX)]
    try:
        result = subprocess.run(
            [sys.executable, "-m", "pip_audit", *options, *quiet], capture_output=True, text=True, timeout=SECONDS_MAX
        )
    except subprocess.TimeoutExpired:
        return Verdict(f"Dependencies were not audited: no response within {SECONDS_MAX} s", False)
    return judge(result.stdout, result.stderr)


if __name__ == "__main__":
    verdict = audit()
    print(verdict.line)
    sys.exit(verdict.is_failure)
