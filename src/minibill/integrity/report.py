"""The report of a reconciliation: its JSON in responses and in the database."""

from collections.abc import Mapping

from minibill.api.types import ResponseBody
from minibill.core.clock import format_time
from minibill.integrity.checks import Finding


class CheckReport(ResponseBody):
    """The result of one check; `examples` has up to ten public ids."""

    status: str
    checked: int
    violations: int
    examples: list[str]


class Report(ResponseBody):
    """The result of a reconciliation: `healthy`, `unhealthy` or `never_run`."""

    last_reconciliation_at: str | None
    status: str
    # Milliseconds; None before the first run.
    duration_ms: int | None
    checks: dict[str, CheckReport]


NEVER_RUN = Report(None, "never_run", None, {})


def report_of(findings: Mapping[str, Finding], *, at_us: int, duration_ms: int) -> Report:
    """Return the report of these findings; unhealthy if any check fails. See docs/concepts/integrity.md."""
    checks = {
        name: CheckReport("fail" if found.violations else "pass", found.checked, found.violations, found.examples)
        for name, found in findings.items()
    }
    status = "unhealthy" if any(found.violations for found in findings.values()) else "healthy"
    return Report(format_time(at_us), status, duration_ms, checks)


def failed_checks(report: Report) -> list[str]:
    """Return the names of the failed checks."""
    return [name for name, check in report.checks.items() if check.status == "fail"]
