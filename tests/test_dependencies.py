"""The verdict of `make lint` on an audit of the dependencies."""

import json

import pytest

from tests.tools.audit_dependencies import LOCK, judge

GOOD = {"name": "httpx", "version": "0.28.1", "vulns": []}
BAD = {"name": "click", "version": "1.0", "vulns": [{"id": "PYSEC-2026-1", "fix_versions": ["2.0"]}]}
UNKNOWN = {"name": "msgspec", "skip_reason": "not found"}


def report(*dependencies: object) -> str:
    return json.dumps({"dependencies": dependencies, "fixes": []})


def test_a_known_vulnerability_is_a_failure_and_is_named() -> None:
    verdict = judge(report(GOOD, BAD, UNKNOWN), "Found 1 known vulnerability in 1 package")
    assert verdict.is_failure and "click 1.0: PYSEC-2026-1" in verdict.line


def test_no_known_vulnerability_succeeds() -> None:
    assert judge(report(GOOD), "") == ("No known vulnerability in 1 dependencies", False)


def test_a_dependency_that_was_not_audited_is_counted() -> None:
    line, is_failure = judge(report(GOOD, UNKNOWN), "")
    assert "1 were not audited" in line and not is_failure


@pytest.mark.parametrize("said", ["", "Traceback …\nrequests.exceptions.ConnectionError: no route to host"])
def test_an_unreachable_audit_service_is_one_line_and_no_failure(said: str) -> None:
    line, is_failure = judge("", said)
    assert "not audited" in line and "\n" not in line and not is_failure


def test_every_dependency_is_pinned_with_its_hash() -> None:
    entries = LOCK.read_text("utf-8").replace("\\\n", " ").splitlines()
    pinned = [entry for entry in entries if entry and not entry.lstrip().startswith("#")]
    assert len(pinned) > 40
    assert [entry for entry in pinned if "==" not in entry or "--hash=sha256:" not in entry] == []
